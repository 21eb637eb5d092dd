//! The length of an interval as one number, for comparisons: a month counts as 30 days and a day as 24 hours.
//!
//! DataFusion compares intervals field by field: first months, then days, then the rest. So 48 hours were less than one
//! day, and a difference of times, which has no days, less than any interval of days.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, Decimal128Array};
use arrow::compute::cast;
use arrow::datatypes::{DataType, DurationNanosecondType, IntervalMonthDayNanoType, IntervalUnit, TimeUnit};
use datafusion::common::{Result, internal_datafusion_err, internal_err};
use datafusion::logical_expr::expr::ScalarFunction;
use datafusion::logical_expr::{
    ColumnarValue, Expr, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility,
};

const DAY_NS: i128 = 86_400_000_000_000;

/// The type of a length: nanoseconds.
const LENGTH: DataType = DataType::Decimal128(38, 0);

/// See the module. Not registered, so that a statement cannot call it.
#[derive(Debug, PartialEq, Eq, Hash)]
pub(crate) struct IntervalLength {
    signature: Signature,
}

impl IntervalLength {
    /// Whether values of this type have such a length.
    pub(crate) fn is_for(data_type: &DataType) -> bool {
        matches!(data_type, DataType::Interval(_) | DataType::Duration(_))
    }

    /// The length of this expression.
    pub(crate) fn call(expr: Expr) -> Expr {
        let function = Self { signature: Signature::any(1, Volatility::Immutable) };
        Expr::ScalarFunction(ScalarFunction::new_udf(Arc::new(ScalarUDF::new_from_impl(function)), vec![expr]))
    }
}

impl ScalarUDFImpl for IntervalLength {
    fn name(&self) -> &str {
        "interval_length"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(LENGTH)
    }

    fn is_strict(&self) -> bool {
        true
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let value = args.args.first().ok_or_else(|| internal_datafusion_err!("interval_length takes one argument"))?;
        let lengths = lengths(&value.to_array(args.number_rows)?)?;
        Ok(ColumnarValue::Array(Arc::new(lengths.with_precision_and_scale(38, 0)?)))
    }
}

fn lengths(intervals: &ArrayRef) -> Result<Decimal128Array> {
    match intervals.data_type() {
        DataType::Interval(_) => {
            let intervals = cast(intervals, &DataType::Interval(IntervalUnit::MonthDayNano))?;
            let intervals = intervals.as_primitive::<IntervalMonthDayNanoType>();
            Ok(intervals.unary(|interval| {
                let days = i128::from(interval.months) * 30 + i128::from(interval.days);
                days * DAY_NS + i128::from(interval.nanoseconds)
            }))
        }
        DataType::Duration(unit) => {
            let per = match unit {
                TimeUnit::Second => 1_000_000_000,
                TimeUnit::Millisecond => 1_000_000,
                TimeUnit::Microsecond => 1_000,
                TimeUnit::Nanosecond => 1,
            };
            // The values as they are, whatever their unit says.
            let values = intervals.to_data().into_builder().data_type(DataType::Duration(TimeUnit::Nanosecond));
            let values = arrow::array::make_array(values.build()?);
            Ok(values.as_primitive::<DurationNanosecondType>().unary(|value| i128::from(value) * per))
        }
        other => internal_err!("{other} has no length"),
    }
}
