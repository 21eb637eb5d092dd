use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, Float32Array, Float64Array, ListArray};
use arrow::buffer::OffsetBuffer;
use arrow::datatypes::{Field, Float64Type};

use super::*;

fn bits(array: &ArrayRef) -> Vec<Option<u64>> {
    array.as_primitive::<Float64Type>().iter().map(|value| value.map(f64::to_bits)).collect()
}

#[test]
fn zeros_and_nans_become_one_each() {
    let values = [Some(-0.0), None, Some(1.5), Some(-f64::NAN), Some(f64::from_bits(0x7FF0_0000_0000_0001))];
    let array: ArrayRef = Arc::new(Float64Array::from(values.to_vec()));
    let canonical = canonical_array(&array).expect("floats").expect("it changes");
    let (zero, nan) = (Some(0.0_f64.to_bits()), Some(f64::NAN.to_bits()));
    assert_eq!(bits(&canonical), [zero, None, Some(1.5_f64.to_bits()), nan, nan]);
    assert!(canonical_array(&canonical).expect("floats").is_none(), "nothing is left to do");
}

#[test]
fn what_is_canonical_is_not_copied() {
    let mut values = vec![0.0, f64::MIN_POSITIVE, -5e-324, f64::INFINITY, f64::NEG_INFINITY, f64::NAN, -1.0];
    values.resize(EXAMINED_AT_ONCE * 2 + 3, 4.25);
    let array: ArrayRef = Arc::new(Float64Array::from(values.clone()));
    assert!(canonical_array(&array).expect("floats").is_none());
    // The last one, past the last whole chunk.
    values.push(-0.0);
    let array: ArrayRef = Arc::new(Float64Array::from(values));
    assert!(canonical_array(&array).expect("floats").is_some());
}

#[test]
fn floats_within_lists_are_found() {
    let items = Arc::new(Float32Array::from(vec![1.0, -0.0, 2.0]));
    let field = Arc::new(Field::new("item", DataType::Float32, true));
    let list: ArrayRef = Arc::new(ListArray::new(field, OffsetBuffer::from_lengths([1, 2]), items, None));
    let canonical = canonical_array(&list).expect("lists").expect("it changes");
    let items = canonical.as_list::<i32>().values().as_primitive::<Float32Type>().clone();
    assert_eq!(items.value(1).to_bits(), 0.0_f32.to_bits());
    assert_eq!(canonical.data_type(), list.data_type());
    let scalar = ScalarValue::try_from_array(&list, 1).expect("a list");
    assert!(canonical_scalar(&scalar).expect("a list").is_some());
}
