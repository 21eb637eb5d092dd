//! Length of the buckets of a rollup.

use crate::manifest::SegmentKind;

/// Length of the buckets that rows of a rollup stand for. Buckets are aligned to UTC.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RollupGrain {
    /// UTC hours.
    Hourly,
    /// UTC days.
    Daily,
}

impl RollupGrain {
    /// Both, the finer one first.
    pub const ALL: [Self; 2] = [Self::Hourly, Self::Daily];

    /// Returns the grain of objects of this kind; `None` if they are no rollups.
    #[must_use]
    pub const fn of_kind(kind: SegmentKind) -> Option<Self> {
        match kind {
            SegmentKind::RollupHourly => Some(Self::Hourly),
            SegmentKind::RollupDaily => Some(Self::Daily),
            _ => None,
        }
    }

    /// Returns the kind of the objects with such rows.
    #[must_use]
    pub const fn kind(self) -> SegmentKind {
        match self {
            Self::Hourly => SegmentKind::RollupHourly,
            Self::Daily => SegmentKind::RollupDaily,
        }
    }

    /// Returns the length of a bucket, in milliseconds.
    #[must_use]
    pub const fn bucket_ms(self) -> i64 {
        match self {
            Self::Hourly => 3_600_000,
            Self::Daily => 86_400_000,
        }
    }

    /// Returns the start of the bucket that this time is in, in milliseconds.
    #[must_use]
    pub const fn floor(self, time_ms: i64) -> i64 {
        time_ms - time_ms.rem_euclid(self.bucket_ms())
    }
}
