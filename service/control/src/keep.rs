//! How long an organisation's readings are kept: for ever, or a number of years or months of the calendar.

use std::fmt;
use std::str::FromStr;

use storage_format::Millis;

use crate::error::{Error, ErrorKind, Subject};

/// The least that readings are kept: two years, in months. Laws and standards for what the loggers watch ask for more.
pub const KEEP_MONTHS_MIN: u32 = 24;

/// The most that a policy can say, in months: past it, say for ever.
const KEEP_MONTHS_MAX: u32 = 12 * 1000;

/// Time for which readings are kept.
///
/// Text form: `for ever`, or a number with its unit: `3y`, `30mo`. It is kept as it was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Keep {
    /// Nothing is ever dropped.
    #[default]
    ForEver,
    /// Years of the calendar, at least 2.
    Years(u32),
    /// Months of the calendar, at least 24.
    Months(u32),
}

impl Keep {
    /// Returns the months of the calendar; `None` for ever.
    #[must_use]
    pub const fn months(self) -> Option<u32> {
        match self {
            Self::ForEver => None,
            Self::Years(years) => Some(years.saturating_mul(12)),
            Self::Months(months) => Some(months),
        }
    }

    /// Returns the time up to which readings may go at this moment: windows that ended by then. `None` if nothing may.
    #[must_use]
    pub fn cutoff(self, now: Millis) -> Option<Millis> {
        self.months().map(|months| now.months_before(months.max(KEEP_MONTHS_MIN)))
    }
}

impl fmt::Display for Keep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ForEver => f.write_str("for ever"),
            Self::Years(years) => write!(f, "{years}y"),
            Self::Months(months) => write!(f, "{months}mo"),
        }
    }
}

impl FromStr for Keep {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        if text == "for ever" {
            return Ok(Self::ForEver);
        }
        let invalid = |message: String, detail: &str| {
            Err(Error::new(ErrorKind::Invalid, Subject::Retention, message).with_detail(detail))
        };
        let shown: String = text.chars().take(40).collect();
        let split = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
        let (digits, unit) = text.split_at(split);
        let keep = match (digits.parse(), unit) {
            (Ok(years), "y") => Self::Years(years),
            (Ok(months), "mo") => Self::Months(months),
            _ => {
                return invalid(
                    format!("{shown:?} does not say how long readings are kept"),
                    "expected years or months of the calendar, such as 2y, 3y or 30mo",
                );
            }
        };
        match keep.months() {
            Some(months) if months < KEEP_MONTHS_MIN => {
                invalid(format!("readings cannot be kept for {shown} only"), "two years are the least: 2y, or 24mo")
            }
            Some(months) if months > KEEP_MONTHS_MAX => invalid(
                format!("readings cannot be kept for {shown}"),
                "a thousand years are the most; or say for ever",
            ),
            _ => Ok(keep),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_forms() {
        for (text, keep) in [
            ("for ever", Keep::ForEver),
            ("2y", Keep::Years(2)),
            ("10y", Keep::Years(10)),
            ("24mo", Keep::Months(24)),
            ("30mo", Keep::Months(30)),
        ] {
            assert_eq!(text.parse::<Keep>(), Ok(keep));
            assert_eq!(keep.to_string(), text);
        }
        for bad in ["", "y", "2", "2 y", "-2y", "+2y", "2Y", "2.5y", "banana", "99999999999y", "3d", "²y"] {
            let error = bad.parse::<Keep>().expect_err(bad);
            assert_eq!((error.kind(), error.subject()), (ErrorKind::Invalid, &Subject::Retention), "{bad:?}");
        }
        for short in ["0y", "1y", "23mo", "0mo"] {
            let error = short.parse::<Keep>().expect_err(short).to_string();
            assert!(error.contains("2y") && error.contains("two years"), "{error}");
        }
        assert!("1001y".parse::<Keep>().is_err());
    }

    #[test]
    fn the_cutoff_is_a_date_of_the_calendar() {
        let now: Millis = "2028-02-29T10:00:00Z".parse().expect("a time");
        assert_eq!(Keep::ForEver.cutoff(now), None);
        let cutoff = |keep: Keep| keep.cutoff(now).map(|time| time.to_string());
        assert_eq!(cutoff(Keep::Years(3)).as_deref(), Some("2025-02-28T10:00:00.000Z"));
        assert_eq!(cutoff(Keep::Months(30)).as_deref(), Some("2025-08-29T10:00:00.000Z"));
        // Whatever a value claims, two years are the least.
        assert_eq!(cutoff(Keep::Years(0)), cutoff(Keep::Years(2)));
    }
}
