//! Times in cells: RFC 3339 with a zone, or the form and the zone that a mapping states.

use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::fmt::strtime::BrokenDownTime;
use jiff::tz::{AmbiguousOffset, Offset, TimeZone};
use storage_format::{Millis, TimeError};

use super::error::Reason;

/// Why a cell is not accepted.
pub(super) type Wrong = (Reason, String);

/// The order of the numbers of a date.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum DateOrder {
    Ymd,
    Dmy,
    Mdy,
}

/// Which time is meant when clocks show one twice, at the end of summer time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Repeated {
    #[default]
    Refuse,
    Earlier,
    Later,
}

/// What dates and times look like.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Shape {
    /// RFC 3339 with a zone.
    Rfc3339,
    /// As strptime has it.
    Format(String),
    /// Numbers in this order, with `/`, `-` or `.` between them, then hours, minutes and perhaps seconds.
    Order(DateOrder),
}

/// The form of times.
#[derive(Debug, Clone)]
pub(super) struct TimeForm {
    pub(super) shape: Shape,
    /// The zone of times that name none.
    pub(super) zone: TimeZone,
    pub(super) zone_name: String,
    pub(super) repeated: Repeated,
}

impl Default for TimeForm {
    fn default() -> Self {
        Self { shape: Shape::Rfc3339, zone: TimeZone::UTC, zone_name: "UTC".to_owned(), repeated: Repeated::Refuse }
    }
}

/// Returns whether times of this strptime format name their own zone.
pub(super) fn names_zone(format: &str) -> bool {
    ["%z", "%:z", "%s"].iter().any(|part| format.contains(part))
}

/// The zone of this name: IANA's, or an offset such as `+02:00`.
pub(super) fn parse_zone(text: &str) -> Result<TimeZone, String> {
    if matches!(text, "UTC" | "Z") {
        return Ok(TimeZone::UTC);
    }
    let wrong = || {
        format!(
            "{text:?} is no zone: expected a name of the IANA database, such as Europe/Lisbon, or an offset from UTC, such \
             as +02:00"
        )
    };
    let Some(offset) = text.strip_prefix(['+', '-']) else {
        return TimeZone::get(text).map_err(|_| wrong());
    };
    let (hours, minutes) = offset.split_once(':').ok_or_else(wrong)?;
    let two = |text: &str, max: i32| -> Option<i32> {
        let number: Option<i32> = text.parse().ok().filter(|number| *number <= max && text.len() == 2);
        number.filter(|_| text.bytes().all(|byte| byte.is_ascii_digit()))
    };
    let seconds: Option<i32> = two(hours, 14).zip(two(minutes, 59)).map(|(hours, minutes)| (hours * 60 + minutes) * 60);
    let seconds = seconds.ok_or_else(wrong)?;
    let offset = Offset::from_seconds(if text.starts_with('-') { -seconds } else { seconds });
    offset.map(TimeZone::fixed).map_err(|_| wrong())
}

impl TimeForm {
    /// The time of this text. `truncate` cuts what is finer than a millisecond.
    pub(super) fn read(&self, text: &str, truncate: bool) -> Result<Millis, Wrong> {
        match &self.shape {
            Shape::Rfc3339 => rfc3339(text, truncate),
            Shape::Format(format) => {
                let wrong = |error: jiff::Error| {
                    let why = printable(&error.to_string());
                    (Reason::Time, format!("{:?} is not a time of the form {format:?}: {why}", cut(text)))
                };
                let parts = BrokenDownTime::parse(format, text).map_err(wrong)?;
                if names_zone(format) {
                    return millis(parts.to_timestamp().map_err(wrong)?, text, truncate);
                }
                self.of_civil(parts.to_datetime().map_err(wrong)?, text, truncate)
            }
            Shape::Order(order) => {
                let civil = ordered(text, *order).map_err(|what| (Reason::Time, what))?;
                self.of_civil(civil, text, truncate)
            }
        }
    }

    /// A time that clocks in the zone showed.
    fn of_civil(&self, civil: DateTime, text: &str, truncate: bool) -> Result<Millis, Wrong> {
        let wrong = |error: jiff::Error| {
            (Reason::Time, format!("{:?} is not a time: {}", cut(text), printable(&error.to_string())))
        };
        let zone = &self.zone_name;
        let ambiguous = self.zone.to_ambiguous_timestamp(civil);
        let time = match (ambiguous.offset(), self.repeated) {
            (AmbiguousOffset::Unambiguous { .. }, _) => ambiguous.unambiguous(),
            (AmbiguousOffset::Gap { .. }, _) => {
                let what = format!(
                    "{:?} did not exist in {zone}: clocks were put forward over it. If the logger's clock keeps winter \
                     time all year, state its offset as the zone, such as +01:00",
                    cut(text)
                );
                return Err((Reason::Ambiguous, what));
            }
            (AmbiguousOffset::Fold { .. }, Repeated::Earlier) => ambiguous.earlier(),
            (AmbiguousOffset::Fold { .. }, Repeated::Later) => ambiguous.later(),
            (AmbiguousOffset::Fold { before, after }, Repeated::Refuse) => {
                let what = format!(
                    "{:?} came twice in {zone}, with the offsets {before} and {after}: clocks were put back over it. \
                     repeated = \"earlier\" or \"later\" in the mapping says which is meant; if the logger's clock keeps \
                     winter time all year, state its offset as the zone, such as +01:00",
                    cut(text)
                );
                return Err((Reason::Ambiguous, what));
            }
        };
        millis(time.map_err(wrong)?, text, truncate)
    }
}

