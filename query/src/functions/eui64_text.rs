//! `eui64_text(logger)`: a logger's id as people write it, 16 upper-case hexadecimal digits, after `0x` if they could be
//! taken for a decimal number: the form that `eui64`, `export` and `gateway send` take.

use std::fmt::{self, Display as _, Write};
use std::sync::Arc;

use arrow::array::{AsArray, StringBuilder};
use arrow::datatypes::{DataType, UInt64Type};
use datafusion::common::{Result, ScalarValue, exec_datafusion_err};
use datafusion::logical_expr::{ColumnarValue, ScalarFunctionArgs, ScalarUDFImpl, Signature, Volatility};
use storage_format::LoggerId;

#[derive(Debug, PartialEq, Eq, Hash)]
pub(super) struct Eui64Text {
    signature: Signature,
}

impl Eui64Text {
    pub(super) fn new() -> Self {
        Self { signature: Signature::exact(vec![DataType::UInt64], Volatility::Immutable) }
    }
}

impl ScalarUDFImpl for Eui64Text {
    fn name(&self) -> &str {
        "eui64_text"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(DataType::Utf8)
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        match args.args.first() {
            Some(ColumnarValue::Scalar(ScalarValue::UInt64(id))) => {
                Ok(ColumnarValue::Scalar(ScalarValue::Utf8(id.map(|id| text(id).to_string()))))
            }
            Some(ColumnarValue::Array(array)) => {
                let ids = array
                    .as_primitive_opt::<UInt64Type>()
                    .ok_or_else(|| exec_datafusion_err!("eui64_text takes an unsigned number"))?;
                let mut texts = StringBuilder::with_capacity(ids.len(), ids.len() * 16);
                for id in ids {
                    match id {
                        Some(id) => {
                            write!(texts, "{}", text(id)).map_err(|error| exec_datafusion_err!("{error}"))?;
                            texts.append_value("");
                        }
                        None => texts.append_null(),
                    }
                }
                Ok(ColumnarValue::Array(Arc::new(texts.finish())))
            }
            _ => Err(exec_datafusion_err!("eui64_text takes an unsigned number")),
        }
    }
}

/// How an id is written; zero, which is none, as 16 zeros.
fn text(id: u64) -> impl fmt::Display {
    fmt::from_fn(move |f| match LoggerId::new(id) {
        Ok(logger) => logger.fmt(f),
        Err(_) => write!(f, "{id:016X}"),
    })
}
