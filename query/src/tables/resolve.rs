//! What the write buffers add to the segments, by the rule that a flush applies: how many new readings, how many
//! duplicates, and which conflicts.
//!
//! Each buffer is resolved against everything before it: the segments that can share keys with it, and older buffers.

use std::fmt;
use std::sync::Arc;

use arrow::array::{RecordBatch, UInt64Array};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion::catalog::Session;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::common::{DFSchema, Result, ScalarValue, internal_datafusion_err};
use datafusion::execution::memory_pool::MemoryReservation;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::logical_expr::{col, lit};
use datafusion::physical_expr::{EquivalenceProperties, PhysicalExpr};
use datafusion::physical_plan::coop::cooperative;
use datafusion::physical_plan::execution_plan::{Boundedness, EmissionType, SchedulingType};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{DisplayAs, DisplayFormatType, ExecutionPlan, Partitioning, PlanProperties};
use engine::MergeMode;
use futures::stream::{self, Stream, StreamExt, TryStreamExt};
use storage_format::manifest::Totals;
use storage_format::segment::{conflicts_schema, readings_schema};

use super::readings::key_ordering;
use crate::prune::KeyBounds;
use crate::scan::{Layout, MergePart, MergeUnit, Merged, ScanContext, SegmentScan, merge_runs, reserve};

/// What is wanted of the resolution.
#[derive(Debug, Clone, Copy)]
pub(super) enum Wanted {
    /// The conflicts, as rows.
    Conflicts,
    /// One row of counts, on top of these of the manifest, and how many rows the write buffers hold.
    Totals(Totals, u64),
}

/// Resolves the write buffers. A plan without inputs and with one partition.
#[derive(Debug)]
pub(super) struct ResolveBuffersExec {
    wanted: Wanted,
    merged_schema: SchemaRef,
    units: Vec<MergeUnit>,
    _reservation: Arc<MemoryReservation>,
    properties: Arc<PlanProperties>,
}

/// The schema of `totals`.
pub(super) fn totals_schema() -> SchemaRef {
    let count = |name| Field::new(name, DataType::UInt64, false);
    Arc::new(Schema::new(["readings", "duplicates", "conflicts", "unflushed"].map(count).to_vec()))
}

impl ResolveBuffersExec {
    /// Over the buffered rows within these bounds.
    pub(super) fn try_new(
        context: &ScanContext,
        state: &dyn Session,
        bounds: &KeyBounds,
        wanted: Wanted,
    ) -> Result<Self> {
        let snapshot = &context.snapshot;
        let channels = snapshot.channels();
        let merged_schema = readings_schema(&channels);
        let layout = Layout::new(&snapshot.manifest, &snapshot.buffers, bounds, &channels);
        let reservation = reserve(&state.runtime_env().memory_pool, layout.buffered_bytes())?;
        let mut units = Vec::new();
        for part in layout.merges.iter().filter(|part| !part.buffers.is_empty()) {
            let scan = SegmentScan {
                schema: Arc::clone(&merged_schema),
                projection: None,
                predicate: keys_of(part, state, &merged_schema)?,
                ordering: key_ordering(&merged_schema),
                limit: None,
                options: state.config_options().execution.parquet.clone(),
            };
            let segments = part.entries.iter().map(|entry| scan.plan(context, vec![vec![entry.clone()]]));
            units.push(MergeUnit { segments: segments.collect::<Result<_>>()?, buffers: part.buffers.clone() });
        }
        let schema = match wanted {
            Wanted::Conflicts => conflicts_schema(),
            Wanted::Totals(..) => totals_schema(),
        };
        let properties = PlanProperties::new(
            EquivalenceProperties::new(schema),
            Partitioning::UnknownPartitioning(1),
            EmissionType::Incremental,
            Boundedness::Bounded,
        )
        .with_scheduling_type(SchedulingType::Cooperative);
        Ok(Self { wanted, merged_schema, units, _reservation: Arc::new(reservation), properties: Arc::new(properties) })
    }

