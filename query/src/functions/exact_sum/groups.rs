//! The accumulator of many groups at once.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, Float64Array};
use arrow::buffer::NullBuffer;
use arrow::compute::prep_null_mask_filter;
use arrow::datatypes::Float64Type;
use datafusion::common::{Result, internal_datafusion_err};
use datafusion::logical_expr::{EmitTo, GroupsAccumulator};

use super::wide::Wide;
use super::{ExactSum, Output, add_fixed_point, state};

/// See the module.
#[derive(Debug)]
pub(in crate::functions) struct SumGroupsAccumulator {
    output: Output,
    pub(super) sums: Vec<ExactSum>,
    /// How many of them have a wide part.
    pub(super) wides: usize,
}

impl SumGroupsAccumulator {
    pub(in crate::functions) fn new(output: Output) -> Self {
        Self { output, sums: Vec::new(), wides: 0 }
    }

    /// Adds each value to its group. Rows often come ordered by what they are grouped by, so a sum stays in registers
    /// while the next row is of the same group.
    fn add(&mut self, rows: impl Iterator<Item = (usize, f64)>) {
        let Some(first) = self.sums.first() else { return };
        let (mut group, mut fixed, mut count) = (0, first.fixed, first.count);
        for (of, value) in rows {
            if of != group {
                (self.sums[group].fixed, self.sums[group].count) = (fixed, count);
                (group, fixed, count) = (of, self.sums[of].fixed, self.sums[of].count);
            }
            count += 1;
            if let Some(excess) = add_fixed_point(&mut fixed, value) {
                let wide = &mut self.sums[group].wide;
                self.wides += usize::from(wide.is_none());
                excess.add_to(wide);
            }
        }
        (self.sums[group].fixed, self.sums[group].count) = (fixed, count);
    }

    fn take(&mut self, emit_to: EmitTo) -> Vec<ExactSum> {
        let taken = emit_to.take_needed(&mut self.sums);
        self.wides -= taken.iter().filter(|sum| sum.wide.is_some()).count();
        taken
    }
}

pub(super) fn floats(arrays: &[ArrayRef]) -> Result<&Float64Array> {
    let floats = arrays.first().and_then(|array| array.as_primitive_opt::<Float64Type>());
    floats.ok_or_else(|| internal_datafusion_err!("a sum of floats takes one column of floats"))
}

/// Which values count: those that are not null and pass the filter. `None` if all do.
pub(super) fn counted(values: &Float64Array, filter: Option<&BooleanArray>) -> Option<NullBuffer> {
    let passed = filter.map(|filter| match filter.null_count() {
        0 => NullBuffer::new(filter.values().clone()),
        _ => NullBuffer::new(prep_null_mask_filter(filter).values().clone()),
    });
    NullBuffer::union(values.nulls(), passed.as_ref()).filter(|counted| counted.null_count() > 0)
}

impl GroupsAccumulator for SumGroupsAccumulator {
    fn update_batch(
        &mut self,
        arrays: &[ArrayRef],
        group_indices: &[usize],
        filter: Option<&BooleanArray>,
        groups: usize,
    ) -> Result<()> {
        let array = floats(arrays)?;
        self.sums.resize_with(groups, ExactSum::default);
        let rows = group_indices.iter().copied().zip(array.values().iter().copied());
        match counted(array, filter) {
            None => self.add(rows),
            Some(counted) => self.add(rows.zip(counted.iter()).filter_map(|(row, counts)| counts.then_some(row))),
        }
        Ok(())
    }

    fn merge_batch(&mut self, states: &[ArrayRef], group_indices: &[usize], groups: usize) -> Result<()> {
        self.sums.resize_with(groups, ExactSum::default);
        self.wides += state::merge_each(states, group_indices, &mut self.sums)?;
        Ok(())
    }

    fn evaluate(&mut self, emit_to: EmitTo) -> Result<ArrayRef> {
        let output = self.output;
        let outputs: Float64Array = self.take(emit_to).iter().map(|sum| sum.output(output)).collect();
        Ok(Arc::new(outputs))
    }

    fn state(&mut self, emit_to: EmitTo) -> Result<Vec<ArrayRef>> {
        state::columns(&self.take(emit_to))
    }

    fn convert_to_state(&self, arrays: &[ArrayRef], filter: Option<&BooleanArray>) -> Result<Vec<ArrayRef>> {
        let array = floats(arrays)?;
        let counted = counted(array, filter);
        let sums = array.values().iter().enumerate().map(|(row, &value)| {
            let mut sum = ExactSum::default();
            if counted.as_ref().is_none_or(|counted| counted.is_valid(row)) {
                sum.add(std::iter::once(value));
            }
            sum
        });
        state::columns(&sums.collect::<Vec<_>>())
    }

    fn size(&self) -> usize {
        self.sums.capacity() * size_of::<ExactSum>() + self.wides * size_of::<Wide>()
    }
}
