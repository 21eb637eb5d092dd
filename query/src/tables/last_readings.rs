//! `last_readings`: the newest reading of each logger, as the engine keeps it in memory: a row a logger, with what was
//! measured at that time and NULL for what was not.
//!
//! It is of the query's snapshot, as all tables are, and is looked up when the query runs.

use std::fmt;
use std::sync::Arc;

use arrow::compute::SortOptions;
use arrow::datatypes::SchemaRef;
use async_trait::async_trait;
use datafusion::catalog::{Session, TableProvider};
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::common::{DataFusionError, Result, internal_datafusion_err};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::logical_expr::{Expr, TableType};
use datafusion::physical_expr::expressions::Column;
use datafusion::physical_expr::{EquivalenceProperties, PhysicalExpr, PhysicalSortExpr};
use datafusion::physical_plan::coop::cooperative;
use datafusion::physical_plan::execution_plan::{Boundedness, EmissionType, SchedulingType};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{DisplayAs, DisplayFormatType, ExecutionPlan, Partitioning, PlanProperties};
use engine::unify;
use futures::stream::{self, StreamExt, TryStreamExt};

use crate::canonical::CanonicalFloatsExec;
use crate::scan::{ScanContext, reserve};

/// See the module.
#[derive(Debug)]
pub(super) struct LastReadingsTable {
    context: Arc<ScanContext>,
}

impl LastReadingsTable {
    pub(super) fn new(context: Arc<ScanContext>) -> Self {
        Self { context }
    }
}

#[async_trait]
impl TableProvider for LastReadingsTable {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.context.schema)
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    async fn scan(
        &self,
        _: &dyn Session,
        projection: Option<&Vec<usize>>,
        _: &[Expr],
        _: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let schema = &self.context.schema;
        let schema = match projection {
            Some(projection) => Arc::new(schema.project(projection)?),
            None => Arc::clone(schema),
        };
        Ok(CanonicalFloatsExec::over(Arc::new(LastReadingsExec::new(Arc::clone(&self.context), schema))))
    }
}

/// Hands out the last readings. A plan without inputs and with one partition.
#[derive(Debug)]
struct LastReadingsExec {
    context: Arc<ScanContext>,
    schema: SchemaRef,
    properties: Arc<PlanProperties>,
}

impl LastReadingsExec {
    fn new(context: Arc<ScanContext>, schema: SchemaRef) -> Self {
        let mut equivalences = EquivalenceProperties::new(Arc::clone(&schema));
        if let Ok(logger) = schema.index_of("logger") {
            let logger: Arc<dyn PhysicalExpr> = Arc::new(Column::new("logger", logger));
            let ascending = SortOptions { descending: false, nulls_first: false };
            equivalences.add_ordering([PhysicalSortExpr::new(logger, ascending)]);
        }
        let properties = PlanProperties::new(
            equivalences,
            Partitioning::UnknownPartitioning(1),
            EmissionType::Incremental,
            Boundedness::Bounded,
        )
        .with_scheduling_type(SchedulingType::Cooperative);
        Self { context, schema, properties: Arc::new(properties) }
    }
}

impl DisplayAs for LastReadingsExec {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("LastReadingsExec")
    }
}

impl ExecutionPlan for LastReadingsExec {
    fn name(&self) -> &'static str {
        "LastReadingsExec"
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

    fn execute(&self, _: usize, task: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        let (context, schema) = (Arc::clone(&self.context), Arc::clone(&self.schema));
        let batch_rows = task.session_config().batch_size();
        let batches = async move {
            let last = context.last.read().await;
            let last = last.map_err(|error| DataFusionError::External(Box::new(error)))?;
            let last = unify(&last, &schema).map_err(|error| DataFusionError::External(Box::new(error)))?;
            let reservation = reserve(task.memory_pool(), last.get_array_memory_size())?;
            let parts = (0..last.num_rows()).step_by(batch_rows.max(1));
            Ok::<_, DataFusionError>(stream::iter(parts).map(move |start| {
                // Held to the end: what is handed out is a part of it.
                let _held = &reservation;
                Ok(last.slice(start, batch_rows.min(last.num_rows() - start)))
            }))
        };
        let batches = stream::once(batches).try_flatten().boxed();
        Ok(Box::pin(cooperative(RecordBatchStreamAdapter::new(self.schema(), batches))))
    }
}
