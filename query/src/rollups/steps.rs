//! Where what a statement makes of time changes: the starts of its periods, the ends of its ranges.
//!
//! Between two changes all readings of a logger are in the same group and pass or fail the filters together.

use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, TimestampMillisecondArray};
use arrow::compute::kernels::cmp::not_distinct;
use arrow::datatypes::{DataType, Field, Schema, TimeUnit};
use datafusion::common::{DFSchema, Result, ScalarValue};
use datafusion::execution::context::ExecutionProps;
use datafusion::logical_expr::expr::{Between, InList};
use datafusion::logical_expr::physical_planning_context::PhysicalPlanningContext;
use datafusion::logical_expr::{BinaryExpr, Expr, Operator, Volatility};
use datafusion::physical_expr::{PhysicalExpr, create_physical_expr};

use crate::time::{Period, Truncate, Zone, per_second};

/// One part of a statement that depends on time.
#[derive(Debug)]
pub(super) enum Step {
    /// Starts of periods of a zone.
    Periods(Truncate),
    /// A function of UTC time that never descends: if it is the same at both ends of a range, it is within.
    Ascending(Arc<dyn PhysicalExpr>),
    /// One thing before this time, another from it on.
    At(i64),
}

impl Step {
    /// For each of the ranges of this length: whether nothing changes within.
    pub(super) fn is_constant(&mut self, starts: &[i64], length: i64) -> Result<Vec<bool>> {
        match self {
            Self::Periods(truncate) => {
                Ok(starts.iter().map(|&start| one_period(truncate, start, start + length)).collect())
            }
            Self::Ascending(function) => {
                let at = |times: Vec<i64>| -> Result<ArrayRef> {
                    let times: ArrayRef = Arc::new(TimestampMillisecondArray::from(times).with_timezone("UTC"));
                    let rows = times.len();
                    function.evaluate(&RecordBatch::try_new(Arc::new(time_schema()), vec![times])?)?.into_array(rows)
                };
                let first = at(starts.to_vec());
                let last = at(starts.iter().map(|start| start + length - 1).collect());
                // Where it has no result, readings are asked, so that an error is theirs.
                let (Ok(first), Ok(last)) = (first, last) else { return Ok(vec![false; starts.len()]) };
                Ok(not_distinct(&first, &last)?.values().iter().collect())
            }
            Self::At(time) => Ok(starts.iter().map(|&start| *time <= start || start + length <= *time).collect()),
        }
    }
}

fn one_period(truncate: &mut Truncate, from: i64, to: i64) -> bool {
    let Some(first) = truncate.start(from) else { return false };
    let mut known = truncate.known_to();
    while known < to {
        let at = known;
        if truncate.start(at) != Some(first) {
            return false;
        }
        known = truncate.known_to();
        if known <= at {
            return false;
        }
    }
    true
}

fn time_schema() -> Schema {
    Schema::new(vec![Field::new("time", DataType::Timestamp(TimeUnit::Millisecond, Some("UTC".into())), false)])
}

/// Collects the steps of an expression. Returns whether that is all that it has to do with time, and whether it depends on
/// nothing else but the logger: then it has one value for all readings of a logger between two changes.
pub(super) fn collect(expr: &Expr, steps: &mut Vec<Step>) -> Result<bool> {
    if let Some(found) = step(expr)? {
        steps.extend(found);
        return Ok(true);
    }
    let by_parts = match expr {
        Expr::Column(column) => return Ok(column.name == "logger"),
        Expr::Literal(..) => return Ok(true),
        Expr::ScalarFunction(call) => call.func.signature().volatility == Volatility::Immutable,
        Expr::Alias(_)
        | Expr::BinaryExpr(_)
        | Expr::Like(_)
        | Expr::SimilarTo(_)
        | Expr::Not(_)
        | Expr::IsNotNull(_)
        | Expr::IsNull(_)
        | Expr::IsTrue(_)
        | Expr::IsFalse(_)
        | Expr::IsUnknown(_)
        | Expr::IsNotTrue(_)
        | Expr::IsNotFalse(_)
        | Expr::IsNotUnknown(_)
        | Expr::Negative(_)
        | Expr::Between(_)
        | Expr::Case(_)
        | Expr::Cast(_)
        | Expr::TryCast(_)
        | Expr::InList(_) => true,
        _ => false,
    };
    if !by_parts {
        return Ok(false);
    }
    parts_of(expr, steps)
}

fn parts_of(expr: &Expr, steps: &mut Vec<Step>) -> Result<bool> {
    use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
    let mut all = true;
    expr.apply_children(|part| {
        all = collect(part, steps)?;
        Ok(if all { TreeNodeRecursion::Continue } else { TreeNodeRecursion::Stop })
    })?;
    Ok(all)
}

