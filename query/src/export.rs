//! Exports: all readings of some keys, in the order of (logger, time), as a stream.
//!
//! The order comes from merging what is sorted already, so that memory does not grow with the number of rows.

use std::sync::Arc;

use datafusion::common::{Result, ScalarValue};
use datafusion::datasource::provider_as_source;
use datafusion::logical_expr::{Expr, LogicalPlan, LogicalPlanBuilder, col, lit};
use storage_format::{LoggerId, Millis, TimeRange};

use crate::scan::ScanContext;
use crate::tables;

/// Which readings to export.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ExportRequest {
    /// Only times in this range; all if `None`.
    pub range: Option<TimeRange>,
    /// Only these loggers; all if `None`, none if empty.
    pub loggers: Option<Vec<LoggerId>>,
}

impl ExportRequest {
    pub(crate) fn logical_plan(self, context: Arc<ScanContext>) -> Result<LogicalPlan> {
        let mut plan = LogicalPlanBuilder::scan("readings", provider_as_source(tables::readings(&context)), None)?;
        if let Some(range) = self.range {
            plan = plan.filter(col("time").gt_eq(time(range.start())).and(col("time").lt(time(range.end()))))?;
        }
        if let Some(loggers) = self.loggers {
            let list = loggers.into_iter().map(|logger| lit(logger.get())).collect();
            plan = plan.filter(col("logger").in_list(list, false))?;
        }
        plan.sort(vec![col("logger").sort(true, false), col("time").sort(true, false)])?.build()
    }
}

fn time(ms: Millis) -> Expr {
    lit(ScalarValue::TimestampMillisecond(Some(ms.get()), Some("UTC".into())))
}
