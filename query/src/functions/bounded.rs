//! Functions of DataFusion that make long texts out of short ones, held to a length.
//!
//! What an expression makes is not counted by the memory pool: `repeat('x', 2000000000)` is two gigabytes before
//! anybody looks, while it is planned already. So these say before they compute how long a text could become, and a
//! text is never longer than a batch of such texts may be.

use std::sync::Arc;

use arrow::array::{Array, AsArray};
use arrow::datatypes::{DataType, FieldRef, Int64Type};
use datafusion::common::{Result, ScalarValue, exec_err};
use datafusion::logical_expr::{
    ColumnarValue, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature,
};

/// How long a function's result can become.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Growth {
    /// So many times the text.
    Times,
    /// So many characters, each of four bytes at most; or the text as it was.
    Padded,
    /// A replacement at every byte and at the end.
    Replaced,
    /// The same, and what was found may come back within each.
    ReplacedWithGroups,
}

/// The functions that are held.
const FUNCTIONS: [(&str, Growth); 5] = [
    ("repeat", Growth::Times),
    ("lpad", Growth::Padded),
    ("rpad", Growth::Padded),
    ("replace", Growth::Replaced),
    ("regexp_replace", Growth::ReplacedWithGroups),
];

/// The same functions, those among them held to so many bytes that can make long texts.
pub(crate) fn bounded(functions: Vec<Arc<ScalarUDF>>, text_bytes_max: usize) -> Vec<Arc<ScalarUDF>> {
    let hold = |function: Arc<ScalarUDF>| match FUNCTIONS.iter().find(|(name, _)| *name == function.name()) {
        Some((_, growth)) => Arc::new(ScalarUDF::new_from_impl(Bounded { function, growth: *growth, text_bytes_max })),
        None => function,
    };
    functions.into_iter().map(hold).collect()
}

impl Growth {
    /// Bytes of the longest text that could come out.
    fn bytes_max(self, args: &[ColumnarValue]) -> usize {
        let text = longest(args.first());
        let replaced = |each: usize| text.saturating_add(text.saturating_add(1).saturating_mul(each));
        match self {
            Self::Times => text.saturating_mul(greatest(args.get(1))),
            Self::Padded => greatest(args.get(1)).saturating_mul(4),
            Self::Replaced => replaced(longest(args.get(2))),
            Self::ReplacedWithGroups => {
                // A group is named by two bytes at least.
                let by = longest(args.get(2));
                replaced(by.saturating_add(text.saturating_mul(by / 2)))
            }
        }
    }
}

/// The longest of the texts, in bytes.
fn longest(value: Option<&ColumnarValue>) -> usize {
    match value {
        Some(ColumnarValue::Scalar(scalar)) => scalar.try_as_str().flatten().map_or(0, str::len),
        Some(ColumnarValue::Array(array)) => {
            let lengths = |texts: &mut dyn Iterator<Item = Option<&str>>| texts.flatten().map(str::len).max();
            let longest = match array.data_type() {
                DataType::Utf8 => lengths(&mut array.as_string::<i32>().iter()),
                DataType::LargeUtf8 => lengths(&mut array.as_string::<i64>().iter()),
                DataType::Utf8View => lengths(&mut array.as_string_view().iter()),
                _ => None,
            };
            longest.unwrap_or(0)
        }
        None => 0,
    }
}

/// The greatest of the numbers; zero for those below.
fn greatest(value: Option<&ColumnarValue>) -> usize {
    let number = match value {
        Some(ColumnarValue::Scalar(ScalarValue::Int64(number))) => *number,
        Some(ColumnarValue::Array(array)) => array.as_primitive_opt::<Int64Type>().and_then(arrow::compute::max),
        _ => None,
    };
    number.map_or(0, |number| usize::try_from(number).unwrap_or(0))
}

/// See the module.
#[derive(Debug, PartialEq, Eq, Hash)]
struct Bounded {
    function: Arc<ScalarUDF>,
    growth: Growth,
    text_bytes_max: usize,
}

impl ScalarUDFImpl for Bounded {
    fn name(&self) -> &str {
        self.function.name()
    }

    fn aliases(&self) -> &[String] {
        self.function.aliases()
    }

    fn signature(&self) -> &Signature {
        self.function.signature()
    }

    fn return_type(&self, types: &[DataType]) -> Result<DataType> {
        self.function.return_type(types)
    }

    fn return_field_from_args(&self, args: ReturnFieldArgs<'_>) -> Result<FieldRef> {
        self.function.return_field_from_args(args)
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let bytes = self.growth.bytes_max(&args.args);
        if bytes > self.text_bytes_max {
            let (name, most) = (self.name(), self.text_bytes_max);
            return exec_err!("{name} could make a text of {bytes} bytes here; at most {most} are made");
        }
        self.function.invoke_with_args(args)
    }
}
