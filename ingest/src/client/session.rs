//! What a program holds: a client that takes readings and tells what became of them.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use storage_format::{FrameBuilder, FrameHeader, FrameSequence, SpoolId};
use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::accepted::AcceptedTimes;
use super::config::ClientConfig;
use super::error::ClientError;
use super::reconnect;
use super::spool::{RefusedFrame, Spool};
use crate::tls::random;

/// How it goes. Frames and readings count from the client's start.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Progress {
    /// Is there a connection?
    pub connected: bool,
    /// How often a connection was made after the first.
    pub reconnects: u64,
    /// The times that the server accepts, as the last connection's welcome states them.
    pub accepted_times: Option<AcceptedTimes>,
    /// What went wrong last, while there is no connection.
    pub trouble: Option<String>,
    /// Frames that are durable.
    pub acknowledged_frames: u64,
    /// Readings in them.
    pub acknowledged_readings: u64,
    /// Frames that were refused.
    pub refused_frames: u64,
    /// Readings in them.
    pub refused_readings: u64,
    /// Frames without an answer, sent or not.
    pub waiting_frames: u64,
    /// Memory that they take.
    pub waiting_bytes: u64,
}

/// What became of everything.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Summary {
    /// The spool that the frames' numbers count in.
    pub spool: SpoolId,
    /// Frames that are durable.
    pub acknowledged_frames: u64,
    /// Readings in them.
    pub acknowledged_readings: u64,
    /// Frames that were refused.
    pub refused_frames: u64,
    /// Readings in them.
    pub refused_readings: u64,
    /// The refused frames one by one; the first ten thousand.
    pub refused: Vec<RefusedFrame>,
    /// How often a connection was made after the first.
    pub reconnects: u64,
    /// What went over the wire, all connections together.
    pub wire: Wire,
}

/// What went over the wire: UDP payloads and packets.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Wire {
    /// To the server, resent packets included.
    pub sent_bytes: u64,
    /// From the server.
    pub received_bytes: u64,
    /// Packets that QUIC sent.
    pub sent_packets: u64,
    /// Those of them that it took for lost.
    pub lost_packets: u64,
}

/// A client that ended before everything was answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// Why.
    pub error: ClientError,
    /// What became of the rest.
    pub summary: Summary,
    /// The frames without an answer, in order: some of them may be durable. Sending them again is always safe.
    pub waiting: Vec<(FrameSequence, Bytes)>,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.error.fmt(f)
    }
}

impl std::error::Error for Failure {}

#[derive(Debug)]
pub(super) struct State {
    pub(super) spool: Spool,
    /// Nothing more will be sent.
    pub(super) closing: bool,
    /// When an answer came last, or the first frame after a time without any.
    pub(super) progress_at: Instant,
    failed: Option<ClientError>,
    /// Of the connections that have ended.
    wire: Wire,
}

#[derive(Debug)]
pub(super) struct Shared {
    state: Mutex<State>,
    /// There is something to send, or nothing more will come.
    pub(super) work: Notify,
    /// There may be room in the spool again.
    room: Notify,
    progress: watch::Sender<Progress>,
}

impl Shared {
    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        // Nothing panics while the lock is held.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Answers came: tells everybody whom it concerns.
    pub(super) fn answered(&self) {
        {
            let mut state = self.state();
            state.progress_at = Instant::now();
            let spool = &state.spool;
            self.progress.send_modify(|progress| tell(spool, progress));
        }
        self.room.notify_one();
        self.work.notify_one();
    }

    pub(super) fn connected(&self, again: bool, accepted_times: AcceptedTimes) {
        self.progress.send_modify(|progress| {
            progress.connected = true;
            progress.accepted_times = Some(accepted_times);
            progress.trouble = None;
            progress.reconnects += u64::from(again);
        });
    }

    pub(super) fn disconnected(&self, trouble: &str) {
        self.progress.send_modify(|progress| {
            progress.connected = false;
            progress.trouble = Some(trouble.to_owned());
        });
    }

    /// A connection has ended.
    pub(super) fn add_wire(&self, stats: &quinn::ConnectionStats) {
        let mut state = self.state();
        state.wire.sent_bytes += stats.udp_tx.bytes;
        state.wire.received_bytes += stats.udp_rx.bytes;
        state.wire.sent_packets += stats.path.sent_packets;
        state.wire.lost_packets += stats.path.lost_packets;
    }

    /// The client has ended.
    pub(super) fn ended(&self, error: Option<ClientError>) {
        self.state().failed = error;
        self.progress.send_modify(|progress| progress.connected = false);
        self.room.notify_one();
    }
}

fn tell(spool: &Spool, progress: &mut Progress) {
    progress.acknowledged_frames = spool.fate.acknowledged_frames;
    progress.acknowledged_readings = spool.fate.acknowledged_readings;
    progress.refused_frames = spool.fate.refused_frames;
    progress.refused_readings = spool.fate.refused_readings;
    progress.waiting_frames = spool.len() as u64;
    progress.waiting_bytes = spool.waiting_bytes() as u64;
}

/// A client at work. Dropping it closes the connection and forgets what is not acknowledged.
#[derive(Debug)]
pub struct Client {
    shared: Arc<Shared>,
    task: JoinHandle<()>,
}

