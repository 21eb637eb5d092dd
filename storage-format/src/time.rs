//! Times in milliseconds since the Unix epoch, half-open time ranges, and windows.

use std::fmt;
use std::str::FromStr;

use jiff::civil::{Date, DateTime};
use jiff::tz::TimeZone;

/// Reason why a number or a text is not a time, a range or a window.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TimeError {
    /// The time is before the year 1 or after the year 9998.
    #[error("{0} ms since 1970 is outside the years 1 to 9998")]
    OutOfRange(i64),
    /// The text is not a timestamp with a zone.
    #[error("{0:?} is not a time: expected RFC 3339 with a zone, such as 2024-05-01T12:00:00Z")]
    Text(String),
    /// The text is a timestamp with a zone, with digits past the millisecond.
    #[error("{0:?} is finer than a millisecond, and times are kept in whole milliseconds")]
    TooFine(String),
    /// The range ends before it starts, or is empty.
    #[error("the range ends ({end}) before it starts ({start}), or is empty")]
    EmptyRange {
        /// First time inside the range.
        start: Millis,
        /// First time after the range.
        end: Millis,
    },
    /// The bounds are not whole UTC hours.
    #[error("{0} is not a window: its bounds must be whole UTC hours, written as 2024050100-2024060100")]
    Window(String),
}

/// Time in milliseconds since 1970-01-01T00:00:00Z, within the years 1 to 9998.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Millis(i64);

const HOUR_MS: i64 = 3_600_000;

impl Millis {
    /// 0001-01-01T00:00:00Z.
    pub const MIN: Self = Self(-62_135_596_800_000);
    /// 9998-12-31T23:59:59.999Z: a year less than four digits allow, so that the end of every month and every offset
    /// around a time still has four digits.
    pub const MAX: Self = Self(253_370_764_799_999);
    /// 1970-01-01T00:00:00Z.
    pub const EPOCH: Self = Self(0);

    /// Creates a time from milliseconds since 1970.
    ///
    /// # Errors
    /// [`TimeError::OutOfRange`] outside the years 1 to 9998.
    pub const fn new(ms: i64) -> Result<Self, TimeError> {
        if ms < Self::MIN.0 || ms > Self::MAX.0 { Err(TimeError::OutOfRange(ms)) } else { Ok(Self(ms)) }
    }

    /// Returns the milliseconds since 1970.
    #[must_use]
    pub const fn get(self) -> i64 {
        self.0
    }

    /// Rounds down to whole seconds, which is how `received` is stored.
    #[must_use]
    pub const fn whole_seconds(self) -> Self {
        Self(self.0 - self.0.rem_euclid(1000))
    }

    /// Adds `ms` milliseconds (negative: earlier), limited to [`Millis::MIN`] and [`Millis::MAX`].
    #[must_use]
    pub const fn saturating_add(self, ms: i64) -> Self {
        let sum = self.0.saturating_add(ms);
        if sum < Self::MIN.0 {
            Self::MIN
        } else if sum > Self::MAX.0 {
            Self::MAX
        } else {
            Self(sum)
        }
    }

    /// Returns the same time of day this many calendar months earlier, in UTC, limited to [`Millis::MIN`]. A day that
    /// the earlier month does not have becomes its last one: a year before 29 February is 28 February.
    #[must_use]
    pub fn months_before(self, months: u32) -> Self {
        let span = jiff::Span::new().try_months(i64::from(months));
        let earlier = span.and_then(|span| self.utc().checked_sub(span));
        let ms = earlier.and_then(|date| TimeZone::UTC.to_timestamp(date)).map(jiff::Timestamp::as_millisecond);
        // What the calendar does not reach is before every reading.
        ms.map_or(Self::MIN, |ms| Self(ms.max(Self::MIN.0)))
    }

    fn utc(self) -> DateTime {
        // The years 1 to 9998 are inside jiff's range.
        let timestamp = jiff::Timestamp::from_millisecond(self.0).unwrap_or(jiff::Timestamp::UNIX_EPOCH);
        TimeZone::UTC.to_datetime(timestamp)
    }
}

impl fmt::Display for Millis {
    /// Writes RFC 3339 in UTC, always with three decimals.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let t = self.utc();
        write!(
            f,
            "{:04}-{:02}-{:02}T{:02}:{:02}:{:02}.{:03}Z",
            t.year(),
            t.month(),
            t.day(),
            t.hour(),
            t.minute(),
            t.second(),
            t.millisecond()
        )
    }
}

