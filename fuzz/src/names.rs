//! Names as texts and numbers: every value has one text form, and a printed value parses to the same value.

use std::fmt::{Debug, Display};
use std::str::FromStr;

use storage_format::{
    Channel, ChannelCode, GatewayId, LoggerId, Millis, ObjectKey, OrgId, SegmentId, SpoolId, WalFileId, Window,
    channels,
};

use crate::Script;

/// Parses object keys, and the windows in them.
pub fn object_key(data: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(data) else { return false };
    let key = round_trips::<ObjectKey>(text, text);
    if key {
        assert!(!text.contains("..") && text.is_ascii(), "a name cannot leave its prefix");
    }
    let window = round_trips::<Window>(text, text);
    key || window
}

/// Parses channels, ids and times, both as texts and as numbers taken from the same bytes.
pub fn names(data: &[u8]) -> bool {
    numbers(data);
    let Ok(text) = std::str::from_utf8(data) else { return false };
    let (lower, upper) = (text.to_lowercase(), text.to_uppercase());
    let ids = [
        round_trips::<LoggerId>(text, &upper),
        round_trips::<OrgId>(text, &lower),
        round_trips::<GatewayId>(text, &lower),
        round_trips::<SpoolId>(text, &lower),
        round_trips::<SegmentId>(text, &lower),
        round_trips::<WalFileId>(text, text),
    ];
    let channel = Channel::by_name(text);
    if let Some(channel) = channel {
        assert_eq!(channel.name, text);
        assert_eq!(channel.code.channel(), Some(channel));
        assert_eq!(channel.code.to_string(), text);
    }
    ids.contains(&true) || channel.is_some() || time(text)
}

fn round_trips<T: FromStr<Err: Debug> + Display + PartialEq + Debug>(text: &str, canonical: &str) -> bool {
    let Ok(value) = text.parse::<T>() else { return false };
    assert_eq!(value.to_string(), canonical);
    assert_eq!(canonical.parse::<T>().expect("a printed value parses"), value);
    true
}

fn numbers(data: &[u8]) {
    let mut script = Script::new(data);
    if let Some(code) = ChannelCode::new(script.u16()) {
        let known = usize::from(code.get()) <= channels().len();
        assert_eq!(code.channel().is_some(), known, "the registry is dense");
        assert_eq!(Channel::by_name(&code.to_string()).is_some(), known, "only known channels have a name");
    }
    let mut script = Script::new(data);
    let (first, second) = (script.i64(), script.i64());
    // Rounded to whole hours too, because random numbers almost never are.
    let hours = (first / 3_600_000 * 3_600_000, second / 3_600_000 * 3_600_000);
    for (start, end) in [(first, second), hours] {
        if let Ok(window) = Window::from_bounds(start, end) {
            assert_eq!((window.range().start().get(), window.range().end().get()), (start, end));
            assert_eq!(window.to_string().parse::<Window>(), Ok(window));
        }
    }
    if let Ok(time) = Millis::new(first) {
        let month = Window::month_of(time);
        assert!(month.range().contains(time));
        assert_eq!(month.to_string().parse::<Window>(), Ok(month));
        assert_eq!(time.to_string().parse::<Millis>(), Ok(time));
        assert_eq!(strict_rfc3339(&time.to_string()), Some(first), "the printed form is RFC 3339");
        let seconds = time.whole_seconds();
        assert!(seconds <= time && time.get() - seconds.get() < 1000);
    }
}

/// Parses a time. A strict RFC 3339 text must parse to the value of an independent calendar, or be out of range.
fn time(text: &str) -> bool {
    let parsed = text.parse::<Millis>();
    if let Ok(time) = parsed {
        assert_eq!(time.to_string().parse::<Millis>(), Ok(time), "a printed value parses");
    }
    if let Some(ms) = strict_rfc3339(text) {
        match Millis::new(ms) {
            Ok(time) => assert_eq!(parsed, Ok(time), "{text:?}"),
            Err(_) => assert!(parsed.is_err(), "{text:?} is out of range"),
        }
    }
    parsed.is_ok()
}

/// Returns the milliseconds since 1970 of `YYYY-MM-DDTHH:MM:SS[.fff](Z|±HH:MM)`, with at most three digits of a
/// second's fraction; `None` for any other text, including leap seconds.
fn strict_rfc3339(text: &str) -> Option<i64> {
    let bytes = text.as_bytes();
    let digits = |from: usize, to: usize| -> Option<i64> {
        let part = bytes.get(from..to)?;
        part.iter().try_fold(0, |sum, byte| byte.is_ascii_digit().then(|| sum * 10 + i64::from(byte - b'0')))
    };
    let sign = |at: usize, wanted: u8| (*bytes.get(at)? == wanted).then_some(());
    let (year, month, day) = (digits(0, 4)?, digits(5, 7)?, digits(8, 10)?);
    let (hour, minute, second) = (digits(11, 13)?, digits(14, 16)?, digits(17, 19)?);
    for (at, wanted) in [(4, b'-'), (7, b'-'), (10, b'T'), (13, b':'), (16, b':')] {
        sign(at, wanted)?;
    }
    let mut at = 19;
    let mut fraction_ms = 0;
    if bytes.get(at) == Some(&b'.') {
        let count = bytes[at + 1..].iter().take_while(|byte| byte.is_ascii_digit()).count();
        if !(1..=3).contains(&count) {
            return None;
        }
        fraction_ms = digits(at + 1, at + 1 + count)? * [100, 10, 1][count - 1];
        at += 1 + count;
    }
    let offset_minutes = match bytes.get(at)? {
        b'Z' if bytes.len() == at + 1 => 0,
        zone @ (b'+' | b'-') if bytes.len() == at + 6 => {
            sign(at + 3, b':')?;
            let (hours, minutes) = (digits(at + 1, at + 3)?, digits(at + 4, at + 6)?);
            if hours > 23 || minutes > 59 {
                return None;
            }
            (hours * 60 + minutes) * if *zone == b'+' { 1 } else { -1 }
        }
        _ => return None,
    };
    let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let month_days = [31, if leap { 29 } else { 28 }, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    let days = *month_days.get(usize::try_from(month - 1).ok()?)?;
    if year == 0 || !(1..=days).contains(&day) || hour > 23 || minute > 59 || second > 59 {
        return None;
    }
    // Days since 1970, with years that start in March (H. Hinnant, "chrono-Compatible Low-Level Date Algorithms").
    let shifted = if month <= 2 { year - 1 } else { year };
    let era = shifted.div_euclid(400);
    let of_era = shifted.rem_euclid(400);
    let of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let days = era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468;
    Some((((days * 24 + hour) * 60 + minute - offset_minutes) * 60 + second) * 1000 + fraction_ms)
}
