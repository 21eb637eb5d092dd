//! Ends the work of joins of a query whose answer nobody waits for any more. ([`crate::guard`] ends that of functions.)
//!
//! A task can only be aborted where it yields, and a join can compute for hours over a few batches of input without
//! yielding. So joins are made to yield with every batch they give, and filters of joins fail once the query is over.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::{FieldRef, Schema};
use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode};
use datafusion::common::{Result, internal_datafusion_err};
use datafusion::config::ConfigOptions;
use datafusion::logical_expr::ColumnarValue;
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_optimizer::PhysicalOptimizerRule;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::coop::CooperativeExec;
use datafusion::physical_plan::joins::utils::JoinFilter;
use datafusion::physical_plan::joins::{
    CrossJoinExec, HashJoinExec, HashJoinExecBuilder, NestedLoopJoinExec, NestedLoopJoinExecBuilder,
};

use crate::budget::Over;

/// The rule that puts this into a plan.
#[derive(Debug)]
pub(super) struct Interruptible {
    pub(super) over: Over,
}

impl Interruptible {
    fn filter(&self, filter: &JoinFilter) -> JoinFilter {
        let expression = UntilOver { inner: Arc::clone(filter.expression()), over: self.over.clone() };
        JoinFilter::new(Arc::new(expression), filter.column_indices().to_vec(), Arc::clone(filter.schema()))
    }

    fn node(&self, plan: Arc<dyn ExecutionPlan>) -> Result<Transformed<Arc<dyn ExecutionPlan>>> {
        let join: Arc<dyn ExecutionPlan> = if let Some(join) = plan.downcast_ref::<NestedLoopJoinExec>() {
            let filter = join.filter().map(|filter| self.filter(filter));
            Arc::new(NestedLoopJoinExecBuilder::from(join).with_filter(filter).build()?)
        } else if let Some((join, filter)) = plan.downcast_ref::<HashJoinExec>().and_then(|j| Some((j, j.filter()?))) {
            let filter = self.filter(filter);
            Arc::new(HashJoinExecBuilder::from(join).with_filter(Some(filter)).build()?)
        } else if plan.is::<HashJoinExec>() || plan.is::<CrossJoinExec>() {
            plan
        } else {
            return Ok(Transformed::no(plan));
        };
        Ok(Transformed::yes(Arc::new(CooperativeExec::new(join))))
    }
}

impl PhysicalOptimizerRule for Interruptible {
    fn optimize(&self, plan: Arc<dyn ExecutionPlan>, _: &ConfigOptions) -> Result<Arc<dyn ExecutionPlan>> {
        plan.transform_up(|plan| self.node(plan)).data()
    }

    fn name(&self) -> &'static str {
        "interruptible"
    }

    fn schema_check(&self) -> bool {
        true
    }
}

/// An expression that fails once the query is over.
#[derive(Debug)]
struct UntilOver {
    inner: Arc<dyn PhysicalExpr>,
    over: Over,
}

impl PartialEq for UntilOver {
    fn eq(&self, other: &Self) -> bool {
        self.inner.eq(&other.inner)
    }
}

impl Eq for UntilOver {}

impl Hash for UntilOver {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.inner.hash(state);
    }
}

impl fmt::Display for UntilOver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.fmt(f)
    }
}

impl PhysicalExpr for UntilOver {
    fn evaluate(&self, batch: &RecordBatch) -> Result<ColumnarValue> {
        self.over.check()?;
        // A join whose filter lets nothing through never yields. So that others' queries go on meanwhile, its thread stops
        // being one of the workers for as long.
        tokio::task::block_in_place(|| self.inner.evaluate(batch))
    }

    fn return_field(&self, input_schema: &Schema) -> Result<FieldRef> {
        self.inner.return_field(input_schema)
    }

    fn children(&self) -> Vec<&Arc<dyn PhysicalExpr>> {
        vec![&self.inner]
    }

    fn with_new_children(self: Arc<Self>, children: Vec<Arc<dyn PhysicalExpr>>) -> Result<Arc<dyn PhysicalExpr>> {
        match <[Arc<dyn PhysicalExpr>; 1]>::try_from(children) {
            Ok([inner]) => Ok(Arc::new(Self { inner, over: self.over.clone() })),
            Err(_) => Err(internal_datafusion_err!("it has one child")),
        }
    }

    fn fmt_sql(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.fmt_sql(f)
    }
}
