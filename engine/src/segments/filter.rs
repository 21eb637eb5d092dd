//! Which row groups can have a row that is asked for: by their statistics of logger and time.

use std::ops::RangeInclusive;

use parquet::file::metadata::{ParquetMetaData, RowGroupMetaData};
use parquet::file::statistics::Statistics;
use storage_format::{LoggerId, TimeRange};

/// What is asked for. Pruning only: rows outside may come along.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SegmentFilter {
    /// Times inside, or all.
    pub time: Option<TimeRange>,
    /// Loggers inside, or all.
    pub loggers: Option<RangeInclusive<LoggerId>>,
}

impl SegmentFilter {
    /// The row groups that may have such a row, in order.
    #[must_use]
    pub fn row_groups(&self, metadata: &ParquetMetaData) -> Vec<usize> {
        let groups = metadata.row_groups().iter().enumerate();
        groups.filter(|(_, group)| self.may_match(group)).map(|(index, _)| index).collect()
    }

    fn may_match(&self, group: &RowGroupMetaData) -> bool {
        let logger = self.loggers.as_ref().is_none_or(|wanted| {
            bounds(group, 0).is_none_or(|(min, max)| {
                // Loggers are unsigned: Parquet keeps their bits in a signed integer.
                min.cast_unsigned() <= wanted.end().get() && wanted.start().get() <= max.cast_unsigned()
            })
        });
        let time = self.time.is_none_or(|wanted| {
            bounds(group, 1).is_none_or(|(min, max)| min < wanted.end().get() && wanted.start().get() <= max)
        });
        logger && time
    }
}

fn bounds(group: &RowGroupMetaData, column: usize) -> Option<(i64, i64)> {
    match group.columns().get(column)?.statistics()? {
        Statistics::Int64(values) => Some((*values.min_opt()?, *values.max_opt()?)),
        _ => None,
    }
}
