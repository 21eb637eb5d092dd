//! Every zone and every change of its offset, compared with models that search; and names that are none.

use std::collections::{BTreeMap, BTreeSet};

use super::*;
use crate::time::{Period, Truncate};

const YEAR_1800: i64 = -5_364_662_400;
const YEAR_2000: i64 = 946_684_800;
const YEAR_2038: i64 = 2_145_916_800;
const YEAR_2100: i64 = 4_102_444_800;

fn all() -> impl Iterator<Item = (&'static str, Zone)> {
    chrono_tz::TZ_VARIANTS.iter().map(|zone| (zone.name(), Zone::named(zone.name()).expect("exists")))
}

/// Instants at which the offset changes, but for changes that are undone within a step.
fn changes(zone: Zone, from: i64, to: i64, step: i64) -> Vec<i64> {
    let steps = (from..to).step_by(usize::try_from(step).expect("positive"));
    let mut offset = zone.offset(from);
    let mut found = Vec::new();
    for at in steps {
        let next = zone.offset(at + step);
        if next != offset {
            found.push(zone.change(at, at + step));
        }
        offset = next;
    }
    found
}

/// Around every change of 2000 to 2037, minute by minute: the earliest minute of each local date is where the day starts,
/// for every minute of that date.
#[test]
fn days_start_at_the_earliest_instant_of_their_date() {
    // Zones that change at the same instant between the same offsets are walked once.
    let mut walks = BTreeMap::new();
    for (name, zone) in all() {
        let changes = changes(zone, YEAR_2000, YEAR_2038, DAY / 2);
        // First instants look at 32 hours, in which there is one change at most.
        assert!(changes.windows(2).all(|pair| pair[1] - pair[0] > 2 * OFFSET_MAX), "{name}");
        for change in changes {
            walks.entry((change, zone.offset(change - 1), zone.offset(change))).or_insert((name, zone));
        }
    }
    let (mut doubled, mut missing) = (0, 0);
    for (&(change, ..), &(name, zone)) in &walks {
        let minutes = (change - 25 * 3_600..change + 25 * 3_600).step_by(60);
        let walk: Vec<(i64, i64)> = minutes.map(|at| (at, at + zone.offset(at))).collect();
        let mut starts = BTreeMap::new();
        for &(at, local) in &walk {
            starts.entry(local.div_euclid(DAY)).or_insert(at);
        }
        // The first date begins before the walk does.
        starts.pop_first();
        for (&day, &start) in &starts {
            assert_eq!(zone.first_instant(day * DAY), start, "{name} before {change}");
            let midnights = walk.iter().filter(|(_, local)| *local == day * DAY).count();
            doubled += usize::from(midnights == 2);
            missing += usize::from(midnights == 0);
        }
        let mut days = Truncate::new(zone, Period::Day, 1);
        for (at, local) in walk {
            if let Some(&start) = starts.get(&local.div_euclid(DAY)) {
                assert_eq!(days.start(at), Some(start), "{name} at {at}");
            }
        }
    }
    let walks = walks.len();
    assert!(walks > 1_000 && doubled > 50 && missing > 50, "{walks} walks, {doubled} doubled, {missing} missing");
}

/// A date that comes again breaks the order of days: which zones have one is known.
#[test]
fn dates_that_come_again_are_listed() {
    let mut found = BTreeSet::new();
    for (name, zone) in all() {
        for at in changes(zone, YEAR_1800, YEAR_2100, 8 * DAY) {
            let (before, after) = (at - 1 + zone.offset(at - 1), at + zone.offset(at));
            if after.div_euclid(DAY) < before.div_euclid(DAY) {
                found.insert(name);
            }
        }
    }
    assert_eq!(found, BTreeSet::from(DATES_COME_AGAIN));
}

/// Hours and minutes ascend even where clocks were turned back by less than one, in the middle of it.
#[test]
fn hours_ascend_at_every_change() {
    let mut cut = 0;
    for (name, zone) in all() {
        for at in changes(zone, YEAR_1800, YEAR_2100, 8 * DAY) {
            for (period, length) in [(Period::Minute, 60), (Period::Hour, 3_600)] {
                let start = |second| Truncate::new(zone, period, 1).start(second).expect("in range");
                assert!(start(at - 1) <= start(at) && start(at) <= at, "{period:?} in {name} at {at}");
                cut += usize::from(start(at) != at - (at + zone.offset(at)).rem_euclid(length));
            }
        }
    }
    assert!(cut > 0, "no change tests it");
}

#[test]
fn offsets_are_less_than_their_limit() {
    for (name, zone) in all() {
        for at in (YEAR_1800..YEAR_2100).step_by(40_000_000) {
            assert!(zone.offset(at).abs() < OFFSET_MAX, "{name} at {at}");
        }
    }
}

#[test]
fn names() {
    for (name, offset) in [("UTC", 0), ("+02:00", 7_200), ("-0330", -12_600), ("+09", 32_400)] {
        assert!(matches!(Zone::named(name), Some(Zone::Fixed(found)) if found == offset), "{name}");
    }
    for name in ["", "utc", "Europe/Berln", "UTC+2", "+25:00", "CEST"] {
        assert!(Zone::named(name).is_none(), "{name}");
    }
}

#[test]
fn advice() {
    for (name, advice) in [
        ("Europe/Berln", "did you mean 'Europe/Berlin'?"),
        ("europe/berlin", "did you mean 'Europe/Berlin'?"),
        ("Europe/Kyyiv", "did you mean 'Europe/Kyiv'?"),
        ("America/New York", "did you mean 'America/New_York'?"),
        ("berlin", "did you mean 'Europe/Berlin'?"),
        ("utc", "did you mean 'UTC'?"),
        ("UTC+2", "a fixed offset is written '+02:00'"),
        ("GMT-3:30", "a fixed offset is written '-03:30'"),
        ("UTC+0530", "a fixed offset is written '+05:30'"),
        ("+2", "a fixed offset is written '+02:00'"),
        ("Mars/Olympus", "zones have names such as 'Europe/Berlin'"),
        ("", "zones have names such as 'Europe/Berlin'"),
        ("UTC+99", "zones have names such as 'Europe/Berlin'"),
    ] {
        let text = unknown(name);
        assert!(text.contains(&format!("'{name}'")) && text.contains(advice), "{name}: {text}");
    }
}

/// Beyond the calendar the last rules go on, and nothing overflows.
#[test]
fn the_ends_of_time() {
    let berlin = Zone::named("Europe/Berlin").expect("exists");
    for at in [i64::MIN, i64::MAX] {
        assert!((0..=7_200).contains(&berlin.offset(at)));
        berlin.first_instant(at);
    }
}
