//! The engine's settings: limits and paths, as data, with their defaults and what each bounds and costs.
//!
//! The root reads files, environment and flags; here values are checked once, at open.

use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::Duration;

use storage_format::segment::ROW_GROUP_ROWS_MAX;

use crate::error::{EngineError, EngineErrorKind};
use crate::limits;

const MIB: u64 = 1 << 20;

const FLUSH_PART_ROWS: NonZeroUsize = NonZeroUsize::new(512 * 1024).expect("not zero");

const LAST_READINGS_BYTES_MAX: usize = 64 << 20;

/// The settings of an engine.
#[derive(Debug, Clone)]
pub struct EngineConfig {
    /// The data directory: `wal/`, `lock`, `tmp/` are in it.
    pub data_dir: PathBuf,
    /// Size of a WAL file. A bigger file is trimmed later, a smaller one is made more often. Default 64 MiB.
    pub wal_file_bytes: u64,
    /// All WAL files together at most: past it nothing is accepted until a flush lets the WAL go. At three quarters
    /// of it the oldest buffers are flushed. Default 4 GiB.
    pub wal_bytes_max: u64,
    /// Decoded frames waiting for the appender, in bytes. Default 64 MiB.
    pub queue_bytes_max: u64,
    /// One WAL block at most, in bytes: bounds the time of one sync. Default 4 MiB.
    pub group_bytes_max: u64,
    /// Frames in one WAL block at most: bounds how long the first of them waits. Default 4,096.
    pub group_frames_max: usize,
    /// Write buffers of all organisations together, in bytes: past it nothing is accepted until a flush frees memory.
    /// At three quarters of it the largest buffers are flushed. Default 1 GiB.
    pub buffer_bytes_max: u64,
    /// A write buffer of this size is flushed: bounds a flush's memory, and how small segments are. Default 64 MiB.
    pub flush_bytes: u64,
    /// A write buffer whose oldest reading arrived this long ago is flushed; one of less than 256 KiB after three times as
    /// long. Hours, since every flush makes objects. Default 4 h.
    pub flush_age: Duration,
    /// Organisations flushed at the same time, and parts of one flush. Each takes about three times `flush_bytes`.
    /// Default 2.
    pub flush_concurrency: usize,
    /// Readings that are worth encoding beside others of the same flush, which makes a segment of their own. Default
    /// 524,288.
    pub flush_part_rows: NonZeroUsize,
    /// A segment's encoded bytes, about, before the next is begun: bounds the memory that encoding takes.
    /// Default 64 MiB.
    pub segment_bytes_max: u64,
    /// Rows in a segment's row group at most: what a query for one logger reads at least, per column. At least 1,024.
    /// Default 131,072.
    pub row_group_rows: NonZeroUsize,
    /// Older segments read at the same time while a flush is resolved; more are read in several passes. Default 16.
    pub merge_runs_max: usize,
    /// First pause after a failed flush; it doubles up to `flush_retry_max`. Default 1 s.
    pub flush_retry_min: Duration,
    /// Longest pause after failed flushes. Default 60 s.
    pub flush_retry_max: Duration,
    /// How long after an organisation was loaded, a flush of it failed or segments of it were merged, its objects are
    /// looked through for those that no manifest names. Default 15 min.
    pub garbage_delay: Duration,
    /// Whether segments are merged in the background into fewer, larger ones. Default true.
    pub compaction: bool,
    /// Interval at which it is looked whether there are segments to merge. Default 10 s.
    pub compaction_interval: Duration,
    /// Fewest small segments that are merged while more may come to their window: more of them mean fewer requests of the
    /// store, fewer mean fewer small segments. At least 2. Default 12.
    pub compaction_inputs_min: usize,
    /// Duration for which nothing must have come to a window that is over before its segments are merged until three are
    /// left. Until then late readings are merged by size, so that they cost little however they come. Default 1 h.
    pub compaction_settle: Duration,
    /// Segments of all merges under way together at most, in bytes: bounds their memory, which is about that, and how
    /// large segments become. Default 256 MiB.
    pub compaction_bytes_max: u64,
    /// Bytes of segments read for merges in the background in a second, at most. Default 8 MiB.
    pub compaction_rate_bytes_max: u64,
    /// Last readings of all organisations together, in bytes of memory: past it those that were not asked for the longest
    /// go, and are read from segments again when they are. A logger takes some 60 bytes. Default 64 MiB.
    pub last_readings_bytes_max: usize,
    /// How often the schedule is looked at when nothing calls for it. Default 1 s.
    pub schedule_interval: Duration,
    /// Whether `close` flushes all buffers; otherwise they stay in the WAL and are replayed at the next open, which
    /// makes the stop quick and leaves no small segments. Default false.
    pub flush_at_close: bool,
}

