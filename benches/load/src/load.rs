//! Senders: connections with the real client library, on a few threads of their own.
//!
//! Each connection belongs to one thread, as do its socket and its histograms, so that no state is shared by all
//! senders for each frame. In an open loop a frame's latency starts when the frame is due, whatever delays it. At full
//! speed it starts when the frame is passed to the client library, which limits the frames in flight.

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

use super::frame_source::FrameSource;
use super::latency::Latencies;
use super::schedule::{self, Schedule, Wakeup};
use problem::{Context, Problem, Result, chain};

/// Time without any response after which a run has failed.
pub(super) const PATIENCE: Duration = Duration::from_secs(60);
/// Concurrent handshakes: fewer than the server allows for one network.
pub(super) const HANDSHAKES_MAX: usize = 48;
/// Connections that share a socket: enough to save sockets, and few enough that simultaneous responses for all fit its
/// buffer.
const SOCKET_CONNECTIONS: usize = 32;
/// Limit of the sockets of one thread.
const SOCKETS_MAX: usize = 64;
/// Time between the start of the load and the first frame.
const START_DELAY: Duration = Duration::from_millis(50);
/// Wait for room in the spool above which flow control delays the connection, not this process.
const FLOW_CONTROL_WAIT: Duration = Duration::from_micros(500);

/// Configuration of a load.
#[derive(Debug, Clone, Copy)]
pub(super) struct LoadConfig {
    /// Address of the server.
    pub server: SocketAddr,
    /// Limit of the frames in flight on each connection.
    pub in_flight: usize,
    /// Number of sending threads.
    pub threads: usize,
}

/// Configuration of one sender.
#[derive(Debug)]
pub(super) struct SenderConfig {
    /// Identity of the gateway.
    pub identity: Identity,
    /// Frames to send.
    pub frames: FrameSource,
    /// Times of the frames; `None` means as fast as possible.
    pub schedule: Option<Schedule>,
}

/// Times of a run.
#[derive(Debug, Clone, Copy)]
pub(super) struct Times {
    /// Time of the first frame.
    pub start: Instant,
    /// Start of the measured window.
    pub window_start: Instant,
    /// Time of the last frame.
    pub end: Instant,
}

/// Counters of one thread's connections, written by that thread and occasionally read by others.
#[derive(Debug, Default)]
struct ThreadStats {
    readings: AtomicU64,
    frames: AtomicU64,
    sent_readings: AtomicU64,
    latencies: Mutex<ThreadLatencies>,
}

#[derive(Debug, Default)]
struct ThreadLatencies {
    acks: Latencies,
    /// The part of `acks` that arrived during a storm.
    storm: Latencies,
    /// Delays that this process caused itself.
    lag: Latencies,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing panics while one of these locks is held.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A frame that has no response yet.
#[derive(Debug)]
struct FrameInFlight {
    sequence: FrameSequence,
    since: Instant,
    in_window: bool,
    readings: u64,
}

/// One connection's frames in flight, and the counters for their responses.
#[derive(Debug)]
struct ResponseRecorder {
    stats: Arc<ThreadStats>,
    storm_flag: Arc<AtomicBool>,
    in_flight: Mutex<VecDeque<FrameInFlight>>,
}

impl ResponseObserver for ResponseRecorder {
    fn acknowledged(&self, up_to: FrameSequence) {
        let now = Instant::now();
        let (mut frames, mut readings) = (0, 0);
        {
            let in_storm = self.storm_flag.load(Ordering::Relaxed);
            let mut in_flight = lock(&self.in_flight);
            let mut latencies = lock(&self.stats.latencies);
            while let Some(frame) = in_flight.pop_front_if(|frame| frame.sequence <= up_to) {
                frames += 1;
                readings += frame.readings;
                if frame.in_window {
                    let latency = now.saturating_duration_since(frame.since);
                    latencies.acks.record(latency);
                    if in_storm {
                        latencies.storm.record(latency);
                    }
                }
            }
        }
        self.stats.frames.fetch_add(frames, Ordering::Relaxed);
        self.stats.readings.fetch_add(readings, Ordering::Relaxed);
    }

    fn refused(&self, sequence: FrameSequence, _: RefusalCode) {
        // Counted by the client's summary.
        lock(&self.in_flight).retain(|frame| frame.sequence != sequence);
    }
}

/// A connected sender.
#[derive(Debug)]
struct Sender {
    client: Client,
    recorder: Arc<ResponseRecorder>,
    frames: FrameSource,
    schedule: Option<(Schedule, Arc<Notify>)>,
    worker: usize,
}

impl Sender {
    async fn connect(
        config: LoadConfig,
        endpoint: Endpoint,
        sender: SenderConfig,
        recorder: Arc<ResponseRecorder>,
        worker: usize,
    ) -> Result<Self> {
        let client_config = ClientConfig {
            spool_frames_max: config.in_flight,
            endpoint: Some(endpoint),
            observer: Some(Arc::clone(&recorder) as Arc<dyn ResponseObserver>),
            patience: PATIENCE,
            ..ClientConfig::new(config.server.to_string(), sender.identity)
        };
        let client = Client::connect(client_config).await.context(|| "a gateway cannot connect".to_owned())?;
        let schedule = sender.schedule.map(|schedule| (schedule, Arc::new(Notify::new())));
        Ok(Self { client, recorder, frames: sender.frames, schedule, worker })
    }

