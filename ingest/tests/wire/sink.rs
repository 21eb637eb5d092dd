//! Somebody who keeps frames, in memory: with room for so many that are not yet durable, and a disk that outlives it.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard};

use bytes::Bytes;
use ingest::{AckSink, BoxFuture, FrameSink, FrameStream, GatewayIdentity, RefusalCode, SinkError};
use storage_format::{Frame, FrameSequence, Millis, SpoolId};
use tokio::sync::Notify;

/// What survives a crash.
#[derive(Default)]
pub(crate) struct Disk(Mutex<Vec<(GatewayIdentity, Frame)>>);

impl Disk {
    /// How often each (gateway, logger, time) was kept.
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
        let kept = self.0.lock().expect("the lock");
        kept.iter().filter(|(_, f)| f.spool() == spool).map(|(_, f)| f.sequence().get()).collect()
    }
}

impl Disk {
    /// Each frame of a spool as it was kept first, by ascending number.
    pub(crate) fn first_frames(&self, spool: SpoolId) -> Vec<Bytes> {
        let mut first = BTreeMap::new();
        for (_, frame) in self.0.lock().expect("the lock").iter().filter(|(_, f)| f.spool() == spool) {
            first.entry(frame.sequence()).or_insert_with(|| frame.bytes().clone());
        }
        first.into_values().collect()
    }
}

struct Waiting {
    from: GatewayIdentity,
    frame: Frame,
    acks: Arc<dyn AckSink>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    /// Durable at once.
    Keeps,
    /// Durable when the test says so.
    Waits,
    /// Takes nothing.
    Unavailable,
}

struct State {
    mode: Mode,
    waiting: VecDeque<Waiting>,
    received: Option<Millis>,
    waiting_max: usize,
    /// Every frame that the sink was ever asked to take, whether it did or not.
    shown: BTreeSet<(u64, u64, u64)>,
    forgets: bool,
}

pub(crate) struct MemorySink {
    disk: Arc<Disk>,
    room_for: usize,
    state: Mutex<State>,
    room: Notify,
}

impl MemorySink {
    pub(crate) fn new(disk: &Arc<Disk>, room_for: usize, mode: Mode) -> Arc<Self> {
        let state = State {
            mode,
            waiting: VecDeque::new(),
            received: None,
            waiting_max: 0,
            shown: BTreeSet::new(),
            forgets: false,
        };
        Arc::new(Self { disk: Arc::clone(disk), room_for, state: Mutex::new(state), room: Notify::new() })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("the lock")
    }

    pub(crate) fn set(&self, mode: Mode) {
        self.state().mode = mode;
        if mode == Mode::Keeps {
            self.commit(usize::MAX);
        }
    }

    pub(crate) fn waiting(&self) -> usize {
        self.state().waiting.len()
    }

    /// The most that ever waited.
    pub(crate) fn waiting_max(&self) -> usize {
        self.state().waiting_max
    }

    /// Tells no spool's durable number any more.
    pub(crate) fn forget(&self) {
        self.state().forgets = true;
    }

    /// Frames that it was asked to take, whether it did or not.
    pub(crate) fn shown(&self) -> usize {
        self.state().shown.len()
    }

    pub(crate) fn received(&self) -> Option<Millis> {
        self.state().received
    }

    /// Makes this many of those that wait durable, the oldest first.
    pub(crate) fn commit(&self, count: usize) {
        let mut state = self.state();
        for _ in 0..count {
            let Some(Waiting { from, frame, acks }) = state.waiting.pop_front() else { break };
            let sequence = frame.sequence();
            self.disk.0.lock().expect("the lock").push((from, frame));
            acks.durable(sequence);
        }
        drop(state);
        self.room.notify_waiters();
    }

    /// Fails all that wait.
    pub(crate) fn fail(&self, code: Option<RefusalCode>) {
        for Waiting { frame, acks, .. } in self.state().waiting.drain(..) {
            acks.failed(frame.sequence(), code);
        }
        self.room.notify_waiters();
    }
}

impl MemorySink {
    #[allow(clippy::result_large_err, reason = "a frame that finds no room goes back as it is")]
    fn try_submit(
        &self,
        from: GatewayIdentity,
        received: Millis,
        frame: Frame,
        acks: &Arc<dyn AckSink>,
    ) -> Result<(), SinkError> {
        let mut state = self.state();
        state.shown.insert((from.gateway.get(), frame.spool().get(), frame.sequence().get()));
        if state.mode == Mode::Unavailable {
            return Err(SinkError::Unavailable);
        }
        if state.waiting.len() >= self.room_for {
            return Err(SinkError::Full(frame));
        }
        state.received = Some(received);
        state.waiting.push_back(Waiting { from, frame, acks: Arc::clone(acks) });
        state.waiting_max = state.waiting_max.max(state.waiting.len());
        let keeps = state.mode == Mode::Keeps;
        drop(state);
        if keeps {
            self.commit(1);
        }
        Ok(())
    }
}

/// The sink, as a server has it.
pub(crate) struct Port(pub(crate) Arc<MemorySink>);

impl FrameSink for Port {
    fn stream(&self, from: GatewayIdentity, acks: Arc<dyn AckSink>) -> Box<dyn FrameStream> {
        Box::new(Stream { sink: Arc::clone(&self.0), from, acks })
    }

    fn durable_sequence(&self, from: GatewayIdentity, spool: SpoolId) -> FrameSequence {
        if self.0.state().forgets {
            return FrameSequence::ZERO;
        }
        let kept = self.0.disk.0.lock().expect("the lock");
        let mine = kept.iter().filter(|(who, frame)| *who == from && frame.spool() == spool);
        mine.map(|(_, frame)| frame.sequence()).max().unwrap_or(FrameSequence::ZERO)
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
                // Registered first: room made before the wait begins counts.
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
