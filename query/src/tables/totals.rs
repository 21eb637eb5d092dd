//! `totals`: one row of counts, exact at the instant of the query: readings, duplicates and conflicts, and how many
//! rows (repeated ones too) wait in the write buffers for their flush.

use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use async_trait::async_trait;
use datafusion::catalog::{Session, TableProvider};
use datafusion::common::Result;
use datafusion::logical_expr::{Expr, TableType};
use datafusion::physical_expr::projection::ProjectionExprs;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::projection::ProjectionExec;

use super::resolve::{Wanted, resolve_buffers, totals_schema};
use crate::prune::KeyBounds;
use crate::scan::ScanContext;

/// See the module.
#[derive(Debug)]
pub(super) struct TotalsTable {
    context: Arc<ScanContext>,
}

impl TotalsTable {
    pub(super) fn new(context: Arc<ScanContext>) -> Self {
        Self { context }
    }
}

#[async_trait]
impl TableProvider for TotalsTable {
    fn schema(&self) -> SchemaRef {
        totals_schema()
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    async fn scan(
        &self,
        state: &dyn Session,
        projection: Option<&Vec<usize>>,
        _: &[Expr],
        _: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let flushed = self.context.snapshot.manifest.totals();
        let unflushed = self.context.snapshot.buffered_rows() as u64;
        let all = resolve_buffers(&self.context, state, &KeyBounds::ALL, Wanted::Totals(flushed, unflushed))?;
        project(all, projection)
    }
}

/// These columns of a plan.
pub(super) fn project(plan: Arc<dyn ExecutionPlan>, projection: Option<&Vec<usize>>) -> Result<Arc<dyn ExecutionPlan>> {
    match projection {
        Some(indices) => {
            let columns = ProjectionExprs::from_indices(indices, &plan.schema());
            Ok(Arc::new(ProjectionExec::try_new(columns.iter().cloned(), plan)?))
        }
        None => Ok(plan),
    }
}