/// The changes of an expression that looks at time itself, if it is of a kind that is known.
fn step(expr: &Expr) -> Result<Option<Vec<Step>>> {
    Ok(match expr {
        Expr::ScalarFunction(call) => match (call.name(), call.args.as_slice()) {
            ("date_trunc", [Expr::Literal(unit, _), time]) => periods(unit, time).map(|step| vec![step]),
            ("date_bin", [Expr::Literal(..), time]) if is_utc(time) => Some(vec![ascending(expr)?]),
            ("date_bin", [Expr::Literal(..), time, Expr::Literal(..)]) if is_utc(time) => Some(vec![ascending(expr)?]),
            _ => None,
        },
        Expr::BinaryExpr(BinaryExpr { left, op, right }) => match (instant(left), literal(right)) {
            (Some(_), Some(value)) => comparison(*op, value),
            _ => match (literal(left), instant(right), op.swap()) {
                (Some(value), Some(_), Some(op)) => comparison(op, value),
                _ => None,
            },
        },
        Expr::Between(Between { expr, low, high, .. }) => match (instant(expr), literal(low), literal(high)) {
            (Some(_), Some(low), Some(high)) => both(comparison(Operator::GtEq, low), comparison(Operator::LtEq, high)),
            _ => None,
        },
        Expr::InList(InList { expr, list, .. }) if instant(expr).is_some() => {
            let mut steps = Some(Vec::new());
            for item in list {
                steps = both(steps, literal(item).and_then(|value| comparison(Operator::Eq, value)));
            }
            steps
        }
        _ => None,
    })
}

fn both(one: Option<Vec<Step>>, other: Option<Vec<Step>>) -> Option<Vec<Step>> {
    let (mut one, other) = (one?, other?);
    one.extend(other);
    Some(one)
}

fn periods(unit: &ScalarValue, time: &Expr) -> Option<Step> {
    let zone = instant(time)?;
    let period = unit.try_as_str().flatten().and_then(Period::named)?;
    Some(Step::Periods(Truncate::new(zone, period, per_second(TimeUnit::Millisecond))))
}

fn ascending(expr: &Expr) -> Result<Step> {
    let schema = DFSchema::try_from(time_schema())?;
    // Of the only table that there is here.
    let expr = unqualified(expr.clone())?;
    Ok(Step::Ascending(create_physical_expr(
        &expr,
        &schema,
        &ExecutionProps::new(),
        &PhysicalPlanningContext::default(),
    )?))
}

fn unqualified(expr: Expr) -> Result<Expr> {
    use datafusion::common::Column;
    use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode};
    expr.transform(|part| {
        Ok(match part {
            Expr::Column(column) => Transformed::yes(Expr::Column(Column::new_unqualified(column.name))),
            other => Transformed::no(other),
        })
    })
    .data()
}

/// The zone of an expression that is `time` itself, or that instant in another zone.
fn instant(expr: &Expr) -> Option<Zone> {
    match expr {
        Expr::Column(column) if column.name == "time" => Some(Zone::UTC),
        Expr::Alias(alias) => instant(&alias.expr),
        Expr::Cast(cast) => match cast.field.data_type() {
            DataType::Timestamp(TimeUnit::Millisecond, Some(zone)) => {
                instant(&cast.expr)?;
                Zone::named(zone)
            }
            _ => None,
        },
        _ => None,
    }
}

fn is_utc(expr: &Expr) -> bool {
    matches!(expr, Expr::Column(column) if column.name == "time")
}

/// The instant of a literal that is compared without being cast. NULL is none: no comparison with it is true.
fn literal(expr: &Expr) -> Option<Option<i64>> {
    match expr {
        Expr::Literal(ScalarValue::TimestampMillisecond(value, Some(_)), _) => Some(*value),
        Expr::Alias(alias) => literal(&alias.expr),
        _ => None,
    }
}

/// The changes of a comparison of time with this value.
fn comparison(op: Operator, value: Option<i64>) -> Option<Vec<Step>> {
    let Some(value) = value else { return op.supports_propagation().then(Vec::new) };
    let next = value.checked_add(1)?;
    match op {
        Operator::Lt | Operator::GtEq => Some(vec![Step::At(value)]),
        Operator::LtEq | Operator::Gt => Some(vec![Step::At(next)]),
        Operator::Eq | Operator::NotEq | Operator::IsDistinctFrom | Operator::IsNotDistinctFrom => {
            Some(vec![Step::At(value), Step::At(next)])
        }
        _ => None,
    }
}
