//! Rate limit of handshakes: a number a second, and a small burst after an idle time.

use std::time::Duration;

use tokio::time::Instant;

/// Size of the burst: the handshakes of this time.
const BURST: Duration = Duration::from_nanos(1_000_000_000 / 32);

/// A token bucket, stored as the time at which it is full again.
#[derive(Debug)]
pub(super) struct TokenBucket {
    interval: Duration,
    full_at: Instant,
}

impl TokenBucket {
    /// Creates a full bucket with this rate; a rate of zero counts as one.
    pub(super) fn new(per_second: u32, now: Instant) -> Self {
        Self { interval: Duration::from_secs(1) / per_second.max(1), full_at: now }
    }

    /// Returns when the next token is available; the time may be in the past.
    pub(super) fn ready_at(&self) -> Instant {
        self.full_at.checked_sub(BURST).unwrap_or(self.full_at)
    }

    /// Takes a token.
    pub(super) fn take(&mut self, now: Instant) {
        self.full_at = self.full_at.max(now) + self.interval;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Counts the tokens taken within `ms` milliseconds, with an attempt every `every_ms`.
    fn taken(per_second: u32, ms: u64, every_ms: u64) -> usize {
        let start = Instant::now();
        let mut bucket = TokenBucket::new(per_second, start);
        let mut count = 0;
        for at in (0..ms).step_by(usize::try_from(every_ms).expect("small")) {
            let now = start + Duration::from_millis(at);
            while bucket.ready_at() <= now {
                bucket.take(now);
                count += 1;
            }
        }
        count
    }

    #[test]
    fn the_rate_is_kept_however_late_the_timer_is() {
        for every_ms in [1, 7, 25] {
            let burst = 16;
            let count = taken(500, 2000, every_ms);
            assert!((1000 - 15..=1000 + burst).contains(&count), "{count} tokens, with an attempt every {every_ms} ms");
        }
    }

    #[test]
    fn a_burst_has_one_token_at_least() {
        assert_eq!(taken(500, 1, 1), 16);
        assert_eq!(taken(1, 1, 1), 1);
        assert_eq!(taken(1, 2900, 1), 3);
        assert_eq!(taken(0, 900, 1), 1);
    }
}
