//! The rule of the analyzer: wraps each expression that can make a float that is not canonical.
//!
//! It runs after types are coerced, because coercion adds casts. Inputs are canonical already: columns, because scans
//! and aggregates make them so, and inner expressions, because they are wrapped. So whatever only passes values on, such
//! as CASE, needs nothing.

use arrow::datatypes::{DataType, Field};
use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::common::{DFSchema, Result};
use datafusion::logical_expr::expr::{BinaryExpr, Cast, TryCast};
use datafusion::logical_expr::expr_rewriter::NamePreserver;
use datafusion::logical_expr::utils::merge_schema;
use datafusion::logical_expr::{Expr, ExprSchemable, LogicalPlan, Operator};
use datafusion::optimizer::AnalyzerRule;

use super::function::{unwrapped, wrapped, wrapped_type};
use super::{canonical_scalar, has_floats};

/// See the module.
#[derive(Debug)]
pub(crate) struct CanonicalFloats;

impl AnalyzerRule for CanonicalFloats {
    fn name(&self) -> &'static str {
        "canonical_floats"
    }

    fn analyze(&self, plan: LogicalPlan, _: &ConfigOptions) -> Result<LogicalPlan> {
        Ok(plan.transform_up_with_subqueries(node)?.data)
    }
}

fn node(plan: LogicalPlan) -> Result<Transformed<LogicalPlan>> {
    let schema = merge_schema(&plan.inputs());
    let names = NamePreserver::new(&plan);
    let in_condition = matches!(plan, LogicalPlan::Join(_) | LogicalPlan::Filter(_));
    plan.map_expressions(|expr| {
        let name = names.save(&expr);
        let changed = expr.transform_up(|expr| expression(expr, &schema, in_condition))?;
        Ok(if changed.transformed { changed.update_data(|expr| name.restore(expr)) } else { changed })
    })
}

fn expression(expr: Expr, schema: &DFSchema, in_condition: bool) -> Result<Transformed<Expr>> {
    let wrapped = |expr, data_type| wrapped(expr, data_type, in_condition);
    Ok(match expr {
        Expr::Literal(value, metadata) => match canonical_scalar(&value)? {
            Some(canonical) => Transformed::yes(Expr::Literal(canonical, metadata)),
            None => Transformed::no(Expr::Literal(value, metadata)),
        },
        // The result of arithmetic depends on the sign of a zero only where that is the divisor. So the other operands
        // need no wrapper, and a chain of operators has one.
        Expr::BinaryExpr(BinaryExpr { left, op, right }) if is_arithmetic(op) => {
            match (float_type(&right, schema)?, float_type(&left, schema)?) {
                (Some(data_type), Some(_)) => {
                    let right = if op == Operator::Divide { right } else { operand(right) };
                    let result = Expr::BinaryExpr(BinaryExpr { left: operand(left), op, right });
                    Transformed::yes(wrapped(result, data_type))
                }
                _ => Transformed::no(Expr::BinaryExpr(BinaryExpr { left, op, right })),
            }
        }
        Expr::Negative(inner) => match float_type(&inner, schema)? {
            Some(data_type) => Transformed::yes(wrapped(Expr::Negative(operand(inner)), data_type)),
            None => Transformed::no(Expr::Negative(inner)),
        },
        Expr::Cast(Cast { expr, field }) if makes_others(&expr, &field, schema)? => {
            let data_type = field.data_type().clone();
            Transformed::yes(wrapped(Expr::Cast(Cast { expr: operand(expr), field }), data_type))
        }
        Expr::TryCast(TryCast { expr, field }) if makes_others(&expr, &field, schema)? => {
            let data_type = field.data_type().clone();
            Transformed::yes(wrapped(Expr::TryCast(TryCast { expr: operand(expr), field }), data_type))
        }
        // In a plan that was analyzed before, what is within the wrapper has just been wrapped again.
        wrapper if wrapped_type(&wrapper).is_some() => Transformed::yes(unwrapped(wrapper)),
        Expr::ScalarFunction(function) => {
            let expr = Expr::ScalarFunction(function);
            let data_type = expr.get_type(schema)?;
            if has_floats(&data_type) { Transformed::yes(wrapped(expr, data_type)) } else { Transformed::no(expr) }
        }
        other => Transformed::no(other),
    })
}

fn is_arithmetic(op: Operator) -> bool {
    matches!(op, Operator::Plus | Operator::Minus | Operator::Multiply | Operator::Divide | Operator::Modulo)
}

/// Whether a cast can make floats that are not canonical. From whole numbers and from narrower floats it cannot;
/// anything else can round to a negative zero, or be the text of one.
fn makes_others(from: &Expr, to: &Field, schema: &DFSchema) -> Result<bool> {
    use DataType::{Boolean, Float16, Float32, Float64, Null};
    if !has_floats(to.data_type()) {
        return Ok(false);
    }
    let from = from.get_type(schema)?;
    Ok(match (&from, to.data_type()) {
        (Boolean | Null, _) => false,
        (Float16, Float16 | Float32 | Float64) | (Float32, Float32 | Float64) | (Float64, Float64) => false,
        (from, Float16 | Float32 | Float64) => !from.is_integer(),
        _ => true,
    })
}

/// An operand whose zero's sign does not show in the result. The wrapper of a function stays, because it knows the type
/// of the function's range.
fn operand(expr: Box<Expr>) -> Box<Expr> {
    match &*expr {
        Expr::ScalarFunction(wrapper) if !matches!(wrapper.args.first(), Some(Expr::ScalarFunction(_))) => {
            Box::new(unwrapped(*expr))
        }
        _ => expr,
    }
}

/// The type, if it is a plain float. A wrapper knows it; otherwise the type is derived from all that is within.
fn float_type(expr: &Expr, schema: &DFSchema) -> Result<Option<DataType>> {
    let data_type = match wrapped_type(expr) {
        Some(data_type) => data_type.clone(),
        None => expr.get_type(schema)?,
    };
    Ok(data_type.is_floating().then_some(data_type))
}
