//! The times of readings that the server accepts, as its welcome states them.

use storage_format::Millis;
use tokio::time::Instant;

use crate::protocol::Welcome;

/// The times that readings may have. The upper limit moves on with the server's clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AcceptedTimes {
    time_min: Millis,
    time_max: Millis,
    welcomed_at: Instant,
}

impl AcceptedTimes {
    pub(super) fn of(welcome: &Welcome) -> Self {
        let ahead_ms = i64::try_from(welcome.ahead_ms_max).unwrap_or(i64::MAX);
        Self {
            time_min: welcome.time_min,
            time_max: welcome.server_time.saturating_add(ahead_ms),
            welcomed_at: Instant::now(),
        }
    }

    /// The earliest time.
    #[must_use]
    pub fn time_min(&self) -> Millis {
        self.time_min
    }

    /// The latest time that is accepted now, if the server's clock goes as fast as this machine's.
    #[must_use]
    pub fn time_max(&self) -> Millis {
        let elapsed_ms = i64::try_from(self.welcomed_at.elapsed().as_millis()).unwrap_or(i64::MAX);
        self.time_max.saturating_add(elapsed_ms)
    }

    /// Returns whether the server accepts this time for as long as the connection lasts, whatever its clock does.
    #[must_use]
    pub fn surely_contains(&self, time: Millis) -> bool {
        self.time_min <= time && time <= self.time_max
    }
}
