//! Operators on texts as functions, so that what holds for functions holds for them: `||` is held to a length, `LIKE`,
//! `SIMILAR TO` and `~` stop when the query is over.
//!
//! Each keeps the operator's name in schemas: a column without an alias is named by its expression.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, BinaryArray, BinaryViewBuilder, BooleanArray, LargeBinaryArray, LargeStringArray,
    StringArray, StringViewBuilder,
};
use arrow::buffer::{Buffer, NullBuffer, OffsetBuffer};
use arrow::compute::kernels::boolean::not;
use arrow::compute::kernels::comparison::{ilike, like, nilike, nlike};
use arrow::datatypes::DataType;
use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode};
use datafusion::common::{DataFusionError, Result, exec_err, internal_datafusion_err, internal_err};
use datafusion::functions::regex::regexp_like;
use datafusion::logical_expr::expr::{Like, ScalarFunction};
use datafusion::logical_expr::{
    BinaryExpr, ColumnarValue, Expr, LogicalPlan, Operator, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature,
    Volatility,
};
use datafusion::optimizer::AnalyzerRule;

use super::bounded::{TextLimits, longest};

/// The rule that puts a function into the place of `||`: before constants are folded, because a chain of `||` in
/// subqueries doubles a text at each link.
#[derive(Debug)]
pub(crate) struct JoinedTexts {
    pub(crate) limits: TextLimits,
}

impl AnalyzerRule for JoinedTexts {
    fn name(&self) -> &'static str {
        "joined_texts"
    }

    fn analyze(&self, plan: LogicalPlan, _: &ConfigOptions) -> Result<LogicalPlan> {
        plan.transform_up_with_subqueries(|node| {
            node.map_expressions(|expression| expression.transform_up(|part| Ok(self.joined(part))))
        })
        .data()
    }
}

impl JoinedTexts {
    fn joined(&self, expression: Expr) -> Transformed<Expr> {
        match expression {
            Expr::BinaryExpr(BinaryExpr { left, op: Operator::StringConcat, right }) => {
                // Operands of a chain become arguments of one function, which makes one text of them and no others.
                let args = operands(*left).into_iter().chain(operands(*right)).collect();
                let function =
                    Joined { limits: self.limits, signature: Signature::variadic_any(Volatility::Immutable) };
                let func = Arc::new(ScalarUDF::new_from_impl(function));
                Transformed::yes(Expr::ScalarFunction(ScalarFunction { func, args }))
            }
            other => Transformed::no(other),
        }
    }
}

fn operands(expression: Expr) -> Vec<Expr> {
    match expression {
        Expr::ScalarFunction(call) if call.func.inner().is::<Joined>() => call.args,
        other => vec![other],
    }
}

/// `a || b || …`: all operands after each other, or NULL if one of them is.
#[derive(Debug, PartialEq, Eq, Hash)]
struct Joined {
    limits: TextLimits,
    signature: Signature,
}

impl Joined {
    /// The texts of one row after the other, and where each ends.
    fn bytes(&self, args: &[ColumnarValue], rows: usize) -> Result<(Vec<u8>, Vec<usize>, Option<NullBuffer>)> {
        let arrays = args.iter().map(|arg| arg.to_array(1)).collect::<Result<Vec<_>>>()?;
        let columns =
            args.iter().zip(&arrays).map(|(arg, array)| Texts::new(arg, array)).collect::<Result<Vec<_>>>()?;
        let valid = |row: usize| columns.iter().all(|column| column.get(row).is_some());
        let lengths = (0..rows).filter(|row| valid(*row)).flat_map(|row| columns.iter().map(move |c| (c, row)));
        let bytes: usize = lengths.map(|(column, row)| column.get(row).map_or(0, <[u8]>::len)).sum();
        if bytes > self.limits.batch_bytes_max {
            return Err(DataFusionError::ResourcesExhausted(format!("texts of {bytes} bytes at once")));
        }
        let (mut joined, mut ends) = (Vec::with_capacity(bytes), Vec::with_capacity(rows));
        for row in 0..rows {
            if valid(row) {
                columns.iter().filter_map(|column| column.get(row)).for_each(|text| joined.extend_from_slice(text));
            }
            ends.push(joined.len());
        }
        let nulls = (0..rows).any(|row| !valid(row)).then(|| (0..rows).map(valid).collect::<NullBuffer>());
        Ok((joined, ends, nulls))
    }
}

