//! `to_timestamp(…)` and its siblings of a certain unit, in place of DataFusion's, which fail for columns of texts when a
//! session has a time zone, and read every text through nanoseconds.
//!
//! Texts without formats are read here; numbers, and texts with formats, by DataFusion's function without a zone. Results
//! are in UTC, those of `to_timestamp` in microseconds, as those of `TIMESTAMP`.

use std::sync::Arc;

use arrow::datatypes::{DataType, TimeUnit};
use datafusion::common::{Result, ScalarValue, internal_err};
use datafusion::logical_expr::{
    ColumnarValue, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature,
};

use super::instant::Instant;

/// See the module.
#[derive(Debug, PartialEq, Eq, Hash)]
pub(super) struct ToTimestamp {
    function: Arc<ScalarUDF>,
    to: DataType,
}

/// The same functions, with those among them in their places that make timestamps of texts.
pub(crate) fn to_timestamps(functions: Vec<Arc<ScalarUDF>>) -> Vec<Arc<ScalarUDF>> {
    let replaced = |function: Arc<ScalarUDF>| {
        let unit = match function.name() {
            "to_timestamp" | "to_timestamp_micros" => TimeUnit::Microsecond,
            "to_timestamp_seconds" => TimeUnit::Second,
            "to_timestamp_millis" => TimeUnit::Millisecond,
            "to_timestamp_nanos" => TimeUnit::Nanosecond,
            _ => return function,
        };
        let to = DataType::Timestamp(unit, Some("+00:00".into()));
        Arc::new(ScalarUDF::new_from_impl(ToTimestamp { function, to }))
    };
    functions.into_iter().map(replaced).collect()
}

impl ScalarUDFImpl for ToTimestamp {
    fn name(&self) -> &str {
        self.function.name()
    }

    fn signature(&self) -> &Signature {
        self.function.signature()
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(self.to.clone())
    }

    fn invoke_with_args(&self, mut args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        use DataType::{LargeUtf8, Utf8, Utf8View};
        let instant = Instant::new(self.to.clone());
        if let [value] = args.args.as_slice()
            && matches!(value.data_type(), Utf8 | LargeUtf8 | Utf8View | DataType::Timestamp(..))
        {
            return instant.convert(value);
        }
        let inner = self.function.return_field_from_args(ReturnFieldArgs {
            arg_fields: &args.arg_fields,
            scalar_arguments: &vec![None::<&ScalarValue>; args.arg_fields.len()],
        })?;
        args.return_field = inner;
        match self.function.invoke_with_args(args)? {
            value if matches!(value.data_type(), DataType::Timestamp(..)) => instant.convert(&value),
            other => internal_err!("{} made {}", self.name(), other.data_type()),
        }
    }
}