impl fmt::Debug for Millis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Millis({self})")
    }
}

impl FromStr for Millis {
    type Err = TimeError;

    /// Parses RFC 3339 with a zone. Rejects a fraction finer than a millisecond rather than rounding it.
    fn from_str(text: &str) -> Result<Self, TimeError> {
        let error = || TimeError::Text(text.chars().take(64).collect());
        let timestamp: jiff::Timestamp = text.parse().map_err(|_| error())?;
        if timestamp.subsec_nanosecond() % 1_000_000 != 0 {
            return Err(TimeError::TooFine(text.chars().take(64).collect()));
        }
        Self::new(timestamp.as_millisecond())
    }
}

/// Half-open range of times: `start` is inside, `end` is not. Never empty.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct TimeRange {
    start: Millis,
    end: Millis,
}

impl TimeRange {
    /// Creates the range from `start` up to but not including `end`.
    ///
    /// # Errors
    /// [`TimeError::EmptyRange`] unless `start` is before `end`.
    pub fn new(start: Millis, end: Millis) -> Result<Self, TimeError> {
        if start < end { Ok(Self { start, end }) } else { Err(TimeError::EmptyRange { start, end }) }
    }

    /// Returns the first time inside the range.
    #[must_use]
    pub const fn start(self) -> Millis {
        self.start
    }

    /// Returns the first time after the range.
    #[must_use]
    pub const fn end(self) -> Millis {
        self.end
    }

    /// Returns whether `time` is inside the range.
    #[must_use]
    pub fn contains(self, time: Millis) -> bool {
        self.start <= time && time < self.end
    }

    /// Returns whether any time is inside both ranges.
    #[must_use]
    pub fn overlaps(self, other: Self) -> bool {
        self.start < other.end && other.start < self.end
    }
}

impl fmt::Debug for TimeRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[{}, {})", self.start, self.end)
    }
}

/// Time range that a segment never crosses: bounds on whole UTC hours, a UTC month by default.
///
/// Text form: both bounds as `YYYYMMDDHH`, joined by `-`: `2024050100-2024060100`. It sorts by time.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Window(TimeRange);

impl Window {
    /// Creates the window that covers this range.
    ///
    /// # Errors
    /// [`TimeError::Window`] unless both are whole UTC hours.
    pub fn new(range: TimeRange) -> Result<Self, TimeError> {
        let is_whole_hour = |t: Millis| t.get().rem_euclid(HOUR_MS) == 0;
        if is_whole_hour(range.start()) && is_whole_hour(range.end()) {
            Ok(Self(range))
        } else {
            Err(TimeError::Window(format!("{range:?}")))
        }
    }

    /// Creates the window between these bounds, in milliseconds since 1970.
    ///
    /// # Errors
    /// [`TimeError::Window`] unless both are whole UTC hours that a time can have, and the first is before the second.
    pub fn from_bounds(start: i64, end: i64) -> Result<Self, TimeError> {
        let is_whole_hour = |ms: i64| ms.rem_euclid(HOUR_MS) == 0;
        // A window's end may be one past the last time that a reading can have.
        if Millis::MIN.0 <= start
            && start < end
            && end <= Millis::MAX.0 + 1
            && is_whole_hour(start)
            && is_whole_hour(end)
        {
            Ok(Self(TimeRange { start: Millis(start), end: Millis(end) }))
        } else {
            Err(TimeError::Window(format!("[{start}, {end}) ms since 1970")))
        }
    }

    /// Returns the UTC month that contains this time.
    #[must_use]
    pub fn month_of(time: Millis) -> Self {
        let t = time.utc();
        let start = month_start(t.year(), t.month());
        let end = match (t.year(), t.month()) {
            (year, 12) => month_start(year + 1, 1),
            (year, month) => month_start(year, month + 1),
        };
        Self(TimeRange { start, end })
    }

    /// Returns the time range.
    #[must_use]
    pub const fn range(self) -> TimeRange {
        self.0
    }
}

impl PartialOrd for Window {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Window {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.0.start, self.0.end).cmp(&(other.0.start, other.0.end))
    }
}

fn month_start(year: i16, month: i8) -> Millis {
    let days = Date::new(year, month, 1).ok().and_then(|date| TimeZone::UTC.to_timestamp(date.at(0, 0, 0, 0)).ok());
    // Every month of the years 1 to 9998 has a first day.
    Millis(days.map_or(0, jiff::Timestamp::as_millisecond))
}

