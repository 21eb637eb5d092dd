//! Functions of one row under the query's limits.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use arrow::array::{Array, ArrayRef};
use arrow::compute::concat;
use arrow::datatypes::{DataType, FieldRef};
use datafusion::common::{ExprSchema, Result, exec_err};
use datafusion::config::ConfigOptions;
use datafusion::logical_expr::interval_arithmetic::Interval;
use datafusion::logical_expr::preimage::PreimageResult;
use datafusion::logical_expr::simplify::{ExprSimplifyResult, SimplifyContext};
use datafusion::logical_expr::sort_properties::{ExprProperties, SortProperties};
use datafusion::logical_expr::{
    ColumnarValue, Documentation, Expr, ExpressionPlacement, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF,
    ScalarUDFImpl, Signature, StructFieldMapping,
};

use crate::budget::Budget;
use crate::functions::longest;

/// Functions whose time grows faster than their texts: with the product of two texts, or of a text and what a pattern
/// of a few signs stands for.
const SLOW: [&str; 10] = [
    "btrim",
    "levenshtein",
    "like",
    "ltrim",
    "regexp_count",
    "regexp_instr",
    "regexp_like",
    "regexp_match",
    "regexp_replace",
    "rtrim",
];

/// Rows that a slow function gets at first between two looks at whether the query is over. It gets more when they do
/// not take long, and keeps that from batch to batch.
const CHUNK_ROWS_FIRST: usize = 1;

/// Rows of a chunk with a pattern for each: compiled patterns are kept until its end, and one can have ten megabytes.
const PATTERNS_MAX: usize = 8;

/// What a chunk of rows may take: after one that took longer, the next ones have fewer rows.
const CHUNK_TIME_MAX: Duration = Duration::from_millis(50);

/// See the module.
#[derive(Debug)]
pub(super) struct Guarded {
    function: Arc<ScalarUDF>,
    budget: Arc<Budget>,
    /// Rows at once. All of a batch, unless the function is slow.
    chunk_rows: AtomicUsize,
    /// The type of what it returns, once the plan is typed.
    returns: OnceLock<DataType>,
}

impl PartialEq for Guarded {
    fn eq(&self, other: &Self) -> bool {
        self.function == other.function
    }
}

impl Eq for Guarded {}

impl std::hash::Hash for Guarded {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.function.hash(state);
    }
}

impl Guarded {
    pub(super) fn new(function: Arc<ScalarUDF>, budget: &Arc<Budget>) -> Self {
        let rows = if is_slow(&function) { CHUNK_ROWS_FIRST } else { usize::MAX };
        Self { function, budget: Arc::clone(budget), chunk_rows: AtomicUsize::new(rows), returns: OnceLock::new() }
    }

    fn inner(&self) -> &Arc<dyn ScalarUDFImpl> {
        self.function.inner()
    }

    /// Adapts the next chunks to what one took.
    fn chunk_took(&self, rows: usize, took: Duration) {
        let next = if took > CHUNK_TIME_MAX { rows / 4 } else { rows.saturating_mul(2) };
        self.chunk_rows.store(next.max(1), Ordering::Relaxed);
    }

    fn in_chunks(&self, args: &ScalarFunctionArgs) -> Result<ColumnarValue> {
        let most = self.budget.text_bytes_max();
        if let Some(bytes) = args.args.iter().map(|arg| longest(Some(arg))).max().filter(|bytes| *bytes > most) {
            let name = self.name();
            return exec_err!("{name} takes texts of {most} bytes at most; here is one of {bytes}");
        }
        let many_patterns = matches!(args.args.get(1), Some(ColumnarValue::Array(_)));
        let patterns = if many_patterns { PATTERNS_MAX } else { usize::MAX };
        let mut done = 0;
        let mut parts: Vec<ArrayRef> = Vec::new();
        while done < args.number_rows {
            self.budget.check()?;
            let rows = self.chunk_rows.load(Ordering::Relaxed).min(patterns).min(args.number_rows - done);
            let started = Instant::now();
            let part = self.inner().invoke_with_args(rows_of(args, done, rows))?;
            self.chunk_took(rows, started.elapsed());
            parts.push(part.into_array(rows)?);
            done += rows;
        }
        let parts: Vec<&dyn Array> = parts.iter().map(AsRef::as_ref).collect();
        match parts.as_slice() {
            [] => self.inner().invoke_with_args(args.clone()),
            parts => Ok(ColumnarValue::Array(concat(parts)?)),
        }
    }
}

/// Whether the function can compute for long over few texts.
pub(super) fn is_slow(function: &ScalarUDF) -> bool {
    SLOW.contains(&function.name())
}

