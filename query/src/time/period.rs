//! Starts of periods: hours, days, months and so on, in any zone.
//!
//! Rows come in the order of time, so that the next value is nearly always in the period of the last one. [`Truncate`]
//! keeps that period, and looks at the calendar and at the zone only when a value leaves it.

use chrono::{Datelike, NaiveDate};

use super::zone::{DAY, Zone};

#[cfg(test)]
mod tests;

/// Days from the first of January of the year 1 to the Unix epoch, both ends counted.
const EPOCH_FROM_CE: i64 = 719_163;

/// The length of a period.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Period {
    Microsecond,
    Millisecond,
    Second,
    Minute,
    Hour,
    Day,
    /// From Monday.
    Week,
    Month,
    Quarter,
    Year,
}

impl Period {
    /// Its name in SQL, in any case.
    pub(crate) fn named(name: &str) -> Option<Self> {
        Some(match name.to_ascii_lowercase().as_str() {
            "microsecond" => Self::Microsecond,
            "millisecond" => Self::Millisecond,
            "second" => Self::Second,
            "minute" => Self::Minute,
            "hour" => Self::Hour,
            "day" => Self::Day,
            "week" => Self::Week,
            "month" => Self::Month,
            "quarter" => Self::Quarter,
            "year" => Self::Year,
            _ => return None,
        })
    }

    /// Whether its start is a date.
    pub(crate) fn is_of_days(self) -> bool {
        matches!(self, Self::Day | Self::Week | Self::Month | Self::Quarter | Self::Year)
    }

    /// Seconds, if it is of hours or less.
    fn seconds(self) -> Option<i64> {
        match self {
            Self::Second => Some(1),
            Self::Minute => Some(60),
            Self::Hour => Some(3_600),
            _ => None,
        }
    }

    /// First day, and first day of the next period, of the one that holds this day, counted from the Unix epoch. None
    /// beyond the calendar.
    fn days(self, day: i64) -> Option<(i64, i64)> {
        let date = || NaiveDate::from_num_days_from_ce_opt(i32::try_from(day.checked_add(EPOCH_FROM_CE)?).ok()?);
        let first_of = |months: i32| {
            let (year, month) = (months.div_euclid(12), u32::try_from(months.rem_euclid(12)).ok()? + 1);
            let first = NaiveDate::from_ymd_opt(year, month, 1)?;
            Some(i64::from(first.num_days_from_ce()) - EPOCH_FROM_CE)
        };
        let of_months = |length: i32| {
            let date = date()?;
            let months = date.year().checked_mul(12)?.checked_add(i32::try_from(date.month0()).ok()?)?;
            let start = months - months.rem_euclid(length);
            Some((first_of(start)?, first_of(start.checked_add(length)?)?))
        };
        match self {
            Self::Week => {
                // The first day of the epoch was a Thursday.
                let monday = day.checked_sub((day.checked_add(3)?).rem_euclid(7))?;
                Some((monday, monday.checked_add(7)?))
            }
            Self::Month => of_months(1),
            Self::Quarter => of_months(3),
            Self::Year => of_months(12),
            _ => Some((day, day.checked_add(1)?)),
        }
    }
}

/// Half-open range of seconds or of a timestamp's unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Range {
    from: i64,
    to: i64,
}

impl Range {
    const NONE: Self = Self { from: 0, to: 0 };

    fn contains(self, value: i64) -> bool {
        self.from <= value && value < self.to
    }
}

/// Finds the starts of periods, one value after the other.
#[derive(Debug)]
pub(crate) struct Truncate {
    zone: Zone,
    period: Period,
    /// Units in a second.
    per_second: i64,
    /// Values of the last start, in units.
    values: Range,
    start: i64,
    /// Instants at which the last offset holds, in seconds.
    instants: Range,
    offset: i64,
    /// Local times of the last period of days, and the first instant of it.
    local: Range,
    first: i64,
}

impl Truncate {
    /// For timestamps of so many units in a second.
    pub(crate) fn new(zone: Zone, period: Period, per_second: i64) -> Self {
        let (instants, offset) = match zone {
            Zone::Fixed(offset) => (Range { from: i64::MIN, to: i64::MAX }, offset),
            Zone::Ruled(_) => (Range::NONE, 0),
        };
        Self { zone, period, per_second, values: Range::NONE, start: 0, instants, offset, local: Range::NONE, first: 0 }
    }