fn write_hour(f: &mut fmt::Formatter<'_>, time: Millis) -> fmt::Result {
    let t = time.utc();
    write!(f, "{:04}{:02}{:02}{:02}", t.year(), t.month(), t.day(), t.hour())
}

fn parse_hour(text: &str) -> Option<Millis> {
    if text.len() != 10 || !text.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let date = DateTime::new(
        text[0..4].parse().ok()?,
        text[4..6].parse().ok()?,
        text[6..8].parse().ok()?,
        text[8..10].parse().ok()?,
        0,
        0,
        0,
    )
    .ok()?;
    let ms = TimeZone::UTC.to_timestamp(date).ok()?.as_millisecond();
    // A window's end may be one past the last time that a reading can have.
    (Millis::MIN.get()..=Millis::MAX.get() + 1).contains(&ms).then_some(Millis(ms))
}

impl fmt::Display for Window {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_hour(f, self.0.start)?;
        f.write_str("-")?;
        write_hour(f, self.0.end)
    }
}

impl fmt::Debug for Window {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Window({self})")
    }
}

impl FromStr for Window {
    type Err = TimeError;

    fn from_str(text: &str) -> Result<Self, TimeError> {
        let error = || TimeError::Window(format!("{:?}", text.chars().take(64).collect::<String>()));
        let (start, end) = text.split_once('-').ok_or_else(error)?;
        let (start, end) = (parse_hour(start).ok_or_else(error)?, parse_hour(end).ok_or_else(error)?);
        Ok(Self(TimeRange::new(start, end).map_err(|_| error())?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn month_windows() {
        let at = |text: &str| Window::month_of(text.parse().expect("a time")).to_string();
        assert_eq!(at("2016-02-29T23:59:59.999Z"), "2016020100-2016030100");
        assert_eq!(at("2016-12-31T23:59:59Z"), "2016120100-2017010100");
        assert_eq!(at("1969-12-31T23:59:59Z"), "1969120100-1970010100");
        assert_eq!(at("9998-12-31T23:59:59.999Z"), "9998120100-9999010100");
    }

    #[test]
    fn text_forms() {
        let time: Millis = "2016-02-14T01:00:00.25+01:00".parse().expect("a time");
        assert_eq!(time.to_string(), "2016-02-14T00:00:00.250Z");
        for bad in
            ["yesterday", "2016-02-14", "2016-02-14T00:00:00", "2016-02-14T00:00:00.0001Z", "2016-13-01T00:00:00Z", ""]
        {
            assert!(bad.parse::<Millis>().is_err(), "{bad:?}");
        }
        for bad in ["", "-", "2016020100-2016020100", "2016023000-2016030100", "20160201-20160301"] {
            assert!(bad.parse::<Window>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn months_before_are_those_of_the_calendar() {
        let before = |text: &str, months| text.parse::<Millis>().expect("a time").months_before(months).to_string();
        assert_eq!(before("2026-11-27T05:40:36.123Z", 24), "2024-11-27T05:40:36.123Z");
        assert_eq!(before("2028-02-29T00:00:00Z", 12), "2027-02-28T00:00:00.000Z");
        assert_eq!(before("2028-02-29T00:00:00Z", 48), "2024-02-29T00:00:00.000Z");
        assert_eq!(before("2025-03-31T12:00:00Z", 1), "2025-02-28T12:00:00.000Z");
        assert_eq!(before("2025-03-31T12:00:00Z", 0), "2025-03-31T12:00:00.000Z");
        assert_eq!(before("2025-03-31T12:00:00Z", 12 * 3000), Millis::MIN.to_string());
        assert_eq!(before("2025-03-31T12:00:00Z", u32::MAX), Millis::MIN.to_string());
    }

    proptest! {
        #[test]
        fn every_time_has_a_month_and_a_text(ms in Millis::MIN.get()..=Millis::MAX.get()) {
            let time = Millis::new(ms).expect("in range");
            prop_assert_eq!(time.to_string().parse::<Millis>(), Ok(time));
            let window = Window::month_of(time);
            prop_assert!(window.range().contains(time));
            prop_assert_eq!(window.to_string().parse::<Window>(), Ok(window));
            prop_assert!(Window::new(window.range()).is_ok());
        }
    }
}
