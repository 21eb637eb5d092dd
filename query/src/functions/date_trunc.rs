//! `date_trunc(unit, time)`: the start of the hour, day, month … that holds a time, in the zone of the time's type.
//!
//! In place of DataFusion's, which gives a day two starts where its midnight comes twice, counts in nanoseconds, and looks
//! at the calendar for every value. What is not a timestamp goes on to it.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, PrimitiveArray};
use arrow::datatypes::{
    ArrowTimestampType, DataType, FieldRef, TimeUnit, TimestampMicrosecondType, TimestampMillisecondType,
    TimestampNanosecondType, TimestampSecondType,
};
use datafusion::common::types::{NativeType, logical_date, logical_string};
use datafusion::common::{DataFusionError, Result, ScalarValue, exec_datafusion_err};
use datafusion::functions::datetime::date_trunc::DateTruncFunc;
use datafusion::logical_expr::interval_arithmetic::Interval;
use datafusion::logical_expr::preimage::PreimageResult;
use datafusion::logical_expr::simplify::SimplifyContext;
use datafusion::logical_expr::sort_properties::{ExprProperties, SortProperties};
use datafusion::logical_expr::{
    Coercion, ColumnarValue, Expr, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDFImpl, Signature, TypeSignature,
    TypeSignatureClass, Volatility,
};

use crate::time::{Period, Truncate, Zone, dates_ascend, per_second, unknown};

#[cfg(test)]
mod tests;

/// See the module.
#[derive(Debug, PartialEq, Eq, Hash)]
pub(super) struct DateTrunc {
    signature: Signature,
    others: DateTruncFunc,
}

impl DateTrunc {
    pub(super) fn new() -> Self {
        let unit = || Coercion::new_exact(TypeSignatureClass::Native(logical_string()));
        let time = Coercion::new_implicit(
            TypeSignatureClass::Timestamp,
            vec![TypeSignatureClass::Native(logical_string()), TypeSignatureClass::Native(logical_date())],
            NativeType::Timestamp(TimeUnit::Microsecond, None),
        );
        let of_day = Coercion::new_exact(TypeSignatureClass::Time);
        let signatures =
            vec![TypeSignature::Coercible(vec![unit(), time]), TypeSignature::Coercible(vec![unit(), of_day])];
        Self { signature: Signature::one_of(signatures, Volatility::Immutable), others: DateTruncFunc::new() }
    }
}

impl ScalarUDFImpl for DateTrunc {
    fn name(&self) -> &str {
        self.others.name()
    }

    fn aliases(&self) -> &[String] {
        self.others.aliases()
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, types: &[DataType]) -> Result<DataType> {
        self.others.return_type(types)
    }

    fn return_field_from_args(&self, args: ReturnFieldArgs<'_>) -> Result<FieldRef> {
        self.others.return_field_from_args(args)
    }

    fn is_strict(&self) -> bool {
        true
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let truncate = match args.args.as_slice() {
            [ColumnarValue::Scalar(unit), time] => truncate(unit, &time.data_type())?,
            _ => None,
        };
        match (truncate, args.args.get(1)) {
            (Some(mut truncate), Some(ColumnarValue::Array(times))) => {
                Ok(ColumnarValue::Array(starts(times, &mut truncate)?))
            }
            (Some(mut truncate), Some(ColumnarValue::Scalar(time))) => {
                let start = starts(&time.to_array()?, &mut truncate)?;
                Ok(ColumnarValue::Scalar(ScalarValue::try_from_array(&start, 0)?))
            }
            _ => self.others.invoke_with_args(args),
        }
    }

    /// Starts ascend with time, except where a date comes again.
    fn output_ordering(&self, inputs: &[ExprProperties]) -> Result<SortProperties> {
        match inputs {
            [unit, time] if unit.sort_properties == SortProperties::Singleton && ascends(&time.range.data_type()) => {
                Ok(time.sort_properties)
            }
            _ => Ok(SortProperties::Unordered),
        }
    }

    fn evaluate_bounds(&self, inputs: &[&Interval]) -> Result<Interval> {
        match inputs {
            [_, time] => Interval::make_unbounded(&time.data_type()),
            _ => Interval::make_unbounded(&DataType::Null),
        }
    }

