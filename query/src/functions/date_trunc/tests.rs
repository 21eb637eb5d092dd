//! In UTC and without a zone, and for other types, the results are DataFusion's own.

use arrow::array::Int64Array;
use arrow::compute::cast;
use arrow::datatypes::Field;
use datafusion::common::config::ConfigOptions;
use datafusion::logical_expr::ScalarUDF;
use proptest::prelude::*;

use super::*;

const UNITS: [&str; 10] =
    ["microsecond", "millisecond", "second", "MINUTE", "hour", "Day", "week", "month", "quarter", "year"];

fn call(function: &ScalarUDF, unit: &str, times: ColumnarValue) -> Result<ColumnarValue> {
    let unit = ScalarValue::Utf8(Some(unit.to_owned()));
    let time = Arc::new(Field::new("time", times.data_type(), true));
    let arg_fields = vec![Arc::new(Field::new("unit", DataType::Utf8, false)), Arc::clone(&time)];
    let scalars = [Some(&unit), None];
    let return_field =
        function.return_field_from_args(ReturnFieldArgs { arg_fields: &arg_fields, scalar_arguments: &scalars })?;
    let number_rows = if let ColumnarValue::Array(times) = &times { times.len() } else { 1 };
    let args = vec![ColumnarValue::Scalar(unit.clone()), times];
    let config_options = Arc::new(ConfigOptions::default());
    let expected = return_field.data_type().clone();
    let result = function.invoke_with_args(ScalarFunctionArgs {
        args,
        arg_fields,
        number_rows,
        return_field,
        config_options,
    })?;
    assert_eq!(result.data_type(), expected);
    Ok(result)
}

fn both(unit: &str, times: &ArrayRef) -> [ArrayRef; 2] {
    let functions = [ScalarUDF::new_from_impl(DateTrunc::new()), ScalarUDF::new_from_impl(DateTruncFunc::new())];
    functions.map(|function| {
        let found = call(&function, unit, ColumnarValue::Array(Arc::clone(times))).expect("is computed");
        found.into_array(times.len()).expect("an array")
    })
}

proptest! {
    #[test]
    fn results_are_those_of_the_other(
        // What the other can count in nanoseconds.
        seconds in proptest::collection::vec(proptest::option::of(-5_000_000_000_i64..5_000_000_000), 1..50),
        part in 0_i64..1_000_000_000,
        sorted: bool,
    ) {
        let mut seconds = seconds;
        if sorted {
            seconds.sort_unstable();
        }
        for (unit, per_second) in [
            (TimeUnit::Second, 1),
            (TimeUnit::Millisecond, 1_000),
            (TimeUnit::Microsecond, 1_000_000),
            (TimeUnit::Nanosecond, 1_000_000_000),
        ] {
            let values = seconds.iter().map(|second| second.map(|s| s * per_second + part * per_second / 1_000_000_000));
            let values: ArrayRef = Arc::new(Int64Array::from_iter(values));
            for zone in [None, Some("UTC"), Some("+00:00"), Some("+05:30")] {
                let times = cast(&values, &DataType::Timestamp(unit, zone.map(Into::into))).expect("times");
                for period in UNITS {
                    let [ours, other] = both(period, &times);
                    // The other takes minutes off east of Greenwich at the hours of UTC.
                    prop_assert_eq!(&ours, &other, "{} in {:?}", period, zone);
                }
            }
        }
    }
}

#[test]
fn times_of_day_and_nulls() {
    for data_type in [DataType::Time32(TimeUnit::Second), DataType::Time64(TimeUnit::Nanosecond)] {
        let number = if data_type == DataType::Time32(TimeUnit::Second) { 30_615 } else { 30_615_000_000_000 };
        let values: ArrayRef = match data_type {
            DataType::Time32(_) => cast(&Int64Array::from(vec![number]), &DataType::Int32).expect("numbers"),
            _ => Arc::new(Int64Array::from(vec![number])),
        };
        let [ours, other] = both("hour", &cast(&values, &data_type).expect("times"));
        assert_eq!(&ours, &other);
    }
    let function = ScalarUDF::new_from_impl(DateTrunc::new());
    for value in [ScalarValue::Null, ScalarValue::TimestampMillisecond(None, Some("UTC".into()))] {
        let found = call(&function, "day", ColumnarValue::Scalar(value)).expect("is computed");
        assert!(matches!(found, ColumnarValue::Scalar(value) if value.is_null()));
    }
}

/// What stands behind a NULL is nobody's time.
#[test]
fn nulls_are_not_looked_at() {
    let nulls = arrow::buffer::NullBuffer::from(vec![false, true]);
    let times = PrimitiveArray::<TimestampMillisecondType>::new(vec![i64::MAX, 90_000_000].into(), Some(nulls));
    let function = ScalarUDF::new_from_impl(DateTrunc::new());
    let found = call(&function, "year", ColumnarValue::Array(Arc::new(times))).expect("is computed");
    let found = found.into_array(2).expect("an array");
    assert!(found.is_null(0) && found.as_primitive::<TimestampMillisecondType>().value(1) == 0);
}

#[test]
fn what_cannot_be_represented_is_an_error() {
    let function = ScalarUDF::new_from_impl(DateTrunc::new());
    for (unit, value) in [("year", i64::MAX), ("second", i64::MIN)] {
        let time = ScalarValue::TimestampMillisecond(Some(value), Some("UTC".into()));
        let error = call(&function, unit, ColumnarValue::Scalar(time)).expect_err("cannot be computed");
        assert!(error.to_string().contains("beyond what a timestamp can hold"), "{error}");
    }
}
