//! Interface for programs: a client that sends readings and reports their outcome.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use storage_format::{FrameBuilder, FrameHeader, FrameSequence, SpoolId};
use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::config::ClientConfig;
use super::error::ClientError;
use super::reconnect;
use super::spool::{RefusedFrame, Spool};
use crate::tls::random;

/// Progress of a client. Frames and readings count from the client's start.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Progress {
    /// Whether there is a connection.
    pub connected: bool,
    /// Number of connections after the first.
    pub reconnects: u64,
    /// Last error, while there is no connection.
    pub trouble: Option<String>,
    /// Frames that are durable.
    pub acknowledged_frames: u64,
    /// Readings in these frames.
    pub acknowledged_readings: u64,
    /// Frames that were refused.
    pub refused_frames: u64,
    /// Readings in these frames.
    pub refused_readings: u64,
    /// Frames without a response, sent or not.
    pub waiting_frames: u64,
    /// Memory of these frames.
    pub waiting_bytes: u64,
}

/// Outcome of all frames.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Summary {
    /// Spool of the frames.
    pub spool: SpoolId,
    /// Frames that are durable.
    pub acknowledged_frames: u64,
    /// Readings in these frames.
    pub acknowledged_readings: u64,
    /// Frames that were refused.
    pub refused_frames: u64,
    /// Readings in these frames.
    pub refused_readings: u64,
    /// The first ten thousand refused frames, one by one.
    pub refused: Vec<RefusedFrame>,
    /// Number of connections after the first.
    pub reconnects: u64,
    /// Traffic of all connections together.
    pub wire: Wire,
}

/// Traffic: UDP payloads and packets.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Wire {
    /// Bytes sent to the server, resent packets included.
    pub sent_bytes: u64,
    /// Bytes received from the server.
    pub received_bytes: u64,
    /// Packets sent by QUIC.
    pub sent_packets: u64,
    /// Sent packets that QUIC considered lost.
    pub lost_packets: u64,
}

/// Error of a client that ended before every frame had a response.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// Reason.
    pub error: ClientError,
    /// Outcome of the other frames.
    pub summary: Summary,
    /// Frames without a response, in order. Some of them may be durable; sending them again is always safe.
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
    /// Set when no more frames will be added.
    pub(super) closing: bool,
    /// Time of the last response, or of the first frame after a time without frames.
    pub(super) progress_at: Instant,
    failed: Option<ClientError>,
    /// Traffic of the connections that have ended.
    wire: Wire,
}

/// State that the program's handle and the client's task share.
#[derive(Debug)]
pub(super) struct ClientInner {
    state: Mutex<State>,
    /// Notified when there is a frame to send, or when no more frames will be added.
    pub(super) work: Notify,
    /// Notified when there may be room in the spool again.
    room: Notify,
    progress: watch::Sender<Progress>,
}

impl ClientInner {
    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        // Nothing panics while the lock is held.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Updates the progress after responses, and wakes the tasks that wait for them.
    pub(super) fn responses_received(&self) {
        {
            let mut state = self.state();
            state.progress_at = Instant::now();
            let spool = &state.spool;
            self.progress.send_modify(|progress| update_progress(spool, progress));
        }
        self.room.notify_one();
        self.work.notify_one();
    }

    pub(super) fn connected(&self, reconnected: bool) {
        self.progress.send_modify(|progress| {
            progress.connected = true;
            progress.trouble = None;
            progress.reconnects += u64::from(reconnected);
        });
    }

    pub(super) fn disconnected(&self, trouble: &str) {
        self.progress.send_modify(|progress| {
            progress.connected = false;
            progress.trouble = Some(trouble.to_owned());
        });
    }

    /// Adds the traffic of a connection that has ended.
    pub(super) fn add_wire(&self, stats: &quinn::ConnectionStats) {
        let mut state = self.state();
        state.wire.sent_bytes += stats.udp_tx.bytes;
        state.wire.received_bytes += stats.udp_rx.bytes;
        state.wire.sent_packets += stats.path.sent_packets;
        state.wire.lost_packets += stats.path.lost_packets;
    }

