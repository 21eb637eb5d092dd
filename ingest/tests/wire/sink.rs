//! A sink in memory, with a limit of frames that are not yet durable, and a disk that outlives it.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard};

use bytes::Bytes;
use ingest::{AckSink, BoxFuture, FrameSink, FrameStream, GatewayIdentity, RefusalCode, SinkError};
use storage_format::{Frame, FrameSequence, Millis, SpoolId};
use tokio::sync::Notify;

/// The frames that survive a crash.
#[derive(Default)]
pub(crate) struct Disk(Mutex<Vec<(GatewayIdentity, Frame)>>);

impl Disk {
    /// Counts how often each (gateway, logger, time) was stored.
    pub(crate) fn readings(&self) -> BTreeMap<(u64, u64, i64), usize> {
        let mut found = BTreeMap::new();
        for (from, frame) in self.0.lock().expect("the lock").iter() {
            for run in frame.runs() {
                for time in &frame.times()[run.range()] {
                    *found.entry((from.gateway.get(), run.logger.get(), *time)).or_insert(0) += 1;
                }
            }
        }
        found
    }

    pub(crate) fn frames(&self) -> usize {
        self.0.lock().expect("the lock").len()
    }

    pub(crate) fn sequences(&self, spool: SpoolId) -> Vec<u64> {
        let stored = self.0.lock().expect("the lock");
        stored.iter().filter(|(_, f)| f.spool() == spool).map(|(_, f)| f.sequence().get()).collect()
    }

    /// Returns the first stored copy of each frame of a spool, in the order of their sequence numbers.
    pub(crate) fn first_frames(&self, spool: SpoolId) -> Vec<Bytes> {
        let mut first = BTreeMap::new();
        for (_, frame) in self.0.lock().expect("the lock").iter().filter(|(_, f)| f.spool() == spool) {
            first.entry(frame.sequence()).or_insert_with(|| frame.bytes().clone());
        }
        first.into_values().collect()
    }
}

/// A frame that is not yet durable.
struct PendingFrame {
    from: GatewayIdentity,
    frame: Frame,
    acks: Arc<dyn AckSink>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    /// Frames become durable at once.
    Immediate,
    /// Frames become durable when the test commits them.
    Manual,
    /// The sink accepts no frames.
    Unavailable,
}

struct State {
    mode: Mode,
    waiting: VecDeque<PendingFrame>,
    received: Option<Millis>,
    waiting_max: usize,
    /// Every frame that was offered to the sink, accepted or not.
    offered: BTreeSet<(u64, u64, u64)>,
    /// No durable sequence number is known.
    forgets_spools: bool,
}

pub(crate) struct MemorySink {
    disk: Arc<Disk>,
    capacity: usize,
    state: Mutex<State>,
    room: Notify,
}

impl MemorySink {
    pub(crate) fn new(disk: &Arc<Disk>, capacity: usize, mode: Mode) -> Arc<Self> {
        let state = State {
            mode,
            waiting: VecDeque::new(),
            received: None,
            waiting_max: 0,
            offered: BTreeSet::new(),
            forgets_spools: false,
        };
        Arc::new(Self { disk: Arc::clone(disk), capacity, state: Mutex::new(state), room: Notify::new() })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("the lock")
    }

    pub(crate) fn set(&self, mode: Mode) {
        self.state().mode = mode;
        if mode == Mode::Immediate {
            self.commit(usize::MAX);
        }
    }

    pub(crate) fn waiting(&self) -> usize {
        self.state().waiting.len()
    }

    /// Returns the peak number of pending frames.
    pub(crate) fn waiting_max(&self) -> usize {
        self.state().waiting_max
    }

    /// Forgets the durable sequence numbers of all spools.
    pub(crate) fn forget_spools(&self) {
        self.state().forgets_spools = true;
    }

    /// Returns the number of frames that were offered, accepted or not.
    pub(crate) fn offered(&self) -> usize {
        self.state().offered.len()
    }

    pub(crate) fn received(&self) -> Option<Millis> {
        self.state().received
    }

    /// Makes the oldest `count` pending frames durable.
    pub(crate) fn commit(&self, count: usize) {
        let mut state = self.state();
        for _ in 0..count {
            let Some(PendingFrame { from, frame, acks }) = state.waiting.pop_front() else { break };
            let sequence = frame.sequence();
            self.disk.0.lock().expect("the lock").push((from, frame));
            acks.durable(sequence);
        }
        drop(state);
        self.room.notify_waiters();
    }

    /// Fails all pending frames.
    pub(crate) fn fail(&self, code: Option<RefusalCode>) {
        for PendingFrame { frame, acks, .. } in self.state().waiting.drain(..) {
            acks.failed(frame.sequence(), code);
        }
        self.room.notify_waiters();
    }
}

impl MemorySink {
    #[allow(clippy::result_large_err, reason = "a frame without room is returned")]
    fn try_submit(
        &self,
        from: GatewayIdentity,
        received: Millis,
        frame: Frame,
        acks: &Arc<dyn AckSink>,
    ) -> Result<(), SinkError> {
        let mut state = self.state();
        state.offered.insert((from.gateway.get(), frame.spool().get(), frame.sequence().get()));
        if state.mode == Mode::Unavailable {
            return Err(SinkError::Unavailable);
        }
        if state.waiting.len() >= self.capacity {
            return Err(SinkError::Full(frame));
        }
        state.received = Some(received);
        state.waiting.push_back(PendingFrame { from, frame, acks: Arc::clone(acks) });
        state.waiting_max = state.waiting_max.max(state.waiting.len());
        let immediate = state.mode == Mode::Immediate;
        drop(state);
        if immediate {
            self.commit(1);
        }
        Ok(())
    }
}

/// The port that a server uses.
pub(crate) struct SinkPort(pub(crate) Arc<MemorySink>);

impl FrameSink for SinkPort {
    fn stream(&self, from: GatewayIdentity, acks: Arc<dyn AckSink>) -> Box<dyn FrameStream> {
        Box::new(Stream { sink: Arc::clone(&self.0), from, acks })
    }

    fn durable_sequence(&self, from: GatewayIdentity, spool: SpoolId) -> FrameSequence {
        if self.0.state().forgets_spools {
            return FrameSequence::ZERO;
        }
        let stored = self.0.disk.0.lock().expect("the lock");
        let of_spool = stored.iter().filter(|(gateway, frame)| *gateway == from && frame.spool() == spool);
        of_spool.map(|(_, frame)| frame.sequence()).max().unwrap_or(FrameSequence::ZERO)
    }
}

struct Stream {
    sink: Arc<MemorySink>,
    from: GatewayIdentity,
    acks: Arc<dyn AckSink>,
}

impl FrameStream for Stream {
    fn try_submit(&self, received: Millis, frame: Frame) -> Result<(), SinkError> {
        self.sink.try_submit(self.from, received, frame, &self.acks)
    }

    fn submit(&self, received: Millis, frame: Frame) -> BoxFuture<'_, Result<(), SinkError>> {
        let mut frame = frame;
        Box::pin(async move {
            loop {
                // Registered before the attempt, so that room made in between is noticed.
                let notified = self.sink.room.notified();
                match self.try_submit(received, frame) {
                    Err(SinkError::Full(full)) => frame = full,
                    done => return done,
                }
                notified.await;
            }
        })
    }
}