    /// The start of the period that holds this value, both in units; none if it cannot be represented.
    #[inline]
    pub(crate) fn start(&mut self, value: i64) -> Option<i64> {
        if self.values.contains(value) { Some(self.start) } else { self.next(value) }
    }

    /// Whether this value is known to have the start that was found last.
    #[inline]
    pub(crate) fn holds(&self, value: i64) -> bool {
        self.values.contains(value)
    }

    /// The first value after the last one asked for whose start is not known.
    pub(crate) fn known_to(&self) -> i64 {
        self.values.to
    }

    /// The values of the period that holds this one, as a half-open range, if it is the only period with its start.
    pub(crate) fn range(&mut self, value: i64) -> Option<(i64, i64)> {
        let start = self.start(value)?;
        if self.period.is_of_days() {
            return Some((start, self.zone.first_instant(self.local.to).checked_mul(self.per_second)?));
        }
        let Some(length) = self.period.seconds() else { return Some((start, self.values.to)) };
        // Unless it is cut, because clocks may be changed within it.
        let whole = Range { from: start, to: start.checked_add(length.checked_mul(self.per_second)?)? };
        (self.values == whole).then_some((whole.from, whole.to))
    }

    #[cold]
    fn next(&mut self, value: i64) -> Option<i64> {
        let second = value.div_euclid(self.per_second);
        let (start, seconds) = match (self.period, self.period.seconds()) {
            (Period::Microsecond | Period::Millisecond, _) => return self.within_second(value),
            (_, Some(length)) => self.of_seconds(second, length)?,
            (_, None) => self.of_days(second)?,
        };
        let start = start.checked_mul(self.per_second)?;
        let from = seconds.from.saturating_mul(self.per_second);
        self.values = Range { from, to: seconds.to.saturating_mul(self.per_second) };
        self.start = start;
        Some(start)
    }

    fn within_second(&mut self, value: i64) -> Option<i64> {
        let parts = if self.period == Period::Millisecond { 1_000 } else { 1_000_000 };
        let length = (self.per_second / parts).max(1);
        self.start = value.checked_sub(value.rem_euclid(length))?;
        self.values = Range { from: self.start, to: self.start.checked_add(length)? };
        Some(self.start)
    }

    /// Looks up the offset, and how long it holds within a day of UTC.
    fn locate(&mut self, second: i64) -> Option<()> {
        if !self.instants.contains(second) {
            let from = second.checked_sub(second.rem_euclid(DAY))?;
            let (offset, from, to) = self.zone.constant(second, from, from.checked_add(DAY)?);
            self.offset = offset;
            self.instants = Range { from, to };
        }
        Some(())
    }

    /// Within the offset in force, so that an hour that comes twice is two hours. Where clocks were turned back by less
    /// than this period, which begins before that, both parts have the later of the two starts, so that starts ascend.
    fn of_seconds(&mut self, second: i64, length: i64) -> Option<(i64, Range)> {
        self.locate(second)?;
        let start_at = |second: i64, offset: i64| second.checked_sub((second.checked_add(offset)?).rem_euclid(length));
        let start = start_at(second, self.offset)?;
        let to = start.checked_add(length)?;
        let valid = Range { from: start.max(self.instants.from), to: to.min(self.instants.to) };
        if start >= self.instants.from {
            return Some((start, valid));
        }
        let before = self.instants.from.checked_sub(1)?;
        let earlier = start_at(before, self.zone.offset(before))?;
        Some((start.max(earlier), valid))
    }

    /// From the first instant of the local date.
    fn of_days(&mut self, second: i64) -> Option<(i64, Range)> {
        self.locate(second)?;
        let local = second.checked_add(self.offset)?;
        if !self.local.contains(local) {
            let (from, to) = self.period.days(local.div_euclid(DAY))?;
            self.local = Range { from: from.checked_mul(DAY)?, to: to.checked_mul(DAY)? };
            self.first = self.zone.first_instant(self.local.from);
        }
        let (from, to) = (self.local.from.checked_sub(self.offset)?, self.local.to.checked_sub(self.offset)?);
        Some((self.first, Range { from: from.max(self.instants.from), to: to.min(self.instants.to) }))
    }
}
