//! From a query's filters to the keys that can matter: a range of time and a range or list of loggers.
//!
//! Segments are chosen by this from the manifest alone, before any is opened. Always a superset: whatever a filter
//! does that is not understood here leaves the bounds as wide as they were, and the filter itself is still applied to
//! every row.

use datafusion::common::ScalarValue;
use datafusion::logical_expr::expr::{Between, InList};
use datafusion::logical_expr::{BinaryExpr, Expr, Operator};
use storage_format::manifest::SegmentEntry;

use crate::limits::PRUNE_LOGGERS_MAX;

#[cfg(test)]
mod tests;

/// Which loggers can matter.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Loggers {
    /// From the first to and with the last; empty if the first is greater.
    Range(u64, u64),
    /// These, ascending.
    List(Vec<u64>),
}

impl Loggers {
    const ALL: Self = Self::Range(0, u64::MAX);

    fn is_empty(&self) -> bool {
        match self {
            Self::Range(first, last) => first > last,
            Self::List(list) => list.is_empty(),
        }
    }

    fn ends(&self) -> Option<(u64, u64)> {
        match self {
            Self::Range(first, last) => (first <= last).then_some((*first, *last)),
            Self::List(list) => Some((*list.first()?, *list.last()?)),
        }
    }

    fn contains(&self, logger: u64) -> bool {
        match self {
            Self::Range(first, last) => (*first..=*last).contains(&logger),
            Self::List(list) => list.binary_search(&logger).is_ok(),
        }
    }

    fn any_within(&self, first: u64, last: u64) -> bool {
        match self {
            Self::Range(start, end) => *start <= last && first <= *end && start <= end,
            Self::List(list) => list.get(list.partition_point(|&logger| logger < first)).is_some_and(|&l| l <= last),
        }
    }

    fn list(mut list: Vec<u64>) -> Self {
        list.sort_unstable();
        list.dedup();
        match (list.first(), list.last()) {
            (Some(&first), Some(&last)) if list.len() > PRUNE_LOGGERS_MAX => Self::Range(first, last),
            _ => Self::List(list),
        }
    }

    fn and(self, other: Self) -> Self {
        match (self, other) {
            (Self::Range(a, b), Self::Range(c, d)) => Self::Range(a.max(c), b.min(d)),
            (Self::List(list), other) | (other, Self::List(list)) => {
                Self::List(list.into_iter().filter(|&logger| other.contains(logger)).collect())
            }
        }
    }

    fn or(self, other: Self) -> Self {
        match (self, other) {
            (Self::List(mut list), Self::List(more)) => {
                list.extend(more);
                Self::list(list)
            }
            (one, other) => match (one.ends(), other.ends()) {
                (Some((a, b)), Some((c, d))) => Self::Range(a.min(c), b.max(d)),
                (Some((a, b)), None) | (None, Some((a, b))) => Self::Range(a, b),
                (None, None) => Self::List(Vec::new()),
            },
        }
    }
}

/// The keys that can matter to a query: no row outside of them can pass its filters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct KeyBounds {
    /// First and last millisecond, both inside; empty if the first is later.
    time: (i64, i64),
    loggers: Loggers,
}

impl KeyBounds {
    pub(crate) const ALL: Self = Self { time: (i64::MIN, i64::MAX), loggers: Loggers::ALL };

    fn none() -> Self {
        Self { time: (i64::MAX, i64::MIN), loggers: Loggers::List(Vec::new()) }
    }

    /// What all of these filters together let through.
    pub(crate) fn of_filters(filters: &[Expr]) -> Self {
        filters.iter().map(of_expr).fold(Self::ALL, Self::and)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.time.0 > self.time.1 || self.loggers.is_empty()
    }

    /// First and last millisecond that can matter.
    pub(crate) fn times(&self) -> (i64, i64) {
        self.time
    }

    /// First and last logger that can matter; none if none can.
    pub(crate) fn loggers(&self) -> Option<(u64, u64)> {
        self.loggers.ends()
    }

    /// Is it about one logger only?
    pub(crate) fn one_logger(&self) -> bool {
        self.loggers.ends().is_some_and(|(first, last)| first == last)
    }

