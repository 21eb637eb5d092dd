//! Those who send: connections with the real client library, on a thread or two of their own.
//!
//! Each connection belongs to one thread, and so do its socket and its histograms: nothing is shared by all per frame.
//! In an open loop a frame's latency runs from the time at which it was due, whatever held it back; at full speed it
//! runs from the moment it is given to the client library, which takes only so many at a time.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use futures::{StreamExt, TryStreamExt, stream};
use ingest::RefusalCode;
use ingest::client::{Client, ClientConfig, Endpoint, Identity, ResponseObserver, Summary, Wire};
use storage_format::FrameSequence;
use tokio::runtime::Runtime;
use tokio::sync::Notify;
use tokio::task::JoinHandle;

use super::latency::Latencies;
use super::schedule::{self, Schedule, Sleeper};
use super::supply::Supply;
use problem::{Context, Problem, Result, chain};

/// Without any answer for so long, a run has failed.
pub(super) const PATIENCE: Duration = Duration::from_secs(60);
/// Handshakes at once: fewer than one network gets places for.
pub(super) const HANDSHAKES: usize = 48;
/// So many connections share a socket: enough that many do not need as many sockets, few enough that answers for all
/// of them at once find room in its buffer.
const SOCKET_CONNECTIONS: usize = 32;
/// Sockets of one thread at most.
const SOCKETS_MAX: usize = 64;
/// Between giving the sign and the first frame.
const LEAD: Duration = Duration::from_millis(50);
/// Waiting for room for longer than this means that flow control holds the connection back, not this process.
const HELD_BACK: Duration = Duration::from_micros(500);

/// How a load is sent.
#[derive(Debug, Clone, Copy)]
pub(super) struct LoadConfig {
    /// Where to.
    pub server: SocketAddr,
    /// Frames on their way at most, for each connection.
    pub in_flight: usize,
    /// Threads that send.
    pub threads: usize,
}

/// One connection to be.
#[derive(Debug)]
pub(super) struct Participant {
    /// Who.
    pub identity: Identity,
    /// What.
    pub supply: Supply,
    /// When; none: as fast as it goes.
    pub schedule: Option<Schedule>,
}

/// The times of a run.
#[derive(Debug, Clone, Copy)]
pub(super) struct Times {
    /// The first frame.
    pub start: Instant,
    /// From here on it counts.
    pub counted: Instant,
    /// The last frame.
    pub end: Instant,
}

/// What one thread's connections have seen. Written by that thread, read by others now and then.
#[derive(Debug, Default)]
struct Tally {
    readings: AtomicU64,
    frames: AtomicU64,
    sent_readings: AtomicU64,
    recorded: Mutex<Recorded>,
}

#[derive(Debug, Default)]
struct Recorded {
    acks: Latencies,
    /// Of `acks`, those that came while a crowd was connecting.
    storm: Latencies,
    /// How late this process was by itself.
    lag: Latencies,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing panics while one of these locks is held.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[derive(Debug)]
struct Waiting {
    sequence: FrameSequence,
    since: Instant,
    counts: bool,
    readings: u64,
}

/// One connection's frames that have no answer yet.
#[derive(Debug)]
struct Account {
    tally: Arc<Tally>,
    storming: Arc<AtomicBool>,
    waiting: Mutex<VecDeque<Waiting>>,
}

impl ResponseObserver for Account {
    fn acknowledged(&self, up_to: FrameSequence) {
        let now = Instant::now();
        let (mut frames, mut readings) = (0, 0);
        {
            let storming = self.storming.load(Ordering::Relaxed);
            let mut waiting = lock(&self.waiting);
            let mut recorded = lock(&self.tally.recorded);
            while let Some(frame) = waiting.pop_front_if(|frame| frame.sequence <= up_to) {
                frames += 1;
                readings += frame.readings;
                if frame.counts {
                    let latency = now.saturating_duration_since(frame.since);
                    recorded.acks.record(latency);
                    if storming {
                        recorded.storm.record(latency);
                    }
                }
            }
        }
        self.tally.frames.fetch_add(frames, Ordering::Relaxed);
        self.tally.readings.fetch_add(readings, Ordering::Relaxed);
    }

