//! Values that mean an instant: texts, dates, local times; and timestamps of one unit in another.

use arrow::compute::kernels::cast_utils::string_to_datetime;
use arrow::datatypes::TimeUnit;
use chrono::{FixedOffset, MappedLocalTime, Months, NaiveDate, NaiveDateTime, TimeZone};

use super::zone::{DAY, Zone};

#[cfg(test)]
mod tests;

/// Nanoseconds in a second.
const NANOS: i128 = 1_000_000_000;

/// How texts of times look.
pub(crate) const WANTED: &str =
    "times are written 2024-10-27, 2024-10-27T08:30:00 or, with an offset, 2024-10-27T08:30:00+02:00 or …Z";

/// What becomes of parts of a unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Rounding {
    /// To the earlier unit.
    Down,
    /// To the later unit.
    Up,
}

/// Units of a timestamp in a second.
pub(crate) fn per_second(unit: TimeUnit) -> i64 {
    match unit {
        TimeUnit::Second => 1,
        TimeUnit::Millisecond => 1_000,
        TimeUnit::Microsecond => 1_000_000,
        TimeUnit::Nanosecond => 1_000_000_000,
    }
}

/// A time to the nanosecond, in a range that no unit has: an instant, or a local time that is to become one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Stamp(i128);

impl Stamp {
    /// The value of a timestamp.
    pub(crate) fn of(value: i64, unit: TimeUnit) -> Self {
        Self(i128::from(value) * (NANOS / i128::from(per_second(unit))))
    }

    /// The begin of a day, counted from the Unix epoch.
    pub(crate) fn of_day(day: i32) -> Self {
        Self(i128::from(day) * 86_400 * NANOS)
    }

    /// This instant in units; none if there is no such value.
    pub(crate) fn to(self, unit: TimeUnit, rounding: Rounding) -> Option<i64> {
        let length = NANOS / i128::from(per_second(unit));
        let down = self.0.div_euclid(length);
        let up = rounding == Rounding::Up && self.0.rem_euclid(length) != 0;
        i64::try_from(down + i128::from(up)).ok()
    }

    /// The earliest instant at which clocks of this zone show this local time or a later one; none beyond all ranges.
    pub(crate) fn first_instant(self, zone: Zone) -> Option<Self> {
        let (second, part) = (i64::try_from(self.0.div_euclid(NANOS)).ok()?, self.0.rem_euclid(NANOS));
        let first = zone.first_instant(second);
        // In a gap, the first instant after it is on a whole second.
        let shown = first.checked_add(zone.offset(first))? == second;
        Some(Self(i128::from(first) * NANOS + if shown { part } else { 0 }))
    }

    /// This instant, moved by months and days on the calendar of this zone, and then by a time. The time of day stays; of
    /// two instants with it, that with the same offset as before is taken, else the earlier.
    pub(crate) fn shifted(self, zone: Zone, months: i64, days: i64, nanoseconds: i128) -> Option<Self> {
        let date = |day: i64| NaiveDate::from_epoch_days(i32::try_from(day).ok()?);
        let mut moved = self;
        if months != 0 || days != 0 {
            let (second, part) = (i64::try_from(self.0.div_euclid(NANOS)).ok()?, self.0.rem_euclid(NANOS));
            let offset = zone.offset(second);
            let local = second.checked_add(offset)?;
            let count = Months::new(u32::try_from(months.unsigned_abs()).ok()?);
            let from = date(local.div_euclid(DAY))?;
            let to = if months < 0 { from.checked_sub_months(count)? } else { from.checked_add_months(count)? };
            let day = i64::from(to.to_epoch_days()).checked_add(days)?;
            date(day)?;
            let local = day * DAY + local.rem_euclid(DAY);
            moved = match zone.offset(local - offset) == offset {
                true => Self(i128::from(local - offset) * NANOS + part),
                false => Self(i128::from(local) * NANOS + part).first_instant(zone)?,
            };
        }
        Some(Self(moved.0.checked_add(nanoseconds)?))
    }

    /// What clocks of this zone show at this instant.
    pub(crate) fn local(self, zone: Zone) -> Option<Self> {
        let second = i64::try_from(self.0.div_euclid(NANOS)).ok()?;
        Some(Self(self.0 + i128::from(zone.offset(second)) * NANOS))
    }
}

/// The instant that a text means: by its own offset or zone if it has one, else as a local time of this zone.
pub(crate) fn parse(text: &str, zone: Zone) -> Option<Stamp> {
    let text = text.trim();
    let (text, zone) = match text.rsplit_once(' ') {
        Some((head, name)) if name.starts_with(|c: char| c.is_ascii_alphabetic()) => (head, Zone::named(name)?),
        _ => (text, zone),
    };
    let whole = match text.as_bytes() {
        bytes if !text.is_ascii() || bytes.len() < 11 => None,
        // A date with an offset.
        bytes if matches!(bytes[10], b'Z' | b'z' | b'+' | b'-') => {
            Some(format!("{}T00:00:00{}", &text[..10], &text[10..]))
        }
        // Hours and minutes without seconds.
        bytes if bytes.get(13) == Some(&b':') && bytes.len() > 15 && bytes.get(16) != Some(&b':') => {
            Some(format!("{}:00{}", &text[..16], &text[16..]))
        }
        _ => None,
    };
    let time = string_to_datetime(&Earliest(zone), whole.as_deref().unwrap_or(text)).ok()?;
    let second = time.timestamp();
    // In a gap, the first instant after it is on a whole second, and the offset is none of the zone's.
    let shown = zone.offset(second) == i64::from(time.offset().local_minus_utc());
    let part = if shown { i128::from(time.timestamp_subsec_nanos()) } else { 0 };
    Some(Stamp(i128::from(second) * NANOS + part))
}

/// A zone whose local times each are one instant.
#[derive(Clone, Copy)]
struct Earliest(Zone);

impl TimeZone for Earliest {
    type Offset = FixedOffset;

    fn from_offset(offset: &FixedOffset) -> Self {
        Self(Zone::Fixed(i64::from(offset.local_minus_utc())))
    }

    fn offset_from_local_date(&self, local: &NaiveDate) -> MappedLocalTime<FixedOffset> {
        self.offset_from_local_datetime(&local.and_time(chrono::NaiveTime::MIN))
    }

    fn offset_from_local_datetime(&self, local: &NaiveDateTime) -> MappedLocalTime<FixedOffset> {
        let second = local.and_utc().timestamp();
        fixed(second - self.0.first_instant(second)).map_or(MappedLocalTime::None, MappedLocalTime::Single)
    }

    fn offset_from_utc_date(&self, utc: &NaiveDate) -> FixedOffset {
        self.offset_from_utc_datetime(&utc.and_time(chrono::NaiveTime::MIN))
    }

    fn offset_from_utc_datetime(&self, utc: &NaiveDateTime) -> FixedOffset {
        fixed(self.0.offset(utc.and_utc().timestamp())).unwrap_or_else(|| chrono::Offset::fix(&chrono::Utc))
    }
}

fn fixed(seconds: i64) -> Option<FixedOffset> {
    FixedOffset::east_opt(i32::try_from(seconds).ok()?)
}
