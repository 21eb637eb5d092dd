//! What one query may cost, gathered in one place. Each limit says what it bounds.

use std::time::Duration;

/// The limits of every query of a [`QueryEngine`](crate::QueryEngine).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QueryLimits {
    /// Memory that one query's operators may hold, in bytes; beyond it they spill, or the query fails. What functions
    /// make of the batches that are being computed may take as much again.
    pub memory_bytes_max: usize,
    /// Disk that one query may spill to, in bytes. With 0, or without a spill directory, nothing is.
    pub spill_bytes_max: u64,
    /// Wall-clock time from the call of `sql` to the last row, the reader's own slowness included. Exports have none.
    pub time_max: Duration,
    /// Rows of one answer; one more is an error, so that no answer looks whole that is not. Exports have none.
    pub rows_max: u64,
    /// Partitions that one query is computed in: how many cores it can use.
    pub threads: usize,
    /// Queries and exports that run at once: with `memory_bytes_max` this bounds the memory of them all.
    pub queries_max: usize,
    /// Those of one organisation, among them.
    pub queries_per_org_max: usize,
    /// Requests in flight, from their arrival to the end of their response: those that run and those that wait.
    pub requests_max: usize,
    /// Those of one organisation, among them.
    pub requests_per_org_max: usize,
    /// How long a request waits for its turn before it is refused.
    pub queue_time_max: Duration,
    /// Sorted inputs that are merged at once. Each holds a row group and a few batches, so this bounds what an export
    /// over many windows holds. Past it, rows are sorted anew (on disk if need be) instead of merged.
    pub merge_inputs_max: usize,
    /// Rows of one batch, at most.
    pub batch_rows: usize,
    /// Length of a statement, in bytes.
    pub sql_bytes_max: usize,
}

impl Default for QueryLimits {
    fn default() -> Self {
        Self {
            memory_bytes_max: 256 << 20,
            spill_bytes_max: 4 << 30,
            time_max: Duration::from_secs(60),
            rows_max: 10_000_000,
            threads: std::thread::available_parallelism().map_or(2, usize::from),
            queries_max: 8,
            queries_per_org_max: 4,
            requests_max: 64,
            requests_per_org_max: 16,
            queue_time_max: Duration::from_secs(5),
            merge_inputs_max: 128,
            batch_rows: 8_192,
            sql_bytes_max: 256 << 10,
        }
    }
}

impl QueryLimits {
    /// Bytes of one text that a function makes: a batch of such texts takes a quarter of the query's memory.
    pub(crate) fn text_bytes_max(&self) -> usize {
        (self.batch_bytes_max() / self.batch_rows.max(1)).max(TEXT_BYTES_LEAST)
    }

    /// Bytes of the texts that a function makes at once. Their offsets are numbers of 32 bits.
    pub(crate) fn batch_bytes_max(&self) -> usize {
        (self.memory_bytes_max / 4).min(OFFSET_MAX)
    }

    /// Bytes of one row of a response, and of one text that an aggregate makes. It is encoded as a whole, six bytes for
    /// one at worst, so that its encoded forms take about as much as the query's memory.
    pub(crate) fn value_bytes_max(&self) -> usize {
        self.memory_bytes_max / 8
    }
}

/// The greatest offset into a column of texts.
const OFFSET_MAX: usize = i32::MAX.unsigned_abs() as usize;

/// What a function may make of texts however little memory there is: a sentence.
const TEXT_BYTES_LEAST: usize = 1024;

/// Words, numbers and signs of a statement. It bounds what parsing and planning can cost, whatever the text.
pub(crate) const SQL_TOKENS_MAX: usize = 60_000;

/// Signs and words that can nest an expression without a parenthesis (`a + b + c …`). Every one of them can be a level
/// of recursion in a later stage, and a stack is 2 MiB.
pub(crate) const SQL_OPERATORS_MAX: usize = 400;

/// Combinations of columns that one `GROUP BY` with `CUBE`, `ROLLUP` or `GROUPING SETS` makes. Each is computed for every
/// batch before the next one comes.
pub(crate) const GROUPING_SETS_MAX: usize = 256;

/// Parentheses within parentheses. The parser tries several readings of a parenthesis, so each level can double its
/// work.
pub(crate) const SQL_PARENTHESES_MAX: usize = 20;

/// Tables that a statement refers to, with every use of a `WITH` query counted as what stands behind it: chains of
/// `WITH` double at each link.
pub(crate) const SQL_RELATIONS_MAX: usize = 48;

/// Loggers that pruning keeps one by one; past it only their smallest and largest are used.
pub(crate) const PRUNE_LOGGERS_MAX: usize = 4_096;

/// Stack of the thread that parses and plans: the deepest statement that the limits above let through, with room, in
/// a build without optimisation.
pub(crate) const PLAN_STACK_BYTES: usize = 16 << 20;

/// Days of loggers, one by one, that write buffers may add to and that are therefore not taken from rollups. With more of
/// them, no rollups are used.
pub(crate) const ROLLUP_ROWS_DAYS_MAX: usize = 1 << 18;

/// Ranges of keys by which pages are left out where rollups are used for the rest of a segment: each is compared with
/// the bounds of every page.
pub(crate) const ROLLUP_RANGES_MAX: usize = 16;
