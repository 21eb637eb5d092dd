//! `held(value)`: the value. Not a function that can be called: it stands around expressions that are no functions, so
//! that what they make is counted as a function's result is.

use std::sync::Arc;

use arrow::datatypes::{DataType, FieldRef};
use datafusion::common::{Result, exec_datafusion_err};
use datafusion::logical_expr::{
    ColumnarValue, Expr, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDFImpl, Signature, Volatility,
};

/// See the module.
#[derive(Debug, PartialEq, Eq, Hash)]
pub(super) struct Held {
    signature: Signature,
    /// The value's, as the logical plan has it: the physical one can be less sure that CASE is never NULL, and their
    /// schemas must agree.
    field: FieldRef,
}

impl Held {
    pub(super) fn new(field: FieldRef) -> Self {
        Self { signature: Signature::any(1, Volatility::Immutable), field }
    }
}

impl ScalarUDFImpl for Held {
    fn name(&self) -> &str {
        "held"
    }

    /// That of the value, so that columns keep their names.
    fn schema_name(&self, args: &[Expr]) -> Result<String> {
        Ok(args.first().map(|value| value.schema_name().to_string()).unwrap_or_default())
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(self.field.data_type().clone())
    }

    fn return_field_from_args(&self, _: ReturnFieldArgs<'_>) -> Result<FieldRef> {
        Ok(Arc::clone(&self.field))
    }

    fn invoke_with_args(&self, mut args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        args.args.pop().ok_or_else(|| exec_datafusion_err!("held takes one value"))
    }
}
