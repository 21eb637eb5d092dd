//! Clock and randomness of the simulated machines.

use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use engine::{Clock, Random};
use futures::FutureExt as _;
use futures::future::BoxFuture;
use storage_format::Millis;

use crate::draw::Draw;
use crate::exec::Time;

/// 2024-05-31T23:30:00Z: readings of the half hour around it fall into two windows.
pub(crate) const START_MS: i64 = 1_717_198_200_000;

/// The server's clock: its time of day jumps when it is told to, its monotonic time never.
#[derive(Debug)]
pub(crate) struct SimClock {
    time: Arc<Time>,
    jumped_ms: AtomicI64,
}

impl SimClock {
    /// A clock that is right.
    #[must_use]
    pub(crate) fn new(time: &Arc<Time>) -> Self {
        Self { time: Arc::clone(time), jumped_ms: AtomicI64::new(0) }
    }

    /// The time of day is another from now on.
    pub(crate) fn jump(&self, ms: i64) {
        self.jumped_ms.store(ms, Ordering::Relaxed);
    }
}

impl Clock for SimClock {
    fn now(&self) -> Millis {
        let passed = i64::try_from(self.time.now().as_millis()).unwrap_or(i64::MAX);
        let jumped = self.jumped_ms.load(Ordering::Relaxed);
        Millis::EPOCH.saturating_add(START_MS).saturating_add(passed).saturating_add(jumped)
    }

    fn monotonic(&self) -> Duration {
        self.time.now()
    }

    fn sleep(&self, time: Duration) -> BoxFuture<'static, ()> {
        self.time.sleep(time).boxed()
    }
}

/// Randomness from the seed.
#[derive(Debug)]
pub(crate) struct SimRandom(Mutex<Draw>);

impl SimRandom {
    /// From this stream.
    #[must_use]
    pub(crate) const fn new(draw: Draw) -> Self {
        Self(Mutex::new(draw))
    }
}

impl Random for SimRandom {
    fn fill(&self, bytes: &mut [u8]) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).fill(bytes);
    }
}
