//! `eui64('00124B000A6E0001')`: a logger's id from its text, in every form that [`LoggerId`] takes. Immutable, so that a literal becomes a number while the
//! query is planned, and prunes segments.

use std::sync::Arc;

use arrow::array::{AsArray, UInt64Array};
use arrow::datatypes::DataType;
use datafusion::common::cast::as_string_array;
use datafusion::common::{Result, ScalarValue, exec_datafusion_err};
use datafusion::logical_expr::{ColumnarValue, ScalarFunctionArgs, ScalarUDFImpl, Signature, Volatility};
use storage_format::LoggerId;

#[derive(Debug, PartialEq, Eq, Hash)]
pub(super) struct Eui64 {
    signature: Signature,
}

impl Eui64 {
    pub(super) fn new() -> Self {
        Self { signature: Signature::string(1, Volatility::Immutable) }
    }
}

impl ScalarUDFImpl for Eui64 {
    fn name(&self) -> &str {
        "eui64"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(DataType::UInt64)
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        match args.args.first() {
            Some(ColumnarValue::Scalar(scalar)) => {
                let text = scalar.try_as_str().flatten();
                Ok(ColumnarValue::Scalar(ScalarValue::UInt64(text.map(parse).transpose()?)))
            }
            Some(ColumnarValue::Array(array)) => {
                let ids: UInt64Array = match array.data_type() {
                    DataType::Utf8View => {
                        array.as_string_view().iter().map(|text| text.map(parse).transpose()).collect::<Result<_>>()?
                    }
                    DataType::LargeUtf8 => array
                        .as_string::<i64>()
                        .iter()
                        .map(|text| text.map(parse).transpose())
                        .collect::<Result<_>>()?,
                    _ => {
                        as_string_array(array)?.iter().map(|text| text.map(parse).transpose()).collect::<Result<_>>()?
                    }
                };
                Ok(ColumnarValue::Array(Arc::new(ids)))
            }
            None => Err(exec_datafusion_err!("eui64 takes one text")),
        }
    }
}

fn parse(text: &str) -> Result<u64> {
    text.parse::<LoggerId>().map(LoggerId::get).map_err(|error| exec_datafusion_err!("eui64: {error}"))
}