    /// May this segment have a row that matters?
    pub(crate) fn may_hold(&self, entry: &SegmentEntry) -> bool {
        !self.is_empty()
            && self.time.0 <= entry.time_max.get()
            && entry.time_min.get() <= self.time.1
            && self.loggers.any_within(entry.logger_min.get(), entry.logger_max.get())
    }

    /// Can a row of this logger and time matter?
    pub(crate) fn contains(&self, logger: u64, time: i64) -> bool {
        self.time.0 <= time && time <= self.time.1 && self.loggers.contains(logger)
    }

    fn and(self, other: Self) -> Self {
        Self {
            time: (self.time.0.max(other.time.0), self.time.1.min(other.time.1)),
            loggers: self.loggers.and(other.loggers),
        }
    }

    fn or(self, other: Self) -> Self {
        if self.is_empty() {
            return other;
        }
        if other.is_empty() {
            return self;
        }
        Self {
            time: (self.time.0.min(other.time.0), self.time.1.max(other.time.1)),
            loggers: self.loggers.or(other.loggers),
        }
    }
}

fn of_expr(expr: &Expr) -> KeyBounds {
    match expr {
        Expr::Alias(alias) => of_expr(&alias.expr),
        Expr::IsTrue(inner) => of_expr(inner),
        Expr::Literal(ScalarValue::Boolean(Some(false) | None), _) => KeyBounds::none(),
        Expr::BinaryExpr(BinaryExpr { left, op: Operator::And, right }) => of_expr(left).and(of_expr(right)),
        Expr::BinaryExpr(BinaryExpr { left, op: Operator::Or, right }) => of_expr(left).or(of_expr(right)),
        Expr::BinaryExpr(BinaryExpr { left, op, right }) => match (key_of(left), key_of(right)) {
            (Some(key), _) => of_comparison(key, *op, right),
            (None, Some(key)) => op.swap().map_or(KeyBounds::ALL, |op| of_comparison(key, op, left)),
            (None, None) => KeyBounds::ALL,
        },
        Expr::Between(Between { expr, negated: false, low, high }) => match key_of(expr) {
            Some(key) => of_comparison(key, Operator::GtEq, low).and(of_comparison(key, Operator::LtEq, high)),
            None => KeyBounds::ALL,
        },
        Expr::InList(InList { expr, list, negated: false }) => match key_of(expr) {
            Some(key) => of_list(key, list),
            None => KeyBounds::ALL,
        },
        _ => KeyBounds::ALL,
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Key {
    Time,
    Logger,
}

/// The key column behind an expression: the column itself, or cast to another type of the same order.
fn key_of(expr: &Expr) -> Option<Key> {
    match expr {
        Expr::Column(column) if column.name == "time" => Some(Key::Time),
        Expr::Column(column) if column.name == "logger" => Some(Key::Logger),
        Expr::Cast(cast) => key_of_column(&cast.expr).filter(|_| keeps_order(cast.field.data_type())),
        Expr::TryCast(cast) => key_of_column(&cast.expr).filter(|_| keeps_order(cast.field.data_type())),
        _ => None,
    }
}

fn key_of_column(expr: &Expr) -> Option<Key> {
    if matches!(expr, Expr::Column(_)) { key_of(expr) } else { None }
}

fn keeps_order(to: &arrow::datatypes::DataType) -> bool {
    use arrow::datatypes::DataType;
    matches!(
        to,
        DataType::Timestamp(..) | DataType::Date32 | DataType::UInt64 | DataType::Int64 | DataType::Decimal128(_, 0)
    )
}

fn of_list(key: Key, list: &[Expr]) -> KeyBounds {
    match key {
        Key::Logger => {
            let mut loggers = Vec::with_capacity(list.len());
            for expr in list {
                match literal(expr).and_then(integer) {
                    Some(value) => loggers.extend(u64::try_from(value).ok()),
                    None => return KeyBounds::ALL,
                }
            }
            KeyBounds { loggers: Loggers::list(loggers), ..KeyBounds::ALL }
        }
        Key::Time => {
            list.iter().map(|expr| of_comparison(key, Operator::Eq, expr)).fold(KeyBounds::none(), KeyBounds::or)
        }
    }
}

fn of_comparison(key: Key, op: Operator, value: &Expr) -> KeyBounds {
    let Some(value) = literal(value) else { return KeyBounds::ALL };
    if value.is_null() && op != Operator::IsNotDistinctFrom {
        // No comparison with NULL is true.
        return KeyBounds::none();
    }
    match key {
        Key::Time => match milliseconds(value) {
            Some((low, high)) => match range(op, low, high) {
                Some(time) => KeyBounds { time, ..KeyBounds::ALL },
                None => KeyBounds::ALL,
            },
            None => KeyBounds::ALL,
        },
        Key::Logger => match integer(value) {
            Some(value) => {
                let clamp = |v: i128| u64::try_from(v.clamp(0, i128::from(u64::MAX))).unwrap_or(u64::MAX);
                match op {
                    Operator::Eq | Operator::IsNotDistinctFrom => KeyBounds {
                        loggers: Loggers::list(u64::try_from(value).into_iter().collect()),
                        ..KeyBounds::ALL
                    },
                    Operator::Gt | Operator::GtEq => {
                        KeyBounds { loggers: Loggers::Range(clamp(value), u64::MAX), ..KeyBounds::ALL }
                    }
                    Operator::Lt | Operator::LtEq => {
                        KeyBounds { loggers: Loggers::Range(0, clamp(value)), ..KeyBounds::ALL }
                    }
                    _ => KeyBounds::ALL,
                }
            }
            None => KeyBounds::ALL,
        },
    }
}

/// The times that can compare so with a value that lies between `low` and `high`.
fn range(op: Operator, low: i64, high: i64) -> Option<(i64, i64)> {
    let exact = low == high;
    match op {
        Operator::Eq | Operator::IsNotDistinctFrom => Some((low, high)),
        Operator::Gt if exact => low.checked_add(1).map(|low| (low, i64::MAX)),
        Operator::Lt if exact => high.checked_sub(1).map(|high| (i64::MIN, high)),
        Operator::Gt | Operator::GtEq => Some((low, i64::MAX)),
        Operator::Lt | Operator::LtEq => Some((i64::MIN, high)),
        _ => None,
    }
}

fn literal(expr: &Expr) -> Option<&ScalarValue> {
    match expr {
        Expr::Literal(value, _) => Some(value),
        Expr::Alias(alias) => literal(&alias.expr),
        _ => None,
    }
}

fn integer(value: &ScalarValue) -> Option<i128> {
    match value {
        ScalarValue::UInt64(Some(v)) => Some(i128::from(*v)),
        ScalarValue::Int64(Some(v)) => Some(i128::from(*v)),
        ScalarValue::UInt32(Some(v)) => Some(i128::from(*v)),
        ScalarValue::Int32(Some(v)) => Some(i128::from(*v)),
        ScalarValue::Decimal128(Some(v), _, 0) => Some(*v),
        _ => None,
    }
}

/// The first and the last millisecond that can compare as equal to this. Casts to coarser units cut towards zero, so
/// that a whole unit on either side can.
fn milliseconds(value: &ScalarValue) -> Option<(i64, i64)> {
    let coarser = |v: i64, factor: i64| {
        let at = v.saturating_mul(factor);
        (at.saturating_sub(factor - 1), at.saturating_add(factor - 1))
    };
    let finer = |v: i64, factor: i64| (v.div_euclid(factor), v.div_euclid(factor) + i64::from(v % factor != 0));
    match value {
        ScalarValue::TimestampMillisecond(Some(v), _) => Some((*v, *v)),
        ScalarValue::TimestampSecond(Some(v), _) => Some(coarser(*v, 1_000)),
        ScalarValue::TimestampMicrosecond(Some(v), _) => Some(finer(*v, 1_000)),
        ScalarValue::TimestampNanosecond(Some(v), _) => Some(finer(*v, 1_000_000)),
        ScalarValue::Date32(Some(v)) => Some(coarser(i64::from(*v), 86_400_000)),
        _ => None,
    }
}
