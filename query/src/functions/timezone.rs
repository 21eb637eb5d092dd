//! `timezone('Europe/Berlin', time)`, which is what `time AT TIME ZONE 'Europe/Berlin'` becomes: an instant as clocks of
//! that zone show it, in its own unit; or the instant of a local time there.
//!
//! DataFusion plans `AT TIME ZONE` as a cast to nanoseconds, which end in 2262, and under the name of what is cast.

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, FieldRef, TimeUnit};
use datafusion::common::{Result, internal_err, plan_err};
use datafusion::logical_expr::simplify::{ExprSimplifyResult, SimplifyContext};
use datafusion::logical_expr::{
    Cast, ColumnarValue, Expr, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDFImpl, Signature, Volatility,
};

use super::instant::Instant;
use crate::time::{Zone, unknown};

/// See the module.
#[derive(Debug, PartialEq, Eq, Hash)]
pub(super) struct Timezone {
    signature: Signature,
}

impl Timezone {
    pub(super) fn new() -> Self {
        Self { signature: Signature::any(2, Volatility::Immutable) }
    }
}

impl ScalarUDFImpl for Timezone {
    fn name(&self) -> &str {
        "timezone"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        internal_err!("the type depends on the zone's name")
    }

    fn return_field_from_args(&self, args: ReturnFieldArgs<'_>) -> Result<FieldRef> {
        let Some(zone) = args.scalar_arguments.first().copied().flatten().and_then(|zone| zone.try_as_str().flatten())
        else {
            return plan_err!("AT TIME ZONE takes the name of a zone as a text, such as 'Europe/Berlin'");
        };
        if Zone::named(zone).is_none() {
            return plan_err!("{}", unknown(zone));
        }
        let Some(time) = args.arg_fields.get(1) else { return plan_err!("timezone takes a zone and a time") };
        let unit = match time.data_type() {
            DataType::Timestamp(unit, _) => *unit,
            DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => TimeUnit::Microsecond,
            DataType::Date32 | DataType::Date64 | DataType::Null => TimeUnit::Microsecond,
            other => return plan_err!("AT TIME ZONE takes a time, not {other}"),
        };
        Ok(Arc::new(Field::new(self.name(), DataType::Timestamp(unit, Some(zone.into())), time.is_nullable())))
    }

    fn schema_name(&self, args: &[Expr]) -> Result<String> {
        match args {
            [Expr::Literal(zone, _), time] => {
                let zone = zone.try_as_str().flatten().unwrap_or_default();
                Ok(format!("{} AT TIME ZONE '{zone}'", time.schema_name()))
            }
            _ => Ok(self.name().to_owned()),
        }
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        match args.args.get(1) {
            Some(time) => Instant::new(args.return_field.data_type().clone()).convert(time),
            None => internal_err!("timezone takes a zone and a time"),
        }
    }

    /// An instant in another zone is a cast, which comparisons and the order of rows see through.
    fn simplify(&self, mut args: Vec<Expr>, info: &SimplifyContext) -> Result<ExprSimplifyResult> {
        let zone = match args.as_slice() {
            [Expr::Literal(zone, _), _] => zone.try_as_str().flatten().map(Arc::<str>::from),
            _ => None,
        };
        let (Some(zone), Some(time)) = (zone, args.pop()) else { return Ok(ExprSimplifyResult::Original(args)) };
        Ok(ExprSimplifyResult::Simplified(match info.get_data_type(&time)? {
            DataType::Timestamp(unit, Some(_)) => {
                Expr::Cast(Cast::new(Box::new(time), DataType::Timestamp(unit, Some(zone))))
            }
            DataType::Timestamp(unit, None) => Instant::new(DataType::Timestamp(unit, Some(zone))).call(time),
            _ => Instant::new(DataType::Timestamp(TimeUnit::Microsecond, Some(zone))).call(time),
        }))
    }
}
