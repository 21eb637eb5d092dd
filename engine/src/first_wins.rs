//! First write wins: merging sorted runs of readings, channel by channel.
//!
//! A kernel without I/O: batches of several runs are pushed in, merged batches come out. One driver ([`Merge`]) feeds it
//! from streams. Runs are numbered in order of
//! precedence: what run 0 says of a (logger, time, channel) stands; a later run may fill a channel that is empty. Equal
//! keys within one run count in their order, the first wins.
//!
//! Invariants: every run is sorted by (logger, time), which is checked; a key is settled only when no run can bring it
//! any more; output depends on nothing but the runs' rows, not on how they were cut into batches. Memory: the batches
//! at the cursors, and one batch of output.

mod driver;
mod kernel;
mod output;
mod pending;
mod run;

use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, RecordBatchOptions, new_null_array};
use arrow::datatypes::{DataType, Schema, SchemaRef};
use arrow::error::ArrowError;
use storage_format::segment::FLUSH_COLUMN;

pub use driver::Merge;
pub use kernel::MergeKernel;

/// Rows of an output batch, unless told otherwise.
pub const MERGE_BATCH_ROWS: usize = 8_192;

/// Rows of an output batch that is encoded at once: some tenths of a millisecond without a break.
pub(crate) const YIELD_ROWS: usize = 2_048;

/// What is asked of a merge.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MergeMode {
    /// Every key once, with the values that won, and the provenance of the first row that had the key. For queries.
    Rows,
    /// The same rows, and what became of every row whose key an earlier run has. For compaction. Needs the columns `gateway`
    /// and `received`; without the column `flush`, every row is of flush 0.
    Unite,
    /// Only what the last run adds to the others: new keys, and channels that were empty (the other channels of such a
    /// row are null, its provenance is that of the first row of the last run that filled one). For a flush. Needs the
    /// columns `gateway` and `received`.
    NewOfLast,
}

/// What a merge counted, so far. In [`MergeMode::Rows`] all is zero; [`MergeMode::Unite`] counts samples, of all rows
/// whose key an earlier one had.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct MergeCounts {
    /// Keys of the last run that no other run has.
    pub readings: u64,
    /// Samples of the last run that were there already with the same value; also a conflict told again: the same
    /// refused value from the same gateway.
    pub duplicates: u64,
    /// Samples of the last run that had another value than the one that was there: rows of the conflicts.
    pub conflicts: u64,
    /// Samples of the last run that filled an empty channel of a key that was there.
    pub filled: u64,
    /// Does an output row have a key that is in another run?
    pub shares_keys: bool,
}

/// A piece of the result.
#[derive(Debug, Clone)]
pub struct MergedBatch {
    /// Rows of the merge's schema, sorted; may be empty.
    pub rows: RecordBatch,
    /// Conflicts ([`conflicts_schema`](storage_format::segment::conflicts_schema)), by (logger, time); may be empty.
    pub conflicts: RecordBatch,
    /// In [`MergeMode::Unite`], what became of rows whose key an earlier run has, if there are any in this piece.
    pub united: Option<United>,
}

/// Rows whose key an earlier run has, and their samples, each of which is in one of two lists
/// ([`fills_schema`](storage_format::segment::fills_schema)) with the flush and provenance of its row.
#[derive(Debug, Clone)]
pub struct United {
    /// The rows as they came, of the merge's schema.
    pub rows: RecordBatch,
    /// Samples that filled an empty channel: they are in the merged rows. By (logger, time, channel).
    pub fills: RecordBatch,
    /// Samples of a channel that had a value, the same or another one: they are not in the merged rows.
    pub dropped: RecordBatch,
}

/// What a kernel wants next.
#[derive(Debug, Clone)]
pub enum MergePoll {
    /// More rows of this run, or the word that it is finished.
    Need(usize),
    /// A piece of the result.
    Batch(MergedBatch),
    /// Nothing: all is told.
    Done,
}

/// Why runs can not be merged: all of them defects of the caller or of a stored segment.
#[derive(Debug, thiserror::Error)]
pub enum MergeError {
    /// The schema is not one of readings, or a batch has another one.
    #[error("run {run}: the columns are not those of the merge: {detail}")]
    Schema {
        /// Which run; the number of runs for the merge's own schema.
        run: usize,
        /// What is wrong.
        detail: String,
    },
    /// Rows that are not in ascending order.
    #[error("run {run}: rows are not sorted by (logger, time)")]
    Order {
        /// Which run.
        run: usize,
    },
    /// Arrow refused.
    #[error(transparent)]
    Arrow(#[from] ArrowError),
}

/// The batch with the columns of this schema: columns that it has not are null, columns that the schema has not go. There
/// may be none.
///
/// # Errors
/// [`MergeError::Schema`] when a column has another type, or one that may not be null is not there.
pub fn unify(batch: &RecordBatch, schema: &SchemaRef) -> Result<RecordBatch, MergeError> {
    if batch.schema_ref() == schema {
        return Ok(batch.clone());
    }
    let wrong = |detail: String| MergeError::Schema { run: 0, detail };
    let columns = schema.fields().iter().map(|field| -> Result<ArrayRef, MergeError> {
        match batch.column_by_name(field.name()) {
            Some(column) if column.data_type() == field.data_type() => Ok(Arc::clone(column)),
            Some(column) => Err(wrong(format!("{} is {}", field.name(), column.data_type()))),
            None if field.is_nullable() => Ok(new_null_array(field.data_type(), batch.num_rows())),
            None => Err(wrong(format!("{} is missing", field.name()))),
        }
    });
    let columns = columns.collect::<Result<Vec<_>, _>>()?;
    let rows = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    Ok(RecordBatch::try_new_with_options(Arc::clone(schema), columns, &rows)?)
}

/// Where the columns are.
#[derive(Debug, Clone)]
struct Layout {
    schema: SchemaRef,
    /// Value columns: merged channel by channel. All others but the first two go with the first row of a key.
    channels: Vec<usize>,
    provenance: Option<(usize, usize)>,
    flush: Option<usize>,
}

impl Layout {
    fn new(schema: SchemaRef, runs: usize) -> Result<Self, MergeError> {
        let wrong = |detail: &str| MergeError::Schema { run: runs, detail: detail.to_owned() };
        let key = |index: usize, name: &str| schema.fields().get(index).is_some_and(|field| field.name() == name);
        if !key(0, "logger") || !key(1, "time") {
            return Err(wrong("the first two are not logger and time"));
        }
        if schema.field(0).data_type() != &DataType::UInt64
            || !matches!(schema.field(1).data_type(), DataType::Timestamp(arrow::datatypes::TimeUnit::Millisecond, _))
        {
            return Err(wrong("logger and time have other types"));
        }
        let channels = (2..schema.fields().len()).filter(|&i| schema.field(i).data_type() == &DataType::Float64);
        let flush = schema.index_of(FLUSH_COLUMN).ok().filter(|&i| schema.field(i).data_type() == &DataType::UInt64);
        Ok(Self { channels: channels.collect(), provenance: provenance(&schema), flush, schema })
    }
}

fn provenance(schema: &Schema) -> Option<(usize, usize)> {
    let gateway = schema.index_of("gateway").ok().filter(|&i| schema.field(i).data_type() == &DataType::UInt64)?;
    let received = schema.index_of("received").ok().filter(|&i| {
        matches!(schema.field(i).data_type(), DataType::Timestamp(arrow::datatypes::TimeUnit::Millisecond, _))
    })?;
    Some((gateway, received))
}

#[cfg(test)]
mod tests;
