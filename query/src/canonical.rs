//! Canonical floats: within SQL there is one zero, 0.0, and one NaN.
//!
//! IEEE 754 has a negative zero that equals 0.0 and yet has other bits, and NaNs of many bits. Operators that compare
//! and operators that hash or order bits would then disagree on what is equal. So floats are made canonical where they
//! enter a query ([`CanonicalFloatsExec`] above each scan) and where expressions can make others
//! ([`CanonicalFloats`], a rule of the analyzer); aggregates do it for their own results. Everything between may
//! compare bits.

mod function;
mod rule;
mod scan;

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, ArrowPrimitiveType, AsArray, PrimitiveArray, make_array};
use arrow::datatypes::{ArrowNativeTypeOp, DataType, Float16Type, Float32Type, Float64Type};
use datafusion::common::{Result, ScalarValue};

pub(crate) use rule::CanonicalFloats;
pub(crate) use scan::CanonicalFloatsExec;

/// The one NaN: positive and quiet, what `'NaN'::DOUBLE` is.
pub(crate) const NAN: f64 = f64::NAN;

/// Values that are examined before the result is looked at: short enough to stop early, long enough for vector code.
const EXAMINED_AT_ONCE: usize = 1024;

/// Returns whether values of this type are floats, or hold floats at any depth.
fn has_floats(data_type: &DataType) -> bool {
    match data_type {
        DataType::Float16 | DataType::Float32 | DataType::Float64 => true,
        DataType::List(item)
        | DataType::LargeList(item)
        | DataType::FixedSizeList(item, _)
        | DataType::ListView(item)
        | DataType::LargeListView(item)
        | DataType::Map(item, _) => has_floats(item.data_type()),
        DataType::Struct(fields) => fields.iter().any(|field| has_floats(field.data_type())),
        DataType::Union(fields, _) => fields.iter().any(|(_, field)| has_floats(field.data_type())),
        DataType::Dictionary(_, value) => has_floats(value),
        DataType::RunEndEncoded(_, value) => has_floats(value.data_type()),
        _ => false,
    }
}

/// The canonical form of an array, or `None` if it has that already.
pub(crate) fn canonical_array(array: &ArrayRef) -> Result<Option<ArrayRef>> {
    Ok(match array.data_type() {
        DataType::Float64 if !may_change(array.as_primitive::<Float64Type>().values()) => None,
        DataType::Float64 => primitive::<Float64Type>(array, NAN),
        DataType::Float32 => primitive::<Float32Type>(array, f32::NAN),
        DataType::Float16 => primitive::<Float16Type>(array, <Float16Type as ArrowPrimitiveType>::Native::NAN),
        nested if has_floats(nested) => {
            let data = array.to_data();
            let mut changed = false;
            let mut children = Vec::with_capacity(data.child_data().len());
            for child in data.child_data() {
                match canonical_array(&make_array(child.clone()))? {
                    Some(canonical) => {
                        changed = true;
                        children.push(canonical.to_data());
                    }
                    None => children.push(child.clone()),
                }
            }
            if changed { Some(make_array(data.into_builder().child_data(children).build()?)) } else { None }
        }
        _ => None,
    })
}

/// The canonical form of a scalar, or `None` if it has that already.
pub(crate) fn canonical_scalar(scalar: &ScalarValue) -> Result<Option<ScalarValue>> {
    if let ScalarValue::Float64(Some(value)) = scalar
        && !may_change(&[*value])
    {
        return Ok(None);
    }
    if !has_floats(&scalar.data_type()) {
        return Ok(None);
    }
    let canonical = canonical_array(&scalar.to_array()?)?;
    canonical.map(|array| ScalarValue::try_from_array(&array, 0)).transpose()
}

/// A scalar in its canonical form.
pub(crate) fn canonical(scalar: ScalarValue) -> Result<ScalarValue> {
    Ok(canonical_scalar(&scalar)?.unwrap_or(scalar))
}

/// Whether any of these is a negative zero or a NaN. Every value that is read is examined by this, and hardly any is
/// one; so it is written for vector instructions.
fn may_change(values: &[f64]) -> bool {
    let examined = |found, value: &f64| found | ((value + 0.0).to_bits() ^ value.to_bits()) | u64::from(value.is_nan());
    values.chunks(EXAMINED_AT_ONCE).any(|values| values.iter().fold(0, examined) != 0)
}

/// `nan` is the one NaN of the type.
fn primitive<T: ArrowPrimitiveType>(array: &ArrayRef, nan: T::Native) -> Option<ArrayRef>
where
    T::Native: ArrowNativeTypeOp,
{
    // The sum of the two zeros is 0.0; the sum of any other number and 0.0 is that number. Only a NaN is not itself.
    let canonical = |value: T::Native| {
        let is_nan = value.partial_cmp(&value).is_none();
        if is_nan { nan } else { value.add_wrapping(T::Native::ZERO) }
    };
    let array: &PrimitiveArray<T> = array.as_primitive();
    // `is_eq` compares the bits of floats.
    let other = |value: &T::Native| !canonical(*value).is_eq(*value);
    array.values().iter().any(other).then(|| Arc::new(array.unary::<_, T>(canonical)) as ArrayRef)
}

#[cfg(test)]
mod tests;
