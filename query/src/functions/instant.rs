//! Casts of texts, dates and timestamps to timestamps, as a function that only the planner calls
//! ([`crate::analyzer`]): local times that come twice or never are instants too, and units are rounded as asked.
//!
//! The casts of Arrow refuse such times, count in nanoseconds on the way, and take a time without a zone from one with a
//! zone by leaving the zone out. A text without an offset is a local time of the zone of the wanted type.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, PrimitiveArray, StringArrayType, new_null_array};
use arrow::compute::cast;
use arrow::datatypes::{
    ArrowTimestampType, DataType, Date32Type, Field, FieldRef, Int64Type, TimeUnit, TimestampMicrosecondType,
    TimestampMillisecondType, TimestampNanosecondType, TimestampSecondType,
};
use datafusion::common::{DataFusionError, Result, ScalarValue, exec_datafusion_err, internal_err};
use datafusion::logical_expr::{
    ColumnarValue, Expr, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility,
};

use crate::time::{Rounding, Stamp, WANTED, Zone, parse, unknown};

/// See the module.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Instant {
    signature: Signature,
    /// The wanted timestamp.
    to: DataType,
    rounding: Rounding,
    /// What has no value becomes NULL rather than an error.
    or_null: bool,
}

impl Instant {
    /// To this type, which is a timestamp, without parts of its unit.
    pub(crate) fn new(to: DataType) -> Self {
        Self { signature: Signature::any(1, Volatility::Immutable), to, rounding: Rounding::Down, or_null: false }
    }

    pub(crate) fn rounding(self, rounding: Rounding) -> Self {
        Self { rounding, ..self }
    }

    pub(crate) fn or_null(self) -> Self {
        Self { or_null: true, ..self }
    }

    /// The call with this argument; its value, if the argument is one that has a value.
    pub(crate) fn call(self, expr: Expr) -> Expr {
        if let Expr::Literal(value, metadata) = &expr
            && let Ok(ColumnarValue::Scalar(value)) = self.convert(&ColumnarValue::Scalar(value.clone()))
        {
            return Expr::Literal(value, metadata.clone());
        }
        ScalarUDF::new_from_impl(self).call(vec![expr])
    }

    /// Converts one value or a column.
    pub(crate) fn convert(&self, value: &ColumnarValue) -> Result<ColumnarValue> {
        match value {
            ColumnarValue::Array(array) => Ok(ColumnarValue::Array(self.array(array)?)),
            ColumnarValue::Scalar(scalar) => {
                let array = self.array(&scalar.to_array()?)?;
                Ok(ColumnarValue::Scalar(ScalarValue::try_from_array(&array, 0)?))
            }
        }
    }

    fn array(&self, array: &ArrayRef) -> Result<ArrayRef> {
        let DataType::Timestamp(unit, _) = &self.to else { return internal_err!("{} is no timestamp", self.to) };
        match unit {
            TimeUnit::Second => self.timestamps::<TimestampSecondType>(array),
            TimeUnit::Millisecond => self.timestamps::<TimestampMillisecondType>(array),
            TimeUnit::Microsecond => self.timestamps::<TimestampMicrosecondType>(array),
            TimeUnit::Nanosecond => self.timestamps::<TimestampNanosecondType>(array),
        }
    }