impl EngineConfig {
    /// The defaults for this data directory.
    #[must_use]
    pub fn new(data_dir: impl Into<PathBuf>) -> Self {
        Self {
            data_dir: data_dir.into(),
            wal_file_bytes: 64 * MIB,
            wal_bytes_max: 4096 * MIB,
            queue_bytes_max: 64 * MIB,
            group_bytes_max: 4 * MIB,
            group_frames_max: 4096,
            buffer_bytes_max: 1024 * MIB,
            flush_bytes: 64 * MIB,
            flush_age: Duration::from_secs(4 * 3600),
            flush_concurrency: 2,
            flush_part_rows: FLUSH_PART_ROWS,
            segment_bytes_max: 64 * MIB,
            row_group_rows: ROW_GROUP_ROWS_MAX,
            merge_runs_max: 16,
            flush_retry_min: Duration::from_secs(1),
            flush_retry_max: Duration::from_secs(60),
            garbage_delay: Duration::from_secs(15 * 60),
            compaction: true,
            compaction_interval: Duration::from_secs(10),
            compaction_inputs_min: 12,
            compaction_settle: Duration::from_secs(3600),
            compaction_bytes_max: 256 * MIB,
            compaction_rate_bytes_max: 8 * MIB,
            last_readings_bytes_max: LAST_READINGS_BYTES_MAX,
            schedule_interval: Duration::from_secs(1),
            flush_at_close: false,
        }
    }

    /// Checks that the limits fit together.
    ///
    /// # Errors
    /// [`EngineErrorKind::Invalid`], naming the setting.
    pub fn check(&self) -> Result<(), EngineError> {
        let rules: [(bool, &'static str); 14] = [
            (self.flush_concurrency >= 1, "flush_concurrency must be at least 1"),
            // A file has 32,767 row groups at most, and a write buffer some four million rows.
            (self.row_group_rows.get() >= 1024, "row_group_rows must be at least 1,024"),
            (self.merge_runs_max >= 1, "merge_runs_max must be at least 1"),
            (self.group_frames_max >= 1, "group_frames_max must be at least 1"),
            (
                self.group_bytes_max >= limits::GROUP_BYTES_LEAST,
                "group_bytes_max must hold one frame of 1 MiB: at least 2 MiB",
            ),
            (
                self.queue_bytes_max >= limits::QUEUE_BYTES_LEAST,
                "queue_bytes_max must hold one decoded frame: at least 16 MiB",
            ),
            (
                self.wal_file_bytes >= self.group_bytes_max + MIB,
                "wal_file_bytes must hold one group: at least group_bytes_max + 1 MiB",
            ),
            (self.wal_bytes_max >= 4 * self.wal_file_bytes, "wal_bytes_max must be at least four times wal_file_bytes"),
            (self.buffer_bytes_max >= limits::BUFFER_BYTES_LEAST, "buffer_bytes_max must be at least 32 MiB"),
            (!self.compaction_interval.is_zero(), "compaction_interval must be over zero"),
            (self.compaction_inputs_min >= 2, "compaction_inputs_min must be at least 2"),
            (self.compaction_rate_bytes_max >= 1, "compaction_rate_bytes_max must be at least 1"),
            (!self.garbage_delay.is_zero(), "garbage_delay must be over zero"),
            (
                !self.flush_retry_min.is_zero() && self.flush_retry_min <= self.flush_retry_max,
                "flush_retry_min must be over zero and not over flush_retry_max",
            ),
        ];
        match rules.into_iter().find(|(holds, _)| !holds) {
            None => Ok(()),
            Some((_, rule)) => Err(EngineError::new(EngineErrorKind::Invalid, rule, "Correct the engine's settings.")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_fit_together_and_nonsense_does_not() {
        let good = EngineConfig::new("data");
        good.check().expect("the defaults hold");
        let rows = |rows| NonZeroUsize::new(rows).expect("not zero");
        EngineConfig { row_group_rows: rows(1024), ..good.clone() }.check().expect("the least that is allowed");
        for bad in [
            EngineConfig { flush_concurrency: 0, ..good.clone() },
            EngineConfig { group_bytes_max: 1, ..good.clone() },
            EngineConfig { row_group_rows: rows(1023), ..good.clone() },
            EngineConfig { wal_bytes_max: 1, ..good.clone() },
            EngineConfig { flush_retry_min: Duration::ZERO, ..good.clone() },
        ] {
            assert_eq!(bad.check().expect_err("refused").kind(), EngineErrorKind::Invalid);
        }
    }
}
