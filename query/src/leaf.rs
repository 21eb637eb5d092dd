//! Plans without inputs. What they read is chosen where they are made: no rule looks below them, changes an order there
//! or pushes filters into them.

use std::fmt;
use std::sync::Arc;

use arrow::array::RecordBatch;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::common::{Result, internal_err};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_expr::{EquivalenceProperties, PhysicalExpr};
use datafusion::physical_plan::coop::cooperative;
use datafusion::physical_plan::execution_plan::{Boundedness, EmissionType, SchedulingType};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{DisplayAs, DisplayFormatType, ExecutionPlan, Partitioning, PlanProperties};
use futures::stream::BoxStream;

/// Where the rows of such a plan come from.
pub(crate) trait Source: fmt::Debug + Send + Sync + 'static {
    /// Name of the plan.
    const NAME: &'static str;

    /// What `EXPLAIN` shows beside the name; may be empty.
    fn detail(&self) -> String;

    /// Opens a partition.
    fn open(&self, partition: usize, context: Arc<TaskContext>) -> Result<BoxStream<'static, Result<RecordBatch>>>;
}

/// The plan.
#[derive(Debug)]
struct Leaf<S> {
    source: S,
    properties: Arc<PlanProperties>,
}

/// A plan of this source, with so many partitions. The equivalences have its schema, and the order of each partition.
pub(crate) fn leaf<S: Source>(
    source: S,
    equivalences: EquivalenceProperties,
    partitions: usize,
) -> Arc<dyn ExecutionPlan> {
    let properties = PlanProperties::new(
        equivalences,
        Partitioning::UnknownPartitioning(partitions),
        EmissionType::Incremental,
        Boundedness::Bounded,
    )
    .with_scheduling_type(SchedulingType::Cooperative);
    Arc::new(Leaf { source, properties: Arc::new(properties) })
}

/// A batch in slices of at most so many rows.
pub(crate) fn slices(batch: RecordBatch, rows: usize) -> impl Iterator<Item = RecordBatch> {
    let starts = (0..batch.num_rows()).step_by(rows.max(1));
    starts.map(move |start| batch.slice(start, rows.min(batch.num_rows() - start)))
}

impl<S: Source> DisplayAs for Leaf<S> {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.source.detail() {
            detail if detail.is_empty() => f.write_str(S::NAME),
            detail => write!(f, "{}: {detail}", S::NAME),
        }
    }
}

impl<S: Source> ExecutionPlan for Leaf<S> {
    fn name(&self) -> &'static str {
        S::NAME
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        Vec::new()
    }

    fn with_new_children(self: Arc<Self>, children: Vec<Arc<dyn ExecutionPlan>>) -> Result<Arc<dyn ExecutionPlan>> {
        if children.is_empty() { Ok(self) } else { internal_err!("{} has no children", S::NAME) }
    }

    fn apply_expressions(
        &self,
        _: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        Ok(TreeNodeRecursion::Continue)
    }

    fn execute(&self, partition: usize, context: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        let batches = self.source.open(partition, context)?;
        Ok(Box::pin(cooperative(RecordBatchStreamAdapter::new(self.schema(), batches))))
    }
}