    fn timestamps<T: ArrowTimestampType>(&self, array: &ArrayRef) -> Result<ArrayRef> {
        let DataType::Timestamp(_, to) = &self.to else { return internal_err!("{} is no timestamp", self.to) };
        let zone = zone_of(to.as_deref())?;
        let local = |stamp: Stamp| if to.is_some() { stamp.first_instant(zone) } else { Some(stamp) };
        let values: PrimitiveArray<T> = match array.data_type() {
            DataType::Null => return Ok(new_null_array(&self.to, array.len())),
            DataType::Utf8 => self.texts(array.as_string::<i32>(), zone)?,
            DataType::LargeUtf8 => self.texts(array.as_string::<i64>(), zone)?,
            DataType::Utf8View => self.texts(array.as_string_view(), zone)?,
            DataType::Date32 => {
                let days = array.as_primitive::<Date32Type>();
                self.numbers(days.iter(), |day| local(Stamp::of_day(day)))?
            }
            DataType::Date64 => {
                let times = cast(array, &DataType::Int64)?;
                let times = times.as_primitive::<Int64Type>();
                self.numbers(times.iter(), |ms| local(Stamp::of(ms, TimeUnit::Millisecond)))?
            }
            DataType::Timestamp(unit, from) => {
                let shown = zone_of(from.as_deref())?;
                let values = cast(array, &DataType::Int64)?;
                let values = values.as_primitive::<Int64Type>();
                self.numbers(values.iter(), |value| {
                    let stamp = Stamp::of(value, *unit);
                    match (from.is_some(), to.is_some()) {
                        (true, false) => stamp.local(shown),
                        (false, true) => local(stamp),
                        _ => Some(stamp),
                    }
                })?
            }
            other => return internal_err!("{other} is no time"),
        };
        Ok(Arc::new(values.with_data_type(self.to.clone())))
    }

    fn texts<'a, T: ArrowTimestampType>(
        &self,
        texts: impl StringArrayType<'a>,
        zone: Zone,
    ) -> Result<PrimitiveArray<T>> {
        let time = |text: &str| {
            let Some(stamp) = parse(text, zone) else {
                let text: String = text.chars().take(64).collect();
                return Err(exec_datafusion_err!("'{text}' is not a time; {WANTED}"));
            };
            stamp.to(T::UNIT, self.rounding).ok_or_else(|| out_of_range(T::UNIT))
        };
        self.collect(texts.iter().map(|text| text.map(time)))
    }

    fn numbers<T: ArrowTimestampType, N>(
        &self,
        values: impl Iterator<Item = Option<N>>,
        stamp: impl Fn(N) -> Option<Stamp>,
    ) -> Result<PrimitiveArray<T>> {
        let value = |value: N| {
            stamp(value).and_then(|stamp| stamp.to(T::UNIT, self.rounding)).ok_or_else(|| out_of_range(T::UNIT))
        };
        self.collect(values.map(|number| number.map(value)))
    }

    fn collect<T: ArrowTimestampType>(
        &self,
        values: impl Iterator<Item = Option<Result<i64>>>,
    ) -> Result<PrimitiveArray<T>> {
        values
            .map(|value| match value {
                Some(Err(_)) if self.or_null => Ok(None),
                other => other.transpose(),
            })
            .collect()
    }
}

fn zone_of(name: Option<&str>) -> Result<Zone> {
    Zone::of_type(name).ok_or_else(|| exec_datafusion_err!("{}", unknown(name.unwrap_or_default())))
}

fn out_of_range(unit: TimeUnit) -> DataFusionError {
    match unit {
        TimeUnit::Nanosecond => {
            exec_datafusion_err!("a time is beyond what nanoseconds can hold, the years 1677 to 2262; use TIMESTAMP")
        }
        _ => exec_datafusion_err!("a time is beyond what a timestamp can hold"),
    }
}

impl ScalarUDFImpl for Instant {
    fn name(&self) -> &str {
        match self.rounding {
            Rounding::Down => "instant",
            Rounding::Up => "instant_rounded_up",
        }
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(self.to.clone())
    }

    fn return_field_from_args(&self, args: ReturnFieldArgs<'_>) -> Result<FieldRef> {
        let nullable = self.or_null || args.arg_fields.iter().any(|field| field.is_nullable());
        Ok(Arc::new(Field::new(self.name(), self.to.clone(), nullable)))
    }

    fn is_strict(&self) -> bool {
        true
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        match args.args.first() {
            Some(value) => self.convert(value),
            None => internal_err!("{} takes one value", self.name()),
        }
    }
}
