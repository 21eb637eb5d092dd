//! The rows of a covered segment whose keys are of rows: those that its rollups bring are left out.
//!
//! It stands right above the scan of one segment, also below a merge: keys that others may hold too are of rows.

use std::fmt;
use std::sync::Arc;

use arrow::array::{AsArray, BooleanArray, BooleanBufferBuilder, RecordBatch};
use arrow::compute::filter_record_batch;
use arrow::datatypes::{Schema, TimestampMillisecondType, UInt64Type};
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::common::{Result, internal_datafusion_err, internal_err};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_expr::{EquivalenceProperties, PhysicalExpr};
use datafusion::physical_plan::coop::cooperative;
use datafusion::physical_plan::execution_plan::{Boundedness, EmissionType, SchedulingType};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{DisplayAs, DisplayFormatType, ExecutionPlan, Partitioning, PlanProperties};
use futures::stream::{self, StreamExt, TryStreamExt};

use super::cover::Cover;
use super::pieces::Grain;

/// See the module.
#[derive(Debug)]
pub(crate) struct KeysExec {
    /// Plans of one partition each, one of each segment.
    segments: Vec<Arc<dyn ExecutionPlan>>,
    /// Number of partitions that read them, each one after the other.
    partitions: usize,
    keys: Keys,
    properties: Arc<PlanProperties>,
}

impl KeysExec {
    /// Over rows of covered segments: plans of one partition and of one schema, each sorted by (logger, time) for speed.
    pub(crate) fn try_new(
        segments: Vec<Arc<dyn ExecutionPlan>>,
        cover: &Arc<Cover>,
        partitions: usize,
    ) -> Result<Self> {
        let Some(first) = segments.first() else { return internal_err!("it reads one segment at least") };
        let keys = Keys::of(&first.schema(), "time", cover, Grain::Rows)?;
        let partitions = partitions.clamp(1, segments.len());
        let equivalences = match segments.as_slice() {
            [single] => single.properties().equivalence_properties().clone(),
            _ => EquivalenceProperties::new(first.schema()),
        };
        let properties = PlanProperties::new(
            equivalences,
            Partitioning::UnknownPartitioning(partitions),
            EmissionType::Incremental,
            Boundedness::Bounded,
        )
        .with_scheduling_type(SchedulingType::Cooperative);
        Ok(Self { segments, partitions, keys, properties: Arc::new(properties) })
    }
}

/// Finds the rows of one grain by their keys.
#[derive(Debug, Clone)]
pub(super) struct Keys {
    cover: Arc<Cover>,
    grain: Grain,
    logger: usize,
    time: usize,
}

impl Keys {
    /// In batches of this schema, which has the columns `logger` and, of this name, of times.
    pub(super) fn of(schema: &Schema, time: &str, cover: &Arc<Cover>, grain: Grain) -> Result<Self> {
        let (logger, time) = (schema.index_of("logger")?, schema.index_of(time)?);
        Ok(Self { cover: Arc::clone(cover), grain, logger, time })
    }

    /// The rows of this grain.
    pub(super) fn select(&self, batch: RecordBatch) -> Result<RecordBatch> {
        let wrong = || internal_datafusion_err!("a key is not of its type");
        let loggers = batch.column(self.logger).as_primitive_opt::<UInt64Type>().ok_or_else(wrong)?.values();
        let times = batch.column(self.time).as_primitive_opt::<TimestampMillisecondType>().ok_or_else(wrong)?.values();
        let mut selected = BooleanBufferBuilder::new(batch.num_rows());
        let mut row = 0;
        while let (Some(&logger), Some(&first)) = (loggers.get(row), times.get(row)) {
            let (grain, until) = self.cover.run(logger, first);
            let rest = loggers[row..].iter().zip(&times[row..]);
            // Times ascend within a logger; should they not, the run ends.
            let run = rest.take_while(|&(&of, &time)| of == logger && first <= time && time < until).count();
            selected.append_n(run, grain == self.grain);
            row += run;
        }
        let selected = BooleanArray::new(selected.finish(), None);
        match selected.true_count() {
            count if count == batch.num_rows() => Ok(batch),
            0 => Ok(batch.slice(0, 0)),
            _ => Ok(filter_record_batch(&batch, &selected)?),
        }
    }
}

impl DisplayAs for KeysExec {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KeysExec: segments={}, without what comes from rollups", self.segments.len())
    }
}

impl ExecutionPlan for KeysExec {
    fn name(&self) -> &'static str {
        "KeysExec"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    /// None: what is below is chosen here.
    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        Vec::new()
    }

    fn with_new_children(self: Arc<Self>, children: Vec<Arc<dyn ExecutionPlan>>) -> Result<Arc<dyn ExecutionPlan>> {
        if children.is_empty() { Ok(self) } else { internal_err!("it has no children") }
    }

    fn apply_expressions(
        &self,
        _: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        Ok(TreeNodeRecursion::Continue)
    }

    fn execute(&self, partition: usize, context: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        let keys = self.keys.clone();
        let segments: Vec<_> = self.segments.iter().skip(partition).step_by(self.partitions).cloned().collect();
        let batches = stream::iter(segments)
            .map(move |segment| segment.execute(0, Arc::clone(&context)))
            .try_flatten()
            .map(move |batch| keys.select(batch?));
        Ok(Box::pin(cooperative(RecordBatchStreamAdapter::new(self.schema(), batches))))
    }
}
