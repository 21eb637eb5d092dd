//! Accumulators of averages whose values come as sums of several, with how many each is the sum of.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, Int64Array, UInt64Array};
use arrow::datatypes::Int64Type;
use datafusion::common::{Result, ScalarValue, internal_datafusion_err};
use datafusion::logical_expr::{Accumulator, EmitTo, GroupsAccumulator};

use super::groups::{counted, floats};
use super::{Output, SumAccumulator, SumGroupsAccumulator};

fn parts(arrays: &[ArrayRef]) -> Result<(&[ArrayRef], &Int64Array)> {
    let counts = arrays.get(1).and_then(|array| array.as_primitive_opt::<Int64Type>());
    let counts = counts.ok_or_else(|| internal_datafusion_err!("a partial average takes sums and counts"))?;
    Ok((&arrays[..1], counts))
}

/// Number of values that each counted row stands for; those that are not counted stand for none.
fn values_of<'a>(
    arrays: &'a [ArrayRef],
    filter: Option<&BooleanArray>,
) -> Result<impl Iterator<Item = (usize, u64)> + 'a> {
    let (sums, counts) = parts(arrays)?;
    let counted = counted(floats(sums)?, filter);
    let is_counted = move |row: usize| counted.as_ref().is_none_or(|counted| counted.is_valid(row));
    let rows = (0..counts.len()).filter(move |&row| is_counted(row) && counts.is_valid(row));
    Ok(rows.map(|row| (row, u64::try_from(counts.value(row)).unwrap_or(0))))
}

/// Of one group.
#[derive(Debug)]
pub(in crate::functions) struct PartialAverageAccumulator(SumAccumulator);

impl PartialAverageAccumulator {
    pub(in crate::functions) fn new() -> Self {
        Self(SumAccumulator::new(Output::Average))
    }
}

impl Accumulator for PartialAverageAccumulator {
    fn update_batch(&mut self, arrays: &[ArrayRef]) -> Result<()> {
        self.0.update_batch(parts(arrays)?.0)?;
        for (_, values) in values_of(arrays, None)? {
            // The sum itself was counted as one.
            self.0.sum.count = (self.0.sum.count + values).saturating_sub(1);
        }
        Ok(())
    }

    fn merge_batch(&mut self, states: &[ArrayRef]) -> Result<()> {
        self.0.merge_batch(states)
    }

    fn state(&mut self) -> Result<Vec<ScalarValue>> {
        self.0.state()
    }

    fn evaluate(&mut self) -> Result<ScalarValue> {
        self.0.evaluate()
    }

    fn size(&self) -> usize {
        self.0.size()
    }
}

/// Of many groups at once.
#[derive(Debug)]
pub(in crate::functions) struct PartialAverageGroups(SumGroupsAccumulator);

impl PartialAverageGroups {
    pub(in crate::functions) fn new() -> Self {
        Self(SumGroupsAccumulator::new(Output::Average))
    }
}

impl GroupsAccumulator for PartialAverageGroups {
    fn update_batch(
        &mut self,
        arrays: &[ArrayRef],
        group_indices: &[usize],
        filter: Option<&BooleanArray>,
        groups: usize,
    ) -> Result<()> {
        self.0.update_batch(parts(arrays)?.0, group_indices, filter, groups)?;
        for (row, values) in values_of(arrays, filter)? {
            let sum = group_indices.get(row).and_then(|&group| self.0.sums.get_mut(group));
            let sum = sum.ok_or_else(|| internal_datafusion_err!("a row has no group"))?;
            sum.count = (sum.count + values).saturating_sub(1);
        }
        Ok(())
    }

    fn merge_batch(&mut self, states: &[ArrayRef], group_indices: &[usize], groups: usize) -> Result<()> {
        self.0.merge_batch(states, group_indices, groups)
    }

    fn evaluate(&mut self, emit_to: EmitTo) -> Result<ArrayRef> {
        self.0.evaluate(emit_to)
    }

    fn state(&mut self, emit_to: EmitTo) -> Result<Vec<ArrayRef>> {
        self.0.state(emit_to)
    }

    fn convert_to_state(&self, arrays: &[ArrayRef], filter: Option<&BooleanArray>) -> Result<Vec<ArrayRef>> {
        let mut state = self.0.convert_to_state(parts(arrays)?.0, filter)?;
        let mut counts = vec![0; arrays[0].len()];
        for (row, values) in values_of(arrays, filter)? {
            counts[row] = values;
        }
        if let Some(column) = state.first_mut() {
            *column = Arc::new(UInt64Array::from(counts));
        }
        Ok(state)
    }

    fn size(&self) -> usize {
        self.0.size()
    }
}