    fn refused(&self, sequence: FrameSequence, _: RefusalCode) {
        // The client's summary tells it.
        lock(&self.waiting).retain(|frame| frame.sequence != sequence);
    }
}

/// A connection, ready.
#[derive(Debug)]
struct Line {
    client: Client,
    account: Arc<Account>,
    supply: Supply,
    pace: Option<(Schedule, Arc<Notify>)>,
    worker: usize,
}

impl Line {
    async fn connect(
        config: LoadConfig,
        endpoint: Endpoint,
        participant: Participant,
        account: Arc<Account>,
        worker: usize,
    ) -> Result<Self> {
        let client_config = ClientConfig {
            spool_frames_max: config.in_flight,
            endpoint: Some(endpoint),
            observer: Some(Arc::clone(&account) as Arc<dyn ResponseObserver>),
            patience: PATIENCE,
            ..ClientConfig::new(config.server.to_string(), participant.identity)
        };
        let client = Client::connect(client_config).await.context(|| "a gateway cannot connect".to_owned())?;
        let pace = participant.schedule.map(|schedule| (schedule, Arc::new(Notify::new())));
        Ok(Self { client, account, supply: participant.supply, pace, worker })
    }

    /// Sends to the end, and waits for every answer.
    async fn run(mut self, times: Times) -> Result<Summary> {
        match self.pace.take() {
            None => self.at_full_speed(times).await?,
            Some((schedule, bell)) => self.on_schedule(times, schedule, &bell).await?,
        }
        self.client.finish().await.map_err(|failure| {
            Problem::new("not every frame was answered").detail(format!(
                "{}; {} frames wait",
                chain(&failure.error),
                failure.waiting.len()
            ))
        })
    }

    async fn at_full_speed(&mut self, times: Times) -> Result<()> {
        tokio::time::sleep_until(times.start.into()).await;
        loop {
            self.ready().await?;
            let now = Instant::now();
            if now >= times.end {
                return Ok(());
            }
            self.give(now, times).await?;
        }
    }

    async fn on_schedule(&mut self, times: Times, schedule: Schedule, bell: &Notify) -> Result<()> {
        let mut held_back = false;
        for number in 0.. {
            let due = times.start + schedule.at(number);
            if due >= times.end {
                break;
            }
            while Instant::now() < due {
                held_back = false;
                bell.notified().await;
            }
            if !held_back && due >= times.counted {
                lock(&self.account.tally.recorded).lag.record(due.elapsed());
            }
            let asked = Instant::now();
            self.ready().await?;
            held_back |= asked.elapsed() > HELD_BACK;
            self.give(due, times).await?;
        }
        // Whose last frame was early: only a connection that fails may end before the others.
        tokio::time::sleep_until(times.end.into()).await;
        Ok(())
    }

    async fn ready(&self) -> Result<()> {
        self.client.ready().await.context(|| "a gateway has given up".to_owned())
    }

    async fn give(&mut self, since: Instant, times: Times) -> Result<()> {
        let sequence = self.client.next_sequence().ok_or_else(|| Problem::new("a spool has no more numbers"))?;
        let (frame, readings) = self.supply.next_frame(self.client.spool(), sequence)?;
        // Before it is sent: the answer must find it.
        lock(&self.account.waiting).push_back(Waiting { sequence, since, counts: since >= times.counted, readings });
        self.account.tally.sent_readings.fetch_add(readings, Ordering::Relaxed);
        self.client.send_encoded(frame).await.context(|| "a gateway has given up".to_owned())?;
        Ok(())
    }
}

/// A thread for connections. Everything on it ends when this is dropped.
#[derive(Debug)]
pub(super) struct Worker(Option<Runtime>);

impl Worker {
    pub(super) fn start(name: &str) -> Result<Self> {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).thread_name(name).enable_all().build();
        Ok(Self(Some(runtime.context(|| "cannot start a thread".to_owned())?)))
    }

