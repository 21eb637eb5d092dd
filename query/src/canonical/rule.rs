//! The rule of the analyzer: wraps each expression that can make a float that is not canonical.
//!
//! It runs after types are coerced, so that casts which no one wrote are there, too. Inputs are canonical already:
//! columns, because scans and aggregates make them so, and inner expressions, because they are wrapped. Hence CASE,
//! COALESCE's arguments, and whatever else only passes values on need nothing.

use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::common::{DFSchema, Result};
use datafusion::logical_expr::expr::{BinaryExpr, Cast, TryCast};
use datafusion::logical_expr::expr_rewriter::NamePreserver;
use datafusion::logical_expr::utils::merge_schema;
use datafusion::logical_expr::{Expr, ExprSchemable, LogicalPlan, Operator};
use datafusion::optimizer::AnalyzerRule;

use super::function::{is_wrapped, unwrapped, wrapped};
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
    plan.map_expressions(|expr| {
        let name = names.save(&expr);
        let changed = expr.transform_up(|expr| expression(expr, &schema))?;
        Ok(if changed.transformed { changed.update_data(|expr| name.restore(expr)) } else { changed })
    })
}

fn expression(expr: Expr, schema: &DFSchema) -> Result<Transformed<Expr>> {
    Ok(match expr {
        Expr::Literal(value, metadata) => match canonical_scalar(&value)? {
            Some(canonical) => Transformed::yes(Expr::Literal(canonical, metadata)),
            None => Transformed::no(Expr::Literal(value, metadata)),
        },
        // Of what the operands of arithmetic are, only the sign of a divisor's zero shows in the result. So a chain of
        // operators is wrapped once.
        Expr::BinaryExpr(BinaryExpr { left, op, right }) if is_arithmetic(op) => {
            let floats = is_float_operand(&right, schema)? && is_float_operand(&left, schema)?;
            if !floats {
                return Ok(Transformed::no(Expr::BinaryExpr(BinaryExpr { left, op, right })));
            }
            let left = Box::new(unwrapped(*left));
            let right = if op == Operator::Divide { right } else { Box::new(unwrapped(*right)) };
            Transformed::yes(wrapped(Expr::BinaryExpr(BinaryExpr { left, op, right })))
        }
        Expr::Negative(inner) if is_float_operand(&inner, schema)? => {
            Transformed::yes(wrapped(Expr::Negative(Box::new(unwrapped(*inner)))))
        }
        Expr::Cast(Cast { expr, field }) if has_floats(field.data_type()) => {
            if keeps_canonical(&expr, &field, schema)? {
                return Ok(Transformed::no(Expr::Cast(Cast { expr, field })));
            }
            let expr = Box::new(if is_float(&expr, schema)? { unwrapped(*expr) } else { *expr });
            Transformed::yes(wrapped(Expr::Cast(Cast { expr, field })))
        }
        Expr::TryCast(TryCast { expr, field }) if has_floats(field.data_type()) => {
            if keeps_canonical(&expr, &field, schema)? {
                return Ok(Transformed::no(Expr::TryCast(TryCast { expr, field })));
            }
            let expr = Box::new(if is_float(&expr, schema)? { unwrapped(*expr) } else { *expr });
            Transformed::yes(wrapped(Expr::TryCast(TryCast { expr, field })))
        }
        // What is wrapped already has been wrapped within again.
        wrapper if is_wrapped(&wrapper) => {
            let inner = unwrapped(wrapper);
            Transformed::yes(if is_wrapped(&inner) { inner } else { wrapped(inner) })
        }
        Expr::ScalarFunction(function) => {
            let expr = Expr::ScalarFunction(function);
            if has_floats(&expr.get_type(schema)?) { Transformed::yes(wrapped(expr)) } else { Transformed::no(expr) }
        }
        other => Transformed::no(other),
    })
}

fn is_arithmetic(op: Operator) -> bool {
    matches!(op, Operator::Plus | Operator::Minus | Operator::Multiply | Operator::Divide | Operator::Modulo)
}

/// Whether a cast of these values gives canonical floats of itself: from whole numbers, and from narrower floats.
/// Anything else can round to a negative zero, or be the text of one.
fn keeps_canonical(from: &Expr, to: &arrow::datatypes::Field, schema: &DFSchema) -> Result<bool> {
    use arrow::datatypes::DataType::{Boolean, Float16, Float32, Float64, Null};
    let from = from.get_type(schema)?;
    Ok(match (&from, to.data_type()) {
        (from, Float16 | Float32 | Float64) if from.is_integer() => true,
        (Boolean | Null, _) | (Float16, Float16 | Float32 | Float64) | (Float32, Float32 | Float64) => true,
        (Float64, Float64) => true,
        _ => false,
    })
}

fn is_float(expr: &Expr, schema: &DFSchema) -> Result<bool> {
    Ok(expr.get_type(schema)?.is_floating())
}

/// The same for an operand of arithmetic. One that is wrapped is a float: to ask for its type would go through the
/// whole chain of operators again.
fn is_float_operand(expr: &Expr, schema: &DFSchema) -> Result<bool> {
    Ok(is_wrapped(expr) || is_float(expr, schema)?)
}
