//! `held(value)`: the value. Not a function that can be called: it stands around expressions that are no functions, so
//! that what they make is counted as a function's result is.

use std::sync::Arc;

use arrow::datatypes::{DataType, FieldRef};
use datafusion::common::{DataFusionError, Result, exec_datafusion_err};
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
    /// Bytes of a value that is the same for all rows: an operator can make a whole column of it.
    constant_bytes_max: usize,
}

impl Held {
    pub(super) fn new(field: FieldRef, constant_bytes_max: usize) -> Self {
        Self { signature: Signature::any(1, Volatility::Immutable), field, constant_bytes_max }
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
        let value = args.args.pop().ok_or_else(|| exec_datafusion_err!("held takes one value"))?;
        match &value {
            ColumnarValue::Scalar(scalar) if scalar.size() > self.constant_bytes_max => {
                Err(DataFusionError::ResourcesExhausted(format!("a value of {} bytes for every row", scalar.size())))
            }
            _ => Ok(value),
        }
    }
}
