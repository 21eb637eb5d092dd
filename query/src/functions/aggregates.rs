//! DataFusion's aggregate functions, with what they make of floats put right: `sum` and `avg` are exact, statistics
//! carry nothing on through a sliding frame, and every result is canonical.

use std::sync::Arc;

use arrow::array::{ArrayRef, BooleanArray};
use arrow::datatypes::{DataType, FieldRef};
use datafusion::common::{Result, ScalarValue};
use datafusion::logical_expr::expr::{AggregateFunction, AggregateFunctionParams, WindowFunctionParams};
use datafusion::logical_expr::function::{AccumulatorArgs, AggregateFunctionSimplification, StateFieldsArgs};
use datafusion::logical_expr::utils::AggregateOrderSensitivity;
use datafusion::logical_expr::{
    Accumulator, AggregateUDF, AggregateUDFImpl, Documentation, EmitTo, Expr, GroupsAccumulator, Operator,
    ReversedUDAF, SetMonotonicity, Signature, StatisticsArgs,
};

use super::exact_sum::{self, DistinctAccumulator, Output, SumAccumulator, SumGroupsAccumulator};
use super::sliding::SlidingAccumulator;
use crate::canonical::{canonical, canonical_array};

/// The change of a function.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Change {
    /// Exact sums of floats.
    Sum,
    /// Their averages.
    Average,
    /// A sliding frame is a queue of partial states; results are canonical.
    Statistic,
    /// Results are canonical.
    Canonical,
}

/// The functions that are changed. All others only pass floats on, or make none.
const CHANGED: [(&str, Change); 23] = [
    ("sum", Change::Sum),
    ("avg", Change::Average),
    ("var", Change::Statistic),
    ("var_pop", Change::Statistic),
    ("stddev", Change::Statistic),
    ("stddev_pop", Change::Statistic),
    ("covar_samp", Change::Statistic),
    ("covar_pop", Change::Statistic),
    ("corr", Change::Statistic),
    ("regr_slope", Change::Statistic),
    ("regr_intercept", Change::Statistic),
    ("regr_count", Change::Statistic),
    ("regr_r2", Change::Statistic),
    ("regr_avgx", Change::Statistic),
    ("regr_avgy", Change::Statistic),
    ("regr_sxx", Change::Statistic),
    ("regr_syy", Change::Statistic),
    ("regr_sxy", Change::Statistic),
    ("median", Change::Canonical),
    ("percentile_cont", Change::Canonical),
    ("approx_median", Change::Canonical),
    ("approx_percentile_cont", Change::Canonical),
    ("approx_percentile_cont_with_weight", Change::Canonical),
];

/// The same functions, those among them changed that are to be.
pub(crate) fn aggregates(functions: Vec<Arc<AggregateUDF>>) -> Vec<Arc<AggregateUDF>> {
    let change = |function: Arc<AggregateUDF>| match CHANGED.iter().find(|(name, _)| *name == function.name()) {
        Some((_, change)) => Arc::new(AggregateUDF::new_from_impl(Changed { function, change: *change })),
        None => function,
    };
    functions.into_iter().map(change).collect()
}

/// See the module.
#[derive(Debug, PartialEq, Eq, Hash)]
struct Changed {
    function: Arc<AggregateUDF>,
    change: Change,
}

impl Changed {
    /// What is asked of an exact sum of these arguments; `None` where DataFusion's own function outputs: for whole
    /// numbers, decimals and durations, which it adds up exactly as long as the type holds the sum.
    fn exact_output(&self, arguments: &[FieldRef]) -> Option<Output> {
        let output = match self.change {
            Change::Sum => Output::Sum,
            Change::Average => Output::Average,
            Change::Statistic | Change::Canonical => return None,
        };
        let floats = matches!(arguments, [argument] if argument.data_type() == &DataType::Float64);
        floats.then_some(output)
    }
}

impl AggregateUDFImpl for Changed {
    fn name(&self) -> &str {
        self.function.name()
    }

    fn aliases(&self) -> &[String] {
        self.function.aliases()
    }

    fn schema_name(&self, params: &AggregateFunctionParams) -> Result<String> {
        self.function.schema_name(params)
    }

    fn human_display(&self, params: &AggregateFunctionParams) -> Result<String> {
        self.function.human_display(params)
    }

    fn window_function_schema_name(&self, params: &WindowFunctionParams) -> Result<String> {
        self.function.window_function_schema_name(params)
    }

    fn display_name(&self, params: &AggregateFunctionParams) -> Result<String> {
        self.function.display_name(params)
    }

    fn window_function_display_name(&self, params: &WindowFunctionParams) -> Result<String> {
        self.function.window_function_display_name(params)
    }

    fn signature(&self) -> &Signature {
        self.function.signature()
    }

    fn return_type(&self, types: &[DataType]) -> Result<DataType> {
        self.function.return_type(types)
    }

    fn return_field(&self, fields: &[FieldRef]) -> Result<FieldRef> {
        self.function.return_field(fields)
    }

    fn is_nullable(&self) -> bool {
        self.function.is_nullable()
    }

    fn accumulator(&self, args: AccumulatorArgs<'_>) -> Result<Box<dyn Accumulator>> {
        Ok(match self.exact_output(args.expr_fields) {
            Some(output) if args.is_distinct => Box::new(DistinctAccumulator::new(output)),
            Some(output) => Box::new(SumAccumulator::new(output)),
            None => Box::new(CanonicalAccumulator(self.function.accumulator(args)?)),
        })
    }

