//! The driver of every first-wins merge: feeds the kernel from streams of batches and hands its output on.
//!
//! Flushes, queries and compaction differ in where their runs come from and in their errors, so both are parameters.
//! Batches are moved, never copied. A run is asked for its next batch only when the kernel needs it.

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use futures::{Stream, StreamExt as _};

use super::{MergeCounts, MergeError, MergeKernel, MergeMode, MergePoll, MergedBatch};

/// A merge over streams of sorted batches.
#[derive(Debug)]
pub struct Merge<S, E> {
    kernel: MergeKernel,
    runs: Vec<S>,
    defect: fn(MergeError) -> E,
}

impl<S, E> Merge<S, E>
where
    S: Stream<Item = Result<RecordBatch, E>> + Unpin,
{
    /// A merge of these runs, which are in order of precedence, sorted, and of this schema (see [`MergeKernel::new`]).
    /// `defect` converts the kernel's error into the caller's.
    ///
    /// # Errors
    /// A converted [`MergeError::Schema`].
    pub fn new(schema: SchemaRef, runs: Vec<S>, mode: MergeMode, defect: fn(MergeError) -> E) -> Result<Self, E> {
        let kernel = MergeKernel::new(schema, runs.len(), mode).map_err(defect)?;
        Ok(Self { kernel, runs, defect })
    }

    /// Output batches of at most `rows` rows (and about as many conflicts).
    #[must_use]
    pub fn with_batch_rows(mut self, rows: usize) -> Self {
        self.kernel = self.kernel.with_batch_rows(rows);
        self
    }

    /// The next piece of the result; `None` at its end. When this is dropped before it is ready, nothing is lost, and the
    /// next call goes on.
    ///
    /// # Errors
    /// A run's error, or a converted [`MergeError`]. The merge is over then.
    pub async fn next(&mut self) -> Result<Option<MergedBatch>, E> {
        loop {
            match self.kernel.poll().map_err(self.defect)? {
                MergePoll::Need(run) => match self.runs[run].next().await {
                    Some(batch) => self.kernel.push(run, batch?).map_err(self.defect)?,
                    None => self.kernel.finish(run),
                },
                MergePoll::Batch(batch) => return Ok(Some(batch)),
                MergePoll::Done => return Ok(None),
            }
        }
    }

    /// What was counted so far; of the whole once [`Merge::next`] has returned `None`.
    #[must_use]
    pub const fn counts(&self) -> MergeCounts {
        self.kernel.counts()
    }
}
