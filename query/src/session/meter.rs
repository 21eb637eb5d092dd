//! Counts what operators keep without reserving it, and holds rows that an operator repeats to a length.
//!
//! A window keeps its input until the last row of a partition has come, and a copy of it, and a value for each row and
//! each of its functions. It reserves nothing of this. So a node below reserves for every batch that goes in, and a node
//! above gives back what goes out. The node above also cuts up what the window gives as one batch of all its rows.
//!
//! A join repeats rows of its inputs, thousands of times in one batch. A node below each input refuses rows with longer
//! texts than functions may make for every row.

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arrow::array::{Array, RecordBatch};
use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode, TreeNodeRecursion};
use datafusion::common::{DataFusionError, Result, exec_datafusion_err, exec_err, internal_datafusion_err};
use datafusion::config::ConfigOptions;
use datafusion::execution::memory_pool::{MemoryConsumer, MemoryReservation};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_optimizer::PhysicalOptimizerRule;
use datafusion::physical_plan::aggregates::AggregateExec;
use datafusion::physical_plan::execution_plan::{ChildrenPropertiesMode, ReplaceChildrenOptions};
use datafusion::physical_plan::joins::{
    CrossJoinExec, HashJoinExec, NestedLoopJoinExec, PiecewiseMergeJoinExec, SortMergeJoinExec, SymmetricHashJoinExec,
};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::windows::{BoundedWindowAggExec, WindowAggExec};
use datafusion::physical_plan::{DisplayAs, DisplayFormatType, ExecutionPlan, ExecutionPlanProperties, PlanProperties};
use futures::{StreamExt, TryStreamExt, stream};

use crate::functions::longest_text;
use crate::limits::GROUPING_SETS_MAX;

/// What a window keeps of its input: the rows, and their copy in one piece.
const WINDOW_COPIES: usize = 2;

/// What a window keeps of each result: the value by itself, and in its column.
const WINDOW_VALUE_BYTES: usize = 80;

/// The rule that puts this into a plan.
#[derive(Debug)]
pub(super) struct Metered {
    /// Bytes of texts in one row that a join repeats.
    pub(super) row_bytes_max: usize,
}

impl Metered {
    fn node(&self, plan: Arc<dyn ExecutionPlan>) -> Result<Transformed<Arc<dyn ExecutionPlan>>> {
        if let Some(functions) = window_functions(plan.as_ref()) {
            let input = only_child(&plan)?;
            let kept = Arc::new(Kept::new(functions, input.output_partitioning().partition_count()));
            let below = MeterExec::new(Arc::clone(input), Part::Below(Arc::clone(&kept)));
            let window = with_children(plan, vec![Arc::new(below)])?;
            return Ok(Transformed::yes(Arc::new(MeterExec::new(window, Part::Above(kept)))));
        }
        if is_join(plan.as_ref()) {
            let short = |child: &Arc<dyn ExecutionPlan>| -> Arc<dyn ExecutionPlan> {
                Arc::new(MeterExec::new(Arc::clone(child), Part::Short { row_bytes_max: self.row_bytes_max }))
            };
            let children = plan.children();
            if children.iter().any(|child| has_texts(child.as_ref())) {
                let children = children.into_iter().map(short).collect();
                return Ok(Transformed::yes(with_children(plan, children)?));
            }
        }
        if let Some(aggregation) = plan.downcast_ref::<AggregateExec>() {
            let sets = aggregation.group_expr().groups().len();
            if sets > GROUPING_SETS_MAX {
                return exec_err!("GROUP BY makes {sets} combinations of columns here; at most {GROUPING_SETS_MAX}");
            }
        }
        Ok(Transformed::no(plan))
    }
}

fn with_children(
    plan: Arc<dyn ExecutionPlan>,
    children: Vec<Arc<dyn ExecutionPlan>>,
) -> Result<Arc<dyn ExecutionPlan>> {
    plan.replace_children(children, ReplaceChildrenOptions::new(ChildrenPropertiesMode::Recompute))
}

fn only_child(plan: &Arc<dyn ExecutionPlan>) -> Result<&Arc<dyn ExecutionPlan>> {
    plan.children().into_iter().next().ok_or_else(|| internal_datafusion_err!("a window without an input"))
}

/// How many functions a window computes, if it is one.
fn window_functions(plan: &dyn ExecutionPlan) -> Option<usize> {
    let unbounded = plan.downcast_ref::<WindowAggExec>().map(|window| window.window_expr().len());
    unbounded.or_else(|| plan.downcast_ref::<BoundedWindowAggExec>().map(|window| window.window_expr().len()))
}

fn is_join(plan: &dyn ExecutionPlan) -> bool {
    plan.is::<HashJoinExec>()
        || plan.is::<NestedLoopJoinExec>()
        || plan.is::<CrossJoinExec>()
        || plan.is::<SortMergeJoinExec>()
        || plan.is::<SymmetricHashJoinExec>()
        || plan.is::<PiecewiseMergeJoinExec>()
}