/// A message that may have parts of a file in it, as a terminal can show it.
fn printable(message: &str) -> String {
    message.chars().take(200).map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

fn cut(text: &str) -> String {
    text.chars().take(40).collect()
}

/// The time of `2024-05-01T12:00:00Z` or `2024-05-01T12:00:00.000Z`, the forms that nearly all rows have: this is several
/// times faster than a parser for all forms. `None` for every other text, which may be a time all the same.
fn plain_utc(text: &[u8]) -> Option<Millis> {
    let (date_time, fraction) = match text.len() {
        20 => (&text[..19], None),
        24 if text[19] == b'.' => (&text[..19], Some(&text[20..23])),
        _ => return None,
    };
    let has_marks =
        [(4, b'-'), (7, b'-'), (10, b'T'), (13, b':'), (16, b':')].iter().all(|(at, mark)| text[*at] == *mark);
    if !has_marks || text.last() != Some(&b'Z') {
        return None;
    }
    let digits = |text: &[u8]| {
        text.iter().try_fold(0, |value, byte| byte.is_ascii_digit().then(|| value * 10 + i64::from(byte - b'0')))
    };
    let (year, month, day) = (digits(&date_time[..4])?, digits(&date_time[5..7])?, digits(&date_time[8..10])?);
    let (hour, minute, second) = (digits(&date_time[11..13])?, digits(&date_time[14..16])?, digits(&date_time[17..])?);
    let millisecond = fraction.map_or(Some(0), digits)?;
    let is_leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let days_in_month = match month {
        2 => 28 + i64::from(is_leap),
        4 | 6 | 9 | 11 => 30,
        1..=12 => 31,
        _ => return None,
    };
    if !(1..=days_in_month).contains(&day) || hour > 23 || minute > 59 || second > 59 {
        return None;
    }
    // Days since 1970 by counting years from March, so that the leap day is a year's last: no time is before the year 0.
    let from_march = (month + 9) % 12;
    let year = year - i64::from(month < 3);
    let day_of_year = (153 * from_march + 2) / 5 + day - 1;
    let days = year * 365 + year.div_euclid(4) - year.div_euclid(100) + year.div_euclid(400) + day_of_year - 719_468;
    Millis::new((((days * 24 + hour) * 60 + minute) * 60 + second) * 1000 + millisecond).ok()
}

fn rfc3339(text: &str, truncate: bool) -> Result<Millis, Wrong> {
    if let Some(time) = plain_utc(text.as_bytes()) {
        return Ok(time);
    }
    match text.parse::<Millis>() {
        Ok(time) => Ok(time),
        Err(TimeError::TooFine(_)) if truncate => {
            let time: Timestamp = text.parse().map_err(|error| (Reason::Time, format!("{error}")))?;
            millis(time, text, truncate)
        }
        Err(TimeError::TooFine(_)) => Err(too_fine(text)),
        Err(error @ TimeError::Text(_)) if text.parse::<DateTime>().is_ok() => {
            Err((Reason::Time, format!("{error}; a mapping file (--mapping) states the zone of times that have none")))
        }
        Err(error) => Err((Reason::Time, error.to_string())),
    }
}

fn too_fine(text: &str) -> Wrong {
    let what = format!("{:?} is finer than a millisecond; --truncate-times cuts the rest", cut(text));
    (Reason::TooFine, what)
}

fn millis(time: Timestamp, text: &str, truncate: bool) -> Result<Millis, Wrong> {
    let nanoseconds = time.as_nanosecond();
    if nanoseconds.rem_euclid(1_000_000) != 0 && !truncate {
        return Err(too_fine(text));
    }
    // A timestamp's milliseconds fit.
    let milliseconds = i64::try_from(nanoseconds.div_euclid(1_000_000)).unwrap_or(i64::MAX);
    Millis::new(milliseconds).map_err(|error| (Reason::Time, error.to_string()))
}

/// A date of three numbers in this order, and a time of day, with or without AM and PM.
fn ordered(text: &str, order: DateOrder) -> Result<DateTime, String> {
    let wrong = |why: &str| format!("{:?} is not a time: {why}", cut(text));
    let split = text.find([' ', 'T', ',']).ok_or_else(|| wrong("expected a date, a blank and a time of day"))?;
    let (date, clock) = (&text[..split], text[split + 1..].trim());
    let separator = date.find(['/', '-', '.']).and_then(|at| date[at..].chars().next());
    let separator = separator.ok_or_else(|| wrong("the date has no /, - or . between its numbers"))?;
    let numbers: Vec<&str> = date.split(separator).collect();
    let [first, second, third] = numbers[..] else { return Err(wrong("a date has three numbers")) };
    let (year, month, day) = match order {
        DateOrder::Ymd => (first, second, third),
        DateOrder::Dmy => (third, second, first),
        DateOrder::Mdy => (third, first, second),
    };
    let year = match (year.len(), number(year)) {
        (4, Some(year)) => year,
        (2, Some(year)) => 2000 + year,
        _ => return Err(wrong("the year has two or four digits, and stands elsewhere in this date")),
    };
    let short = |text: &str| number(text).filter(|_| text.len() <= 2).and_then(|number| i8::try_from(number).ok());
    let (Some(month), Some(day)) = (short(month), short(day)) else {
        return Err(wrong("month and day have one or two digits"));
    };
    let clock = time_of_day(clock).ok_or_else(|| wrong("the time of day is not as 13:05, 13:05:09 or 1:05 PM"))?;
    let (hour, minute, second, nanosecond) = clock;
    DateTime::new(year, month, day, hour, minute, second, nanosecond).map_err(|error| wrong(&error.to_string()))
}

fn number(text: &str) -> Option<i16> {
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok())?
}

