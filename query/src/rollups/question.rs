//! What an aggregate asks, if rollups can answer it: of which readings, in which groups, and what of them.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::datatypes::{DataType, Field, FieldRef, TimeUnit};
use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode};
use datafusion::common::{Column, Result};
use datafusion::logical_expr::expr::{AggregateFunction, AggregateFunctionParams, NullTreatment, Sort};
use datafusion::logical_expr::logical_plan::TableScan;
use datafusion::logical_expr::utils::split_conjunction;
use datafusion::logical_expr::{Aggregate, AggregateUDF, Expr, LogicalPlan, lit};
use storage_format::{Channel, ChannelCode};

use super::steps::{self, Steps};
use crate::functions::partial_average;

/// What a row of rollups, or a reading as one, tells beside its logger and the start of its time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Measure {
    /// Number of readings that it stands for.
    Rows,
    /// Times of the first and the last of them.
    FirstTime,
    LastTime,
    /// Something about a channel.
    Of(ChannelCode, Part),
}

/// What is told of a channel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Part {
    /// Number of readings that have a value.
    Count,
    Min,
    Max,
    Sum,
    /// The value of the first and the last reading, or NULL if that one has none.
    First,
    Last,
    /// The first and the last value, and their times.
    FirstSeen,
    FirstSeenTime,
    LastSeen,
    LastSeenTime,
}

impl Measure {
    /// Whether daily rollups know it only.
    pub(super) const fn is_daily(self) -> bool {
        match self {
            Self::Rows | Self::Of(_, Part::Count | Part::Min | Part::Max | Part::Sum) => false,
            Self::FirstTime | Self::LastTime | Self::Of(..) => true,
        }
    }

    /// Whether all channels of a row are looked at for it.
    pub(super) const fn is_of_rows(self) -> bool {
        matches!(self, Self::FirstTime | Self::LastTime | Self::Of(_, Part::First | Part::Last))
    }

    /// The column that holds it.
    pub(super) fn field(self) -> FieldRef {
        let time = || DataType::Timestamp(TimeUnit::Millisecond, Some("UTC".into()));
        let (name, data_type) = match self {
            Self::Rows => return Arc::new(Field::new("rows", DataType::Int64, false)),
            Self::FirstTime => return Arc::new(Field::new("first_time", time(), false)),
            Self::LastTime => return Arc::new(Field::new("last_time", time(), false)),
            Self::Of(_, Part::Count) => ("count", DataType::Int64),
            Self::Of(_, Part::Min) => ("min", DataType::Float64),
            Self::Of(_, Part::Max) => ("max", DataType::Float64),
            Self::Of(_, Part::Sum) => ("sum", DataType::Float64),
            Self::Of(_, Part::First) => ("first", DataType::Float64),
            Self::Of(_, Part::Last) => ("last", DataType::Float64),
            Self::Of(_, Part::FirstSeen) => ("first_seen", DataType::Float64),
            Self::Of(_, Part::FirstSeenTime) => ("first_seen_time", time()),
            Self::Of(_, Part::LastSeen) => ("last_seen", DataType::Float64),
            Self::Of(_, Part::LastSeenTime) => ("last_seen_time", time()),
        };
        let channel = self.channel().map_or("unknown", |channel| channel.name);
        let nullable = data_type != DataType::Int64;
        Arc::new(Field::new(format!("{channel}_{name}"), data_type, nullable))
    }

    pub(super) fn channel(self) -> Option<&'static Channel> {
        match self {
            Self::Of(code, _) => code.channel(),
            _ => None,
        }
    }
}

/// Answer of one aggregate from measures.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) expr: Expr,
    /// NULL is none of anything.
    pub(super) is_count: bool,
}

impl Answer {
    /// Whether it is of some of a group's readings only.
    pub(super) fn is_filtered(&self) -> bool {
        matches!(&self.expr, Expr::AggregateFunction(call) if call.params.filter.is_some())
    }
}

/// An aggregate over the table of readings, in its terms.
#[derive(Debug)]
pub(super) struct Question {
    pub(super) scan: TableScan,
    pub(super) filters: Vec<Expr>,
    pub(super) groups: Vec<Expr>,
    pub(super) answers: Vec<Answer>,
    pub(super) measures: Vec<Measure>,
    pub(super) steps: Steps,
    /// Whether the value of first and last readings is asked for, which is one only within a logger.
    pub(super) of_one_logger: bool,
}