    /// Sends until the end of the run, and waits for all responses.
    async fn run(mut self, times: Times) -> Result<Summary> {
        match self.schedule.take() {
            None => self.send_at_full_speed(times).await?,
            Some((schedule, frame_due)) => self.send_on_schedule(times, schedule, &frame_due).await?,
        }
        self.client.finish().await.map_err(|failure| {
            Problem::new("some frames got no response").detail(format!(
                "{}; {} frames are waiting",
                chain(&failure.error),
                failure.waiting.len()
            ))
        })
    }

    async fn send_at_full_speed(&mut self, times: Times) -> Result<()> {
        tokio::time::sleep_until(times.start.into()).await;
        loop {
            self.ready().await?;
            let now = Instant::now();
            if now >= times.end {
                return Ok(());
            }
            self.send_frame(now, times).await?;
        }
    }

    async fn send_on_schedule(&mut self, times: Times, schedule: Schedule, frame_due: &Notify) -> Result<()> {
        let mut delayed = false;
        for number in 0.. {
            let due = times.start + schedule.due(number);
            if due >= times.end {
                break;
            }
            while Instant::now() < due {
                delayed = false;
                frame_due.notified().await;
            }
            if !delayed && due >= times.window_start {
                lock(&self.recorder.stats.latencies).lag.record(due.elapsed());
            }
            let waiting_since = Instant::now();
            self.ready().await?;
            delayed |= waiting_since.elapsed() > FLOW_CONTROL_WAIT;
            self.send_frame(due, times).await?;
        }
        // Waits for the end of the run, because only a failed connection may end before it.
        tokio::time::sleep_until(times.end.into()).await;
        Ok(())
    }

    async fn ready(&self) -> Result<()> {
        self.client.ready().await.context(|| "a gateway has given up".to_owned())
    }

    async fn send_frame(&mut self, since: Instant, times: Times) -> Result<()> {
        let sequence =
            self.client.next_sequence().ok_or_else(|| Problem::new("the spool has no more sequence numbers"))?;
        let (frame, readings) = self.frames.next_frame(self.client.spool(), sequence)?;
        // Recorded before it is sent, because its response may arrive at once.
        let in_window = since >= times.window_start;
        lock(&self.recorder.in_flight).push_back(FrameInFlight { sequence, since, in_window, readings });
        self.recorder.stats.sent_readings.fetch_add(readings, Ordering::Relaxed);
        self.client.send_encoded(frame).await.context(|| "a gateway has given up".to_owned())?;
        Ok(())
    }
}

/// A thread for connections. All its tasks end when this is dropped.
#[derive(Debug)]
pub(super) struct Worker(Option<Runtime>);

impl Worker {
    pub(super) fn start(name: &str) -> Result<Self> {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).thread_name(name).enable_all().build();
        Ok(Self(Some(runtime.context(|| "cannot start a thread".to_owned())?)))
    }

    /// Runs a future on the thread.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        work: impl Future<Output = Result<T>> + Send + 'static,
    ) -> Result<T> {
        self.spawn(work).await.context(|| "a sending thread panicked".to_owned())?
    }

    fn spawn<T: Send + 'static>(
        &self,
        work: impl Future<Output = Result<T>> + Send + 'static,
    ) -> JoinHandle<Result<T>> {
        match &self.0 {
            Some(runtime) => runtime.spawn(work),
            // Cannot happen, because the runtime is only removed when this is dropped.
            None => tokio::spawn(work),
        }
    }

    /// Opens sockets for this number of connections; one at least.
    pub(super) async fn endpoints(&self, server: SocketAddr, connections: usize) -> Result<Vec<Endpoint>> {
        let sockets = connections.div_ceil(SOCKET_CONNECTIONS).clamp(1, SOCKETS_MAX);
        let open = move || Endpoint::shared(server).context(|| "cannot open a UDP socket".to_owned());
        self.run(async move { (0..sockets).map(|_| open()).collect() }).await
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        // Dropping a runtime would wait for its threads, which is not allowed within another runtime.
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}

/// Connected senders.
#[derive(Debug)]
pub(super) struct Load {
    senders: Vec<Sender>,
    stats: Vec<Arc<ThreadStats>>,
    storm_flag: Arc<AtomicBool>,
    workers: Vec<Worker>,
}

