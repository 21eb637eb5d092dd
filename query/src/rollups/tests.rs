//! Tests of steps and pieces, against what every minute says for itself.
use std::sync::Arc;

use datafusion::common::ScalarValue;
use datafusion::logical_expr::{Expr, ScalarUDF, col, lit};

use super::pieces::{DAY_MS, Grain, HOUR_MS, Pieces};
use super::steps::{Steps, collect};
use crate::functions;
use crate::time::{Period, Truncate, Zone};

fn utc(text: &str) -> i64 {
    text.parse::<storage_format::Millis>().expect("a time").get()
}

fn days(first: &str, count: i64) -> Vec<i64> {
    (0..count).map(|day| utc(first) + day * DAY_MS).collect()
}

fn date_trunc(unit: &str, time: Expr) -> Expr {
    let function: Arc<ScalarUDF> =
        functions::all().into_iter().find(|function| function.name() == "date_trunc").expect("there");
    function.call(vec![lit(unit), time])
}

fn time(ms: i64) -> Expr {
    lit(ScalarValue::TimestampMillisecond(Some(ms), Some("UTC".into())))
}

/// Pieces of periods of a zone, as the starts of the periods of each minute say.
#[test]
fn pieces_are_as_every_minute_says() {
    for (zone, first) in [
        ("UTC", "2024-02-28T00:00:00Z"),
        ("Europe/Berlin", "2024-03-29T00:00:00Z"),
        ("Europe/Berlin", "2024-10-25T00:00:00Z"),
        ("Australia/Adelaide", "2024-04-05T00:00:00Z"),
        ("Australia/Lord_Howe", "2024-04-05T00:00:00Z"),
        ("Asia/Kathmandu", "1985-12-30T00:00:00Z"),
        ("America/St_Johns", "2006-10-27T00:00:00Z"),
        ("America/Sao_Paulo", "2018-11-02T00:00:00Z"),
        ("Pacific/Apia", "2011-12-28T00:00:00Z"),
    ] {
        for (unit, period) in
            [("hour", Period::Hour), ("day", Period::Day), ("week", Period::Week), ("month", Period::Month)]
        {
            let truncate = || Truncate::new(Zone::named(zone).expect("a zone"), period, 1_000);
            let days = days(first, 6);
            let mut periods = Steps { periods: vec![truncate()], ..Steps::default() };
            let pieces = Pieces::new(&days, &mut periods, true).expect("pieces");
            let mut of_minutes = truncate();
            let starts: Vec<Option<i64>> =
                (0..6 * 24 * 60).map(|minute| of_minutes.start(days[0] + minute * 60_000)).collect();
            let is_one =
                |minutes: std::ops::Range<usize>| starts[minutes.clone()].iter().all(|s| *s == starts[minutes.start]);
            for hour in 0..6 * 24 {
                let day = hour / 24;
                let wanted = if is_one(day * 1440..(day + 1) * 1440) {
                    Grain::Daily
                } else if is_one(hour * 60..(hour + 1) * 60) {
                    Grain::Hourly
                } else {
                    Grain::Rows
                };
                let at = days[0] + i64::try_from(hour).expect("few") * HOUR_MS;
                assert_eq!(pieces.at(at).0, wanted, "{zone} {unit}, hour {hour} from {first}");
                assert_eq!(pieces.at(at + HOUR_MS - 1).0, wanted, "{zone} {unit}, hour {hour} from {first}");
            }
        }
    }
}

#[test]
fn without_hourly_rollups_days_are_whole_or_of_rows() {
    let days = days("2024-01-01T00:00:00Z", 3);
    let middle = days[1] + 5 * HOUR_MS;
    let at = |time| Steps { at: [time].into(), ..Steps::default() };
    let pieces = Pieces::new(&days, &mut at(middle), false).expect("pieces");
    let grains: Vec<Grain> = days.iter().map(|&day| pieces.at(day).0).collect();
    assert_eq!(grains, [Grain::Daily, Grain::Rows, Grain::Daily]);
    let pieces = Pieces::new(&days, &mut at(middle), true).expect("pieces");
    assert_eq!(pieces.within(days[1], days[1] + DAY_MS - 1, Grain::Hourly), [(days[1], days[1] + DAY_MS - 1)]);
    assert_eq!(
        pieces.within(days[0], days[2] + DAY_MS - 1, Grain::Daily),
        [(days[0], days[0] + DAY_MS - 1), (days[2], days[2] + DAY_MS - 1)]
    );
}