    /// Runs something on it.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        work: impl Future<Output = Result<T>> + Send + 'static,
    ) -> Result<T> {
        self.spawn(work).await.context(|| "a thread that sends broke down".to_owned())?
    }

    fn spawn<T: Send + 'static>(
        &self,
        work: impl Future<Output = Result<T>> + Send + 'static,
    ) -> JoinHandle<Result<T>> {
        match &self.0 {
            Some(runtime) => runtime.spawn(work),
            // Only while it is dropped, when nobody can call this.
            None => tokio::spawn(work),
        }
    }

    /// Sockets of its own, for so many connections; at least one.
    pub(super) async fn endpoints(&self, server: SocketAddr, connections: usize) -> Result<Vec<Endpoint>> {
        let sockets = connections.div_ceil(SOCKET_CONNECTIONS).clamp(1, SOCKETS_MAX);
        let make = move || Endpoint::shared(server).context(|| "cannot make a UDP socket".to_owned());
        self.run(async move { (0..sockets).map(|_| make()).collect() }).await
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        // A runtime that is merely dropped waits for its threads, which nobody may do within another runtime.
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}

/// Connections, ready to send.
#[derive(Debug)]
pub(super) struct Load {
    lines: Vec<Line>,
    tallies: Vec<Arc<Tally>>,
    storming: Arc<AtomicBool>,
    workers: Vec<Worker>,
}

impl Load {
    /// Connects everybody.
    ///
    /// # Errors
    /// When one cannot.
    pub(super) async fn connect(config: LoadConfig, participants: Vec<Participant>) -> Result<Self> {
        let mut workers = Vec::new();
        let threads = config.threads.min(participants.len()).max(1);
        for _ in 0..threads {
            let worker = Worker::start("bench-load")?;
            let endpoints = worker.endpoints(config.server, participants.len() / threads).await?;
            workers.push((worker, endpoints, Arc::new(Tally::default())));
        }
        let storming = Arc::new(AtomicBool::new(false));
        let connecting = participants.into_iter().enumerate().map(|(number, participant)| {
            let index = number % workers.len();
            let (worker, endpoints, tally) = &workers[index];
            let endpoint = &endpoints[number / workers.len() % endpoints.len()];
            let (tally, storming) = (Arc::clone(tally), Arc::clone(&storming));
            let account = Arc::new(Account { tally, storming, waiting: Mutex::default() });
            worker.run(Line::connect(config, endpoint.clone(), participant, account, index))
        });
        let lines = stream::iter(connecting).buffered(HANDSHAKES).try_collect().await?;
        let tallies = workers.iter().map(|(_, _, tally)| Arc::clone(tally)).collect();
        Ok(Self { lines, tallies, storming, workers: workers.into_iter().map(|(worker, _, _)| worker).collect() })
    }

    /// Says that answers from now on come while a crowd is connecting, or not any more.
    #[must_use]
    pub(super) fn storming(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.storming)
    }

    /// Begins.
    #[must_use]
    pub(super) fn start(self, warmup: Duration, duration: Duration) -> Running {
        let start = Instant::now() + LEAD;
        let counted = start + warmup;
        let times = Times { start, counted, end: counted + duration };
        let sleepers = self.lines.iter().filter_map(|line| line.pace.clone());
        let sleepers: Vec<_> = sleepers.map(|(schedule, bell)| Sleeper { schedule, bell }).collect();
        let over = Arc::new(AtomicBool::new(false));
        {
            let over = Arc::clone(&over);
            // It ends by itself, soon after `over` is set.
            let _pacer = std::thread::spawn(move || schedule::wake(sleepers, start, &over));
        }
        let lines = self.lines.into_iter().map(|line| self.workers[line.worker].spawn(line.run(times))).collect();
        Running { times, lines, tallies: self.tallies, over: Over(over), _workers: self.workers }
    }
}