    /// A comparison with the start of a period is one of times, by which segments and their pages are left out.
    fn preimage(&self, args: &[Expr], start: &Expr, info: &SimplifyContext) -> Result<PreimageResult> {
        let ([Expr::Literal(unit, _), time], Expr::Literal(start, _)) = (args, start) else {
            return Ok(PreimageResult::None);
        };
        let data_type = info.get_data_type(time)?;
        let values = match truncate(unit, &data_type)? {
            Some(truncate) if start.data_type() == data_type && ascends(&data_type) => period(start, truncate),
            _ => None,
        };
        let Some((from, to)) = values else { return Ok(PreimageResult::None) };
        let bound = |value| timestamp(value, &data_type);
        match (bound(from), bound(to)) {
            (Some(from), Some(to)) => {
                Ok(PreimageResult::Range { expr: time.clone(), interval: Box::new(Interval::try_new(from, to)?) })
            }
            _ => Ok(PreimageResult::None),
        }
    }
}

/// What finds the starts of this unit for this type; none for types that are no timestamps and units that are not known.
fn truncate(unit: &ScalarValue, data_type: &DataType) -> Result<Option<Truncate>> {
    let DataType::Timestamp(time_unit, zone) = data_type else { return Ok(None) };
    let Some(period) = unit.try_as_str().flatten().and_then(Period::named) else { return Ok(None) };
    let zone = zone.as_deref();
    let rules = Zone::of_type(zone).ok_or_else(|| exec_datafusion_err!("{}", unknown(zone.unwrap_or_default())))?;
    Ok(Some(Truncate::new(rules, period, per_second(*time_unit))))
}

fn ascends(data_type: &DataType) -> bool {
    match data_type {
        DataType::Timestamp(_, zone) => dates_ascend(zone.as_deref()),
        DataType::Time32(_) | DataType::Time64(_) => true,
        _ => false,
    }
}

/// The values of the period that starts here, as a half-open range; none if no period does.
fn period(start: &ScalarValue, mut truncate: Truncate) -> Option<(i64, i64)> {
    let value = match start {
        ScalarValue::TimestampSecond(value, _)
        | ScalarValue::TimestampMillisecond(value, _)
        | ScalarValue::TimestampMicrosecond(value, _)
        | ScalarValue::TimestampNanosecond(value, _) => (*value)?,
        _ => return None,
    };
    let range = truncate.range(value)?;
    (range.0 == value).then_some(range)
}

fn timestamp(value: i64, data_type: &DataType) -> Option<ScalarValue> {
    let DataType::Timestamp(unit, zone) = data_type else { return None };
    Some(match unit {
        TimeUnit::Second => ScalarValue::TimestampSecond(Some(value), zone.clone()),
        TimeUnit::Millisecond => ScalarValue::TimestampMillisecond(Some(value), zone.clone()),
        TimeUnit::Microsecond => ScalarValue::TimestampMicrosecond(Some(value), zone.clone()),
        TimeUnit::Nanosecond => ScalarValue::TimestampNanosecond(Some(value), zone.clone()),
    })
}

fn starts(times: &ArrayRef, truncate: &mut Truncate) -> Result<ArrayRef> {
    match times.data_type() {
        DataType::Timestamp(TimeUnit::Second, _) => starts_of::<TimestampSecondType>(times, truncate),
        DataType::Timestamp(TimeUnit::Millisecond, _) => starts_of::<TimestampMillisecondType>(times, truncate),
        DataType::Timestamp(TimeUnit::Microsecond, _) => starts_of::<TimestampMicrosecondType>(times, truncate),
        _ => starts_of::<TimestampNanosecondType>(times, truncate),
    }
}

fn starts_of<T: ArrowTimestampType>(times: &ArrayRef, truncate: &mut Truncate) -> Result<ArrayRef> {
    let times = times.as_primitive::<T>();
    let mut starts = Vec::with_capacity(times.len());
    match times.nulls() {
        None => {
            let mut rest: &[i64] = times.values();
            while let Some(&first) = rest.first() {
                let start = truncate.start(first).ok_or_else(out_of_range)?;
                // Sorted times stay in one period for many rows.
                let run = 1 + rest[1..].iter().take_while(|&&value| truncate.holds(value)).count();
                starts.resize(starts.len() + run, start);
                rest = &rest[run..];
            }
        }
        Some(nulls) => {
            for (&value, valid) in times.values().iter().zip(nulls) {
                starts.push(if valid { truncate.start(value).ok_or_else(out_of_range)? } else { 0 });
            }
        }
    }
    let starts = PrimitiveArray::<T>::new(starts.into(), times.nulls().cloned());
    Ok(Arc::new(starts.with_data_type(times.data_type().clone())))
}

fn out_of_range() -> DataFusionError {
    exec_datafusion_err!("date_trunc: the start of a period is beyond what a timestamp can hold")
}
