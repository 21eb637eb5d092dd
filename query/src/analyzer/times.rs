//! Times that are compared and cast, made right before the optimizer sees them.
//!
//! Casts of texts, dates and local times to timestamps become [`Instant`], which knows local times that come twice or
//! never. Comparisons are made in the unit and the zone of one side, and the other side is rounded so that the result is
//! exact: DataFusion compares a column of milliseconds with a text by counting both in nanoseconds, which ends in 2262.

use arrow::datatypes::{DataType, TimeUnit};
use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode};
use datafusion::common::{DFSchema, Result};
use datafusion::logical_expr::expr::{Between, InList};
use datafusion::logical_expr::expr_rewriter::NamePreserver;
use datafusion::logical_expr::utils::merge_schema;
use datafusion::logical_expr::{
    BinaryExpr, Case, Cast, Expr, ExprSchemable, LogicalPlan, Operator, TryCast, binary_expr,
};
use datafusion::optimizer::AnalyzerRule;

use crate::functions::{Instant, IntervalLength, LocalShift};
use crate::time::{Rounding, per_second};

/// See the module.
#[derive(Debug)]
pub(crate) struct Times;

impl AnalyzerRule for Times {
    fn name(&self) -> &str {
        "times"
    }

    fn analyze(&self, plan: LogicalPlan, _: &ConfigOptions) -> Result<LogicalPlan> {
        plan.transform_up_with_subqueries(of_plan).data()
    }
}

fn of_plan(plan: LogicalPlan) -> Result<Transformed<LogicalPlan>> {
    let mut schema = merge_schema(&plan.inputs());
    if let LogicalPlan::TableScan(scan) = &plan {
        schema.merge(&DFSchema::try_from_qualified_schema(scan.table_name.clone(), &scan.source.schema())?);
    }
    let names = NamePreserver::new(&plan);
    let rewritten = plan.map_expressions(|expr| {
        let name = names.save(&expr);
        // From the top, so that a comparison is seen before the casts in it are replaced.
        expr.transform_down(|expr| of_expr(expr, &schema)).map(|done| done.update_data(|expr| name.restore(expr)))
    })?;
    if rewritten.transformed { rewritten.map_data(LogicalPlan::recompute_schema) } else { Ok(rewritten) }
}

fn of_expr(expr: Expr, schema: &DFSchema) -> Result<Transformed<Expr>> {
    let rewritten = match &expr {
        Expr::BinaryExpr(BinaryExpr { left, op, right }) if is_comparison(*op) && has_length(left, schema) => {
            Some(binary_expr(IntervalLength::call(Expr::clone(left)), *op, IntervalLength::call(Expr::clone(right))))
        }
        Expr::Between(Between { expr, negated, low, high }) if has_length(expr, schema) => {
            let length = |expr: &Expr| Box::new(IntervalLength::call(expr.clone()));
            Some(Expr::Between(Between::new(length(expr), *negated, length(low), length(high))))
        }
        Expr::InList(InList { expr, list, negated }) if has_length(expr, schema) => {
            let list = list.iter().cloned().map(IntervalLength::call).collect();
            Some(Expr::InList(InList::new(Box::new(IntervalLength::call(Expr::clone(expr))), list, *negated)))
        }
        Expr::BinaryExpr(BinaryExpr { left, op, right }) if is_comparison(*op) => compare(left, *op, right, schema),
        Expr::BinaryExpr(BinaryExpr { left, op: op @ (Operator::Plus | Operator::Minus), right }) => {
            of_sum(left, *op, right, schema)
        }
        Expr::Between(between) => of_between(between, schema),
        Expr::InList(list) => of_list(list, schema),
        Expr::Case(case) => of_case(case, schema),
        Expr::Cast(cast) => of_cast(&cast.expr, cast.field.data_type(), schema),
        Expr::TryCast(cast) => of_try_cast(cast, schema),
        Expr::ScalarFunction(call) if call.name() == "arrow_cast" => match (call.args.first(), expr.get_type(schema)) {
            (Some(value), Ok(to)) => of_cast(value, &to, schema),
            _ => None,
        },
        _ => None,
    };
    Ok(rewritten.map_or_else(|| Transformed::no(expr), Transformed::yes))
}

/// Whether this is an interval, which has been coerced to what it is compared with.
fn has_length(expr: &Expr, schema: &DFSchema) -> bool {
    expr.get_type(schema).is_ok_and(|data_type| IntervalLength::is_for(&data_type))
}

fn is_comparison(op: Operator) -> bool {
    use Operator::{Eq, Gt, GtEq, IsDistinctFrom, IsNotDistinctFrom, Lt, LtEq, NotEq};
    matches!(op, Eq | NotEq | Lt | LtEq | Gt | GtEq | IsDistinctFrom | IsNotDistinctFrom)
}