impl Load {
    /// Connects all senders.
    ///
    /// # Errors
    /// When a sender cannot connect.
    pub(super) async fn connect(config: LoadConfig, senders: Vec<SenderConfig>) -> Result<Self> {
        let mut workers = Vec::new();
        let threads = config.threads.min(senders.len()).max(1);
        for _ in 0..threads {
            let worker = Worker::start("bench-load")?;
            let endpoints = worker.endpoints(config.server, senders.len() / threads).await?;
            workers.push((worker, endpoints, Arc::new(ThreadStats::default())));
        }
        let storm_flag = Arc::new(AtomicBool::new(false));
        let connecting = senders.into_iter().enumerate().map(|(number, sender)| {
            let index = number % workers.len();
            let (worker, endpoints, stats) = &workers[index];
            let endpoint = &endpoints[number / workers.len() % endpoints.len()];
            let (stats, storm_flag) = (Arc::clone(stats), Arc::clone(&storm_flag));
            let recorder = Arc::new(ResponseRecorder { stats, storm_flag, in_flight: Mutex::default() });
            worker.run(Sender::connect(config, endpoint.clone(), sender, recorder, index))
        });
        let senders = stream::iter(connecting).buffered(HANDSHAKES_MAX).try_collect().await?;
        let stats = workers.iter().map(|(_, _, stats)| Arc::clone(stats)).collect();
        Ok(Self { senders, stats, storm_flag, workers: workers.into_iter().map(|(worker, _, _)| worker).collect() })
    }

    /// Returns the flag that is set during a storm, while many clients reconnect.
    #[must_use]
    pub(super) fn storm_flag(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.storm_flag)
    }

    /// Starts sending.
    #[must_use]
    pub(super) fn start(self, warmup: Duration, duration: Duration) -> RunningLoad {
        let start = Instant::now() + START_DELAY;
        let window_start = start + warmup;
        let times = Times { start, window_start, end: window_start + duration };
        let wakeups = self.senders.iter().filter_map(|sender| sender.schedule.clone());
        let wakeups: Vec<_> = wakeups.map(|(schedule, frame_due)| Wakeup { schedule, frame_due }).collect();
        let over = Arc::new(AtomicBool::new(false));
        {
            let over = Arc::clone(&over);
            // The thread ends soon after `over` is set.
            let _thread = std::thread::spawn(move || schedule::send_wakeups(wakeups, start, &over));
        }
        let spawn = |sender: Sender| self.workers[sender.worker].spawn(sender.run(times));
        let senders = self.senders.into_iter().map(spawn).collect();
        RunningLoad { times, senders, stats: self.stats, over: SetOnDrop(over), _workers: self.workers }
    }
}

/// Flag that is set when this is dropped, which ends the thread of the wake-ups.
#[derive(Debug)]
struct SetOnDrop(Arc<AtomicBool>);

impl Drop for SetOnDrop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// A running load.
#[derive(Debug)]
pub(super) struct RunningLoad {
    times: Times,
    senders: Vec<JoinHandle<Result<Summary>>>,
    stats: Vec<Arc<ThreadStats>>,
    over: SetOnDrop,
    _workers: Vec<Worker>,
}

/// Sums of all connections so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Sums {
    /// Acknowledged readings.
    pub readings: u64,
    /// Acknowledged frames.
    pub frames: u64,
    /// Readings that were passed to the client library.
    pub sent_readings: u64,
}

/// Outcome of a load.
#[derive(Debug)]
pub(super) struct LoadOutcome {
    /// Acknowledged readings.
    pub acknowledged_readings: u64,
    /// Refused frames.
    pub refused_frames: u64,
    /// Reason of the first refusal.
    pub refusal: Option<String>,
    /// Sent readings.
    pub sent_readings: u64,
    /// Connections that were lost and opened again.
    pub reconnects: u64,
    /// Traffic of all connections.
    pub wire: Wire,
    /// Latencies of the frames in the window.
    pub acks: Latencies,
    /// The part of `acks` that arrived during a storm.
    pub storm: Latencies,
    /// Delays of frames because this process was busy; only in an open loop.
    pub lag: Latencies,
}

impl RunningLoad {
    /// Returns the times of the run.
    #[must_use]
    pub(super) fn times(&self) -> Times {
        self.times
    }

    /// Returns the sums so far.
    #[must_use]
    pub(super) fn sums(&self) -> Sums {
        self.stats.iter().fold(Sums::default(), |sums, stats| Sums {
            readings: sums.readings + stats.readings.load(Ordering::Relaxed),
            frames: sums.frames + stats.frames.load(Ordering::Relaxed),
            sent_readings: sums.sent_readings + stats.sent_readings.load(Ordering::Relaxed),
        })
    }

    /// Returns whether a connection has ended, which is a failure before the end of the run.
    #[must_use]
    pub(super) fn any_ended(&self) -> bool {
        self.senders.iter().any(JoinHandle::is_finished)
    }

    /// Waits for all responses.
    ///
    /// # Errors
    /// When a connection has failed, or a response does not arrive.
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
        // In the order in which the senders end, so that a failure is reported at once.
        let mut senders: stream::FuturesUnordered<_> = self.senders.into_iter().collect();
        while let Some(ended) = senders.next().await {
            let summary: Summary = ended.context(|| "a sending thread panicked".to_owned())??;
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
        for stats in &self.stats {
            let latencies = lock(&stats.latencies);
            outcome.acks.add(&latencies.acks);
            outcome.storm.add(&latencies.storm);
            outcome.lag.add(&latencies.lag);
            outcome.sent_readings += stats.sent_readings.load(Ordering::Relaxed);
        }
        drop(self.over);
        Ok(outcome)
    }
}
