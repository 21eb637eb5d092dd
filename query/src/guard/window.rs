//! Window functions under the query's limits.

use std::mem::size_of;
use std::ops::Range;
use std::sync::Arc;

use arrow::array::ArrayRef;
use arrow::compute::SortOptions;
use arrow::datatypes::{DataType, FieldRef};
use datafusion::common::{Result, ScalarValue};
use datafusion::logical_expr::function::{
    ExpressionArgs, PartitionEvaluatorArgs, WindowFunctionSimplification, WindowUDFFieldArgs,
};
use datafusion::logical_expr::window_state::WindowAggState;
use datafusion::logical_expr::{
    Documentation, LimitEffect, PartitionEvaluator, ReversedUDWF, Signature, WindowUDF, WindowUDFImpl,
};
use datafusion::physical_expr::PhysicalExpr;

use crate::budget::{Budget, Claim};

/// See the module.
#[derive(Debug, PartialEq, Eq, Hash)]
pub(super) struct Guarded {
    function: Arc<WindowUDF>,
    budget: Arc<Budget>,
}

impl Guarded {
    pub(super) fn new(function: Arc<WindowUDF>, budget: &Arc<Budget>) -> Self {
        Self { function, budget: Arc::clone(budget) }
    }

    fn inner(&self) -> &Arc<dyn WindowUDFImpl> {
        self.function.inner()
    }
}

// It delegates, so it must have every method of the trait.
#[warn(clippy::missing_trait_methods)]
impl WindowUDFImpl for Guarded {
    fn name(&self) -> &str {
        self.inner().name()
    }

    fn aliases(&self) -> &[String] {
        self.inner().aliases()
    }

    fn signature(&self) -> &Signature {
        self.inner().signature()
    }

    fn expressions(&self, args: ExpressionArgs<'_>) -> Vec<Arc<dyn PhysicalExpr>> {
        self.inner().expressions(args)
    }

    fn partition_evaluator(&self, args: PartitionEvaluatorArgs<'_>) -> Result<Box<dyn PartitionEvaluator>> {
        let inner = self.inner().partition_evaluator(args)?;
        let budget = Arc::clone(&self.budget);
        Ok(Box::new(GuardedEvaluator { inner, given: Claim::new(&budget), budget }))
    }

    fn simplify(&self) -> Option<WindowFunctionSimplification> {
        self.inner().simplify()
    }

    fn field(&self, args: WindowUDFFieldArgs<'_>) -> Result<FieldRef> {
        self.inner().field(args)
    }

    fn sort_options(&self) -> Option<SortOptions> {
        self.inner().sort_options()
    }

    fn coerce_types(&self, types: &[DataType]) -> Result<Vec<DataType>> {
        self.inner().coerce_types(types)
    }

    fn reverse_expr(&self) -> ReversedUDWF {
        match self.inner().reverse_expr() {
            ReversedUDWF::Reversed(function) => ReversedUDWF::Reversed(super::window(&function, &self.budget)),
            other => other,
        }
    }

    fn documentation(&self) -> Option<&Documentation> {
        self.inner().documentation()
    }

    fn limit_effect(&self, args: &[Arc<dyn PhysicalExpr>]) -> LimitEffect {
        self.inner().limit_effect(args)
    }
}

/// What computes a function over one partition of the rows.
#[derive(Debug)]
struct GuardedEvaluator {
    inner: Box<dyn PartitionEvaluator>,
    budget: Arc<Budget>,
    /// Texts that were returned row by row: the window holds them.
    given: Claim,
}

#[warn(clippy::missing_trait_methods)]
impl PartitionEvaluator for GuardedEvaluator {
    fn memoize(&mut self, state: &mut WindowAggState) -> Result<()> {
        self.inner.memoize(state)
    }

    fn get_range(&self, idx: usize, rows: usize) -> Result<Range<usize>> {
        self.budget.check()?;
        self.inner.get_range(idx, rows)
    }

    fn is_causal(&self) -> bool {
        self.inner.is_causal()
    }

    fn evaluate_all(&mut self, values: &[ArrayRef], rows: usize) -> Result<ArrayRef> {
        self.budget.check()?;
        self.budget.keep_array(self.inner.evaluate_all(values, rows)?)
    }

    fn evaluate(&mut self, values: &[ArrayRef], range: &Range<usize>) -> Result<ScalarValue> {
        self.budget.check()?;
        let value = self.inner.evaluate(values, range)?;
        let bytes = value.size().saturating_sub(size_of::<ScalarValue>());
        if bytes > 0 {
            self.given.grow(bytes)?;
        }
        Ok(value)
    }

    fn evaluate_all_with_rank(&self, rows: usize, ranks: &[Range<usize>]) -> Result<ArrayRef> {
        self.budget.check()?;
        self.budget.keep_array(self.inner.evaluate_all_with_rank(rows, ranks)?)
    }

    fn supports_bounded_execution(&self) -> bool {
        self.inner.supports_bounded_execution()
    }

    fn uses_window_frame(&self) -> bool {
        self.inner.uses_window_frame()
    }

    fn include_rank(&self) -> bool {
        self.inner.include_rank()
    }
}
