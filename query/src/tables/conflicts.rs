//! `conflicts`: values that were refused because another was there first, with who sent them and when.
//!
//! One row per refused value and gateway, with the earliest time that it was received: a gateway that resends a
//! conflict does not make another. Flushed ones come from conflicts objects, the others from the write buffers.

use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use async_trait::async_trait;
use datafusion::catalog::{Session, TableProvider};
use datafusion::common::Result;
use datafusion::datasource::{ViewTable, provider_as_source};
use datafusion::functions_aggregate::expr_fn::min;
use datafusion::logical_expr::{Expr, LogicalPlanBuilder, TableProviderFilterPushDown, TableType, col};
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::union::UnionExec;
use storage_format::manifest::SegmentEntry;
use storage_format::segment::{CONFLICT_COLUMNS, conflicts_schema};

use super::resolve::{Wanted, resolve_buffers};
use super::totals::project;
use crate::canonical::CanonicalFloatsExec;
use crate::prune::KeyBounds;
use crate::scan::{ScanContext, SegmentScan};

/// The table: every conflict once.
pub(super) fn table(context: &Arc<ScanContext>) -> Result<Arc<dyn TableProvider>> {
    let all = provider_as_source(Arc::new(AllConflicts { context: Arc::clone(context) }));
    let plan = LogicalPlanBuilder::scan("conflicts", all, None)?
        .aggregate(
            ["logger", "time", "channel", "refused", "gateway"].map(col),
            [min(col("kept")).alias("kept"), min(col("received")).alias("received")],
        )?
        .project(CONFLICT_COLUMNS.map(col))?
        .build()?;
    Ok(Arc::new(ViewTable::new(plan, None)))
}

/// Conflicts as they are stored and found: one that was received again is there again.
#[derive(Debug)]
struct AllConflicts {
    context: Arc<ScanContext>,
}

#[async_trait]
impl TableProvider for AllConflicts {
    fn schema(&self) -> SchemaRef {
        conflicts_schema()
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    fn supports_filters_pushdown(&self, filters: &[&Expr]) -> Result<Vec<TableProviderFilterPushDown>> {
        Ok(vec![TableProviderFilterPushDown::Inexact; filters.len()])
    }

    async fn scan(
        &self,
        state: &dyn Session,
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
        limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let bounds = KeyBounds::of_filters(filters);
        let buffered = resolve_buffers(&self.context, state, &bounds, Wanted::Conflicts)?;
        let buffered = project(buffered, projection)?;
        let entries: Vec<SegmentEntry> =
            self.context.snapshot.manifest.conflicts().iter().filter(|entry| bounds.may_hold(entry)).cloned().collect();
        if entries.is_empty() {
            return Ok(CanonicalFloatsExec::over(buffered));
        }
        let scan = SegmentScan {
            schema: conflicts_schema(),
            projection: projection.cloned(),
            predicate: None,
            ordering: None,
            limit,
            options: state.config_options().execution.parquet.clone(),
        };
        let all = UnionExec::try_new(vec![scan.plan(&self.context, vec![entries])?, buffered])?;
        Ok(CanonicalFloatsExec::over(all))
    }
}
