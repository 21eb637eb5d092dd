//! `time + interval` and `time - interval` in a zone whose offset changes, as a function that only the planner calls
//! ([`crate::analyzer`]): months and days are counted on the zone's calendar, at the same time of day.
//!
//! Arrow's addition fails for the whole statement where that time of day comes twice or never.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, PrimitiveArray};
use arrow::compute::cast;
use arrow::datatypes::{
    ArrowTimestampType, DataType, Field, FieldRef, Int64Type, IntervalMonthDayNano, IntervalMonthDayNanoType, TimeUnit,
    TimestampMicrosecondType, TimestampMillisecondType, TimestampNanosecondType, TimestampSecondType,
};
use datafusion::common::{Result, ScalarValue, exec_datafusion_err, internal_err};
use datafusion::logical_expr::{
    ColumnarValue, Expr, Operator, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility,
};

use crate::time::{Rounding, Stamp, Zone, unknown};

/// See the module.
#[derive(Debug, PartialEq, Eq, Hash)]
pub(crate) struct LocalShift {
    signature: Signature,
    op: Operator,
}

impl LocalShift {
    /// Whether this sum or difference of these types is one of a time in a zone whose offset may change.
    pub(crate) fn is_for(time: &DataType, interval: &DataType) -> bool {
        let DataType::Timestamp(_, Some(zone)) = time else { return false };
        *interval == DataType::Interval(arrow::datatypes::IntervalUnit::MonthDayNano)
            && matches!(Zone::named(zone), Some(Zone::Ruled(_)))
    }

    /// The call for a time and an interval, by plus or minus.
    pub(crate) fn call(time: Expr, op: Operator, interval: Expr) -> Expr {
        let function = Self { signature: Signature::any(2, Volatility::Immutable), op };
        ScalarUDF::new_from_impl(function).call(vec![time, interval])
    }

    fn shift(&self, times: &ArrayRef, intervals: &ArrayRef) -> Result<ArrayRef> {
        let DataType::Timestamp(unit, Some(zone)) = times.data_type() else {
            return internal_err!("{} is no time in a zone", times.data_type());
        };
        let rules = Zone::named(zone).ok_or_else(|| exec_datafusion_err!("{}", unknown(zone)))?;
        match unit {
            TimeUnit::Second => self.shift_of::<TimestampSecondType>(times, rules, intervals),
            TimeUnit::Millisecond => self.shift_of::<TimestampMillisecondType>(times, rules, intervals),
            TimeUnit::Microsecond => self.shift_of::<TimestampMicrosecondType>(times, rules, intervals),
            TimeUnit::Nanosecond => self.shift_of::<TimestampNanosecondType>(times, rules, intervals),
        }
    }

    fn shift_of<T: ArrowTimestampType>(&self, times: &ArrayRef, zone: Zone, intervals: &ArrayRef) -> Result<ArrayRef> {
        let values = cast(times, &DataType::Int64)?;
        let values = values.as_primitive::<Int64Type>();
        let intervals = intervals.as_primitive::<IntervalMonthDayNanoType>();
        let sign = if self.op == Operator::Minus { -1 } else { 1 };
        let shifted = |value: i64, by: IntervalMonthDayNano| {
            let (months, days) = (sign * i64::from(by.months), sign * i64::from(by.days));
            let nanoseconds = i128::from(sign) * i128::from(by.nanoseconds);
            Stamp::of(value, T::UNIT)
                .shifted(zone, months, days, nanoseconds)
                .and_then(|stamp| stamp.to(T::UNIT, Rounding::Down))
                .ok_or_else(|| exec_datafusion_err!("a time is beyond what a timestamp can hold"))
        };
        let results: PrimitiveArray<T> = values
            .iter()
            .zip(intervals.iter())
            .map(|pair| match pair {
                (Some(value), Some(by)) => shifted(value, by).map(Some),
                _ => Ok(None),
            })
            .collect::<Result<_>>()?;
        Ok(Arc::new(results.with_data_type(times.data_type().clone())))
    }
}

impl ScalarUDFImpl for LocalShift {
    fn name(&self) -> &str {
        match self.op {
            Operator::Minus => "local_minus",
            _ => "local_plus",
        }
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, types: &[DataType]) -> Result<DataType> {
        match types.first() {
            Some(time) => Ok(time.clone()),
            None => internal_err!("{} takes a time and an interval", self.name()),
        }
    }

    fn return_field_from_args(&self, args: ReturnFieldArgs<'_>) -> Result<FieldRef> {
        let nullable = args.arg_fields.iter().any(|field| field.is_nullable());
        let types: Vec<DataType> = args.arg_fields.iter().map(|field| field.data_type().clone()).collect();
        Ok(Arc::new(Field::new(self.name(), self.return_type(&types)?, nullable)))
    }

    /// As that of the sum or the difference.
    fn schema_name(&self, args: &[Expr]) -> Result<String> {
        match args {
            [time, interval] => Ok(format!("{} {} {}", time.schema_name(), self.op, interval.schema_name())),
            _ => Ok(self.name().to_owned()),
        }
    }

    fn is_strict(&self) -> bool {
        true
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let [time, interval] = args.args.as_slice() else {
            return internal_err!("{} takes a time and an interval", self.name());
        };
        let scalars = matches!((time, interval), (ColumnarValue::Scalar(_), ColumnarValue::Scalar(_)));
        let rows = if scalars { 1 } else { args.number_rows };
        let results = self.shift(&time.to_array(rows)?, &interval.to_array(rows)?)?;
        Ok(match scalars {
            true => ColumnarValue::Scalar(ScalarValue::try_from_array(&results, 0)?),
            false => ColumnarValue::Array(results),
        })
    }
}
