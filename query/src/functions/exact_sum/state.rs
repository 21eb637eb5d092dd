//! The sum between partitions, as columns: the number of values, the fixed point number, and the wide one where there
//! is one.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, FixedSizeBinaryArray, LargeBinaryBuilder, UInt64Array};
use arrow::buffer::Buffer;
use arrow::datatypes::{DataType, Field, FieldRef, UInt64Type};
use datafusion::common::{Result, ScalarValue, internal_datafusion_err, internal_err};
use datafusion::logical_expr::function::StateFieldsArgs;
use datafusion::logical_expr::utils::format_state_name;

use super::ExactSum;
use super::wide::Wide;

/// Bytes of the fixed point number.
const FIXED_BYTES: i32 = 16;

/// The columns' fields.
pub(in crate::functions) fn state_fields(args: &StateFieldsArgs<'_>) -> Vec<FieldRef> {
    let field = |name, data_type| Arc::new(Field::new(format_state_name(args.name, name), data_type, true));
    vec![
        field("count", DataType::UInt64),
        field("fixed", DataType::FixedSizeBinary(FIXED_BYTES)),
        field("wide", DataType::LargeBinary),
    ]
}

/// Sums as columns.
pub(super) fn columns(sums: &[ExactSum]) -> Result<Vec<ArrayRef>> {
    let counts: UInt64Array = sums.iter().map(|sum| sum.count).collect::<Vec<_>>().into();
    let fixed: Vec<i128> = sums.iter().map(|sum| sum.fixed.to_le()).collect();
    let fixed = FixedSizeBinaryArray::try_new(FIXED_BYTES, Buffer::from_vec(fixed), None)?;
    let mut wide = LargeBinaryBuilder::with_capacity(sums.len(), 0);
    for sum in sums {
        wide.append_option(sum.wide.as_ref().map(|wide| wide.to_bytes()));
    }
    Ok(vec![Arc::new(counts), Arc::new(fixed), Arc::new(wide.finish())])
}

/// One sum as scalars.
pub(super) fn scalars(sum: &ExactSum) -> Vec<ScalarValue> {
    vec![
        ScalarValue::UInt64(Some(sum.count)),
        ScalarValue::FixedSizeBinary(FIXED_BYTES, Some(sum.fixed.to_le_bytes().to_vec())),
        ScalarValue::LargeBinary(sum.wide.as_ref().map(|wide| wide.to_bytes())),
    ]
}

/// Merges all rows of the columns into one sum.
pub(super) fn merge_all(columns: &[ArrayRef], sum: &mut ExactSum) -> Result<()> {
    for_each(columns, |_, fixed, wide, count| {
        sum.merge(fixed, wide, count);
        Ok(())
    })
}

/// Merges each row of the columns into the sum of its group. Returns how many of the sums got a wide part.
pub(super) fn merge_each(columns: &[ArrayRef], group_indices: &[usize], sums: &mut [ExactSum]) -> Result<usize> {
    let mut widened = 0;
    for_each(columns, |row, fixed, wide, count| {
        let sum = group_indices.get(row).and_then(|&group| sums.get_mut(group));
        let sum = sum.ok_or_else(|| internal_datafusion_err!("a row of a state has no group"))?;
        let narrow = sum.wide.is_none();
        sum.merge(fixed, wide, count);
        widened += usize::from(narrow && sum.wide.is_some());
        Ok(())
    })?;
    Ok(widened)
}

fn for_each(columns: &[ArrayRef], mut each: impl FnMut(usize, i128, Option<&Wide>, u64) -> Result<()>) -> Result<()> {
    let [counts, fixed, wide] = columns else { return internal_err!("the state of a sum has three columns") };
    let counts = counts.as_primitive::<UInt64Type>();
    let (fixed, wide) = (fixed.as_fixed_size_binary(), wide.as_binary::<i64>());
    let damaged = || internal_datafusion_err!("the state of a sum is damaged");
    for row in 0..counts.len() {
        if counts.is_null(row) || fixed.is_null(row) {
            continue;
        }
        let narrow = i128::from_le_bytes(fixed.value(row).try_into().map_err(|_| damaged())?);
        let wide = if wide.is_valid(row) { Some(Wide::from_bytes(wide.value(row)).ok_or_else(damaged)?) } else { None };
        each(row, narrow, wide.as_ref(), counts.value(row))?;
    }
    Ok(())
}
