//! How fast handshakes are begun: so many a second, a few at once after a rest.

use std::time::Duration;

use tokio::time::Instant;

/// What may be begun at once after a rest: this part of a second's.
const BURST: Duration = Duration::from_nanos(1_000_000_000 / 32);

/// A token bucket, kept as the time at which it is full again.
#[derive(Debug)]
pub(super) struct Pace {
    interval: Duration,
    full_at: Instant,
}

impl Pace {
    /// So many a second; none counts as one.
    pub(super) fn new(per_second: u32, now: Instant) -> Self {
        Self { interval: Duration::from_secs(1) / per_second.max(1), full_at: now }
    }

    /// When the next one may begin, which may be past.
    pub(super) fn ready_at(&self) -> Instant {
        self.full_at.checked_sub(BURST).unwrap_or(self.full_at)
    }

    /// One begins.
    pub(super) fn begin(&mut self, now: Instant) {
        self.full_at = self.full_at.max(now) + self.interval;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How many begin within so many milliseconds, if it is looked so often.
    fn begun(per_second: u32, ms: u64, every_ms: u64) -> usize {
        let start = Instant::now();
        let mut pace = Pace::new(per_second, start);
        let mut count = 0;
        for at in (0..ms).step_by(usize::try_from(every_ms).expect("small")) {
            let now = start + Duration::from_millis(at);
            while pace.ready_at() <= now {
                pace.begin(now);
                count += 1;
            }
        }
        count
    }

    #[test]
    fn as_many_begin_as_the_rate_says_however_late_the_timer_is() {
        for every_ms in [1, 7, 25] {
            let burst = 16;
            let count = begun(500, 2000, every_ms);
            assert!((1000 - 15..=1000 + burst).contains(&count), "{count}, looking every {every_ms} ms");
        }
    }

    #[test]
    fn after_a_rest_a_few_begin_at_once_and_one_at_least() {
        assert_eq!(begun(500, 1, 1), 16);
        assert_eq!(begun(1, 1, 1), 1);
        assert_eq!(begun(1, 2900, 1), 3);
        assert_eq!(begun(0, 900, 1), 1);
    }
}
