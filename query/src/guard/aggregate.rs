//! Aggregate functions under the query's limits, in aggregations and over windows.

use std::mem::size_of;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, BooleanArray};
use arrow::datatypes::{DataType, FieldRef};
use datafusion::common::{Result, ScalarValue};
use datafusion::logical_expr::expr::{AggregateFunction, AggregateFunctionParams, WindowFunctionParams};
use datafusion::logical_expr::function::{AccumulatorArgs, AggregateFunctionSimplification, StateFieldsArgs};
use datafusion::logical_expr::utils::AggregateOrderSensitivity;
use datafusion::logical_expr::{
    Accumulator, AggregateUDF, AggregateUDFImpl, Documentation, EmitTo, Expr, GroupsAccumulator, Operator,
    ReversedUDAF, SetMonotonicity, Signature, StatisticsArgs,
};

use crate::budget::{Budget, Claim};
use crate::functions::longest_text;

/// Rows that an accumulator takes between two looks at its size, at least: then an eighth of those that it has taken.
const MEASURED_ROWS_LEAST: usize = 1_024;

/// See the module.
#[derive(Debug, PartialEq, Eq, Hash)]
pub(super) struct Guarded {
    function: Arc<AggregateUDF>,
    budget: Arc<Budget>,
}

impl Guarded {
    pub(super) fn new(function: Arc<AggregateUDF>, budget: &Arc<Budget>) -> Self {
        Self { function, budget: Arc::clone(budget) }
    }

    fn inner(&self) -> &Arc<dyn AggregateUDFImpl> {
        self.function.inner()
    }

    fn guard(&self, inner: Box<dyn Accumulator>, is_text: bool) -> Box<dyn Accumulator> {
        let (state, given) = (Claim::new(&self.budget), Claim::new(&self.budget));
        let budget = Arc::clone(&self.budget);
        Box::new(GuardedAccumulator { inner, budget, is_text, state, given, rows: 0, measured_at: MEASURED_ROWS_LEAST })
    }
}

// It delegates, so it must have every method of the trait.
#[warn(clippy::missing_trait_methods)]
impl AggregateUDFImpl for Guarded {
    fn name(&self) -> &str {
        self.inner().name()
    }

    fn aliases(&self) -> &[String] {
        self.inner().aliases()
    }

    fn schema_name(&self, params: &AggregateFunctionParams) -> Result<String> {
        self.inner().schema_name(params)
    }

    fn human_display(&self, params: &AggregateFunctionParams) -> Result<String> {
        self.inner().human_display(params)
    }

    fn window_function_schema_name(&self, params: &WindowFunctionParams) -> Result<String> {
        self.inner().window_function_schema_name(params)
    }

    fn display_name(&self, params: &AggregateFunctionParams) -> Result<String> {
        self.inner().display_name(params)
    }

    fn window_function_display_name(&self, params: &WindowFunctionParams) -> Result<String> {
        self.inner().window_function_display_name(params)
    }

    fn signature(&self) -> &Signature {
        self.inner().signature()
    }

    fn return_type(&self, types: &[DataType]) -> Result<DataType> {
        self.inner().return_type(types)
    }

    fn return_field(&self, fields: &[FieldRef]) -> Result<FieldRef> {
        self.inner().return_field(fields)
    }

    fn is_nullable(&self) -> bool {
        self.inner().is_nullable()
    }

    fn accumulator(&self, args: AccumulatorArgs<'_>) -> Result<Box<dyn Accumulator>> {
        let is_text = is_text(&args);
        Ok(self.guard(self.inner().accumulator(args)?, is_text))
    }

    fn state_fields(&self, args: StateFieldsArgs<'_>) -> Result<Vec<FieldRef>> {
        self.inner().state_fields(args)
    }

    fn groups_accumulator_supported(&self, args: AccumulatorArgs<'_>) -> bool {
        self.inner().groups_accumulator_supported(args)
    }

    fn create_groups_accumulator(&self, args: AccumulatorArgs<'_>) -> Result<Box<dyn GroupsAccumulator>> {
        let inner = self.inner().create_groups_accumulator(args)?;
        Ok(Box::new(GuardedGroups { inner, budget: Arc::clone(&self.budget) }))
    }

    fn create_sliding_accumulator(&self, args: AccumulatorArgs<'_>) -> Result<Box<dyn Accumulator>> {
        let is_text = is_text(&args);
        Ok(self.guard(self.inner().create_sliding_accumulator(args)?, is_text))
    }

    fn with_beneficial_ordering(
        self: Arc<Self>,
        beneficial_ordering: bool,
    ) -> Result<Option<Arc<dyn AggregateUDFImpl>>> {
        let ordered = Arc::clone(self.inner()).with_beneficial_ordering(beneficial_ordering)?;
        Ok(ordered.map(|function| {
            let function = Arc::new(AggregateUDF::new_from_shared_impl(function));
            Arc::new(Self::new(function, &self.budget)) as Arc<dyn AggregateUDFImpl>
        }))
    }

    fn order_sensitivity(&self) -> AggregateOrderSensitivity {
        self.inner().order_sensitivity()
    }

    fn simplify(&self) -> Option<AggregateFunctionSimplification> {
        self.inner().simplify()
    }

    fn simplify_expr_op_literal(
        &self,
        function: &AggregateFunction,
        arg: &Expr,
        op: Operator,
        literal: &Expr,
        arg_is_left: bool,
    ) -> Result<Option<Expr>> {
        self.inner().simplify_expr_op_literal(function, arg, op, literal, arg_is_left)
    }

    fn reverse_expr(&self) -> ReversedUDAF {
        match self.inner().reverse_expr() {
            ReversedUDAF::Reversed(function) => ReversedUDAF::Reversed(super::aggregate(&function, &self.budget)),
            other => other,
        }
    }

