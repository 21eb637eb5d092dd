//! Sizes and durations with units, as in a configuration: compared with an independent implementation of the rules.

use std::path::Path;
use std::time::Duration;

use icecore::config::{Overrides, parse};

/// Longest duration of a setting: a century.
const MS_MAX: u128 = 100 * 366 * 86_400_000;
/// Largest size of a setting: an exbibyte.
const BYTES_MAX: u128 = 1 << 60;

/// Parses a text as a duration and as a size.
pub fn units(data: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(data) else { return false };
    let quoted = quoted(text);
    let parsed = |line: String| parse(&line, Path::new("icecore-fuzz.toml"), &Overrides::default()).ok();

    let duration = parsed(format!("[http]\nshutdown_grace = {quoted}")).map(|config| config.http.shutdown_grace);
    let units = [("ms", 1), ("s", 1_000), ("m", 60_000), ("min", 60_000), ("h", 3_600_000), ("d", 86_400_000)];
    let ms = number(text, &units).filter(|ms| *ms <= MS_MAX).and_then(|ms| u64::try_from(ms).ok());
    assert_eq!(duration, ms.map(Duration::from_millis), "{text:?}");

    let size = parsed(format!("[http]\nbody_max = {quoted}")).map(|config| config.http.body_bytes_max);
    let units = [("", 1), ("B", 1), ("KiB", 1 << 10), ("MiB", 1 << 20), ("GiB", 1 << 30), ("TiB", 1 << 40)];
    let bytes = number(text, &units).filter(|bytes| *bytes <= BYTES_MAX).and_then(|bytes| usize::try_from(bytes).ok());
    assert_eq!(size, bytes, "{text:?}");
    duration.is_some() || size.is_some()
}

/// Returns a TOML basic string with this content.
fn quoted(text: &str) -> String {
    let escaped = text.chars().map(|c| format!("\\U{:08X}", u32::from(c)));
    format!("\"{}\"", escaped.collect::<String>())
}

/// Parses digits, optionally with `_` between them, then one of the units; spaces are allowed around both.
fn number(text: &str, units: &[(&str, u128)]) -> Option<u128> {
    let text = text.trim();
    let unit = text.trim_start_matches(|c: char| c.is_ascii_digit() || c == '_');
    let digits: String = text[..text.len() - unit.len()].chars().filter(char::is_ascii_digit).collect();
    let factor = units.iter().find(|(name, _)| *name == unit.trim())?.1;
    if digits.is_empty() {
        return None;
    }
    let number = digits.bytes().fold(0_u128, |n, digit| n.saturating_mul(10).saturating_add(u128::from(digit - b'0')));
    u64::try_from(number).ok()?;
    number.checked_mul(factor)
}
