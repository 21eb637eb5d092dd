//! Functions of DataFusion that make long texts out of short ones, held to a length.
//!
//! `repeat('x', 2000000000)` is two gigabytes before anybody can count them, while it is planned already. So these say
//! before they compute how long a text could become, and a text is never longer than a batch of such texts may be.
//! What all texts of a query take together is counted when they are made ([`crate::budget`]).

use std::sync::Arc;

use arrow::array::{Array, AsArray};
use arrow::datatypes::{DataType, FieldRef, Int64Type};
use datafusion::common::{Result, ScalarValue, exec_err};
use datafusion::logical_expr::simplify::{ExprSimplifyResult, SimplifyContext};
use datafusion::logical_expr::{
    ColumnarValue, Expr, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature,
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
    /// All texts after each other.
    Joined,
    /// The texts after the first, with the first between them.
    JoinedBy,
    /// So many bytes for each byte of the text.
    Scaled(usize),
    /// So many bytes for each byte of the second text.
    Formatted(usize),
    /// The text once for each group of the pattern.
    Groups,
}

/// The functions that are held.
const FUNCTIONS: [(&str, Growth); 12] = [
    ("concat", Growth::Joined),
    ("concat_ws", Growth::JoinedBy),
    ("encode", Growth::Scaled(2)),
    // A byte can become a sign of four.
    ("translate", Growth::Scaled(4)),
    ("overlay", Growth::Joined),
    // Two bytes such as `%c` stand for a time with all its parts.
    ("to_char", Growth::Formatted(16)),
    ("regexp_match", Growth::Groups),
    ("repeat", Growth::Times),
    ("lpad", Growth::Padded),
    ("rpad", Growth::Padded),
    ("replace", Growth::Replaced),
    ("regexp_replace", Growth::ReplacedWithGroups),
];

/// How long a text may become.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct TextLimits {
    /// Bytes of one text.
    pub(crate) text_bytes_max: usize,
    /// Bytes of all texts that are made at once: where there are few rows, each may be longer.
    pub(crate) batch_bytes_max: usize,
}

impl TextLimits {
    /// Bytes of one of the texts that are made of these arguments. A constant may be made for every row of a batch yet.
    pub(crate) fn bytes_max(self, args: &[ColumnarValue]) -> usize {
        let rows = args.iter().find_map(|arg| match arg {
            ColumnarValue::Array(array) => Some(array.len()),
            ColumnarValue::Scalar(_) => None,
        });
        rows.map_or(0, |rows| self.batch_bytes_max / rows.max(1)).max(self.text_bytes_max)
    }
}

/// The same functions, those among them held to a length that can make long texts.
pub(crate) fn bounded(functions: Vec<Arc<ScalarUDF>>, limits: TextLimits) -> Vec<Arc<ScalarUDF>> {
    let hold = |function: Arc<ScalarUDF>| match FUNCTIONS.iter().find(|(name, _)| *name == function.name()) {
        Some((_, growth)) => Arc::new(ScalarUDF::new_from_impl(Bounded { function, growth: *growth, limits })),
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
            Self::Joined => args.iter().map(|arg| longest(Some(arg))).fold(0, usize::saturating_add),
            Self::JoinedBy => {
                args.iter().map(|arg| longest(Some(arg)).saturating_add(text)).fold(0, usize::saturating_add)
            }
            Self::Scaled(times) => text.saturating_mul(times),
            Self::Formatted(times) => longest(args.get(1)).saturating_mul(times),
            // A group is named by two bytes at least.
            Self::Groups => text.saturating_mul(longest(args.get(1)) / 2 + 1),
        }
    }
}

/// The longest of the texts, in bytes.
pub(crate) fn longest(value: Option<&ColumnarValue>) -> usize {
    match value {
        Some(ColumnarValue::Scalar(ScalarValue::Binary(bytes) | ScalarValue::LargeBinary(bytes))) => {
            bytes.as_ref().map_or(0, Vec::len)
        }
        Some(ColumnarValue::Scalar(scalar)) => scalar.try_as_str().flatten().map_or(0, str::len),
        Some(ColumnarValue::Array(array)) => longest_text(array),
        None => 0,
    }
}

/// The longest of the texts or byte strings of an array, in bytes; 0 for anything else.
pub(crate) fn longest_text(array: &dyn Array) -> usize {
    fn of_offsets<T: Copy + Into<i64>>(offsets: &[T]) -> usize {
        let lengths = offsets.windows(2).map(|pair| pair[1].into() - pair[0].into());
        lengths.max().map_or(0, |longest| usize::try_from(longest).unwrap_or(usize::MAX))
    }
    fn of_views(lengths: &mut dyn Iterator<Item = u32>) -> usize {
        lengths.max().map_or(0, |longest| usize::try_from(longest).unwrap_or(usize::MAX))
    }
    match array.data_type() {
        DataType::Utf8 => of_offsets(array.as_string::<i32>().offsets()),
        DataType::LargeUtf8 => of_offsets(array.as_string::<i64>().offsets()),
        DataType::Binary => of_offsets(array.as_binary::<i32>().offsets()),
        DataType::LargeBinary => of_offsets(array.as_binary::<i64>().offsets()),
        DataType::Utf8View => of_views(&mut array.as_string_view().lengths()),
        DataType::BinaryView => of_views(&mut array.as_binary_view().lengths()),
        _ => 0,
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
    limits: TextLimits,
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

    fn coerce_types(&self, types: &[DataType]) -> Result<Vec<DataType>> {
        self.function.inner().coerce_types(types)
    }

    fn is_strict(&self) -> bool {
        self.function.inner().is_strict()
    }

    /// None: it would put the function that is not held in this one's place.
    fn simplify(&self, args: Vec<Expr>, _: &SimplifyContext) -> Result<ExprSimplifyResult> {
        Ok(ExprSimplifyResult::Original(args))
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let (bytes, most) = (self.growth.bytes_max(&args.args), self.limits.bytes_max(&args.args));
        if bytes > most {
            let name = self.name();
            return exec_err!("{name} could make a text of {bytes} bytes here; at most {most} are made");
        }
        self.function.invoke_with_args(args)
    }
}