    /// Records that the client has ended.
    pub(super) fn ended(&self, error: Option<ClientError>) {
        self.state().failed = error;
        self.progress.send_modify(|progress| progress.connected = false);
        self.room.notify_one();
    }
}

fn update_progress(spool: &Spool, progress: &mut Progress) {
    progress.acknowledged_frames = spool.fate.acknowledged_frames;
    progress.acknowledged_readings = spool.fate.acknowledged_readings;
    progress.refused_frames = spool.fate.refused_frames;
    progress.refused_readings = spool.fate.refused_readings;
    progress.waiting_frames = spool.len() as u64;
    progress.waiting_bytes = spool.waiting_bytes() as u64;
}

/// A running client. Dropping it closes the connection and discards the frames that are not acknowledged.
#[derive(Debug)]
pub struct Client {
    shared: Arc<ClientInner>,
    task: JoinHandle<()>,
}

impl Drop for Client {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Client {
    /// Connects, with retries until the patience ends, and then runs in the background, on the current tokio runtime.
    ///
    /// # Errors
    /// A permanent [`ClientError`] at once, or [`ClientError::GaveUp`] when the patience ends.
    pub async fn connect(config: ClientConfig) -> Result<Self, ClientError> {
        let spool = config.spool.unwrap_or_else(random_spool);
        let mut spool = Spool::new(spool, config.spool_bytes_max);
        spool.set_first_sequence(config.first_sequence);
        spool.set_frames_max(config.spool_frames_max);
        let state = State { spool, closing: false, progress_at: Instant::now(), failed: None, wire: Wire::default() };
        let (progress, mut watching) = watch::channel(Progress::default());
        let shared =
            Arc::new(ClientInner { state: Mutex::new(state), work: Notify::new(), room: Notify::new(), progress });
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
            // It cannot fail, because the sender is in `shared`, which `client` holds.
            let _ = watching.changed().await;
        }
    }

    /// Adds the builder's readings to the spool as one frame; waits while the spool is full.
    ///
    /// When the future is dropped before it is ready, the builder still has its readings. An empty builder sends
    /// nothing, and the result is the last sequence number.
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

    /// Adds an encoded frame to the spool; waits while the spool is full. The frame must be of this spool, with a
    /// sequence number greater than all before it.
    ///
    /// # Errors
    /// [`ClientError::Frame`] when the frame cannot be added, or the error that ended the client.
    pub async fn send_encoded(&mut self, frame: Bytes) -> Result<FrameSequence, ClientError> {
        self.ready().await?;
        let header = FrameHeader::peek(&frame).map_err(|error| ClientError::Frame(error.to_string()))?;
        let mut state = self.shared.state();
        if header.spool != state.spool.id() {
            let detail = format!("it is of spool {}, not {}", header.spool, state.spool.id());
            return Err(ClientError::Frame(detail));
        }
        if header.sequence <= state.spool.last() {
            let detail =
                format!("its sequence number is {}, which is not greater than {}", header.sequence, state.spool.last());
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
        self.shared.progress.send_modify(|progress| update_progress(spool, progress));
        self.shared.work.notify_one();
    }

    /// Waits until the spool has room, so that the next send does not wait.
    ///
    /// # Errors
    /// The error that ended the client.
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

    /// Returns the sequence number of the next frame; `None` when the numbers are used up.
    #[must_use]
    pub fn next_sequence(&self) -> Option<FrameSequence> {
        self.shared.state().spool.last().next()
    }

    /// Returns the client's spool.
    #[must_use]
    pub fn spool(&self) -> SpoolId {
        self.shared.state().spool.id()
    }

    /// Returns the progress, and every change of it.
    #[must_use]
    pub fn progress(&self) -> watch::Receiver<Progress> {
        self.shared.progress.subscribe()
    }

    /// Waits until every frame has a response, and ends the client.
    ///
    /// # Errors
    /// [`Failure`] with the frames without a response.
    pub async fn finish(mut self) -> Result<Summary, Failure> {
        self.shared.state().closing = true;
        self.shared.work.notify_one();
        // The task does not panic; if it did, the frames without a response are returned all the same.
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
            (None, Err(error)) => Err(Failure {
                error: ClientError::Config(format!("the client's task panicked: {error}")),
                summary,
                waiting,
            }),
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