fn of_cast(value: &Expr, to: &DataType, schema: &DFSchema) -> Option<Expr> {
    let DataType::Timestamp(unit, _) = to else { return None };
    let from = value.get_type(schema).ok()?;
    if from == DataType::Int64 && *unit == TimeUnit::Microsecond {
        // Numbers are seconds, as DataFusion reads them for its own TIMESTAMP.
        let seconds = DataType::Timestamp(TimeUnit::Second, None);
        let seconds = Expr::Cast(Cast::new(Box::new(value.clone()), seconds));
        return Some(Expr::Cast(Cast::new(Box::new(seconds), to.clone())));
    }
    needs_instant(&from, to).then(|| Instant::new(to.clone()).call(value.clone()))
}

/// A time moved by an interval, on the calendar of its zone.
fn of_sum(left: &Expr, op: Operator, right: &Expr, schema: &DFSchema) -> Option<Expr> {
    let (one, other) = (left.get_type(schema).ok()?, right.get_type(schema).ok()?);
    if LocalShift::is_for(&one, &other) {
        return Some(LocalShift::call(left.clone(), op, right.clone()));
    }
    let swapped = op == Operator::Plus && LocalShift::is_for(&other, &one);
    swapped.then(|| LocalShift::call(right.clone(), op, left.clone()))
}

fn of_try_cast(cast: &TryCast, schema: &DFSchema) -> Option<Expr> {
    let to = cast.field.data_type();
    let from = cast.expr.get_type(schema).ok()?;
    needs_instant(&from, to).then(|| Instant::new(to.clone()).or_null().call(Expr::clone(&cast.expr)))
}

/// Whether a cast is more than a change of unit.
fn needs_instant(from: &DataType, to: &DataType) -> bool {
    match (from, to) {
        (DataType::Timestamp(_, from), DataType::Timestamp(_, to)) => from.is_some() != to.is_some(),
        (from, DataType::Timestamp(..)) => is_text(from) || is_date(from),
        _ => false,
    }
}

fn is_text(data_type: &DataType) -> bool {
    matches!(data_type, DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View)
}

fn is_date(data_type: &DataType) -> bool {
    matches!(data_type, DataType::Date32 | DataType::Date64)
}

/// One side of a comparison: a value before it was cast for being compared, and its type.
struct Side {
    value: Expr,
    data_type: DataType,
}

impl Side {
    /// None if it is no time.
    fn of(expr: &Expr, other: &Expr, schema: &DFSchema) -> Option<Self> {
        let (value, data_type) = match expr {
            Expr::Cast(cast) => match (cast.expr.get_type(schema).ok()?, cast.field.data_type()) {
                (from, to) if is_widening(&from, to) || is_for_date(&from, to, other, schema) => (&*cast.expr, from),
                (_, to) => (expr, to.clone()),
            },
            _ => (expr, expr.get_type(schema).ok()?),
        };
        let is_time = matches!(data_type, DataType::Timestamp(..)) || is_text(&data_type) || is_date(&data_type);
        is_time.then(|| Self { value: value.clone(), data_type })
    }

    fn unit(&self) -> Option<TimeUnit> {
        if let DataType::Timestamp(unit, _) = &self.data_type { Some(*unit) } else { None }
    }

    fn has_zone(&self) -> bool {
        matches!(&self.data_type, DataType::Timestamp(_, Some(_)))
    }

    /// In this type; if that needs rounding, so.
    fn to(&self, to: &DataType, rounding: Rounding) -> Expr {
        match (&self.data_type, to) {
            (from, to) if from == to => self.value.clone(),
            (DataType::Timestamp(from, zone), DataType::Timestamp(unit, to_zone))
                if per_second(*from) <= per_second(*unit) && zone.is_some() == to_zone.is_some() =>
            {
                Expr::Cast(Cast::new(Box::new(self.value.clone()), to.clone()))
            }
            _ => Instant::new(to.clone()).rounding(rounding).call(self.value.clone()),
        }
    }

    /// Whether it may lie between two units of this type.
    fn may_lie_between(&self, to: TimeUnit) -> bool {
        match self.unit() {
            Some(unit) => per_second(unit) > per_second(to),
            None => is_text(&self.data_type),
        }
    }
}

/// A cast that keeps the instant and its parts, or reads a text, a date or a local time.
fn is_widening(from: &DataType, to: &DataType) -> bool {
    match (from, to) {
        (DataType::Timestamp(from, zone), DataType::Timestamp(to, to_zone)) => {
            per_second(*from) <= per_second(*to) && (to_zone.is_some() || zone.is_none())
        }
        (from, DataType::Timestamp(..)) => is_text(from) || is_date(from),
        _ => false,
    }
}

/// The cast that DataFusion makes of a timestamp to compare it with a date: to nanoseconds without a zone.
fn is_for_date(from: &DataType, to: &DataType, other: &Expr, schema: &DFSchema) -> bool {
    let other_is_date = || match other {
        Expr::Cast(cast) => cast.expr.get_type(schema).is_ok_and(|data_type| is_date(&data_type)),
        _ => false,
    };
    matches!(from, DataType::Timestamp(_, Some(_)))
        && *to == DataType::Timestamp(TimeUnit::Nanosecond, None)
        && other_is_date()
}

