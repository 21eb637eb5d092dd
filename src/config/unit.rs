//! Sizes and durations with their units, as people write them.

use std::fmt;
use std::time::Duration;

use serde::de::{self, Deserialize, Deserializer, Visitor};

/// Bytes: a number, or text with a unit such as `64 MiB`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ByteSize(pub(super) u64);

/// A duration: text with a unit, such as `30s`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Span(pub(super) Duration);

/// An exbibyte is more than any setting means, and leaves room to reckon with sizes.
const BYTES_MAX: u64 = 1 << 60;

/// Splits `64 MiB` into its number and its unit.
fn split(text: &str) -> Option<(u64, &str)> {
    let text = text.trim();
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '_').unwrap_or(text.len());
    let number = text[..end].replace('_', "").parse().ok()?;
    Some((number, text[end..].trim()))
}

fn bytes(text: &str) -> Option<u64> {
    let (number, unit) = split(text)?;
    let unit: u64 = match unit {
        "" | "B" => 1,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        "TiB" => 1 << 40,
        _ => return None,
    };
    number.checked_mul(unit).filter(|bytes| *bytes <= BYTES_MAX)
}

/// A duration as people write it: `250ms`, `30s`, `15m`, `4h`, `2d`.
pub(crate) fn duration(text: &str) -> Option<Duration> {
    let (number, unit) = split(text)?;
    let unit_ms = match unit {
        "ms" => 1,
        "s" => 1_000,
        "m" | "min" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return None,
    };
    // A century is more than any setting means.
    number.checked_mul(unit_ms).filter(|ms| *ms <= 100 * 366 * 86_400_000).map(Duration::from_millis)
}

struct ByteSizeVisitor;

impl Visitor<'_> for ByteSizeVisitor {
    type Value = ByteSize;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("bytes, as a number or as text with a unit such as \"64 MiB\"")
    }

    fn visit_u64<E: de::Error>(self, value: u64) -> Result<ByteSize, E> {
        if value > BYTES_MAX {
            return Err(E::invalid_value(de::Unexpected::Unsigned(value), &self));
        }
        Ok(ByteSize(value))
    }

    fn visit_i64<E: de::Error>(self, value: i64) -> Result<ByteSize, E> {
        let bytes = u64::try_from(value).map_err(|_| E::invalid_value(de::Unexpected::Signed(value), &self))?;
        self.visit_u64(bytes)
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<ByteSize, E> {
        bytes(text).map(ByteSize).ok_or_else(|| E::invalid_value(de::Unexpected::Str(text), &self))
    }
}

impl<'de> Deserialize<'de> for ByteSize {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ByteSizeVisitor)
    }
}

struct SpanVisitor;

impl Visitor<'_> for SpanVisitor {
    type Value = Span;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a duration with a unit, such as \"250ms\", \"30s\", \"15m\" or \"4h\"")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Span, E> {
        duration(text).map(Span).ok_or_else(|| E::invalid_value(de::Unexpected::Str(text), &self))
    }
}

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(SpanVisitor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units() {
        assert_eq!(bytes("64 MiB"), Some(64 << 20));
        assert_eq!(bytes("1_000"), Some(1_000));
        assert_eq!(bytes("1048576 TiB"), Some(1 << 60));
        assert_eq!(duration("250ms"), Some(Duration::from_millis(250)));
        assert_eq!(duration("5m"), Some(Duration::from_secs(300)));
        for bad in ["", "MiB", "-1", "1.5 MiB", "64 MB", "99999999999 TiB", "1048577 TiB"] {
            assert_eq!(bytes(bad), None, "{bad:?}");
        }
        for bad in ["", "5", "s", "-5s", "5 weeks", "99999999999999999999s", "40000d"] {
            assert_eq!(duration(bad), None, "{bad:?}");
        }
    }
}
