//! Starts of periods compared with chrono's calendar, in any order of values.

use chrono::{DateTime, Duration, MappedLocalTime, NaiveDateTime, NaiveTime, Offset, TimeZone};
use proptest::prelude::*;

use super::*;

const PERIODS: [Period; 8] = [
    Period::Second,
    Period::Minute,
    Period::Hour,
    Period::Day,
    Period::Week,
    Period::Month,
    Period::Quarter,
    Period::Year,
];

/// The earliest instant of a local time, or of the next one that comes, minute by minute.
fn earliest(zone: chrono_tz::Tz, local: NaiveDateTime) -> i64 {
    (0..3_000)
        .find_map(|minutes| match zone.from_local_datetime(&(local + Duration::minutes(minutes))) {
            MappedLocalTime::Single(time) => Some(time.timestamp()),
            MappedLocalTime::Ambiguous(one, other) => Some(one.timestamp().min(other.timestamp())),
            MappedLocalTime::None => None,
        })
        .expect("clocks go on")
}

fn model(zone: chrono_tz::Tz, period: Period, second: i64) -> i64 {
    let time = DateTime::from_timestamp(second, 0).expect("in range").with_timezone(&zone);
    if let Some(length) = period.seconds() {
        let offset = i64::from(time.offset().fix().local_minus_utc());
        return second - (second + offset).rem_euclid(length);
    }
    let date = time.date_naive();
    let first = match period {
        Period::Week => date - Duration::days(i64::from(date.weekday().num_days_from_monday())),
        Period::Month => date.with_day(1).expect("a date"),
        Period::Quarter => date.with_day(1).and_then(|date| date.with_month0(date.month0() / 3 * 3)).expect("a date"),
        Period::Year => date.with_ordinal(1).expect("a date"),
        _ => date,
    };
    earliest(zone, first.and_time(NaiveTime::MIN))
}

fn named(zone: chrono_tz::Tz) -> Zone {
    Zone::named(zone.name()).expect("exists")
}

proptest! {
    #[test]
    fn starts_are_those_of_the_calendar(
        zone in proptest::sample::select(&chrono_tz::TZ_VARIANTS[..]),
        seconds in proptest::collection::vec(946_684_800_i64..2_145_916_800, 1..20),
        part in 0_i64..1_000,
    ) {
        for period in PERIODS {
            // One after the other, so that what was kept of the last one must not matter.
            let mut truncate = Truncate::new(named(zone), period, 1_000);
            for &second in &seconds {
                let expected = model(zone, period, second) * 1_000;
                prop_assert_eq!(truncate.start(second * 1_000 + part), Some(expected), "{:?} in {}", period, zone);
            }
        }
    }

    /// As the order of rows is told to the planner.
    #[test]
    fn starts_ascend(
        zone in proptest::sample::select(&chrono_tz::TZ_VARIANTS[..]),
        from in -5_364_662_400_i64..4_102_444_800,
        steps in proptest::collection::vec(0_i64..100_000, 1..200),
    ) {
        let days_ascend = crate::time::dates_ascend(Some(zone.name()));
        for period in PERIODS.into_iter().filter(|period| days_ascend || !period.is_of_days()) {
            let mut truncate = Truncate::new(named(zone), period, 1);
            let (mut second, mut last) = (from, i64::MIN);
            for step in &steps {
                second += step;
                let start = truncate.start(second).expect("in range");
                prop_assert!(last <= start && start <= second, "{:?} in {} at {}", period, zone, second);
                last = start;
            }
        }
    }

    /// As comparisons with starts become comparisons with times.
    #[test]
    fn ranges_are_those_with_one_start(
        zone in proptest::sample::select(&chrono_tz::TZ_VARIANTS[..]),
        second in 946_684_800_i64..2_145_916_800,
    ) {
        // Elsewhere nobody asks.
        prop_assume!(crate::time::dates_ascend(Some(zone.name())));
        let zones = [Zone::UTC, Zone::Fixed(20_700), named(zone)];
        for (zone, period) in zones.into_iter().flat_map(|zone| PERIODS.map(|period| (zone, period))) {
            let mut truncate = Truncate::new(zone, period, 1);
            let start = truncate.start(second).expect("in range");
            let Some((from, to)) = truncate.range(second) else { continue };
            prop_assert!(from == start && (from..to).contains(&second));
            for (at, inside) in [(from, true), (to - 1, true), (from - 1, false), (to, false)] {
                let found = Truncate::new(zone, period, 1).start(at).expect("in range");
                prop_assert_eq!(found == start, inside, "{:?} in {:?} of {} at {}", period, zone, second, at);
            }
        }
    }
}

#[test]
fn parts_of_seconds() {
    for (period, per_second, value, start) in [
        (Period::Millisecond, 1_000, -1, -1),
        (Period::Millisecond, 1, 7, 7),
        (Period::Millisecond, 1_000_000, -1, -1_000),
        (Period::Microsecond, 1_000_000_000, 1_999, 1_000),
        (Period::Second, 1_000, -1, -1_000),
        (Period::Minute, 1_000_000_000, 59_999_999_999, 0),
    ] {
        for zone in [Zone::UTC, Zone::named("Asia/Kathmandu").expect("exists")] {
            assert_eq!(Truncate::new(zone, period, per_second).start(value), Some(start), "{period:?} of {value}");
        }
    }
}

/// What cannot be represented is none, and nothing panics.
#[test]
fn the_ends_of_time() {
    for period in PERIODS {
        for (zone, per_second) in [(Zone::UTC, 1), (Zone::Fixed(-3_600), 1_000_000_000), (Zone::UTC, 1_000)] {
            for value in [i64::MIN, i64::MAX] {
                let mut truncate = Truncate::new(zone, period, per_second);
                let start = truncate.start(value);
                assert!(start.is_none_or(|start| start <= value), "{period:?}");
                truncate.range(value);
            }
        }
    }
    let year = |value| Truncate::new(Zone::UTC, Period::Year, 1_000).start(value);
    assert_eq!(year(253_402_300_799_999), Some(253_370_764_800_000), "the year 9999");
    assert_eq!(year(i64::MAX), None);
}