/// The comparison in the type of one of the sides; none if it is well as it is.
fn compare(left: &Expr, op: Operator, right: &Expr, schema: &DFSchema) -> Option<Expr> {
    if !matches!(left, Expr::Cast(_)) && !matches!(right, Expr::Cast(_)) {
        return None;
    }
    let (one, other) = (Side::of(left, right, schema)?, Side::of(right, left, schema)?);
    if one.value == *left && other.value == *right {
        return None;
    }
    let (one, op, other) = match (one.unit(), other.unit()) {
        (None, None) => return None,
        (Some(_), None) => (one, op, other),
        (None, Some(_)) => (other, op.swap()?, one),
        (Some(unit), Some(other_unit)) => {
            let first = match (one.has_zone(), other.has_zone()) {
                (true, false) => true,
                (false, true) => false,
                _ => per_second(unit) <= per_second(other_unit),
            };
            if first { (one, op, other) } else { (other, op.swap()?, one) }
        }
    };
    let unit = one.unit()?;
    let value = |rounding| other.to(&one.data_type, rounding);
    let with = |op, rounding| binary_expr(one.value.clone(), op, value(rounding));
    match op {
        Operator::Lt => Some(with(op, Rounding::Up)),
        Operator::GtEq => Some(with(op, Rounding::Up)),
        Operator::Gt => Some(with(op, Rounding::Down)),
        Operator::LtEq => Some(with(op, Rounding::Down)),
        _ if !other.may_lie_between(unit) => Some(with(op, Rounding::Down)),
        _ => {
            let (down, up) = (value(Rounding::Down), value(Rounding::Up));
            let is_literal = matches!(down, Expr::Literal(..));
            if is_literal && down == up {
                return Some(with(op, Rounding::Down));
            }
            let equal = || with(Operator::GtEq, Rounding::Up).and(with(Operator::LtEq, Rounding::Down));
            match op {
                // Equality of columns is left as it is, since joins are made by it.
                _ if !is_literal && other.unit().is_some() => None,
                Operator::Eq => Some(equal()),
                Operator::NotEq => Some(!equal()),
                Operator::IsNotDistinctFrom if is_literal => Some(equal().is_true()),
                Operator::IsDistinctFrom if is_literal => Some(equal().is_not_true()),
                _ => None,
            }
        }
    }
}

fn of_between(between: &Between, schema: &DFSchema) -> Option<Expr> {
    let Between { expr, negated, low, high } = between;
    let (from, to, both): (_, _, fn(Expr, Expr) -> Expr) =
        if *negated { (Operator::Lt, Operator::Gt, Expr::or) } else { (Operator::GtEq, Operator::LtEq, Expr::and) };
    let (lower, upper) = (compare(expr, from, low, schema), compare(expr, to, high, schema));
    if lower.is_none() && upper.is_none() {
        return None;
    }
    let as_it_is = |op, bound: &Expr| binary_expr(Expr::clone(expr), op, bound.clone());
    Some(both(lower.unwrap_or_else(|| as_it_is(from, low)), upper.unwrap_or_else(|| as_it_is(to, high))))
}

/// `CASE time WHEN …` as comparisons.
fn of_case(case: &Case, schema: &DFSchema) -> Option<Expr> {
    let value = case.expr.as_ref()?;
    let compared = |when: &Expr| compare(value, Operator::Eq, when, schema);
    if !case.when_then_expr.iter().any(|(when, _)| compared(when).is_some()) {
        return None;
    }
    let branch = |(when, then): &(Box<Expr>, Box<Expr>)| {
        let when = compared(when).unwrap_or_else(|| Expr::clone(value).eq(Expr::clone(when)));
        (Box::new(when), then.clone())
    };
    let branches = case.when_then_expr.iter().map(branch).collect();
    Some(Expr::Case(Case { expr: None, when_then_expr: branches, else_expr: case.else_expr.clone() }))
}

/// A list of literals stays a list; others become comparisons.
fn of_list(list: &InList, schema: &DFSchema) -> Option<Expr> {
    let InList { expr, list: items, negated } = list;
    let compared: Vec<Option<Expr>> = items.iter().map(|item| compare(expr, Operator::Eq, item, schema)).collect();
    if compared.iter().all(Option::is_none) {
        return None;
    }
    let compared = compared
        .into_iter()
        .zip(items)
        .map(|(compared, item)| compared.unwrap_or_else(|| Expr::clone(expr).eq(item.clone())));
    let (mut value, mut literals, mut others) = (None, Vec::new(), Vec::new());
    for compared in compared {
        match compared {
            Expr::BinaryExpr(BinaryExpr { left, op: Operator::Eq, right })
                if matches!(*right, Expr::Literal(..)) && value.as_ref().is_none_or(|value| *value == left) =>
            {
                value = Some(left);
                literals.push(*right);
            }
            other => others.push(other),
        }
    }
    let of_literals = value.map(|value| Expr::InList(InList { expr: value, list: literals, negated: false }));
    let any = of_literals.into_iter().chain(others).reduce(Expr::or)?;
    Some(if *negated { !any } else { any })
}