#[test]
fn what_is_beside_the_days_is_of_rows() {
    let days = [utc("2024-01-01T00:00:00Z"), utc("2024-01-05T00:00:00Z")];
    let pieces = Pieces::new(&days, &mut Steps::default(), true).expect("pieces");
    for (time, wanted) in [
        (days[0] - 1, Grain::Rows),
        (days[0], Grain::Daily),
        (days[0] + DAY_MS - 1, Grain::Daily),
        (days[0] + DAY_MS, Grain::Rows),
        (days[1] - 1, Grain::Rows),
        (days[1], Grain::Daily),
        (days[1] + DAY_MS, Grain::Rows),
        (i64::MAX, Grain::Rows),
        (i64::MIN, Grain::Rows),
    ] {
        assert_eq!(pieces.at(time).0, wanted, "{time}");
    }
}

#[test]
fn ends_of_ranges_cut_the_hour_that_they_are_in() {
    let day = utc("2024-01-01T00:00:00Z");
    for (filter, odd) in [
        (col("time").gt_eq(time(day + 5 * HOUR_MS)), None),
        (col("time").lt(time(day + 5 * HOUR_MS)), None),
        (col("time").gt(time(day + 5 * HOUR_MS - 1)), None),
        (col("time").lt_eq(time(day + 5 * HOUR_MS - 1)), None),
        (col("time").gt(time(day + 5 * HOUR_MS)), Some(5)),
        (col("time").lt_eq(time(day + 5 * HOUR_MS)), Some(5)),
        (col("time").eq(time(day + 5 * HOUR_MS + 7)), Some(5)),
        (col("time").between(time(day), time(day + 9 * HOUR_MS + 7)), Some(9)),
        (time(day + 9 * HOUR_MS + 7).lt(col("time")), Some(9)),
        (col("time").in_list(vec![time(day + 7)], true), Some(0)),
    ] {
        let mut steps = Steps::default();
        assert!(collect(&filter, &mut steps).expect("steps"), "{filter}");
        let pieces = Pieces::new(&[day], &mut steps, true).expect("pieces");
        for hour in 0..24 {
            let wanted = if odd == Some(hour) { Grain::Rows } else { Grain::Hourly };
            assert_eq!(pieces.at(day + hour * HOUR_MS).0, wanted, "{filter}, hour {hour}");
        }
    }
}

#[test]
fn only_what_is_known_of_time_is_taken() {
    let ok = |expr: Expr| collect(&expr, &mut Steps::default()).expect("an answer");
    assert!(ok(date_trunc("day", col("time"))));
    assert!(ok(col("logger").gt(lit(5_u64)).or(date_trunc("month", col("time")).is_null())));
    assert!(ok(lit(1)));
    for expr in [
        col("time"),
        col("temperature"),
        date_trunc("day", col("received")),
        date_trunc("fortnight", col("time")),
        col("time").gt(col("received")),
        col("temperature").gt(lit(3.0)),
        col("time") + lit(ScalarValue::new_interval_dt(0, 1)),
        date_trunc("day", col("time") + lit(ScalarValue::new_interval_dt(0, 1))),
    ] {
        assert!(!ok(expr.clone()), "{expr}");
    }
}

/// A function that is evaluated at the ends of a range: bins of six hours.
#[test]
fn bins_end_where_their_function_changes() {
    let bins = datafusion::functions::datetime::date_bin();
    let interval = ScalarValue::new_interval_dt(0, 6 * 3_600_000);
    let bins = bins.call(vec![lit(interval), col("time")]);
    let mut steps = Steps::default();
    assert!(collect(&bins, &mut steps).expect("steps"));
    let day = utc("2024-01-01T00:00:00Z");
    let pieces = Pieces::new(&[day], &mut steps, true).expect("pieces");
    assert_eq!(pieces.at(day).0, Grain::Hourly);
    let starts = [day, day + HOUR_MS, day + 5 * HOUR_MS];
    assert_eq!(steps.are_constant(&starts, 6 * HOUR_MS).expect("known"), [true, false, false]);
}
