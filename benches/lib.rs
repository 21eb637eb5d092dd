//! Common parts of the benchmarks: readings like a fleet's, and an engine in a directory.

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use engine::{AckSink, Clock as _, Engine, EngineConfig, LocalDurable, Submission, SubmitFailure, SystemClock};
use storage_format::{ChannelCode, Frame, FrameBuilder, FrameSequence, GatewayId, LoggerId, Millis, OrgId, SpoolId};

/// Time between two readings of a logger, in milliseconds.
const INTERVAL_MS: i64 = 300_000;
/// Time of the first reading, 2020-01-01T00:00:00Z.
const START_MS: i64 = 1_577_836_800_000;

/// The loggers of one gateway. Temperature and humidity change by a few steps of the sensor, and times have jitter.
#[derive(Debug)]
pub struct Loggers {
    first: u64,
    round: i64,
    next: usize,
    state: Vec<(i64, i64)>,
    /// Seeded, so that every run has the same readings.
    dice: fastrand::Rng,
    channels: [ChannelCode; 2],
    builder: FrameBuilder,
}

impl Loggers {
    /// Creates `count` loggers, with ids from `first` on.
    #[must_use]
    pub fn new(first: u64, count: usize) -> Self {
        let channels = [1, 2].map(|code| ChannelCode::new(code).expect("a code"));
        let state = vec![(480, 5000); count];
        Self {
            first,
            round: 0,
            next: 0,
            state,
            dice: fastrand::Rng::with_seed(first),
            channels,
            builder: FrameBuilder::new(),
        }
    }

    /// Returns the next frame, with one reading of each logger in turn.
    pub fn frame(&mut self, spool: SpoolId, sequence: FrameSequence, readings: usize) -> Frame {
        for _ in 0..readings {
            let number = self.next;
            let (temperature, humidity) = &mut self.state[number];
            *temperature += self.dice.i64(-2..=2);
            *humidity += self.dice.i64(-4..=4);
            *temperature = (*temperature).clamp(300, 700);
            *humidity = (*humidity).clamp(4000, 6000);
            let units = [100.0, 16.0, 10.0][number % 3];
            let time = Millis::new(START_MS + self.round * INTERVAL_MS + self.dice.i64(0..700)).expect("a time");
            let logger = LoggerId::new(self.first + number as u64).expect("an id");
            let samples = [*temperature as f64 / units, *humidity as f64 / 100.0];
            let samples = [(self.channels[0], samples[0]), (self.channels[1], samples[1])];
            self.builder.push(logger, time, &samples).expect("it fits");
            self.next += 1;
            if self.next == self.state.len() {
                self.next = 0;
                self.round += 1;
            }
        }
        Frame::decode(self.builder.encode(spool, sequence)).expect("what was encoded decodes")
    }
}

/// Waits for acknowledgements of the engine.
#[derive(Debug, Default)]
pub struct AckWaiter {
    durable: Mutex<u64>,
    changed: Condvar,
    calls: AtomicU64,
}

impl AckSink for AckWaiter {
    fn durable(&self, up_to: FrameSequence) {
        self.calls.fetch_add(1, Ordering::Relaxed);
        let mut durable = self.durable.lock().expect("no panic");
        *durable = up_to.get().max(*durable);
        self.changed.notify_all();
    }

    fn failed(&self, sequence: FrameSequence, failure: SubmitFailure) {
        panic!("frame {sequence} failed: {failure:?}");
    }

    fn has_failed(&self) -> bool {
        false
    }
}

impl AckWaiter {
    /// Waits until this frame is durable.
    ///
    /// # Panics
    /// When another thread has panicked.
    pub fn wait(&self, sequence: u64) {
        let mut durable = self.durable.lock().expect("no panic");
        while *durable < sequence {
            durable = self.changed.wait(durable).expect("no panic");
        }
    }
}

/// Returns the CPU time of this process so far, which other processes do not affect.
#[must_use]
pub fn cpu_time() -> Duration {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    Duration::new(now.tv_sec.unsigned_abs(), u32::try_from(now.tv_nsec).unwrap_or(0))
}

/// Returns the organisation of all benchmarks.
///
/// # Panics
/// Never.
#[must_use]
pub fn org() -> OrgId {
    OrgId::new(1).expect("not zero")
}

/// Opens an engine in this directory.
///
/// # Panics
/// When the engine does not open.
pub async fn open(dir: &Path, config: impl FnOnce(&mut EngineConfig)) -> Arc<Engine> {
    let mut settings = EngineConfig::new(dir);
    config(&mut settings);
    let store = LocalDurable::open(dir.join("store"), dir.join("tmp")).expect("a store");
    let parts = kit::rig::parts(Arc::new(store), Arc::new(SystemClock::new()));
    let engine = Engine::open(settings, parts).await.expect("it opens");
    engine.ensure_org(org()).await.expect("an organisation");
    engine
}

/// Sends frames to an engine and waits until they are durable.
///
/// # Panics
/// When the engine refuses a frame.
pub async fn send(engine: &Engine, frames: Vec<Frame>) {
    let acks = Arc::<AckWaiter>::default();
    let gateway = GatewayId::new(1).expect("not zero");
    let Some(last) = frames.last().map(Frame::sequence) else { return };
    // The present time, because a buffer whose readings arrived long ago is flushed at once.
    let received = SystemClock::new().now();
    for frame in frames {
        let sink = Arc::clone(&acks) as Arc<dyn AckSink>;
        let submission = Submission { org: org(), gateway, received, frame, acks: sink };
        engine.submit(submission).await.expect("accepted");
    }
    tokio::task::block_in_place(|| acks.wait(last.get()));
}
