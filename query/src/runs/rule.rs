//! The rule that puts aggregation by runs into a plan.

use std::sync::Arc;

use datafusion::common::Result;
use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode};
use datafusion::config::ConfigOptions;
use datafusion::physical_optimizer::PhysicalOptimizerRule;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::aggregates::{AggregateExec, AggregateMode};

use super::exec::RunAggregateExec;

/// See the module. To be the last of the rules but for those that only wrap nodes: others look for `AggregateExec`.
#[derive(Debug)]
pub(crate) struct AggregateRuns;

impl PhysicalOptimizerRule for AggregateRuns {
    fn optimize(&self, plan: Arc<dyn ExecutionPlan>, _: &ConfigOptions) -> Result<Arc<dyn ExecutionPlan>> {
        plan.transform_up(by_runs).data()
    }

    fn name(&self) -> &'static str {
        "aggregate_runs"
    }

    fn schema_check(&self) -> bool {
        true
    }
}

fn by_runs(plan: Arc<dyn ExecutionPlan>) -> Result<Transformed<Arc<dyn ExecutionPlan>>> {
    let Some(aggregate) = plan.downcast_ref::<AggregateExec>().filter(|aggregate| can_be_by_runs(aggregate)) else {
        return Ok(Transformed::no(plan));
    };
    match aggregate.mode() {
        AggregateMode::Partial => Ok(Transformed::yes(Arc::new(RunAggregateExec::new(Arc::new(aggregate.clone()))))),
        AggregateMode::Single | AggregateMode::SinglePartitioned => two_stages(aggregate, &plan),
        _ => Ok(Transformed::no(plan)),
    }
}

/// Whether rows can be grouped by comparing neighbours, and every state can be given run by run.
fn can_be_by_runs(aggregate: &AggregateExec) -> bool {
    let keys = aggregate.group_expr();
    let schema = aggregate.input().schema();
    let comparable = |expr: &Arc<dyn datafusion::physical_expr::PhysicalExpr>| {
        expr.data_type(&schema).is_ok_and(|data_type| !data_type.is_nested())
    };
    !keys.is_empty()
        && keys.is_single()
        && keys.input_exprs().iter().all(comparable)
        // Where only some groups are wanted, DataFusion has better ways.
        && aggregate.limit_options().is_none()
        && aggregate.aggr_expr().iter().all(|aggregate| aggregate.groups_accumulator_supported())
}

/// An aggregation that was planned in one stage, for input in one partition, in two.
fn two_stages(single: &AggregateExec, plan: &Arc<dyn ExecutionPlan>) -> Result<Transformed<Arc<dyn ExecutionPlan>>> {
    let (keys, aggregates) = (single.group_expr(), single.aggr_expr());
    let partial = AggregateExec::try_new(
        AggregateMode::Partial,
        keys.clone(),
        aggregates.to_vec(),
        single.filter_expr().to_vec(),
        Arc::clone(single.input()),
        single.input_schema(),
    )?;
    let last_mode = match single.mode() {
        AggregateMode::Single => AggregateMode::Final,
        _ => AggregateMode::FinalPartitioned,
    };
    let last = AggregateExec::try_new(
        last_mode,
        keys.as_final(),
        partial.aggr_expr().to_vec(),
        vec![None; aggregates.len()],
        Arc::new(RunAggregateExec::new(Arc::new(partial))),
        single.input_schema(),
    )?;
    if last.schema() == plan.schema() && last.properties().output_ordering() == plan.properties().output_ordering() {
        Ok(Transformed::yes(Arc::new(last)))
    } else {
        Ok(Transformed::no(Arc::clone(plan)))
    }
}
