//! An aggregate over a sliding frame that never takes values out of a state, which would carry rounding, infinities
//! and NaNs on to the end of the frame's way.
//!
//! The frame is a queue of two stacks. Of the older rows there are partial states: that of each row together with all
//! older rows that came after it, so that a row leaves with its state. The younger rows are added to one state. When no
//! older rows are left, the younger ones become the older. So each row is added twice, and each result merges two
//! states.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, Float64Array};
use arrow::datatypes::{FieldRef, Float64Type, Schema};
use datafusion::common::{Result, ScalarValue, internal_datafusion_err, internal_err, not_impl_err};
use datafusion::logical_expr::function::AccumulatorArgs;
use datafusion::logical_expr::{Accumulator, AggregateUDF};
use datafusion::physical_expr::PhysicalExpr;

/// States that are kept in one set of arrays. A set is freed when its last row has left.
const STATES_PER_CHUNK: usize = 1024;

/// What makes an accumulator of the function: the arguments that one is made of, owned.
#[derive(Debug)]
struct Maker {
    function: Arc<AggregateUDF>,
    return_field: FieldRef,
    schema: Schema,
    name: String,
    exprs: Vec<Arc<dyn PhysicalExpr>>,
    expr_fields: Vec<FieldRef>,
}

impl Maker {
    fn make(&self) -> Result<Box<dyn Accumulator>> {
        self.function.accumulator(AccumulatorArgs {
            return_field: Arc::clone(&self.return_field),
            schema: &self.schema,
            ignore_nulls: false,
            order_bys: &[],
            is_reversed: false,
            name: &self.name,
            is_distinct: false,
            exprs: &self.exprs,
            expr_fields: &self.expr_fields,
        })
    }
}

/// See the module. For functions of floats whose accumulators can give their state and result more than once.
#[derive(Debug)]
pub(super) struct SlidingAccumulator {
    maker: Maker,
    /// Younger rows, one vector for each argument, the oldest first.
    younger: Vec<Vec<Option<f64>>>,
    /// All younger rows together.
    younger_state: Box<dyn Accumulator>,
    /// States of older rows in chunks of columns; the oldest row's is the last of the last chunk.
    older: Vec<Vec<ArrayRef>>,
    /// Rows of the last chunk that have not left.
    older_left: usize,
}

impl SlidingAccumulator {
    /// For a function of floats, not distinct.
    pub(super) fn try_new(function: Arc<AggregateUDF>, args: &AccumulatorArgs<'_>) -> Result<Self> {
        let maker = Maker {
            function,
            return_field: Arc::clone(&args.return_field),
            schema: args.schema.clone(),
            name: args.name.to_owned(),
            exprs: args.exprs.to_vec(),
            expr_fields: args.expr_fields.to_vec(),
        };
        let younger = vec![Vec::new(); args.exprs.len()];
        let younger_state = maker.make()?;
        Ok(Self { maker, younger, younger_state, older: Vec::new(), older_left: 0 })
    }

    /// Makes the younger rows the older ones.
    fn turn(&mut self) -> Result<()> {
        let columns: Vec<ArrayRef> = self
            .younger
            .iter_mut()
            .map(|rows| Arc::new(Float64Array::from(std::mem::take(rows))) as ArrayRef)
            .collect();
        let rows = columns.first().map_or(0, |column| column.len());
        let mut state = self.maker.make()?;
        let mut chunk: Vec<Vec<ScalarValue>> = Vec::new();
        for row in (0..rows).rev() {
            let arguments: Vec<ArrayRef> = columns.iter().map(|column| column.slice(row, 1)).collect();
            state.update_batch(&arguments)?;
            let fields = state.state()?;
            chunk.resize_with(fields.len(), Vec::new);
            chunk.iter_mut().zip(fields).for_each(|(column, field)| column.push(field));
            let states = chunk.first().map_or(0, Vec::len);
            if states == STATES_PER_CHUNK || row == 0 {
                let arrays = chunk.drain(..).map(ScalarValue::iter_to_array);
                self.older.push(arrays.collect::<Result<_>>()?);
                self.older_left = states;
            }
        }
        self.younger_state = self.maker.make()?;
        Ok(())
    }

    /// All rows in one accumulator.
    fn merged(&mut self) -> Result<Box<dyn Accumulator>> {
        let mut merged = self.maker.make()?;
        if let (Some(chunk), Some(last)) = (self.older.last(), self.older_left.checked_sub(1)) {
            let state: Vec<ArrayRef> = chunk.iter().map(|column| column.slice(last, 1)).collect();
            merged.merge_batch(&state)?;
        }
        let younger = self.younger_state.state()?;
        let younger: Vec<ArrayRef> = younger.iter().map(ScalarValue::to_array).collect::<Result<_>>()?;
        merged.merge_batch(&younger)?;
        Ok(merged)
    }
}

impl Accumulator for SlidingAccumulator {
    fn update_batch(&mut self, arguments: &[ArrayRef]) -> Result<()> {
        for (rows, argument) in self.younger.iter_mut().zip(arguments) {
            let argument = argument.as_primitive_opt::<Float64Type>();
            let argument = argument.ok_or_else(|| internal_datafusion_err!("statistics are of floats"))?;
            rows.extend(argument.iter());
        }
        self.younger_state.update_batch(arguments)
    }

    /// Rows leave in the order in which they came; so only their number matters.
    fn retract_batch(&mut self, arguments: &[ArrayRef]) -> Result<()> {
        let rows = arguments.first().map_or(0, |argument| argument.len());
        for _ in 0..rows {
            if self.older_left == 0 {
                self.turn()?;
            }
            let Some(left) = self.older_left.checked_sub(1) else {
                return internal_err!("more rows leave a frame than came");
            };
            self.older_left = left;
            if left == 0 {
                self.older.pop();
                self.older_left = self.older.last().and_then(|chunk| chunk.first()).map_or(0, |column| column.len());
            }
        }
        Ok(())
    }

    fn supports_retract_batch(&self) -> bool {
        true
    }

    fn merge_batch(&mut self, _: &[ArrayRef]) -> Result<()> {
        not_impl_err!("a frame is not merged")
    }

    fn state(&mut self) -> Result<Vec<ScalarValue>> {
        self.merged()?.state()
    }

    fn evaluate(&mut self) -> Result<ScalarValue> {
        self.merged()?.evaluate()
    }

    fn size(&self) -> usize {
        let younger: usize = self.younger.iter().map(|rows| rows.capacity() * size_of::<Option<f64>>()).sum();
        let older: usize = self.older.iter().flatten().map(|column| column.get_array_memory_size()).sum();
        size_of_val(self) + younger + older + self.younger_state.size()
    }
}

#[cfg(test)]
mod tests;
