//! Texts that are times, and rounding that keeps comparisons exact.

use proptest::prelude::*;

use super::*;

fn ms(text: &str, zone: &str) -> Option<i64> {
    parse(text, Zone::named(zone).expect("exists"))?.to(TimeUnit::Millisecond, Rounding::Down)
}

#[test]
fn texts() {
    let at = |text: &str| ms(text, "UTC").expect("a time");
    for (text, zone, same) in [
        ("2024-10-27", "UTC", "2024-10-27T00:00:00Z"),
        (" 2024-10-27 08:30 ", "UTC", "2024-10-27T08:30:00Z"),
        ("2024-10-27Z", "Asia/Tokyo", "2024-10-27T00:00:00Z"),
        ("2024-10-27+02:00", "UTC", "2024-10-26T22:00:00Z"),
        ("2024-10-27 Asia/Tokyo", "UTC", "2024-10-26T15:00:00Z"),
        ("2024-10-27T08:30Z", "UTC", "2024-10-27T08:30:00Z"),
        ("2024-10-27T08:30+02:00", "Asia/Tokyo", "2024-10-27T06:30:00Z"),
        ("2024-10-27T08:30:15.25-0330", "Asia/Tokyo", "2024-10-27T12:00:15.250Z"),
        ("2024-10-27 08:30:00 Europe/Berlin", "UTC", "2024-10-27T07:30:00Z"),
        ("2024-10-27T00:30:00 Atlantic/Azores", "UTC", "2024-10-27T00:30:00Z"),
        ("2024-10-27", "Atlantic/Azores", "2024-10-27T00:00:00Z"),
        ("2024-10-27T00:30:00", "Atlantic/Azores", "2024-10-27T00:30:00Z"),
        ("2024-10-27T01:30:00", "Atlantic/Azores", "2024-10-27T02:30:00Z"),
        ("2024-10-27T00:30:00-01:00", "Atlantic/Azores", "2024-10-27T01:30:00Z"),
        ("2024-04-26T00:59:59.999", "Africa/Cairo", "2024-04-25T22:00:00Z"),
        ("2024-04-26T01:00:00.001", "Africa/Cairo", "2024-04-25T22:00:00.001Z"),
        ("0001-01-01", "+02:00", "0001-01-01T00:00:00+02:00"),
        ("9999-12-31T23:59:59.999", "-02:00", "9999-12-31T23:59:59.999-02:00"),
    ] {
        assert_eq!(ms(text, zone), Some(at(same)), "{text} in {zone}");
    }
    for text in [
        "",
        "x",
        "2024",
        "2024-02-30",
        "2024-10-27T",
        "2024-10-27T24:00:00",
        "2024-10-27 x",
        "27.10.2024",
        "2024-10-27T08:30:00 Europe/Berln",
        "2024-10-27T08:30:00+99:00",
        "2024-10-27T08:30€",
        "€€€€€€€€€€",
    ] {
        assert_eq!(ms(text, "UTC"), None, "{text}");
    }
}

#[test]
fn values_beyond_a_unit() {
    let stamp = parse("9999-12-31", Zone::UTC).expect("a time");
    assert_eq!(stamp.to(TimeUnit::Nanosecond, Rounding::Down), None);
    assert!(stamp.to(TimeUnit::Microsecond, Rounding::Down).is_some());
    assert_eq!(Stamp::of(i64::MAX, TimeUnit::Second).to(TimeUnit::Second, Rounding::Up), Some(i64::MAX));
    assert_eq!(Stamp::of(i64::MAX, TimeUnit::Second).to(TimeUnit::Millisecond, Rounding::Up), None);
    let berlin = Zone::named("Europe/Berlin").expect("exists");
    for value in [i64::MIN, i64::MAX] {
        // Nothing panics.
        let _ = Stamp::of(value, TimeUnit::Second).first_instant(berlin);
        let _ = Stamp::of(value, TimeUnit::Second).local(berlin);
    }
}

proptest! {
    #[test]
    fn rounding_keeps_comparisons(value: i64, other: i64, near in -2_000_000_i64..2_000_000) {
        for other in [other, value.saturating_mul(1_000_000).saturating_add(near)] {
            let (one, exact) = (Stamp::of(value, TimeUnit::Millisecond), Stamp::of(other, TimeUnit::Nanosecond));
            let rounded = |rounding| exact.to(TimeUnit::Millisecond, rounding).expect("in range");
            let (down, up) = (rounded(Rounding::Down), rounded(Rounding::Up));
            prop_assert_eq!(one < exact, value < up);
            prop_assert_eq!(one >= exact, value >= up);
            prop_assert_eq!(one > exact, value > down);
            prop_assert_eq!(one <= exact, value <= down);
            prop_assert_eq!(one == exact, value >= up && value <= down);
        }
    }

    #[test]
    fn no_text_panics(text in ".{0,40}", digits in "[0-9T: .+Z-]{0,40}") {
        for text in [text, digits] {
            let _ = parse(&text, Zone::UTC);
        }
    }
}