/// Hours, minutes, seconds and nanoseconds.
fn time_of_day(text: &str) -> Option<(i8, i8, i8, i32)> {
    let lower = text.to_ascii_lowercase();
    let half = ["am", "pm", "a.m.", "p.m."].into_iter().find(|half| lower.ends_with(half));
    let text = lower[..lower.len() - half.map_or(0, str::len)].trim_end();
    let (text, fraction) = match text.split_once(['.', ',']) {
        Some((text, fraction)) => (text, Some(fraction)),
        None => (text, None),
    };
    let short = |text: &str| number(text).filter(|_| text.len() <= 2).and_then(|number| i8::try_from(number).ok());
    let parts: Vec<&str> = text.split(':').collect();
    let (hour, minute, second) = match (parts[..].as_ref(), fraction) {
        ([hour, minute], None) => (short(hour)?, short(minute)?, 0),
        ([hour, minute, second], _) => (short(hour)?, short(minute)?, short(second)?),
        _ => return None,
    };
    let hour = match half {
        None => hour,
        Some(_) if !(1..=12).contains(&hour) => return None,
        Some(half) => hour % 12 + if half.starts_with('p') { 12 } else { 0 },
    };
    let nanosecond = match fraction {
        None => 0,
        Some(digits) if (1..=9).contains(&digits.len()) && digits.bytes().all(|byte| byte.is_ascii_digit()) => {
            format!("{digits:0<9}").parse().ok()?
        }
        Some(_) => return None,
    };
    Some((hour, minute, second, nanosecond))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn local(shape: Shape, zone: &str, repeated: Repeated) -> TimeForm {
        TimeForm { shape, zone: parse_zone(zone).expect("a zone"), zone_name: zone.to_owned(), repeated }
    }

    fn check(form: &TimeForm, text: &str, expected: &str) {
        let read = form.read(text, false).map(|time| time.to_string());
        assert_eq!(read.as_deref(), Ok(expected), "{text}");
    }

    #[test]
    fn dates_in_every_order() {
        let form = |order, zone| local(Shape::Order(order), zone, Repeated::Refuse);
        check(&form(DateOrder::Mdy, "+02:00"), "06/28/24 12:00:00 PM", "2024-06-28T10:00:00.000Z");
        check(&form(DateOrder::Mdy, "UTC"), "6/8/2024 12:05 am", "2024-06-08T00:05:00.000Z");
        check(&form(DateOrder::Dmy, "Europe/Berlin"), "28.06.2024 12:00:00,250", "2024-06-28T10:00:00.250Z");
        check(&form(DateOrder::Dmy, "-03:30"), "28-6-24, 23:59", "2024-06-29T03:29:00.000Z");
        check(&form(DateOrder::Ymd, "UTC"), "2024-06-28T12:00:00", "2024-06-28T12:00:00.000Z");
        for (order, bad) in [
            (DateOrder::Dmy, "06/28/2024 12:00:00"),
            (DateOrder::Dmy, "2024-06-28 12:00:00"),
            (DateOrder::Ymd, "28/06/2024 12:00:00"),
            (DateOrder::Dmy, "28/06/2024"),
            (DateOrder::Dmy, "28/06/2024 24:00"),
            (DateOrder::Dmy, "28/06/2024 13:00 PM"),
            (DateOrder::Dmy, "28/06/2024 12:00:00.1234"),
            (DateOrder::Dmy, "28/06/2024 é"),
            (DateOrder::Dmy, ""),
        ] {
            assert!(form(order, "UTC").read(bad, false).is_err(), "{bad}");
        }
    }

    #[test]
    fn formats_of_strptime() {
        let form = |format: &str, zone| local(Shape::Format(format.to_owned()), zone, Repeated::Refuse);
        check(&form("%m/%d/%y %I:%M:%S %p", "+02:00"), "06/28/24 12:15:00 PM", "2024-06-28T10:15:00.000Z");
        check(&form("%d %b %Y %H:%M", "Asia/Kathmandu"), "28 Jun 2024 12:00", "2024-06-28T06:15:00.000Z");
        check(&form("%Y%m%dT%H%M%S%z", "UTC"), "20240628T120000+0200", "2024-06-28T10:00:00.000Z");
        check(&form("%s", "UTC"), "1719568800", "2024-06-28T10:00:00.000Z");
        let (reason, what) = form("%d/%m/%Y %H:%M", "UTC").read("06/28/24 12:15", false).expect_err("another form");
        assert!(reason == Reason::Time && what.contains("%d/%m/%Y"), "{what}");
    }

    #[test]
    fn hours_that_come_twice_or_never() {
        let form = |repeated| local(Shape::Order(DateOrder::Ymd), "Europe/Berlin", repeated);
        let twice = "2024-10-27 02:30:00";
        check(&form(Repeated::Earlier), twice, "2024-10-27T00:30:00.000Z");
        check(&form(Repeated::Later), twice, "2024-10-27T01:30:00.000Z");
        let (reason, what) = form(Repeated::Refuse).read(twice, false).expect_err("twice");
        assert!(reason == Reason::Ambiguous && what.contains("came twice") && what.contains("repeated ="), "{what}");
        let (reason, what) = form(Repeated::Earlier).read("2024-03-31 02:30:00", false).expect_err("never");
        assert!(reason == Reason::Ambiguous && what.contains("did not exist"), "{what}");
    }

    #[test]
    fn finer_than_a_millisecond() {
        for form in [TimeForm::default(), local(Shape::Order(DateOrder::Ymd), "UTC", Repeated::Refuse)] {
            let text = "1969-06-07T12:00:09.123456";
            let text = if form.shape == Shape::Rfc3339 { format!("{text}Z") } else { text.to_owned() };
            let (reason, what) = form.read(&text, false).expect_err("too fine");
            assert!(reason == Reason::TooFine && what.contains("--truncate-times"), "{what}");
            let cut = form.read(&text, true).map(|time| time.to_string());
            assert_eq!(cut.as_deref(), Ok("1969-06-07T12:00:09.123Z"));
        }
    }

    #[test]
    fn the_fast_way_knows_the_calendar() {
        for (text, is_time) in [
            ("2000-02-29T23:59:59Z", true),
            ("2024-02-29T00:00:00Z", true),
            ("1900-02-29T00:00:00Z", false),
            ("2023-02-29T00:00:00Z", false),
            ("2024-04-31T00:00:00Z", false),
            ("2024-12-31T23:59:59.999Z", true),
        ] {
            assert_eq!(plain_utc(text.as_bytes()), text.parse().ok(), "{text}");
            assert_eq!(plain_utc(text.as_bytes()).is_some(), is_time, "{text}");
        }
    }

    proptest! {
        #[test]
        fn the_fast_way_agrees_with_the_parser(
            text in "[0-9]{4}-[01][0-9]-[0-3][0-9]T[0-2][0-9]:[0-6][0-9]:[0-6][0-9](\\.[0-9]{3})?Z",
            ms in Millis::MIN.get()..=Millis::MAX.get(),
        ) {
            if let Some(time) = plain_utc(text.as_bytes()) {
                prop_assert_eq!(text.parse(), Ok(time));
            }
            let time = Millis::new(ms).expect("in range");
            prop_assert_eq!(plain_utc(time.to_string().as_bytes()), Some(time));
        }
    }

    #[test]
    fn zones() {
        for good in ["UTC", "Z", "Europe/Lisbon", "+00:00", "-09:30", "+14:00"] {
            assert!(parse_zone(good).is_ok(), "{good}");
        }
        for bad in ["", "GMT+02:00", "Europe/Berln", "+2", "+2:00", "+15:00", "+02:60", "02:00", "+-2:00"] {
            assert!(parse_zone(bad).is_err(), "{bad}");
        }
    }
}