    fn coerce_types(&self, types: &[DataType]) -> Result<Vec<DataType>> {
        self.inner().coerce_types(types)
    }

    fn is_descending(&self) -> Option<bool> {
        self.inner().is_descending()
    }

    fn value_from_stats(&self, args: &StatisticsArgs<'_>) -> Option<ScalarValue> {
        self.inner().value_from_stats(args)
    }

    fn default_value(&self, data_type: &DataType) -> Result<ScalarValue> {
        self.inner().default_value(data_type)
    }

    fn supports_null_handling_clause(&self) -> bool {
        self.inner().supports_null_handling_clause()
    }

    fn supports_within_group_clause(&self) -> bool {
        self.inner().supports_within_group_clause()
    }

    fn documentation(&self) -> Option<&Documentation> {
        self.inner().documentation()
    }

    fn set_monotonicity(&self, data_type: &DataType) -> SetMonotonicity {
        self.inner().set_monotonicity(data_type)
    }
}

/// Whether the accumulator of these arguments is a text, so that it can end before it is complete.
fn is_text(args: &AccumulatorArgs<'_>) -> bool {
    super::is_text(args.return_field.data_type()) && args.order_bys.is_empty() && !args.is_distinct
}

/// One group's accumulator, or a window's.
///
/// An aggregation reserves its accumulators' memory too. Claims are counted apart from reservations, so that this takes
/// nothing away from other operators; a window reserves nothing.
#[derive(Debug)]
struct GuardedAccumulator {
    inner: Box<dyn Accumulator>,
    budget: Arc<Budget>,
    /// Whether it is nothing but the text that it returns.
    is_text: bool,
    /// The accumulator's size when it was last looked at.
    state: Claim,
    /// What `evaluate` has returned: a window calls it for each row, and holds what comes back.
    given: Claim,
    rows: usize,
    /// How many rows it has when its size is looked at next: looking can take as long as it has rows.
    measured_at: usize,
}

impl GuardedAccumulator {
    fn took(&mut self, values: &[ArrayRef]) -> Result<()> {
        self.rows += values.first().map_or(0, Array::len);
        if self.rows >= self.measured_at {
            self.measured_at = self.rows + (self.rows / 8).max(MEASURED_ROWS_LEAST);
            let bytes = self.inner.size();
            self.state.resize(bytes)?;
            if self.is_text {
                // Its text may have room for as much again.
                self.budget.check_value(bytes / 2)?;
            }
        }
        Ok(())
    }
}

#[warn(clippy::missing_trait_methods)]
impl Accumulator for GuardedAccumulator {
    fn update_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        self.budget.check()?;
        self.inner.update_batch(values)?;
        self.took(values)
    }

    fn evaluate(&mut self) -> Result<ScalarValue> {
        self.budget.check()?;
        let value = self.inner.evaluate()?;
        let bytes = value.size().saturating_sub(size_of::<ScalarValue>());
        if bytes > 0 {
            check_text(&value, &self.budget)?;
            self.given.grow(bytes)?;
        }
        Ok(value)
    }

    fn size(&self) -> usize {
        size_of::<Self>() + self.inner.size()
    }

    fn state(&mut self) -> Result<Vec<ScalarValue>> {
        self.budget.check()?;
        let state = self.inner.state()?;
        state.iter().try_for_each(|value| check_text(value, &self.budget))?;
        Ok(state)
    }

    fn merge_batch(&mut self, states: &[ArrayRef]) -> Result<()> {
        self.budget.check()?;
        self.inner.merge_batch(states)?;
        self.took(states)
    }

    fn retract_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        self.budget.check()?;
        self.inner.retract_batch(values)
    }

    fn supports_retract_batch(&self) -> bool {
        self.inner.supports_retract_batch()
    }
}

fn check_text(value: &ScalarValue, budget: &Budget) -> Result<()> {
    budget.check_value(value.try_as_str().flatten().map_or(0, str::len))
}

/// All groups' accumulators at once. Their memory is reserved by the aggregation.
struct GuardedGroups {
    inner: Box<dyn GroupsAccumulator>,
    budget: Arc<Budget>,
}

impl GuardedGroups {
    fn check_texts(&self, values: &[ArrayRef]) -> Result<()> {
        values.iter().try_for_each(|values| self.budget.check_value(longest_text(values)))
    }
}

#[warn(clippy::missing_trait_methods)]
impl GroupsAccumulator for GuardedGroups {
    fn update_batch(
        &mut self,
        values: &[ArrayRef],
        group_indices: &[usize],
        filter: Option<&BooleanArray>,
        groups: usize,
    ) -> Result<()> {
        self.budget.check()?;
        self.inner.update_batch(values, group_indices, filter, groups)
    }

    fn evaluate(&mut self, emit_to: EmitTo) -> Result<ArrayRef> {
        self.budget.check()?;
        let values = self.inner.evaluate(emit_to)?;
        self.budget.check_value(longest_text(&values))?;
        Ok(values)
    }

    fn state(&mut self, emit_to: EmitTo) -> Result<Vec<ArrayRef>> {
        self.budget.check()?;
        let state = self.inner.state(emit_to)?;
        self.check_texts(&state)?;
        Ok(state)
    }

    fn merge_batch(&mut self, values: &[ArrayRef], group_indices: &[usize], groups: usize) -> Result<()> {
        self.budget.check()?;
        self.inner.merge_batch(values, group_indices, groups)
    }

    fn convert_to_state(&self, values: &[ArrayRef], filter: Option<&BooleanArray>) -> Result<Vec<ArrayRef>> {
        self.budget.check()?;
        self.inner.convert_to_state(values, filter)
    }

    fn size(&self) -> usize {
        self.inner.size()
    }
}
