//! The first-wins merge as a plan: sorted segments and buffered rows in, one row per (logger, time) out, sorted.
//!
//! Kernel and driver are the engine's, the same that flushes with. Only predicates on keys may go below a merge: a filter on a
//! value could hide the first value and let a refused one through. So this node takes no filters from above.

use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use datafusion::common::{DataFusionError, Result, exec_datafusion_err};
use datafusion::execution::TaskContext;
use datafusion::execution::memory_pool::MemoryReservation;
use datafusion::physical_expr::{EquivalenceProperties, LexOrdering};
use datafusion::physical_plan::ExecutionPlan;
use engine::{Merge, MergeCounts, MergeMode, MergedBatch, SortedBatches};
use futures::stream::{self, BoxStream, StreamExt, TryStreamExt};

use super::buffer;
use crate::error::external;
use crate::leaf::{Source, leaf};

/// One merge: its runs in order of precedence.
#[derive(Debug, Clone)]
pub(crate) struct MergeUnit {
    /// Plans of one partition each, sorted, with the merge's schema.
    pub(crate) segments: Vec<Arc<dyn ExecutionPlan>>,
    /// Rows of write buffers, which come after all segments.
    pub(crate) buffers: Vec<SortedBatches>,
}

impl MergeUnit {
    /// Its runs, opened.
    pub(crate) fn runs(&self, context: &Arc<TaskContext>) -> Result<Vec<BoxStream<'static, Result<RecordBatch>>>> {
        let segments = self.segments.iter().map(|plan| Ok(plan.execute(0, Arc::clone(context))?.boxed()));
        segments.chain(self.buffers.iter().map(|rows| Ok(buffer::batches(rows.clone())))).collect()
    }
}

/// What comes out of a merge.
#[derive(Debug)]
pub(crate) enum Merged {
    /// A piece of the result.
    Batch(MergedBatch),
    /// At the end: what was counted.
    Counts(MergeCounts),
}

/// Merges these runs, which are in order of precedence and of this schema.
pub(crate) fn merge_runs(
    schema: &SchemaRef,
    runs: Vec<BoxStream<'static, Result<RecordBatch>>>,
    mode: MergeMode,
    batch_rows: usize,
) -> Result<BoxStream<'static, Result<Merged>>> {
    let merge = Merge::new(Arc::clone(schema), runs, mode, external)?.with_batch_rows(batch_rows);
    // The counts come once, after the last batch: then the merge goes.
    let merged = stream::try_unfold(Some(merge), |running| async move {
        let Some(mut merge) = running else { return Ok(None) };
        Ok(Some(match merge.next().await? {
            Some(batch) => (Merged::Batch(batch), Some(merge)),
            None => (Merged::Counts(merge.counts()), None),
        }))
    });
    Ok(merged.boxed())
}

/// Merges, spread over partitions. See the module.
#[derive(Debug)]
struct FirstWinsMerge {
    /// What the kernel sees: logger, time, the channels that are wanted, gateway, received.
    merged_schema: SchemaRef,
    /// The wanted columns of it, in the wanted order.
    projection: Vec<usize>,
    units: Vec<MergeUnit>,
    /// Which units each partition reads, one after the other.
    partitions: Vec<Vec<usize>>,
    /// Memory of the buffered rows.
    _reservation: MemoryReservation,
}

/// A plan that merges. `ordering` is that of the projected columns, to be told only if no partition has more than one unit.
pub(crate) fn first_wins_merge(
    merged_schema: SchemaRef,
    projection: Vec<usize>,
    units: Vec<MergeUnit>,
    partitions: Vec<Vec<usize>>,
    ordering: Option<LexOrdering>,
    reservation: MemoryReservation,
) -> Result<Arc<dyn ExecutionPlan>> {
    let schema = Arc::new(merged_schema.project(&projection)?);
    let equivalences = EquivalenceProperties::new_with_orderings(schema, ordering);
    let count = partitions.len();
    let source = FirstWinsMerge { merged_schema, projection, units, partitions, _reservation: reservation };
    Ok(leaf(source, equivalences, count))
}

impl Source for FirstWinsMerge {
    const NAME: &'static str = "FirstWinsMergeExec";

    fn detail(&self) -> String {
        let segments: usize = self.units.iter().map(|unit| unit.segments.len()).sum();
        let rows: usize = self.units.iter().flat_map(|unit| &unit.buffers).map(SortedBatches::rows).sum();
        format!("merges={}, segments={segments}, buffered_rows={rows}", self.units.len())
    }

    fn open(&self, partition: usize, context: Arc<TaskContext>) -> Result<BoxStream<'static, Result<RecordBatch>>> {
        let units = self.partitions.get(partition).ok_or_else(|| exec_datafusion_err!("no partition {partition}"))?;
        let units: Vec<MergeUnit> = units.iter().filter_map(|&unit| self.units.get(unit).cloned()).collect();
        let merged_schema = Arc::clone(&self.merged_schema);
        let projection = self.projection.clone();
        let batch_rows = context.session_config().batch_size();
        let batches = stream::iter(units)
            .map(move |unit| merge_runs(&merged_schema, unit.runs(&context)?, MergeMode::Rows, batch_rows))
            .try_flatten()
            .try_filter_map(move |merged| {
                let rows = match merged {
                    Merged::Batch(batch) => batch.rows.project(&projection).map(Some),
                    Merged::Counts(_) => Ok(None),
                };
                futures::future::ready(rows.map_err(DataFusionError::from))
            });
        Ok(batches.boxed())
    }
}