/// The arguments for a part of the rows.
fn rows_of(args: &ScalarFunctionArgs, from: usize, rows: usize) -> ScalarFunctionArgs {
    let slice = |arg: &ColumnarValue| match arg {
        ColumnarValue::Array(array) => ColumnarValue::Array(array.slice(from, rows)),
        scalar @ ColumnarValue::Scalar(_) => scalar.clone(),
    };
    ScalarFunctionArgs { args: args.args.iter().map(slice).collect(), number_rows: rows, ..args.clone() }
}

// It delegates, so it must have every method of the trait.
#[warn(clippy::missing_trait_methods)]
impl ScalarUDFImpl for Guarded {
    fn name(&self) -> &str {
        self.inner().name()
    }

    fn aliases(&self) -> &[String] {
        self.inner().aliases()
    }

    #[expect(deprecated, reason = "it delegates")]
    fn display_name(&self, args: &[Expr]) -> Result<String> {
        self.inner().display_name(args)
    }

    fn schema_name(&self, args: &[Expr]) -> Result<String> {
        self.inner().schema_name(args)
    }

    fn signature(&self) -> &Signature {
        self.inner().signature()
    }

    fn return_type(&self, types: &[DataType]) -> Result<DataType> {
        self.inner().return_type(types)
    }

    fn with_updated_config(&self, config: &ConfigOptions) -> Option<ScalarUDF> {
        let function = Arc::new(self.inner().with_updated_config(config)?);
        Some(ScalarUDF::new_from_impl(Self::new(function, &self.budget)))
    }

    fn return_field_from_args(&self, args: ReturnFieldArgs<'_>) -> Result<FieldRef> {
        let field = self.inner().return_field_from_args(args)?;
        // It is the same at every call.
        let _ = self.returns.set(field.data_type().clone());
        Ok(field)
    }

    #[expect(deprecated, reason = "it delegates")]
    fn is_nullable(&self, args: &[Expr], schema: &dyn ExprSchema) -> bool {
        self.inner().is_nullable(args, schema)
    }

    fn is_strict(&self) -> bool {
        self.inner().is_strict()
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        self.budget.check()?;
        let any_array = args.args.iter().any(|arg| matches!(arg, ColumnarValue::Array(_)));
        let made = if any_array && self.chunk_rows.load(Ordering::Relaxed) < usize::MAX {
            self.in_chunks(&args)?
        } else {
            self.inner().invoke_with_args(args)?
        };
        self.budget.keep(made)
    }

    fn simplify(&self, args: Vec<Expr>, info: &SimplifyContext) -> Result<ExprSimplifyResult> {
        self.inner().simplify(args, info)
    }

    fn preimage(&self, args: &[Expr], literal: &Expr, info: &SimplifyContext) -> Result<PreimageResult> {
        self.inner().preimage(args, literal, info)
    }

    fn short_circuits(&self) -> bool {
        self.inner().short_circuits()
    }

    fn conditional_arguments<'a>(&self, args: &'a [Expr]) -> Option<(Vec<&'a Expr>, Vec<&'a Expr>)> {
        self.inner().conditional_arguments(args)
    }

    fn evaluate_bounds(&self, input: &[&Interval]) -> Result<Interval> {
        let bounds = self.inner().evaluate_bounds(input)?;
        // What knows no bounds knows no type either, and whatever computes with such bounds fails: then the order of an
        // expression such as `abs(round(x))` counts as unknown, although rows were just sorted by it.
        match self.returns.get() {
            Some(returns) if bounds.data_type().is_null() => Interval::make_unbounded(returns),
            _ => Ok(bounds),
        }
    }

    fn propagate_constraints(&self, interval: &Interval, inputs: &[&Interval]) -> Result<Option<Vec<Interval>>> {
        self.inner().propagate_constraints(interval, inputs)
    }

    fn output_ordering(&self, inputs: &[ExprProperties]) -> Result<SortProperties> {
        self.inner().output_ordering(inputs)
    }

    fn preserves_lex_ordering(&self, inputs: &[ExprProperties]) -> Result<bool> {
        self.inner().preserves_lex_ordering(inputs)
    }

    fn strictly_order_preserving(&self, inputs: &[ExprProperties]) -> Result<bool> {
        self.inner().strictly_order_preserving(inputs)
    }

    fn coerce_types(&self, types: &[DataType]) -> Result<Vec<DataType>> {
        self.inner().coerce_types(types)
    }

    fn struct_field_mapping(&self, literals: &[Option<datafusion::common::ScalarValue>]) -> Option<StructFieldMapping> {
        self.inner().struct_field_mapping(literals)
    }

    fn documentation(&self) -> Option<&Documentation> {
        self.inner().documentation()
    }

    fn placement(&self, args: &[ExpressionPlacement]) -> ExpressionPlacement {
        self.inner().placement(args)
    }
}