impl Drop for Client {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Client {
    /// Connects, trying again for as long as the patience lasts, and goes on in the background, on the tokio runtime
    /// that this is called in.
    ///
    /// # Errors
    /// A permanent [`ClientError`] at once, [`ClientError::GaveUp`] when the patience ends.
    pub async fn connect(config: ClientConfig) -> Result<Self, ClientError> {
        let spool = config.spool.unwrap_or_else(random_spool);
        let mut spool = Spool::new(spool, config.spool_bytes_max);
        spool.start_after(config.first_sequence);
        spool.limit_frames(config.spool_frames_max);
        let state = State { spool, closing: false, progress_at: Instant::now(), failed: None, wire: Wire::default() };
        let (progress, mut watching) = watch::channel(Progress::default());
        let shared = Arc::new(Shared { state: Mutex::new(state), work: Notify::new(), room: Notify::new(), progress });
        let transport = reconnect::prepare(&config)?;
        let task = tokio::spawn(reconnect::run(Arc::clone(&shared), config, transport));
        let client = Self { shared, task };
        loop {
            if let Some(error) = &client.shared.state().failed {
                return Err(error.clone());
            }
            if watching.borrow_and_update().connected {
                return Ok(client);
            }
            // The sender lives in `shared`, which `client` holds.
            let _ = watching.changed().await;
        }
    }

    /// Numbers the builder's readings as one frame and takes it over; waits while the spool is full.
    ///
    /// When the future is dropped before it is ready, the builder still has its readings. An empty builder sends
    /// nothing and gives the last number back.
    ///
    /// # Errors
    /// The [`ClientError`] that ended the client; the builder still has its readings.
    pub async fn send(&mut self, builder: &mut FrameBuilder) -> Result<FrameSequence, ClientError> {
        self.ready().await?;
        let mut state = self.shared.state();
        if builder.is_empty() {
            return Ok(state.spool.last());
        }
        let Some(sequence) = state.spool.last().next() else {
            return Err(ClientError::Frame("sequence numbers are used up".into()));
        };
        let readings = builder.len() as u64;
        let frame = builder.encode(state.spool.id(), sequence);
        self.add(&mut state, sequence, frame, readings);
        Ok(sequence)
    }

    /// Takes over a frame that was encoded before, for this spool and with a number past all before it; waits while the
    /// spool is full.
    ///
    /// # Errors
    /// [`ClientError::Frame`] when it does not fit, or what ended the client.
    pub async fn send_encoded(&mut self, frame: Bytes) -> Result<FrameSequence, ClientError> {
        self.ready().await?;
        let header = FrameHeader::peek(&frame).map_err(|error| ClientError::Frame(error.to_string()))?;
        let mut state = self.shared.state();
        if header.spool != state.spool.id() {
            let detail = format!("it is of spool {}, not {}", header.spool, state.spool.id());
            return Err(ClientError::Frame(detail));
        }
        if header.sequence <= state.spool.last() {
            let detail = format!("its number is {}, after {}", header.sequence, state.spool.last());
            return Err(ClientError::Frame(detail));
        }
        self.add(&mut state, header.sequence, frame, u64::from(header.readings));
        Ok(header.sequence)
    }

    fn add(&self, state: &mut State, sequence: FrameSequence, frame: Bytes, readings: u64) {
        if state.spool.is_empty() {
            state.progress_at = Instant::now();
        }
        state.spool.push(sequence, frame, readings);
        let spool = &state.spool;
        self.shared.progress.send_modify(|progress| tell(spool, progress));
        self.shared.work.notify_one();
    }

    /// Waits until the spool has room: the next send does not wait.
    ///
    /// # Errors
    /// What ended the client.
    pub async fn ready(&self) -> Result<(), ClientError> {
        loop {
            {
                let state = self.shared.state();
                if let Some(error) = &state.failed {
                    return Err(error.clone());
                }
                if state.spool.has_room() {
                    return Ok(());
                }
            }
            self.shared.room.notified().await;
        }
    }

    /// The number that the next frame gets; none when numbers are used up.
    #[must_use]
    pub fn next_sequence(&self) -> Option<FrameSequence> {
        self.shared.state().spool.last().next()
    }

    /// The spool that this client's numbers count in.
    #[must_use]
    pub fn spool(&self) -> SpoolId {
        self.shared.state().spool.id()
    }

    /// The times that the server accepts, as the last connection's welcome states them; none before the first.
    #[must_use]
    pub fn accepted_times(&self) -> Option<AcceptedTimes> {
        self.shared.progress.borrow().accepted_times
    }

    /// How it goes; every change is told.
    #[must_use]
    pub fn progress(&self) -> watch::Receiver<Progress> {
        self.shared.progress.subscribe()
    }

    /// Waits until everything is answered, and ends.
    ///
    /// # Errors
    /// [`Failure`], with what was not answered.
    pub async fn finish(mut self) -> Result<Summary, Failure> {
        self.shared.state().closing = true;
        self.shared.work.notify_one();
        // The task does not panic: if it did, what is not answered is told all the same.
        let joined = (&mut self.task).await;
        let mut state = self.shared.state();
        let fate = std::mem::take(&mut state.spool.fate);
        let summary = Summary {
            spool: state.spool.id(),
            acknowledged_frames: fate.acknowledged_frames,
            acknowledged_readings: fate.acknowledged_readings,
            refused_frames: fate.refused_frames,
            refused_readings: fate.refused_readings,
            refused: fate.refused,
            reconnects: self.shared.progress.borrow().reconnects,
            wire: state.wire,
        };
        let waiting = state.spool.take_waiting();
        let failed = state.failed.take();
        match (failed, joined) {
            (Some(error), _) => Err(Failure { error, summary, waiting }),
            (None, Err(error)) => {
                Err(Failure { error: ClientError::Config(format!("the client broke: {error}")), summary, waiting })
            }
            (None, Ok(())) => Ok(summary),
        }
    }
}

fn random_spool() -> SpoolId {
    loop {
        let mut id = [0; 8];
        random(&mut id);
        if let Ok(id) = SpoolId::new(u64::from_le_bytes(id)) {
            return id;
        }
    }
}
