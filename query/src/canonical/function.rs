//! `canonical_float`: the scalar function that the analyzer puts around expressions. It is not registered, so that a
//! statement cannot call it.

use std::sync::{Arc, LazyLock};

use arrow::datatypes::{DataType, FieldRef};
use datafusion::common::{Result, internal_err};
use datafusion::logical_expr::expr::ScalarFunction;
use datafusion::logical_expr::sort_properties::{ExprProperties, SortProperties};
use datafusion::logical_expr::{
    ColumnarValue, Expr, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility,
};

use super::{canonical_array, canonical_scalar};

static FUNCTION: LazyLock<Arc<ScalarUDF>> = LazyLock::new(|| {
    let signature = Signature::any(1, Volatility::Immutable);
    Arc::new(ScalarUDF::new_from_impl(CanonicalFloat { signature }))
});

/// The expression with a canonical value.
pub(super) fn wrapped(expr: Expr) -> Expr {
    Expr::ScalarFunction(ScalarFunction::new_udf(Arc::clone(&FUNCTION), vec![expr]))
}

/// Whether this is a [`wrapped`] expression.
pub(super) fn is_wrapped(expr: &Expr) -> bool {
    matches!(expr, Expr::ScalarFunction(function) if function.func.inner().is::<CanonicalFloat>())
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
}

impl ScalarUDFImpl for CanonicalFloat {
    fn name(&self) -> &'static str {
        "canonical_float"
    }

    /// That of the expression within: columns keep the names that the statement gave them.
    fn schema_name(&self, args: &[Expr]) -> Result<String> {
        let [expr] = args else { return internal_err!("canonical_float takes one argument") };
        Ok(expr.schema_name().to_string())
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

    fn output_ordering(&self, inputs: &[ExprProperties]) -> Result<SortProperties> {
        // Negative zero is next to 0.0 in the order of floats. NaNs of negative sign are not next to the others, but
        // no ordering is ever known of expressions that make them.
        let [input] = inputs else { return internal_err!("canonical_float takes one argument") };
        Ok(input.sort_properties)
    }
}