impl Question {
    /// None if rollups cannot answer it.
    pub(super) fn of(aggregate: &Aggregate, sum: &Arc<AggregateUDF>) -> Result<Option<Self>> {
        let Some(below) = Below::of(&aggregate.input)? else { return Ok(None) };
        let mut question = Self {
            filters: below.filters,
            groups: Vec::new(),
            answers: Vec::new(),
            measures: Vec::new(),
            steps: Steps::default(),
            of_one_logger: false,
            scan: below.scan,
        };
        for filter in &question.filters {
            if !steps::collect(filter, &mut question.steps)? {
                return Ok(None);
            }
        }
        for group in &aggregate.group_expr {
            let Some(group) = below.columns.put_into(group)? else { return Ok(None) };
            if !steps::collect(&group, &mut question.steps)? {
                return Ok(None);
            }
            question.groups.push(group);
        }
        for call in &aggregate.aggr_expr {
            let Some(call) = below.columns.put_into(call)? else { return Ok(None) };
            let Expr::AggregateFunction(call) = call.unalias() else { return Ok(None) };
            let Some(answer) = question.answer(call, sum)? else { return Ok(None) };
            question.answers.push(answer);
        }
        Ok(Some(question))
    }

    fn answer(&mut self, call: AggregateFunction, sum: &Arc<AggregateUDF>) -> Result<Option<Answer>> {
        let params = &call.params;
        if params.distinct {
            return Ok(None);
        }
        if let Some(filter) = &params.filter
            && !steps::collect(filter, &mut self.steps)?
        {
            return Ok(None);
        }
        let [argument] = params.args.as_slice() else { return Ok(None) };
        let argument = &argument.clone().unalias_nested().data;
        let ordered = !params.order_by.is_empty();
        let with = |func: &Arc<AggregateUDF>, args, order_by| {
            Expr::AggregateFunction(AggregateFunction {
                func: Arc::clone(func),
                params: AggregateFunctionParams { args, order_by, ..params.clone() },
            })
        };
        let channel = channel(argument);
        let expr = match (call.func.name(), ordered) {
            ("count", false) => {
                let count = match (argument, channel) {
                    (_, Some(code)) => Measure::Of(code, Part::Count),
                    (Expr::Literal(value, _), _) if !value.is_null() => Measure::Rows,
                    (Expr::Column(column), _) if is_key(column) => Measure::Rows,
                    _ => return Ok(None),
                };
                let count = self.measure(count);
                return Ok(Some(Answer { expr: with(sum, vec![count], Vec::new()), is_count: true }));
            }
            ("sum", false) => match channel {
                Some(code) => with(&call.func, vec![self.measure(Measure::Of(code, Part::Sum))], Vec::new()),
                None => return Ok(None),
            },
            ("avg", false) => match channel {
                Some(code) => {
                    let args = [Part::Sum, Part::Count].map(|part| self.measure(Measure::Of(code, part)));
                    with(&partial_average(), args.to_vec(), Vec::new())
                }
                None => return Ok(None),
            },
            (name @ ("min" | "max"), false) => {
                let is_min = name == "min";
                let value = match (argument, channel) {
                    (_, Some(code)) => self.measure(Measure::Of(code, if is_min { Part::Min } else { Part::Max })),
                    (Expr::Column(column), _) if column.name == "time" => {
                        self.measure(if is_min { Measure::FirstTime } else { Measure::LastTime })
                    }
                    (Expr::Column(column), _) if column.name == "logger" => argument.clone(),
                    _ => return Ok(None),
                };
                with(&call.func, vec![value], Vec::new())
            }
            (name @ ("first_value" | "last_value"), true) => match self.end(name, argument, params) {
                Some((value, order)) => with(&call.func, vec![value], vec![order]),
                None => return Ok(None),
            },
            _ => return Ok(None),
        };
        Ok(Some(Answer { expr, is_count: false }))
    }

    /// The value and the order for a first or last value by time.
    fn end(&mut self, name: &str, argument: &Expr, params: &AggregateFunctionParams) -> Option<(Expr, Sort)> {
        // Within one logger, it does not order.
        let is_logger = |order: &&Sort| matches!(&order.expr, Expr::Column(column) if column.name == "logger");
        let orders: Vec<&Sort> = params.order_by.iter().filter(|order| !is_logger(order)).collect();
        let [order] = orders.as_slice() else { return None };
        if !is_time(&order.expr) {
            return None;
        }
        self.of_one_logger = true;
        let is_first = (name == "first_value") == order.asc;
        let seen = params.null_treatment == Some(NullTreatment::IgnoreNulls);
        let (value, time) = match (channel(argument), is_first, seen) {
            (Some(code), true, true) => (Measure::Of(code, Part::FirstSeen), Measure::Of(code, Part::FirstSeenTime)),
            (Some(code), false, true) => (Measure::Of(code, Part::LastSeen), Measure::Of(code, Part::LastSeenTime)),
            (Some(code), true, false) => (Measure::Of(code, Part::First), Measure::FirstTime),
            (Some(code), false, false) => (Measure::Of(code, Part::Last), Measure::LastTime),
            (None, true, _) if is_time(argument) => (Measure::FirstTime, Measure::FirstTime),
            (None, false, _) if is_time(argument) => (Measure::LastTime, Measure::LastTime),
            _ if is_of_logger(argument) => {
                let time = if is_first { Measure::FirstTime } else { Measure::LastTime };
                return Some((argument.clone(), Sort { expr: self.measure(time), ..Sort::clone(order) }));
            }
            _ => return None,
        };
        let (value, time) = (self.measure(value), self.measure(time));
        Some((value, Sort { expr: time, ..Sort::clone(order) }))
    }

