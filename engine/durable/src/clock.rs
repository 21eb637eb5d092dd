//! The clock. Nothing else in this crate, and nothing in the engine, may ask the machine for the time, so that a test or
//! a simulation holds it still.

use std::fmt::Debug;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use futures::future::BoxFuture;
use storage_format::Millis;

/// Tells the time.
pub trait Clock: Send + Sync + Debug {
    /// The time of day, in UTC. It may jump, in both directions.
    fn now(&self) -> Millis;

    /// Time since some fixed moment: never goes back. For ages, back-off and latencies.
    fn monotonic(&self) -> Duration;

    /// Ready after so long. Only drivers wait; steps never do. Unless a clock has time of its own, this is tokio's.
    fn sleep(&self, time: Duration) -> BoxFuture<'static, ()> {
        Box::pin(tokio::time::sleep(time))
    }
}

/// The machine's clock.
#[derive(Debug)]
pub struct SystemClock {
    start: Instant,
}

impl SystemClock {
    /// The machine's clock; its monotonic time starts now.
    #[must_use]
    #[allow(clippy::disallowed_methods, reason = "the one place where the machine's clock is read")]
    pub fn new() -> Self {
        Self { start: Instant::now() }
    }
}

impl Default for SystemClock {
    fn default() -> Self {
        Self::new()
    }
}

impl Clock for SystemClock {
    #[allow(clippy::disallowed_methods, reason = "the one place where the machine's clock is read")]
    fn now(&self) -> Millis {
        let ms = match SystemTime::now().duration_since(UNIX_EPOCH) {
            Ok(after) => i64::try_from(after.as_millis()).unwrap_or(i64::MAX),
            // A machine without a battery-backed clock may start before 1970.
            Err(before) => i64::try_from(before.duration().as_millis()).map_or(i64::MIN, |ms| -ms),
        };
        Millis::EPOCH.saturating_add(ms)
    }

    #[allow(clippy::disallowed_methods, reason = "the one place where the machine's clock is read")]
    fn monotonic(&self) -> Duration {
        self.start.elapsed()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_machine_lives_after_2020() {
        let clock = SystemClock::new();
        assert!(clock.now() > Millis::new(1_577_836_800_000).expect("2020"));
        let first = clock.monotonic();
        assert!(clock.monotonic() >= first);
    }
}
