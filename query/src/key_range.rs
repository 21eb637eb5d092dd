//! Keys from one logger to another and from one time to another.

use datafusion::common::ScalarValue;
use datafusion::logical_expr::{Expr, col, lit};
use engine::BufferView;
use storage_format::manifest::SegmentEntry;
use storage_format::{LoggerId, Millis};

/// See the module. All ends are included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct KeyRange {
    pub(crate) loggers: (u64, u64),
    pub(crate) times: (i64, i64),
}

impl KeyRange {
    pub(crate) fn new(loggers: (LoggerId, LoggerId), times: (Millis, Millis)) -> Self {
        Self { loggers: (loggers.0.get(), loggers.1.get()), times: (times.0.get(), times.1.get()) }
    }

    /// The keys that a segment may have.
    pub(crate) fn of(entry: &SegmentEntry) -> Self {
        Self::new((entry.logger_min, entry.logger_max), (entry.time_min, entry.time_max))
    }

    /// The keys that the rows of a write buffer may have; none if it is empty.
    pub(crate) fn of_buffer(view: &BufferView) -> Option<Self> {
        Some(Self::new(view.logger_bounds()?, view.time_bounds()?))
    }

    pub(crate) fn contains(&self, logger: u64, time: i64) -> bool {
        (self.loggers.0..=self.loggers.1).contains(&logger) && (self.times.0..=self.times.1).contains(&time)
    }

    /// The keys of both.
    pub(crate) fn and(self, other: Self) -> Option<Self> {
        let loggers = (self.loggers.0.max(other.loggers.0), self.loggers.1.min(other.loggers.1));
        let times = (self.times.0.max(other.times.0), self.times.1.min(other.times.1));
        (loggers.0 <= loggers.1 && times.0 <= times.1).then_some(Self { loggers, times })
    }

    /// The smallest range that has both.
    pub(crate) fn around(self, other: Self) -> Self {
        Self {
            loggers: (self.loggers.0.min(other.loggers.0), self.loggers.1.max(other.loggers.1)),
            times: (self.times.0.min(other.times.0), self.times.1.max(other.times.1)),
        }
    }

    /// Whether a row has such a key.
    pub(crate) fn predicate(self) -> Expr {
        let time = |ms: i64| lit(ScalarValue::TimestampMillisecond(Some(ms), Some("UTC".into())));
        let loggers = col("logger").between(lit(self.loggers.0), lit(self.loggers.1));
        loggers.and(col("time").between(time(self.times.0), time(self.times.1)))
    }
}
