//! Bounds of filters as data, and the property that they never leave out a row that passes.

use datafusion::common::ScalarValue;
use datafusion::logical_expr::{Expr, cast, col, lit};

use super::*;

fn ms(value: i64) -> Expr {
    lit(ScalarValue::TimestampMillisecond(Some(value), Some("UTC".into())))
}

fn time(low: i64, high: i64) -> KeyBounds {
    KeyBounds { time: (low, high), ..KeyBounds::ALL }
}

fn loggers(list: &[u64]) -> KeyBounds {
    KeyBounds { loggers: Loggers::List(list.to_vec()), ..KeyBounds::ALL }
}

#[track_caller]
fn check(filter: Expr, expected: &KeyBounds) {
    let shown = filter.to_string();
    assert_eq!(&KeyBounds::of_filters(&[filter]), expected, "{shown}");
}

#[test]
fn comparisons() {
    check(col("time").gt(ms(5)), &time(6, i64::MAX));
    check(col("time").gt_eq(ms(5)), &time(5, i64::MAX));
    check(col("time").lt(ms(5)), &time(i64::MIN, 4));
    check(ms(5).gt_eq(col("time")), &time(i64::MIN, 5));
    check(col("time").eq(ms(5)), &time(5, 5));
    check(col("time").not_eq(ms(5)), &KeyBounds::ALL);
    check(col("time").between(ms(1), ms(9)), &time(1, 9));
    check(col("time").gt_eq(ms(1)).and(col("time").lt(ms(9))), &time(1, 8));
    check(col("time").lt(ms(1)).or(col("time").lt(ms(9))), &time(i64::MIN, 8));
    check(col("time").in_list(vec![ms(3), ms(1)], false), &time(1, 3));
    check(col("time").in_list(vec![ms(3), ms(1)], true), &KeyBounds::ALL);
    check(col("logger").eq(lit(7_u64)), &loggers(&[7]));
    check(col("logger").eq(lit(7_i64)), &loggers(&[7]));
    check(col("logger").eq(lit(-7_i64)), &loggers(&[]));
    check(col("logger").eq(lit(7_u64)).or(col("logger").eq(lit(3_u64))), &loggers(&[3, 7]));
    check(col("logger").in_list(vec![lit(7_u64), lit(3_u64), lit(7_u64)], false), &loggers(&[3, 7]));
    check(col("logger").gt(lit(7_u64)), &KeyBounds { loggers: Loggers::Range(7, u64::MAX), ..KeyBounds::ALL });
    check(col("temperature").gt(lit(7.0)), &KeyBounds::ALL);
    check(col("time").gt(ms(5)).or(col("temperature").gt(lit(7.0))), &KeyBounds::ALL);
    check(!col("time").gt(ms(5)), &KeyBounds::ALL);
    check(lit(false), &KeyBounds::none());
    check(col("time").gt(lit(ScalarValue::TimestampMillisecond(None, Some("UTC".into())))), &KeyBounds::none());
}

#[test]
fn other_units_are_rounded_outwards() {
    let ns = |v| lit(ScalarValue::TimestampNanosecond(Some(v), None));
    check(col("time").gt(ns(1_500_000)), &time(1, i64::MAX));
    check(col("time").lt(ns(1_500_000)), &time(i64::MIN, 2));
    let day = || cast(col("time"), arrow::datatypes::DataType::Date32);
    let bounds = KeyBounds::of_filters(&[day().eq(lit(ScalarValue::Date32(Some(1))))]);
    assert!(bounds.time.0 <= 86_400_000 && bounds.time.1 >= 2 * 86_400_000 - 1, "{bounds:?}");
}

#[test]
fn long_lists_become_ranges() {
    let list = (1..=PRUNE_LOGGERS_MAX as u64 + 1).map(lit).collect();
    let expected = Loggers::Range(1, PRUNE_LOGGERS_MAX as u64 + 1);
    check(col("logger").in_list(list, false), &KeyBounds { loggers: expected, ..KeyBounds::ALL });
}
