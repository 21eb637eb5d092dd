//! `canonical_float`: the scalar function that the analyzer puts around expressions. It is not registered, so that a
//! statement cannot call it.

use std::sync::Arc;

use arrow::datatypes::{DataType, FieldRef};
use datafusion::common::{Result, internal_err};
use datafusion::logical_expr::expr::ScalarFunction;
use datafusion::logical_expr::interval_arithmetic::Interval;
use datafusion::logical_expr::{
    ColumnarValue, Expr, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility,
};

use super::{canonical_array, canonical_scalar};

/// The expression, which has this type, with a canonical value. In the condition of a join it may become a column beside
/// that which it casts, and must not have that one's name.
pub(super) fn wrapped(expr: Expr, data_type: DataType, in_condition: bool) -> Expr {
    let function = CanonicalFloat { signature: Signature::any(1, Volatility::Immutable), data_type, in_condition };
    Expr::ScalarFunction(ScalarFunction::new_udf(Arc::new(ScalarUDF::new_from_impl(function)), vec![expr]))
}

/// The type of a [`wrapped`] expression; `None` for others.
pub(super) fn wrapped_type(expr: &Expr) -> Option<&DataType> {
    let Expr::ScalarFunction(function) = expr else { return None };
    function.func.inner().downcast_ref::<CanonicalFloat>().map(|function| &function.data_type)
}

/// What is within a [`wrapped`] expression; any other as it is.
pub(super) fn unwrapped(expr: Expr) -> Expr {
    match expr {
        Expr::ScalarFunction(mut function)
            if function.func.inner().is::<CanonicalFloat>() && !function.args.is_empty() =>
        {
            function.args.swap_remove(0)
        }
        other => other,
    }
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct CanonicalFloat {
    signature: Signature,
    data_type: DataType,
    in_condition: bool,
}

impl ScalarUDFImpl for CanonicalFloat {
    fn name(&self) -> &'static str {
        "canonical_float"
    }

    /// That of the expression within: columns keep the names that the statement gave them. See [`wrapped`].
    fn schema_name(&self, args: &[Expr]) -> Result<String> {
        let [expr] = args else { return internal_err!("canonical_float takes one argument") };
        let name = expr.schema_name();
        Ok(if self.in_condition { format!("canonical_float({name})") } else { name.to_string() })
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, types: &[DataType]) -> Result<DataType> {
        let [data_type] = types else { return internal_err!("canonical_float takes one argument") };
        Ok(data_type.clone())
    }

    fn return_field_from_args(&self, args: ReturnFieldArgs<'_>) -> Result<FieldRef> {
        let [field] = args.arg_fields else { return internal_err!("canonical_float takes one argument") };
        Ok(Arc::clone(field))
    }

    fn is_strict(&self) -> bool {
        true
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let Ok([value]) = <[ColumnarValue; 1]>::try_from(args.args) else {
            return internal_err!("canonical_float takes one argument");
        };
        Ok(match value {
            ColumnarValue::Array(array) => ColumnarValue::Array(canonical_array(&array)?.unwrap_or(array)),
            ColumnarValue::Scalar(scalar) => ColumnarValue::Scalar(canonical_scalar(&scalar)?.unwrap_or(scalar)),
        })
    }

    /// Any value of the type. The range of an inner function is unknown even in its type, and what is computed from
    /// such a range has no ordering, so that a window ordered by it would be refused.
    fn evaluate_bounds(&self, _: &[&Interval]) -> Result<Interval> {
        Interval::make_unbounded(&self.data_type)
    }
}