    fn measure(&mut self, measure: Measure) -> Expr {
        if !self.measures.contains(&measure) {
            self.measures.push(measure);
        }
        Expr::Column(Column::new(Some(self.scan.table_name.clone()), measure.field().name()))
    }

    /// Whether each group has readings of one logger only.
    pub(super) fn groups_by_logger(&self) -> bool {
        self.groups.iter().any(|group| matches!(group, Expr::Column(column) if column.name == "logger"))
    }
}

fn is_key(column: &Column) -> bool {
    column.name == "logger" || column.name == "time"
}

fn is_time(expr: &Expr) -> bool {
    matches!(expr, Expr::Column(column) if column.name == "time")
}

/// Whether it depends on the logger alone.
fn is_of_logger(expr: &Expr) -> bool {
    let mut steps = Steps::default();
    steps::collect(expr, &mut steps).unwrap_or(false) && steps.is_empty()
}

fn channel(expr: &Expr) -> Option<ChannelCode> {
    match expr {
        Expr::Column(column) => Channel::by_name(&column.name).map(|channel| channel.code),
        _ => None,
    }
}

/// What is below an aggregate: a scan, filters of its rows, and what the aggregate's columns are in terms of the scan's.
struct Below {
    scan: TableScan,
    filters: Vec<Expr>,
    columns: Columns,
}

/// What each column is.
struct Columns(HashMap<Column, Expr>);

impl Columns {
    /// The expression with each column replaced by what it is.
    fn put_into(&self, expr: &Expr) -> Result<Option<Expr>> {
        let mut known = true;
        let replaced = expr.clone().transform_down(|part| {
            Ok(match part {
                Expr::Column(column) => match self.0.get(&column) {
                    Some(expr) => {
                        Transformed::new(expr.clone(), true, datafusion::common::tree_node::TreeNodeRecursion::Jump)
                    }
                    None => {
                        known = false;
                        Transformed::no(Expr::Column(column))
                    }
                },
                other => Transformed::no(other),
            })
        });
        let replaced = replaced.data()?;
        Ok(known.then_some(replaced))
    }
}

impl Below {
    /// None if there is more than a scan, filters and projections.
    fn of(plan: &LogicalPlan) -> Result<Option<Self>> {
        match plan {
            LogicalPlan::TableScan(scan) if scan.fetch.is_none() => {
                let columns = scan.projected_schema.columns().into_iter();
                let columns = Columns(columns.map(|column| (column.clone(), Expr::Column(column))).collect());
                Ok(Some(Self { scan: scan.clone(), filters: Vec::new(), columns }))
            }
            LogicalPlan::Filter(filter) => {
                let Some(mut below) = Self::of(&filter.input)? else { return Ok(None) };
                for part in split_conjunction(&filter.predicate) {
                    let Some(part) = below.columns.put_into(part)? else { return Ok(None) };
                    below.filters.push(part);
                }
                Ok(Some(below))
            }
            LogicalPlan::Projection(projection) => {
                let Some(below) = Self::of(&projection.input)? else { return Ok(None) };
                let mut columns = HashMap::new();
                for (column, expr) in projection.schema.columns().into_iter().zip(&projection.expr) {
                    let Some(expr) = below.columns.put_into(expr)? else { return Ok(None) };
                    columns.insert(column, expr.unalias());
                }
                Ok(Some(Self { columns: Columns(columns), ..below }))
            }
            LogicalPlan::SubqueryAlias(alias) => {
                let Some(below) = Self::of(&alias.input)? else { return Ok(None) };
                let inner = alias.input.schema().columns();
                let columns = alias.schema.columns().into_iter().zip(inner);
                let columns = columns.filter_map(|(outer, inner)| Some((outer, below.columns.0.get(&inner)?.clone())));
                Ok(Some(Self { columns: Columns(columns.collect()), ..below }))
            }
            _ => Ok(None),
        }
    }
}

/// The count that NULL is.
pub(super) fn none() -> Expr {
    lit(0_i64)
}