    fn resolved(&self, context: Arc<TaskContext>) -> impl Stream<Item = Result<Merged>> + Send + 'static {
        // Every buffer in turn is the last run: what it adds to all before it is the question.
        let turns: Vec<MergeUnit> = self
            .units
            .iter()
            .flat_map(|unit| {
                (1..=unit.buffers.len())
                    .map(|count| MergeUnit { segments: unit.segments.clone(), buffers: unit.buffers[..count].to_vec() })
            })
            .collect();
        let merged_schema = Arc::clone(&self.merged_schema);
        let batch_rows = context.session_config().batch_size();
        stream::iter(turns)
            .map(move |turn| merge_runs(&merged_schema, turn.runs(&context)?, MergeMode::NewOfLast, batch_rows))
            .try_flatten()
    }
}

/// The range of keys of a part's buffered rows: row groups and pages of its segments outside of it are not read.
fn keys_of(part: &MergePart, state: &dyn Session, schema: &SchemaRef) -> Result<Option<Arc<dyn PhysicalExpr>>> {
    let bounds = part.buffers.iter().filter_map(engine::SortedBatches::bounds).reduce(|a, b| {
        let ((a_first, a_last), (a_min, a_max)) = a;
        let ((b_first, b_last), (b_min, b_max)) = b;
        ((a_first.min(b_first), a_last.max(b_last)), (a_min.min(b_min), a_max.max(b_max)))
    });
    let Some(((first, last), (min, max))) = bounds else { return Ok(None) };
    let time = |ms: storage_format::Millis| lit(ScalarValue::TimestampMillisecond(Some(ms.get()), Some("UTC".into())));
    let keys = col("logger").between(lit(first.get()), lit(last.get())).and(col("time").between(time(min), time(max)));
    let df_schema = DFSchema::try_from(Arc::clone(schema))?;
    Ok(Some(state.create_physical_expr(keys, &df_schema)?))
}

fn add(sum: Totals, merged: &Merged) -> Result<Totals> {
    let Merged::Counts(counts) = merged else { return Ok(sum) };
    let more = Totals {
        readings: counts.readings,
        duplicates: counts.duplicates,
        conflicts: counts.conflicts,
        filled: counts.filled,
        dropped: 0,
    };
    sum.checked_add(more).ok_or_else(|| internal_datafusion_err!("a total is past the end of its range"))
}

fn totals_row(totals: Totals, unflushed: u64) -> Result<RecordBatch> {
    let counts = [totals.readings, totals.duplicates, totals.conflicts, unflushed];
    let columns = counts.into_iter().map(|count| Arc::new(UInt64Array::from(vec![count])) as _).collect();
    Ok(RecordBatch::try_new(totals_schema(), columns)?)
}

impl DisplayAs for ResolveBuffersExec {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ResolveBuffersExec: parts={}", self.units.len())
    }
}

impl ExecutionPlan for ResolveBuffersExec {
    fn name(&self) -> &'static str {
        "ResolveBuffersExec"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        Vec::new()
    }

    fn with_new_children(self: Arc<Self>, children: Vec<Arc<dyn ExecutionPlan>>) -> Result<Arc<dyn ExecutionPlan>> {
        if children.is_empty() { Ok(self) } else { Err(internal_datafusion_err!("it has no children")) }
    }

    fn apply_expressions(
        &self,
        _: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        Ok(TreeNodeRecursion::Continue)
    }

    fn execute(&self, _: usize, context: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        let resolved = self.resolved(context);
        let batches = match self.wanted {
            Wanted::Conflicts => resolved
                .try_filter_map(|merged| {
                    futures::future::ready(Ok(match merged {
                        Merged::Batch(batch) => Some(batch.conflicts),
                        Merged::Counts(_) => None,
                    }))
                })
                .boxed(),
            Wanted::Totals(flushed, unflushed) => {
                let sum = resolved.try_fold(flushed, |sum, merged| futures::future::ready(add(sum, &merged)));
                stream::once(async move { totals_row(sum.await?, unflushed) }).boxed()
            }
        };
        Ok(Box::pin(cooperative(RecordBatchStreamAdapter::new(self.schema(), batches))))
    }
}