    fn state_fields(&self, args: StateFieldsArgs<'_>) -> Result<Vec<FieldRef>> {
        match self.exact_output(args.input_fields) {
            Some(_) if !args.is_distinct => Ok(exact_sum::state_fields(&args)),
            _ => self.function.state_fields(args),
        }
    }

    fn groups_accumulator_supported(&self, args: AccumulatorArgs<'_>) -> bool {
        match self.exact_output(args.expr_fields) {
            Some(_) => !args.is_distinct,
            None => self.function.groups_accumulator_supported(args),
        }
    }

    fn create_groups_accumulator(&self, args: AccumulatorArgs<'_>) -> Result<Box<dyn GroupsAccumulator>> {
        Ok(match self.exact_output(args.expr_fields) {
            Some(output) => Box::new(SumGroupsAccumulator::new(output)),
            None => Box::new(CanonicalGroups(self.function.create_groups_accumulator(args)?)),
        })
    }

    fn create_sliding_accumulator(&self, args: AccumulatorArgs<'_>) -> Result<Box<dyn Accumulator>> {
        if self.exact_output(args.expr_fields).is_some() {
            return self.accumulator(args);
        }
        let inner: Box<dyn Accumulator> = match self.change {
            Change::Statistic if !args.is_distinct => {
                Box::new(SlidingAccumulator::try_new(Arc::clone(&self.function), &args)?)
            }
            _ => self.function.create_sliding_accumulator(args)?,
        };
        Ok(Box::new(CanonicalAccumulator(inner)))
    }

    fn order_sensitivity(&self) -> AggregateOrderSensitivity {
        self.function.order_sensitivity()
    }

    fn simplify(&self) -> Option<AggregateFunctionSimplification> {
        self.function.simplify()
    }

    fn simplify_expr_op_literal(
        &self,
        function: &AggregateFunction,
        argument: &Expr,
        op: Operator,
        literal: &Expr,
        argument_is_left: bool,
    ) -> Result<Option<Expr>> {
        self.function.simplify_expr_op_literal(function, argument, op, literal, argument_is_left)
    }

    fn reverse_expr(&self) -> ReversedUDAF {
        self.function.reverse_udf()
    }

    fn coerce_types(&self, types: &[DataType]) -> Result<Vec<DataType>> {
        self.function.coerce_types(types)
    }

    fn is_descending(&self) -> Option<bool> {
        self.function.is_descending()
    }

    fn value_from_stats(&self, statistics: &StatisticsArgs<'_>) -> Option<ScalarValue> {
        self.function.value_from_stats(statistics)
    }

    fn default_value(&self, data_type: &DataType) -> Result<ScalarValue> {
        self.function.default_value(data_type)
    }

    fn supports_null_handling_clause(&self) -> bool {
        self.function.supports_null_handling_clause()
    }

    fn supports_within_group_clause(&self) -> bool {
        self.function.supports_within_group_clause()
    }

    fn documentation(&self) -> Option<&Documentation> {
        self.function.documentation()
    }

    fn set_monotonicity(&self, data_type: &DataType) -> SetMonotonicity {
        self.function.inner().set_monotonicity(data_type)
    }
}

/// An accumulator whose result is made canonical.
#[derive(Debug)]
struct CanonicalAccumulator(Box<dyn Accumulator>);

impl Accumulator for CanonicalAccumulator {
    fn update_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        self.0.update_batch(values)
    }

    fn retract_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        self.0.retract_batch(values)
    }

    fn supports_retract_batch(&self) -> bool {
        self.0.supports_retract_batch()
    }

    fn merge_batch(&mut self, states: &[ArrayRef]) -> Result<()> {
        self.0.merge_batch(states)
    }

    fn state(&mut self) -> Result<Vec<ScalarValue>> {
        self.0.state()
    }

    fn evaluate(&mut self) -> Result<ScalarValue> {
        canonical(self.0.evaluate()?)
    }

    fn size(&self) -> usize {
        size_of_val(self) + self.0.size()
    }
}

/// An accumulator of groups whose results are made canonical.
struct CanonicalGroups(Box<dyn GroupsAccumulator>);

impl GroupsAccumulator for CanonicalGroups {
    fn update_batch(
        &mut self,
        values: &[ArrayRef],
        group_indices: &[usize],
        filter: Option<&BooleanArray>,
        groups: usize,
    ) -> Result<()> {
        self.0.update_batch(values, group_indices, filter, groups)
    }

    fn evaluate(&mut self, emit_to: EmitTo) -> Result<ArrayRef> {
        let results = self.0.evaluate(emit_to)?;
        Ok(canonical_array(&results)?.unwrap_or(results))
    }

    fn state(&mut self, emit_to: EmitTo) -> Result<Vec<ArrayRef>> {
        self.0.state(emit_to)
    }

    fn merge_batch(&mut self, values: &[ArrayRef], group_indices: &[usize], groups: usize) -> Result<()> {
        self.0.merge_batch(values, group_indices, groups)
    }

    fn convert_to_state(&self, values: &[ArrayRef], filter: Option<&BooleanArray>) -> Result<Vec<ArrayRef>> {
        self.0.convert_to_state(values, filter)
    }

    fn size(&self) -> usize {
        self.0.size()
    }
}