impl ScalarUDFImpl for Joined {
    fn name(&self) -> &'static str {
        "||"
    }

    fn schema_name(&self, args: &[Expr]) -> Result<String> {
        Ok(args.iter().map(|arg| arg.schema_name().to_string()).collect::<Vec<_>>().join(" || "))
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    /// Of the operands: before this takes its place, the operator has given them one type.
    fn return_type(&self, types: &[DataType]) -> Result<DataType> {
        types.first().cloned().ok_or_else(|| internal_datafusion_err!("|| without operands"))
    }

    fn is_strict(&self) -> bool {
        true
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let longest = args.args.iter().map(|arg| longest(Some(arg))).fold(0, usize::saturating_add);
        let most = self.limits.bytes_max(&args.args);
        if longest > most {
            return exec_err!("|| could make a text of {longest} bytes here; at most {most} are made");
        }
        let constant = args.args.iter().all(|arg| matches!(arg, ColumnarValue::Scalar(_)));
        let (bytes, ends, nulls) = self.bytes(&args.args, if constant { 1 } else { args.number_rows })?;
        let array = array_of(args.return_type(), bytes, &ends, nulls)?;
        Ok(if constant {
            ColumnarValue::Scalar(datafusion::common::ScalarValue::try_from_array(&array, 0)?)
        } else {
            ColumnarValue::Array(array)
        })
    }
}