fn has_texts(plan: &dyn ExecutionPlan) -> bool {
    plan.schema().fields().iter().any(|field| field.data_type().primitive_width().is_none())
}

impl PhysicalOptimizerRule for Metered {
    fn optimize(&self, plan: Arc<dyn ExecutionPlan>, _: &ConfigOptions) -> Result<Arc<dyn ExecutionPlan>> {
        plan.transform_up(|plan| self.node(plan)).data()
    }

    fn name(&self) -> &'static str {
        "metered"
    }

    fn schema_check(&self) -> bool {
        true
    }
}

/// What one window keeps, by partition.
#[derive(Debug)]
struct Kept {
    functions: usize,
    partitions: Vec<Mutex<Option<KeptRows>>>,
}

/// What a window keeps of one partition.
///
/// Invariant: the reservation is the sum of the bytes of `batches`.
#[derive(Debug)]
struct KeptRows {
    reservation: MemoryReservation,
    /// Rows that are still kept, and their bytes, of each batch.
    batches: VecDeque<(usize, usize)>,
}

impl Kept {
    fn new(functions: usize, partitions: usize) -> Self {
        Self { functions, partitions: (0..partitions).map(|_| Mutex::default()).collect() }
    }

    fn partition(&self, partition: usize) -> Result<MutexGuard<'_, Option<KeptRows>>> {
        let kept = self.partitions.get(partition).ok_or_else(|| exec_datafusion_err!("no partition {partition}"))?;
        Ok(kept.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn came(&self, partition: usize, batch: &RecordBatch) -> Result<()> {
        let bytes = batch_bytes(batch)? * WINDOW_COPIES + batch.num_rows() * self.functions * WINDOW_VALUE_BYTES;
        if let Some(kept) = self.partition(partition)?.as_mut() {
            kept.reservation.try_grow(bytes)?;
            kept.batches.push_back((batch.num_rows(), bytes));
        }
        Ok(())
    }

    fn went(&self, partition: usize, mut rows: usize) -> Result<()> {
        if let Some(kept) = self.partition(partition)?.as_mut() {
            while let Some((left, bytes)) = kept.batches.front_mut().filter(|_| rows > 0) {
                let gone = rows.min(*left);
                let freed = if gone == *left { *bytes } else { *bytes / *left * gone };
                kept.reservation.shrink(freed);
                (rows, *left, *bytes) = (rows - gone, *left - gone, *bytes - freed);
                if *left == 0 {
                    kept.batches.pop_front();
                }
            }
        }
        Ok(())
    }
}

/// Bytes of the rows themselves, also where they are a slice of more.
fn batch_bytes(batch: &RecordBatch) -> Result<usize> {
    batch.columns().iter().map(|column| Ok(column.to_data().get_slice_memory_size()?)).sum()
}

/// Gives back all that a partition of a window still keeps, when the window's stream is dropped.
struct GiveBack(Arc<Kept>, usize);

impl Drop for GiveBack {
    fn drop(&mut self) {
        if let Ok(mut kept) = self.0.partition(self.1) {
            *kept = None;
        }
    }
}

/// What a node does with the batches that pass.
#[derive(Debug, Clone)]
enum Part {
    /// Reserves for them: they go into a window.
    Below(Arc<Kept>),
    /// Cuts them up, and gives back what was reserved for them: they come out of a window.
    Above(Arc<Kept>),
    /// Refuses rows with long texts: they go into a join.
    Short { row_bytes_max: usize },
}

/// See the module.
#[derive(Debug)]
struct MeterExec {
    input: Arc<dyn ExecutionPlan>,
    part: Part,
}

impl MeterExec {
    fn new(input: Arc<dyn ExecutionPlan>, part: Part) -> Self {
        Self { input, part }
    }
}

impl DisplayAs for MeterExec {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.part {
            Part::Below(_) => "MeterExec: reserve",
            Part::Above(_) => "MeterExec: give back",
            Part::Short { .. } => "MeterExec: short texts",
        })
    }
}

