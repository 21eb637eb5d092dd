//! The plan above each scan: makes the floats of stored and buffered readings canonical. Frames may bring a negative
//! zero, and segments keep it.
//!
//! What makes scans cheap goes past this node as if it were not there: filters that prune by statistics (comparisons do
//! not tell the zeros apart), limits, the order of keys (none is a float), statistics, projections of columns. What
//! decides on rows stays above it: filters and sorts.

use std::fmt;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::{Schema, SchemaRef};
use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::common::{Result, Statistics, internal_err};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_expr::{PhysicalExpr, PhysicalSortExpr};
use datafusion::physical_plan::execution_plan::CardinalityEffect;
use datafusion::physical_plan::filter_pushdown::{
    ChildPushdownResult, FilterDescription, FilterPushdownPhase, FilterPushdownPropagation,
};
use datafusion::physical_plan::projection::{ProjectionExec, all_columns, make_with_child};
use datafusion::physical_plan::statistics::{ChildStats, StatisticsArgs};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{DisplayAs, DisplayFormatType, ExecutionPlan, PlanProperties, SortOrderPushdownResult};
use futures::StreamExt;

use super::{canonical_array, has_floats};

/// See the module.
#[derive(Debug)]
pub(crate) struct CanonicalFloatsExec {
    input: Arc<dyn ExecutionPlan>,
}

impl CanonicalFloatsExec {
    /// The plan with canonical floats; itself, if it has no columns of floats.
    pub(crate) fn over(input: Arc<dyn ExecutionPlan>) -> Arc<dyn ExecutionPlan> {
        if columns_of_floats(&input.schema()).next().is_none() { input } else { Arc::new(Self { input }) }
    }
}

fn columns_of_floats(schema: &Schema) -> impl Iterator<Item = usize> + '_ {
    schema.fields().iter().enumerate().filter(|(_, field)| has_floats(field.data_type())).map(|(index, _)| index)
}

fn canonical_batch(batch: RecordBatch, floats: &[usize], schema: &SchemaRef) -> Result<RecordBatch> {
    let mut columns = None;
    for &index in floats {
        if let Some(canonical) = canonical_array(batch.column(index))? {
            columns.get_or_insert_with(|| batch.columns().to_vec())[index] = canonical;
        }
    }
    match columns {
        Some(columns) => Ok(RecordBatch::try_new(Arc::clone(schema), columns)?),
        None => Ok(batch),
    }
}

impl DisplayAs for CanonicalFloatsExec {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("CanonicalFloatsExec")
    }
}

impl ExecutionPlan for CanonicalFloatsExec {
    fn name(&self) -> &'static str {
        "CanonicalFloatsExec"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        self.input.properties()
    }

    /// An order by a float is not maintained, where both zeros are: no sort may go below. (The order of keys is in the
    /// properties.)
    fn maintains_input_order(&self) -> Vec<bool> {
        vec![false]
    }

    fn benefits_from_input_partitioning(&self) -> Vec<bool> {
        vec![false]
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        vec![&self.input]
    }

    fn apply_expressions(
        &self,
        _: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        Ok(TreeNodeRecursion::Continue)
    }

    fn with_new_children(self: Arc<Self>, children: Vec<Arc<dyn ExecutionPlan>>) -> Result<Arc<dyn ExecutionPlan>> {
        match <[Arc<dyn ExecutionPlan>; 1]>::try_from(children) {
            Ok([input]) => Ok(Arc::new(Self { input })),
            Err(_) => internal_err!("it has one child"),
        }
    }

    fn repartitioned(&self, partitions: usize, config: &ConfigOptions) -> Result<Option<Arc<dyn ExecutionPlan>>> {
        Ok(self.input.repartitioned(partitions, config)?.map(Self::over))
    }

    fn execute(&self, partition: usize, context: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        let schema = self.schema();
        let floats: Vec<usize> = columns_of_floats(&schema).collect();
        let batches = self.input.execute(partition, context)?;
        let for_batches = Arc::clone(&schema);
        let batches = batches.map(move |batch| canonical_batch(batch?, &floats, &for_batches));
        Ok(Box::pin(RecordBatchStreamAdapter::new(schema, batches)))
    }

    fn child_stats_requests(&self, partition: Option<usize>) -> Vec<ChildStats> {
        vec![ChildStats::At(partition)]
    }

    fn statistics_from_inputs(&self, inputs: &[Arc<Statistics>], _: &StatisticsArgs) -> Result<Arc<Statistics>> {
        let [input] = inputs else { return internal_err!("it has one child") };
        Ok(Arc::clone(input))
    }

    fn supports_limit_pushdown(&self) -> bool {
        true
    }

    fn with_fetch(&self, limit: Option<usize>) -> Option<Arc<dyn ExecutionPlan>> {
        self.input.with_fetch(limit).map(Self::over)
    }

    fn fetch(&self) -> Option<usize> {
        self.input.fetch()
    }

    fn cardinality_effect(&self) -> CardinalityEffect {
        CardinalityEffect::Equal
    }

    /// Columns that are left out need not be read. What computes stays above.
    fn try_swapping_with_projection(&self, projection: &ProjectionExec) -> Result<Option<Arc<dyn ExecutionPlan>>> {
        if !all_columns(projection.expr()) {
            return Ok(None);
        }
        Ok(Some(Self::over(make_with_child(projection, &self.input)?)))
    }

    fn gather_filters_for_pushdown(
        &self,
        _: FilterPushdownPhase,
        parent_filters: Vec<Arc<dyn PhysicalExpr>>,
        _: &ConfigOptions,
    ) -> Result<FilterDescription> {
        FilterDescription::from_children(parent_filters, &self.children())
    }

    /// Filters prune below, and rows are filtered again above.
    fn handle_child_pushdown_result(
        &self,
        _: FilterPushdownPhase,
        child_pushdown_result: ChildPushdownResult,
        _: &ConfigOptions,
    ) -> Result<FilterPushdownPropagation<Arc<dyn ExecutionPlan>>> {
        Ok(FilterPushdownPropagation::all_unsupported(child_pushdown_result))
    }

    fn try_pushdown_sort(&self, order: &[PhysicalSortExpr]) -> Result<SortOrderPushdownResult<Arc<dyn ExecutionPlan>>> {
        Ok(match self.input.try_pushdown_sort(order)? {
            SortOrderPushdownResult::Exact { inner } => SortOrderPushdownResult::Exact { inner: Self::over(inner) },
            SortOrderPushdownResult::Inexact { inner } => SortOrderPushdownResult::Inexact { inner: Self::over(inner) },
            SortOrderPushdownResult::Unsupported => SortOrderPushdownResult::Unsupported,
        })
    }
}