/// One operand's texts, or byte strings.
enum Texts<'a> {
    Same(Option<&'a [u8]>),
    Utf8(&'a StringArray),
    LargeUtf8(&'a LargeStringArray),
    Utf8View(&'a arrow::array::StringViewArray),
    Binary(&'a BinaryArray),
    LargeBinary(&'a LargeBinaryArray),
    BinaryView(&'a arrow::array::BinaryViewArray),
}

impl<'a> Texts<'a> {
    /// `array` is the operand, or has its one value.
    fn new(operand: &ColumnarValue, array: &'a ArrayRef) -> Result<Self> {
        let texts = match array.data_type() {
            DataType::Utf8 => Self::Utf8(array.as_string()),
            DataType::LargeUtf8 => Self::LargeUtf8(array.as_string()),
            DataType::Utf8View => Self::Utf8View(array.as_string_view()),
            DataType::Binary => Self::Binary(array.as_binary()),
            DataType::LargeBinary => Self::LargeBinary(array.as_binary()),
            DataType::BinaryView => Self::BinaryView(array.as_binary_view()),
            DataType::Null => Self::Same(None),
            other => return exec_err!("|| joins texts, not values of type {other}"),
        };
        Ok(match operand {
            ColumnarValue::Scalar(_) => Self::Same(texts.get(0)),
            ColumnarValue::Array(_) => texts,
        })
    }

    fn get(&self, row: usize) -> Option<&'a [u8]> {
        match self {
            Self::Same(text) => *text,
            Self::Utf8(texts) => texts.is_valid(row).then(|| texts.value(row).as_bytes()),
            Self::LargeUtf8(texts) => texts.is_valid(row).then(|| texts.value(row).as_bytes()),
            Self::Utf8View(texts) => texts.is_valid(row).then(|| texts.value(row).as_bytes()),
            Self::Binary(texts) => texts.is_valid(row).then(|| texts.value(row)),
            Self::LargeBinary(texts) => texts.is_valid(row).then(|| texts.value(row)),
            Self::BinaryView(texts) => texts.is_valid(row).then(|| texts.value(row)),
        }
    }
}

fn array_of(data_type: &DataType, bytes: Vec<u8>, ends: &[usize], nulls: Option<NullBuffer>) -> Result<ArrayRef> {
    let starts = || std::iter::once(0).chain(ends.iter().copied());
    let lengths = || starts().zip(ends).map(|(from, to)| to - from);
    let is_null = |row: usize| nulls.as_ref().is_some_and(|nulls| nulls.is_null(row));
    Ok(match data_type {
        DataType::Utf8 => {
            Arc::new(StringArray::try_new(OffsetBuffer::from_lengths(lengths()), Buffer::from_vec(bytes), nulls)?)
        }
        DataType::LargeUtf8 => {
            Arc::new(LargeStringArray::try_new(OffsetBuffer::from_lengths(lengths()), Buffer::from_vec(bytes), nulls)?)
        }
        DataType::Binary => {
            Arc::new(BinaryArray::try_new(OffsetBuffer::from_lengths(lengths()), Buffer::from_vec(bytes), nulls)?)
        }
        DataType::LargeBinary => {
            Arc::new(LargeBinaryArray::try_new(OffsetBuffer::from_lengths(lengths()), Buffer::from_vec(bytes), nulls)?)
        }
        DataType::Utf8View => {
            let mut views = StringViewBuilder::with_capacity(ends.len());
            for (row, (from, to)) in starts().zip(ends).enumerate() {
                let text = std::str::from_utf8(&bytes[from..*to]).map_err(|error| internal_datafusion_err!("{error}"));
                views.append_option((!is_null(row)).then_some(text?));
            }
            Arc::new(views.finish())
        }
        DataType::BinaryView => {
            let mut views = BinaryViewBuilder::with_capacity(ends.len());
            for (row, (from, to)) in starts().zip(ends).enumerate() {
                views.append_option((!is_null(row)).then_some(&bytes[from..*to]));
            }
            Arc::new(views.finish())
        }
        other => return exec_err!("|| joins texts, not values of type {other}"),
    })
}

/// The function for an operator that compares a text with a pattern. For others there is none.
pub(crate) fn matching(expression: Expr) -> std::result::Result<Expr, Expr> {
    let (pattern, args) = match expression {
        Expr::Like(Like { negated, expr, pattern, escape_char: None | Some('\\'), case_insensitive }) => {
            (Pattern::Like { negated, case_insensitive }, vec![*expr, *pattern])
        }
        Expr::SimilarTo(Like { negated, expr, pattern, escape_char: None, case_insensitive }) => {
            (Pattern::Similar { negated, case_insensitive }, vec![*expr, *pattern])
        }
        Expr::BinaryExpr(BinaryExpr {
            left,
            op: op @ (Operator::RegexMatch | Operator::RegexIMatch | Operator::RegexNotMatch | Operator::RegexNotIMatch),
            right,
        }) => (Pattern::Regex(op), vec![*left, *right]),
        other => return Err(other),
    };
    let function = Matching { pattern, signature: Signature::any(2, Volatility::Immutable) };
    let func = Arc::new(ScalarUDF::new_from_impl(function));
    Ok(Expr::ScalarFunction(ScalarFunction { func, args }))
}

/// The operator.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Pattern {
    Like { negated: bool, case_insensitive: bool },
    Similar { negated: bool, case_insensitive: bool },
    Regex(Operator),
}

/// See [`matching`].
#[derive(Debug, PartialEq, Eq, Hash)]
struct Matching {
    pattern: Pattern,
    signature: Signature,
}

impl ScalarUDFImpl for Matching {
    fn name(&self) -> &'static str {
        match self.pattern {
            Pattern::Like { .. } => "like",
            Pattern::Similar { .. } | Pattern::Regex(_) => "regexp_like",
        }
    }

    fn schema_name(&self, args: &[Expr]) -> Result<String> {
        let [text, pattern] = args else { return internal_err!("two operands") };
        let (text, pattern) = (Box::new(text.clone()), Box::new(pattern.clone()));
        let operator = match self.pattern {
            Pattern::Like { negated, case_insensitive } => {
                Expr::Like(Like { negated, expr: text, pattern, escape_char: None, case_insensitive })
            }
            Pattern::Similar { negated, case_insensitive } => {
                Expr::SimilarTo(Like { negated, expr: text, pattern, escape_char: None, case_insensitive })
            }
            Pattern::Regex(op) => Expr::BinaryExpr(BinaryExpr { left: text, op, right: pattern }),
        };
        Ok(operator.schema_name().to_string())
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(DataType::Boolean)
    }

    fn is_strict(&self) -> bool {
        true
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let (negated, case_insensitive) = match self.pattern {
            Pattern::Like { negated, case_insensitive } => {
                let [text, pattern] = args.args.as_slice() else { return internal_err!("two operands") };
                let compare = match (negated, case_insensitive) {
                    (false, false) => like,
                    (true, false) => nlike,
                    (false, true) => ilike,
                    (true, true) => nilike,
                };
                return compared(text, pattern, compare, args.number_rows);
            }
            Pattern::Similar { negated, case_insensitive } => (negated, case_insensitive),
            Pattern::Regex(op) => (
                matches!(op, Operator::RegexNotMatch | Operator::RegexNotIMatch),
                matches!(op, Operator::RegexIMatch | Operator::RegexNotIMatch),
            ),
        };
        let rows = args.number_rows;
        let mut args = args;
        if case_insensitive {
            let flags = datafusion::common::ScalarValue::Utf8(Some("i".to_owned()));
            args.arg_fields.push(Arc::new(arrow::datatypes::Field::new("flags", DataType::Utf8, false)));
            args.args.push(ColumnarValue::Scalar(flags));
        }
        let found = regexp_like().invoke_with_args(args)?;
        if !negated {
            return Ok(found);
        }
        let found = found.into_array(rows)?;
        Ok(ColumnarValue::Array(Arc::new(not(found.as_boolean())?)))
    }
}

type Compare = fn(
    &dyn arrow::array::Datum,
    &dyn arrow::array::Datum,
) -> std::result::Result<BooleanArray, arrow::error::ArrowError>;

fn compared(text: &ColumnarValue, pattern: &ColumnarValue, compare: Compare, rows: usize) -> Result<ColumnarValue> {
    use arrow::array::Scalar;
    let found = match (text, pattern) {
        (ColumnarValue::Array(text), ColumnarValue::Array(pattern)) => compare(text, pattern)?,
        (ColumnarValue::Array(text), ColumnarValue::Scalar(pattern)) => compare(text, &pattern.to_scalar()?)?,
        (text, ColumnarValue::Array(pattern)) => compare(&Scalar::new(text.to_array(1)?), pattern)?,
        (text, pattern) => {
            let one = compare(&Scalar::new(text.to_array(1)?), &Scalar::new(pattern.to_array(1)?))?;
            return ColumnarValue::Scalar(datafusion::common::ScalarValue::try_from_array(&one, 0)?)
                .into_array(rows)
                .map(ColumnarValue::Array);
        }
    };
    Ok(ColumnarValue::Array(Arc::new(found)))
}

#[cfg(test)]
mod tests {
    use arrow::compute::cast;
    use arrow::datatypes::Field;
    use datafusion::common::ScalarValue;
    use proptest::prelude::*;

    use super::*;

    const LIMITS: TextLimits = TextLimits { text_bytes_max: 100, batch_bytes_max: 1_000 };

    /// An operand of `||`: one text for all rows, or a text for each; NULL is none.
    #[derive(Debug, Clone)]
    enum Operand {
        Same(Option<String>),
        Each(Vec<Option<String>>),
    }

    fn operand(rows: usize) -> impl Strategy<Value = Operand> {
        let text = || proptest::option::weighted(0.8, "[a-zäß€😀]{0,6}");
        prop_oneof![text().prop_map(Operand::Same), proptest::collection::vec(text(), rows).prop_map(Operand::Each),]
    }

    fn invoke(operands: &[Operand], rows: usize, data_type: &DataType) -> Result<ColumnarValue> {
        let column = |operand: &Operand| -> Result<ColumnarValue> {
            Ok(match operand {
                Operand::Same(text) => ColumnarValue::Scalar(ScalarValue::Utf8(text.clone()).cast_to(data_type)?),
                Operand::Each(texts) => {
                    // A slice of more, as batches are.
                    let more = std::iter::once(Some("before")).chain(texts.iter().map(Option::as_deref));
                    let array = cast(&StringArray::from_iter(more), data_type)?;
                    ColumnarValue::Array(array.slice(1, rows))
                }
            })
        };
        let joined = Joined { limits: LIMITS, signature: Signature::variadic_any(Volatility::Immutable) };
        let args = operands.iter().map(column).collect::<Result<Vec<_>>>()?;
        joined.invoke_with_args(ScalarFunctionArgs {
            arg_fields: args.iter().map(|_| Arc::new(Field::new("t", data_type.clone(), true))).collect(),
            args,
            number_rows: rows,
            return_field: Arc::new(Field::new("t", data_type.clone(), true)),
            config_options: Arc::new(ConfigOptions::default()),
        })
    }

    proptest! {
        #[test]
        fn texts_are_joined_row_by_row(
            (rows, operands) in (1_usize..20).prop_flat_map(|rows| {
                (Just(rows), proptest::collection::vec(operand(rows), 2..5))
            }),
            data_type in prop_oneof![
                Just(DataType::Utf8), Just(DataType::LargeUtf8), Just(DataType::Utf8View),
                Just(DataType::Binary), Just(DataType::LargeBinary), Just(DataType::BinaryView),
            ],
        ) {
            let expected: Vec<Option<String>> = (0..rows)
                .map(|row| {
                    let texts = operands.iter().map(|operand| match operand {
                        Operand::Same(text) => text.as_deref(),
                        Operand::Each(texts) => texts[row].as_deref(),
                    });
                    texts.collect::<Option<Vec<&str>>>().map(|texts| texts.concat())
                })
                .collect();
            let longest = operands.iter().map(|operand| match operand {
                Operand::Same(text) => text.as_ref().map_or(0, String::len),
                Operand::Each(texts) => texts.iter().flatten().map(String::len).max().unwrap_or(0),
            }).sum::<usize>();
            let constant = operands.iter().all(|operand| matches!(operand, Operand::Same(_)));
            let most = if constant { 100 } else { (1_000 / rows).max(100) };
            match invoke(&operands, rows, &data_type) {
                Ok(value) => {
                    let array = value.into_array(rows).expect("an array");
                    prop_assert_eq!(array.data_type(), &data_type);
                    let texts = cast(&array, &DataType::LargeUtf8).expect("texts");
                    let found: Vec<Option<String>> =
                        texts.as_string::<i64>().iter().map(|text| text.map(str::to_owned)).collect();
                    prop_assert_eq!(found, expected);
                    prop_assert!(longest <= most);
                }
                Err(error) => prop_assert!(longest > most, "{}", error),
            }
        }
    }
}