impl ExecutionPlan for MeterExec {
    fn name(&self) -> &'static str {
        "MeterExec"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        self.input.properties()
    }

    fn maintains_input_order(&self) -> Vec<bool> {
        vec![true]
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        vec![&self.input]
    }

    fn with_new_children(self: Arc<Self>, children: Vec<Arc<dyn ExecutionPlan>>) -> Result<Arc<dyn ExecutionPlan>> {
        let [input] = <[Arc<dyn ExecutionPlan>; 1]>::try_from(children)
            .map_err(|_| internal_datafusion_err!("it has one child"))?;
        Ok(Arc::new(Self::new(input, self.part.clone())))
    }

    fn apply_expressions(
        &self,
        _: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        Ok(TreeNodeRecursion::Continue)
    }

    fn execute(&self, partition: usize, context: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        let input = self.input.execute(partition, Arc::clone(&context))?;
        let batches = match &self.part {
            Part::Below(kept) => {
                let reservation = MemoryConsumer::new(format!("Window[{partition}]")).register(context.memory_pool());
                *kept.partition(partition)? = Some(KeptRows { reservation, batches: VecDeque::new() });
                let kept = Arc::clone(kept);
                input
                    .and_then(move |batch| futures::future::ready(kept.came(partition, &batch).map(|()| batch)))
                    .boxed()
            }
            Part::Above(kept) => {
                let give_back = GiveBack(Arc::clone(kept), partition);
                let rows_max = context.session_config().batch_size();
                let cut =
                    move |batch: RecordBatch| stream::iter(slices(&batch, rows_max)).map(Ok::<_, DataFusionError>);
                let came_out = move |batch: RecordBatch| {
                    futures::future::ready(give_back.0.went(give_back.1, batch.num_rows()).map(|()| batch))
                };
                input.map_ok(cut).try_flatten().and_then(came_out).boxed()
            }
            Part::Short { row_bytes_max } => {
                let most = *row_bytes_max;
                input.and_then(move |batch| futures::future::ready(short(&batch, most).map(|()| batch))).boxed()
            }
        };
        Ok(Box::pin(RecordBatchStreamAdapter::new(self.schema(), batches)))
    }
}

/// The rows, so many at once.
fn slices(batch: &RecordBatch, rows_max: usize) -> Vec<RecordBatch> {
    let starts = (0..batch.num_rows()).step_by(rows_max.max(1));
    starts.map(|from| batch.slice(from, rows_max.min(batch.num_rows() - from))).collect()
}

fn short(batch: &RecordBatch, most: usize) -> Result<()> {
    let bytes = batch.columns().iter().map(|column| Ok(longest_text(column).max(nested_bytes(column)?)));
    let bytes = bytes.sum::<Result<usize>>()?;
    if bytes <= most {
        return Ok(());
    }
    exec_err!("a join could repeat a row with texts of {bytes} bytes here; at most {most} are repeated")
}

/// Bytes of a list or another nested value, on average.
fn nested_bytes(column: &dyn Array) -> Result<usize> {
    if !column.data_type().is_nested() {
        return Ok(0);
    }
    Ok(column.to_data().get_slice_memory_size()? / column.len().max(1))
}

#[cfg(test)]
mod tests {
    use arrow::array::{Float64Array, StringArray};
    use arrow::datatypes::{DataType, Field, Schema};
    use datafusion::execution::memory_pool::{GreedyMemoryPool, MemoryPool};

    use super::*;

    fn numbers(rows: usize) -> RecordBatch {
        let schema = Schema::new(vec![Field::new("n", DataType::Float64, false)]);
        RecordBatch::try_new(Arc::new(schema), vec![Arc::new(Float64Array::from(vec![1.5; rows]))]).expect("a batch")
    }

    #[test]
    fn what_a_window_keeps_is_reserved_until_it_went() {
        let pool: Arc<dyn MemoryPool> = Arc::new(GreedyMemoryPool::new(100_000));
        let kept = Arc::new(Kept::new(1, 1));
        let reservation = MemoryConsumer::new("window").register(&pool);
        *kept.partition(0).expect("there is one") = Some(KeptRows { reservation, batches: VecDeque::new() });
        let give_back = GiveBack(Arc::clone(&kept), 0);
        let each = 8 * WINDOW_COPIES + WINDOW_VALUE_BYTES;
        kept.came(0, &numbers(100)).expect("fits");
        kept.came(0, &numbers(500).slice(100, 200)).expect("fits, and only the slice counts");
        assert_eq!(pool.reserved(), 300 * each);
        assert!(kept.came(0, &numbers(10_000)).is_err(), "more than there is");
        kept.went(0, 30).expect("went");
        assert_eq!(pool.reserved(), 270 * each);
        kept.went(0, 120).expect("went");
        assert_eq!(pool.reserved(), 150 * each);
        kept.went(0, 50).expect("went");
        assert_eq!(pool.reserved(), 100 * each);
        drop(give_back);
        assert_eq!(pool.reserved(), 0, "the window's stream is gone");
    }

    #[test]
    fn batches_are_cut_into_all_their_rows() {
        for (rows, expected) in [(0, vec![]), (3, vec![3]), (10, vec![4, 4, 2]), (8, vec![4, 4])] {
            let found: Vec<usize> = slices(&numbers(rows), 4).iter().map(RecordBatch::num_rows).collect();
            assert_eq!(found, expected);
        }
    }

    #[test]
    fn a_row_s_texts_are_short_together() {
        let schema = Schema::new(vec![Field::new("a", DataType::Utf8, true), Field::new("b", DataType::Utf8, true)]);
        let texts = |texts: [&str; 2]| Arc::new(StringArray::from_iter_values(texts));
        let batch = RecordBatch::try_new(Arc::new(schema), vec![texts(["1234", "1"]), texts(["12", "123"])]);
        let batch = batch.expect("a batch");
        short(&batch, 7).expect("the longest of each column");
        short(&batch, 6).expect_err("too long");
        short(&batch.slice(1, 1), 4).expect("only the rows that are there");
    }
}