/// Tells the thread that wakes connections to end.
#[derive(Debug)]
struct Over(Arc<AtomicBool>);

impl Drop for Over {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Connections at work.
#[derive(Debug)]
pub(super) struct Running {
    times: Times,
    lines: Vec<JoinHandle<Result<Summary>>>,
    tallies: Vec<Arc<Tally>>,
    over: Over,
    _workers: Vec<Worker>,
}

/// Sums over all connections, so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Sums {
    /// Readings that are acknowledged.
    pub readings: u64,
    /// Frames that are acknowledged.
    pub frames: u64,
    /// Readings that were given to the client library.
    pub sent_readings: u64,
}

/// What became of everything.
#[derive(Debug)]
pub(super) struct LoadOutcome {
    /// Acknowledged readings.
    pub acknowledged_readings: u64,
    /// Refused frames, with the first reason.
    pub refused_frames: u64,
    /// Why the first one was refused.
    pub refusal: Option<String>,
    /// Readings that were sent.
    pub sent_readings: u64,
    /// Connections that were lost and made again.
    pub reconnects: u64,
    /// UDP payloads.
    pub wire: Wire,
    /// Acknowledgements of all frames that count.
    pub acks: Latencies,
    /// Those of them that came during a storm.
    pub storm: Latencies,
    /// How late frames were given to the client library because this process was busy; in an open loop only.
    pub lag: Latencies,
}

impl Running {
    /// When it began and ends.
    #[must_use]
    pub(super) fn times(&self) -> Times {
        self.times
    }

    /// How it goes.
    #[must_use]
    pub(super) fn sums(&self) -> Sums {
        self.tallies.iter().fold(Sums::default(), |sums, tally| Sums {
            readings: sums.readings + tally.readings.load(Ordering::Relaxed),
            frames: sums.frames + tally.frames.load(Ordering::Relaxed),
            sent_readings: sums.sent_readings + tally.sent_readings.load(Ordering::Relaxed),
        })
    }

    /// Has a connection ended? Before the end that is a failure.
    #[must_use]
    pub(super) fn any_ended(&self) -> bool {
        self.lines.iter().any(JoinHandle::is_finished)
    }

    /// Waits for every answer.
    ///
    /// # Errors
    /// When a connection has failed, or an answer does not come.
    pub(super) async fn finish(self) -> Result<LoadOutcome> {
        let mut outcome = LoadOutcome {
            acknowledged_readings: 0,
            refused_frames: 0,
            refusal: None,
            sent_readings: 0,
            reconnects: 0,
            wire: Wire::default(),
            acks: Latencies::new(),
            storm: Latencies::new(),
            lag: Latencies::new(),
        };
        // In the order in which they end: whoever fails is told at once.
        let mut lines: stream::FuturesUnordered<_> = self.lines.into_iter().collect();
        while let Some(line) = lines.next().await {
            let summary: Summary = line.context(|| "a thread that sends broke down".to_owned())??;
            outcome.acknowledged_readings += summary.acknowledged_readings;
            outcome.refused_frames += summary.refused_frames;
            outcome.reconnects += summary.reconnects;
            outcome.wire.sent_bytes += summary.wire.sent_bytes;
            outcome.wire.received_bytes += summary.wire.received_bytes;
            outcome.wire.sent_packets += summary.wire.sent_packets;
            outcome.wire.lost_packets += summary.wire.lost_packets;
            if let Some(refused) = summary.refused.first().filter(|_| outcome.refusal.is_none()) {
                outcome.refusal = Some(format!("{}: {}", refused.code, refused.detail));
            }
        }
        for tally in &self.tallies {
            let recorded = lock(&tally.recorded);
            outcome.acks.add(&recorded.acks);
            outcome.storm.add(&recorded.storm);
            outcome.lag.add(&recorded.lag);
            outcome.sent_readings += tally.sent_readings.load(Ordering::Relaxed);
        }
        drop(self.over);
        Ok(outcome)
    }
}
