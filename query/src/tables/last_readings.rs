//! `last_readings`: the newest reading of each logger, as the engine keeps it in memory: a row a logger, with what was
//! measured at that time and NULL for what was not.
//!
//! It is of the query's snapshot, as all tables are, and is looked up when the query runs.

use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::compute::SortOptions;
use arrow::datatypes::SchemaRef;
use async_trait::async_trait;
use datafusion::catalog::{Session, TableProvider};
use datafusion::common::{DataFusionError, Result};
use datafusion::execution::TaskContext;
use datafusion::logical_expr::{Expr, TableType};
use datafusion::physical_expr::expressions::Column;
use datafusion::physical_expr::{EquivalenceProperties, PhysicalExpr, PhysicalSortExpr};
use datafusion::physical_plan::ExecutionPlan;
use engine::unify;
use futures::stream::{self, BoxStream, StreamExt, TryStreamExt};

use crate::canonical::CanonicalFloatsExec;
use crate::error::external;
use crate::leaf::{Source, leaf, slices};
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
        Ok(CanonicalFloatsExec::over(LastReadingsSource::plan(Arc::clone(&self.context), schema)))
    }
}

/// Hands out the last readings, in one partition.
#[derive(Debug)]
struct LastReadingsSource {
    context: Arc<ScanContext>,
    schema: SchemaRef,
}

impl LastReadingsSource {
    fn plan(context: Arc<ScanContext>, schema: SchemaRef) -> Arc<dyn ExecutionPlan> {
        let mut equivalences = EquivalenceProperties::new(Arc::clone(&schema));
        if let Ok(logger) = schema.index_of("logger") {
            let logger: Arc<dyn PhysicalExpr> = Arc::new(Column::new("logger", logger));
            let ascending = SortOptions { descending: false, nulls_first: false };
            equivalences.add_ordering([PhysicalSortExpr::new(logger, ascending)]);
        }
        leaf(Self { context, schema }, equivalences, 1)
    }
}

impl Source for LastReadingsSource {
    const NAME: &'static str = "LastReadingsExec";

    fn detail(&self) -> String {
        String::new()
    }

    fn open(&self, _: usize, task: Arc<TaskContext>) -> Result<BoxStream<'static, Result<RecordBatch>>> {
        let (context, schema) = (Arc::clone(&self.context), Arc::clone(&self.schema));
        let batch_rows = task.session_config().batch_size();
        let batches = async move {
            let last = context.last.read().await.map_err(external)?;
            let last = unify(&last, &schema).map_err(external)?;
            let reservation = reserve(task.memory_pool(), last.get_array_memory_size())?;
            Ok::<_, DataFusionError>(stream::iter(slices(last, batch_rows)).map(move |slice| {
                // Held to the end: what is handed out is a part of it.
                let _held = &reservation;
                Ok(slice)
            }))
        };
        Ok(stream::once(batches).try_flatten().boxed())
    }
}
