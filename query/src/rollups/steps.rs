//! Where what a statement makes of time changes: the starts of its periods, the ends of its ranges.
//!
//! Between two changes all readings of a logger are in the same group and pass or fail the filters together.

use std::collections::BTreeSet;
use std::ops::Bound;
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

/// The parts of a statement that depend on time.
#[derive(Debug, Default)]
pub(super) struct Steps {
    /// Starts of periods of a zone.
    pub(super) periods: Vec<Truncate>,
    /// Functions of UTC time that never descend: if one is the same at both ends of a range, it is within.
    pub(super) ascending: Vec<Arc<dyn PhysicalExpr>>,
    /// Times before which a thing is so, and from which on it is otherwise. A list of times can make very many.
    pub(super) at: BTreeSet<i64>,
}

impl Steps {
    /// Whether nothing depends on time.
    pub(super) fn is_empty(&self) -> bool {
        self.periods.is_empty() && self.ascending.is_empty() && self.at.is_empty()
    }

    /// For each of the ranges of this length: whether nothing changes within.
    pub(super) fn are_constant(&mut self, starts: &[i64], length: i64) -> Result<Vec<bool>> {
        let changes_at = |start: i64| self.at.range((Bound::Excluded(start), Bound::Excluded(start + length))).next();
        let mut constant: Vec<bool> = starts.iter().map(|&start| changes_at(start).is_none()).collect();
        for truncate in &mut self.periods {
            for (constant, &start) in constant.iter_mut().zip(starts) {
                *constant = *constant && one_period(truncate, start, start + length);
            }
        }
        for function in &self.ascending {
            let at = |times: Vec<i64>| -> Result<ArrayRef> {
                let times: ArrayRef = Arc::new(TimestampMillisecondArray::from(times).with_timezone("UTC"));
                let rows = times.len();
                function.evaluate(&RecordBatch::try_new(Arc::new(time_schema()), vec![times])?)?.into_array(rows)
            };
            let first = at(starts.to_vec());
            let last = at(starts.iter().map(|start| start + length - 1).collect());
            // Where it has no result, readings are asked, so that an error is theirs.
            let (Ok(first), Ok(last)) = (first, last) else { return Ok(vec![false; starts.len()]) };
            for (constant, same) in constant.iter_mut().zip(not_distinct(&first, &last)?.values()) {
                *constant &= same;
            }
        }
        Ok(constant)
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
pub(super) fn collect(expr: &Expr, steps: &mut Steps) -> Result<bool> {
    if step(expr, steps)?.is_some() {
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

fn parts_of(expr: &Expr, steps: &mut Steps) -> Result<bool> {
    use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
    let mut all = true;
    expr.apply_children(|part| {
        all = collect(part, steps)?;
        Ok(if all { TreeNodeRecursion::Continue } else { TreeNodeRecursion::Stop })
    })?;
    Ok(all)
}

/// Collects the steps of an expression that looks at time itself; none if it is of no kind that is known.
fn step(expr: &Expr, steps: &mut Steps) -> Result<Option<()>> {
    Ok(match expr {
        Expr::ScalarFunction(call) => match (call.name(), call.args.as_slice()) {
            ("date_trunc", [Expr::Literal(unit, _), time]) => periods(unit, time).map(|step| steps.periods.push(step)),
            ("date_bin", [Expr::Literal(..), time] | [Expr::Literal(..), time, Expr::Literal(..)]) if is_utc(time) => {
                steps.ascending.push(ascending(expr)?);
                Some(())
            }
            _ => None,
        },
        Expr::BinaryExpr(BinaryExpr { left, op, right }) => match (instant(left), literal(right)) {
            (Some(_), Some(value)) => comparison(*op, value, steps),
            _ => match (literal(left), instant(right), op.swap()) {
                (Some(value), Some(_), Some(op)) => comparison(op, value, steps),
                _ => None,
            },
        },
        Expr::Between(Between { expr, low, high, .. }) => match (instant(expr), literal(low), literal(high)) {
            (Some(_), Some(low), Some(high)) => {
                comparison(Operator::GtEq, low, steps).and_then(|()| comparison(Operator::LtEq, high, steps))
            }
            _ => None,
        },
        Expr::InList(InList { expr, list, .. }) if instant(expr).is_some() => {
            list.iter().try_for_each(|item| comparison(Operator::Eq, literal(item)?, steps))
        }
        _ => None,
    })
}

fn periods(unit: &ScalarValue, time: &Expr) -> Option<Truncate> {
    let zone = instant(time)?;
    let period = unit.try_as_str().flatten().and_then(Period::named)?;
    Some(Truncate::new(zone, period, per_second(TimeUnit::Millisecond)))
}

fn ascending(expr: &Expr) -> Result<Arc<dyn PhysicalExpr>> {
    let schema = DFSchema::try_from(time_schema())?;
    // Of the only table that there is here.
    let expr = unqualified(expr.clone())?;
    create_physical_expr(&expr, &schema, &ExecutionProps::new(), &PhysicalPlanningContext::default())
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

/// Collects the steps of a comparison of time with this value.
fn comparison(op: Operator, value: Option<i64>, steps: &mut Steps) -> Option<()> {
    let Some(value) = value else { return op.supports_propagation().then_some(()) };
    let next = value.checked_add(1)?;
    match op {
        Operator::Lt | Operator::GtEq => steps.at.extend([value]),
        Operator::LtEq | Operator::Gt => steps.at.extend([next]),
        Operator::Eq | Operator::NotEq | Operator::IsDistinctFrom | Operator::IsNotDistinctFrom => {
            steps.at.extend([value, next]);
        }
        _ => return None,
    }
    Some(())
}
