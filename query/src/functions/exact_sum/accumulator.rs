//! Accumulators of one group or window: of all values, and of distinct ones. Both can take values out again.

use std::collections::HashMap;

use arrow::array::{Array, ArrayRef, AsArray, Float64Array};
use arrow::datatypes::{DataType, Float64Type};
use datafusion::common::{Result, ScalarValue, internal_datafusion_err};
use datafusion::logical_expr::Accumulator;

use super::wide::Wide;
use super::{ExactSum, Question, state};

fn values(arrays: &[ArrayRef]) -> Result<&Float64Array> {
    let floats = arrays.first().and_then(|array| array.as_primitive_opt::<Float64Type>());
    floats.ok_or_else(|| internal_datafusion_err!("a sum of floats takes one column of floats"))
}

/// Adds up all values.
#[derive(Debug)]
pub(in crate::functions) struct SumAccumulator {
    question: Question,
    pub(super) sum: ExactSum,
}

impl SumAccumulator {
    pub(in crate::functions) fn new(question: Question) -> Self {
        Self { question, sum: ExactSum::default() }
    }
}

impl Accumulator for SumAccumulator {
    fn update_batch(&mut self, arrays: &[ArrayRef]) -> Result<()> {
        let values = values(arrays)?;
        match values.null_count() {
            0 => self.sum.add(values.values().iter().copied()),
            _ => self.sum.add(values.iter().flatten()),
        }
        Ok(())
    }

    fn retract_batch(&mut self, arrays: &[ArrayRef]) -> Result<()> {
        self.sum.subtract(values(arrays)?.iter().flatten());
        Ok(())
    }

    fn supports_retract_batch(&self) -> bool {
        true
    }

    fn merge_batch(&mut self, states: &[ArrayRef]) -> Result<()> {
        state::merge_all(states, &mut self.sum)
    }

    fn state(&mut self) -> Result<Vec<ScalarValue>> {
        Ok(state::scalars(&self.sum))
    }

    fn evaluate(&mut self) -> Result<ScalarValue> {
        Ok(ScalarValue::Float64(self.sum.answer(self.question)))
    }

    fn size(&self) -> usize {
        size_of_val(self) + self.sum.wide.as_ref().map_or(0, |_| size_of::<Wide>())
    }
}

/// Adds up each value once, however often it comes.
#[derive(Debug)]
pub(in crate::functions) struct DistinctAccumulator {
    question: Question,
    /// How often each value is there, by its bits: floats are canonical.
    counts: HashMap<u64, u64>,
    sum: ExactSum,
}

impl DistinctAccumulator {
    pub(in crate::functions) fn new(question: Question) -> Self {
        Self { question, counts: HashMap::new(), sum: ExactSum::default() }
    }

    fn add(&mut self, values: &Float64Array) {
        for value in values.iter().flatten() {
            let count = self.counts.entry(value.to_bits()).or_insert(0);
            *count += 1;
            if *count == 1 {
                self.sum.add(std::iter::once(value));
            }
        }
    }
}

impl Accumulator for DistinctAccumulator {
    fn update_batch(&mut self, arrays: &[ArrayRef]) -> Result<()> {
        self.add(values(arrays)?);
        Ok(())
    }

    fn retract_batch(&mut self, arrays: &[ArrayRef]) -> Result<()> {
        for value in values(arrays)?.iter().flatten() {
            let Some(count) = self.counts.get_mut(&value.to_bits()) else { continue };
            *count -= 1;
            if *count == 0 {
                self.counts.remove(&value.to_bits());
                self.sum.subtract(std::iter::once(value));
            }
        }
        Ok(())
    }

    fn supports_retract_batch(&self) -> bool {
        true
    }

    /// The state is the list of values.
    fn merge_batch(&mut self, states: &[ArrayRef]) -> Result<()> {
        let lists = states.first().and_then(|array| array.as_list_opt::<i32>());
        let lists = lists.ok_or_else(|| internal_datafusion_err!("the state of a distinct sum is a list"))?;
        for list in lists.iter().flatten() {
            self.add(values(&[list])?);
        }
        Ok(())
    }

    fn state(&mut self) -> Result<Vec<ScalarValue>> {
        let values: Vec<ScalarValue> =
            self.counts.keys().map(|&bits| ScalarValue::Float64(Some(f64::from_bits(bits)))).collect();
        Ok(vec![ScalarValue::List(ScalarValue::new_list_nullable(&values, &DataType::Float64))])
    }

    fn evaluate(&mut self) -> Result<ScalarValue> {
        Ok(ScalarValue::Float64(self.sum.answer(self.question)))
    }

    fn size(&self) -> usize {
        let entry = size_of::<(u64, u64)>() + 1;
        size_of_val(self) + self.counts.capacity() * entry + self.sum.wide.as_ref().map_or(0, |_| size_of::<Wide>())
    }
}
