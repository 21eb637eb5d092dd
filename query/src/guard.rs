//! Puts every function of a plan under the query's limits of time and memory.
//!
//! DataFusion calls functions from its operators, and some operators compute for minutes within one call of theirs: a
//! window over ten million rows, or a regular expression over long texts. What they all do meanwhile is to call
//! functions again and again. So each function of an optimised plan is wrapped by one that fails once the query is
//! over, and that counts what it returns ([`crate::budget`]). The wrappers answer everything else as the function
//! itself does. They come after the optimiser, whose rules know functions by their types; only the slow ones are
//! wrapped before, because the optimiser calls them for constants.

mod aggregate;
mod held;
mod scalar;
mod window;

use std::sync::Arc;

use datafusion::arrow::datatypes::DataType;
use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode, TreeNodeRecursion};
use datafusion::common::{DFSchema, DataFusionError, Result};
use datafusion::logical_expr::expr::ScalarFunction;
use datafusion::logical_expr::expr_rewriter::NamePreserver;
use datafusion::logical_expr::utils::merge_schema;
use datafusion::logical_expr::{
    AggregateUDF, Cast, Expr, ExprSchemable, LogicalPlan, ScalarUDF, TryCast, WindowFunctionDefinition, WindowUDF,
};

use crate::budget::Budget;
use crate::functions;

/// What a value of variable width takes in its column beside its bytes.
const VARIABLE_WIDTH_BYTES: usize = 16;

/// Wraps all functions of an optimised plan, and refuses rows that are too wide for a batch.
pub(crate) fn guarded(plan: LogicalPlan, budget: &Arc<Budget>) -> Result<LogicalPlan> {
    plan.transform_up_with_subqueries(|node| {
        check_width(&node, budget)?;
        check_literals(&node, budget)?;
        // A scan takes its filters for a hint; what they leave is filtered again.
        if matches!(node, LogicalPlan::TableScan(_)) {
            return Ok(Transformed::no(node));
        }
        // A window's column is named after its whole expression, by which the nodes above know it.
        let (names, schema) = (NamePreserver::new(&node), merge_schema(&node.inputs()));
        node.map_expressions(|expression| {
            let name = names.save(&expression);
            let guarded = expression.transform_up(|part| Ok(Transformed::yes(guard(part, &schema, budget)?)))?;
            Ok(guarded.update_data(|expression| name.restore(expression)))
        })
    })
    .data()
}

/// Wraps those of the functions that can compute for long.
pub(crate) fn guarded_while_planning(functions: Vec<Arc<ScalarUDF>>, budget: &Arc<Budget>) -> Vec<Arc<ScalarUDF>> {
    let guard = |function: Arc<ScalarUDF>| match scalar::is_slow(&function) {
        true => Arc::new(ScalarUDF::new_from_impl(scalar::Guarded::new(function, budget))),
        false => function,
    };
    functions.into_iter().map(guard).collect()
}

/// A batch of such rows must not take more than a quarter of the query's memory, as with texts that functions make.
fn check_width(node: &LogicalPlan, budget: &Budget) -> Result<()> {
    let fields = node.schema().fields().iter();
    let columns: usize = fields.map(|field| field.data_type().primitive_width().unwrap_or(VARIABLE_WIDTH_BYTES)).sum();
    let literals: usize = match node {
        LogicalPlan::Projection(projection) => projection.expr.iter().map(literal_bytes).sum(),
        _ => 0,
    };
    let bytes = columns + literals;
    if bytes <= budget.text_bytes_max() {
        return Ok(());
    }
    let most = budget.text_bytes_max();
    Err(DataFusionError::ResourcesExhausted(format!("rows of {bytes} bytes, of {most} at most")))
}

/// Refuses long texts of the statement where there are rows: an operator can make a whole column of one.
fn check_literals(node: &LogicalPlan, budget: &Budget) -> Result<()> {
    let inputs = node.inputs();
    if inputs.iter().all(|input| matches!(input, LogicalPlan::EmptyRelation(_))) {
        return Ok(());
    }
    let most = budget.text_bytes_max();
    node.apply_expressions(|expr| {
        expr.apply(|part| match literal_bytes(part) {
            bytes if bytes > most => Err(DataFusionError::ResourcesExhausted(format!("a literal of {bytes} bytes"))),
            _ => Ok(TreeNodeRecursion::Continue),
        })
    })?;
    Ok(())
}

/// Bytes of a text that stands for itself in every row.
fn literal_bytes(expression: &Expr) -> usize {
    match expression {
        Expr::Alias(alias) => literal_bytes(&alias.expr),
        Expr::Literal(value, _) => value.try_as_str().flatten().map_or(0, str::len),
        _ => 0,
    }
}

fn guard(expression: Expr, schema: &DFSchema, budget: &Arc<Budget>) -> Result<Expr> {
    let expression = functions::matching(expression).unwrap_or_else(|other| other);
    Ok(match expression {
        Expr::ScalarFunction(mut call) => {
            if !call.func.inner().is::<scalar::Guarded>() {
                call.func = Arc::new(ScalarUDF::new_from_impl(scalar::Guarded::new(call.func, budget)));
            }
            Expr::ScalarFunction(call)
        }
        Expr::AggregateFunction(mut call) => {
            call.func = aggregate(&call.func, budget);
            Expr::AggregateFunction(call)
        }
        Expr::WindowFunction(mut call) => {
            call.fun = match call.fun {
                WindowFunctionDefinition::AggregateUDF(function) => {
                    WindowFunctionDefinition::AggregateUDF(aggregate(&function, budget))
                }
                WindowFunctionDefinition::WindowUDF(function) => {
                    WindowFunctionDefinition::WindowUDF(window(&function, budget))
                }
            };
            Expr::WindowFunction(call)
        }
        // What is not a function and makes texts.
        expression @ (Expr::Case(_) | Expr::ScalarSubquery(_)) => hold(expression, schema, budget)?,
        Expr::Cast(cast) if is_text(cast.field.data_type()) => hold(Expr::Cast(Cast { ..cast }), schema, budget)?,
        Expr::TryCast(cast) if is_text(cast.field.data_type()) => {
            hold(Expr::TryCast(TryCast { ..cast }), schema, budget)?
        }
        other => other,
    })
}

fn is_text(data_type: &DataType) -> bool {
    matches!(data_type, DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View)
}

fn hold(expression: Expr, schema: &DFSchema, budget: &Arc<Budget>) -> Result<Expr> {
    let (_, field) = expression.to_field(schema)?;
    let func = Arc::new(ScalarUDF::new_from_impl(held::Held::new(field, budget.text_bytes_max())));
    let func = Arc::new(ScalarUDF::new_from_impl(scalar::Guarded::new(func, budget)));
    Ok(Expr::ScalarFunction(ScalarFunction { func, args: vec![expression] }))
}

/// The aggregate function, wrapped once.
fn aggregate(function: &Arc<AggregateUDF>, budget: &Arc<Budget>) -> Arc<AggregateUDF> {
    if function.inner().is::<aggregate::Guarded>() {
        return Arc::clone(function);
    }
    Arc::new(AggregateUDF::new_from_impl(aggregate::Guarded::new(Arc::clone(function), budget)))
}

/// The window function, wrapped once.
fn window(function: &Arc<WindowUDF>, budget: &Arc<Budget>) -> Arc<WindowUDF> {
    if function.inner().is::<window::Guarded>() {
        return Arc::clone(function);
    }
    Arc::new(WindowUDF::new_from_impl(window::Guarded::new(Arc::clone(function), budget)))
}
