//! Time zones: the offset at an instant, and the instant of a local time. All times are whole seconds.

use arrow::array::timezone::Tz;
use chrono::{DateTime, Offset, TimeZone};

#[cfg(test)]
mod tests;

/// Seconds of a day.
pub(crate) const DAY: i64 = 86_400;

/// More than any offset from UTC, ever: Manila was 15 hours and 56 minutes behind until 1844.
const OFFSET_MAX: i64 = 16 * 3_600;

/// Zones in which a date ended twice, once at least: clocks were turned back from shortly after midnight to the evening
/// before. Starts of their days do not ascend with time. A test finds the same list in the rules of all zones.
const DATES_COME_AGAIN: [&str; 21] = [
    "America/Adak",
    "America/Anchorage",
    "America/Atka",
    "America/Creston",
    "America/Goose_Bay",
    "America/Juneau",
    "America/Metlakatla",
    "America/Moncton",
    "America/Nome",
    "America/Phoenix",
    "America/Sitka",
    "America/St_Johns",
    "America/Yakutat",
    "Antarctica/Casey",
    "Canada/Newfoundland",
    "MST",
    "Pacific/Guam",
    "Pacific/Saipan",
    "US/Alaska",
    "US/Aleutian",
    "US/Arizona",
];

/// A zone's rules.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Zone {
    /// Seconds east of UTC.
    Fixed(i64),
    /// Rules that may change the offset.
    Ruled(Tz),
}

impl Zone {
    pub(crate) const UTC: Self = Self::Fixed(0);

    /// The zone of this name, such as `Europe/Berlin`, `+02:00` or `UTC`.
    pub(crate) fn named(name: &str) -> Option<Self> {
        let zone: Tz = name.parse().ok()?;
        match name.as_bytes().first() {
            Some(b'+' | b'-') => Some(Self::Fixed(offset(zone, 0))),
            _ if name == "UTC" => Some(Self::UTC),
            _ => Some(Self::Ruled(zone)),
        }
    }

    /// The zone of a timestamp's type, where no zone means UTC.
    pub(crate) fn of_type(name: Option<&str>) -> Option<Self> {
        name.map_or(Some(Self::UTC), Self::named)
    }

    /// Seconds east of UTC at this instant.
    pub(crate) fn offset(self, at: i64) -> i64 {
        match self {
            Self::Fixed(offset) => offset,
            Self::Ruled(zone) => offset(zone, at),
        }
    }

    /// The earliest instant at which clocks show this local time or a later one.
    pub(crate) fn first_instant(self, local: i64) -> i64 {
        let (low, high) = (local.saturating_sub(OFFSET_MAX), local.saturating_add(OFFSET_MAX));
        let (before, after) = (self.offset(low), self.offset(high));
        if before == after {
            return local.saturating_sub(before);
        }
        let change = self.change(low, high);
        if local.saturating_sub(before) < change {
            local.saturating_sub(before)
        } else {
            change.max(local.saturating_sub(self.offset(change)))
        }
    }

    /// The offset at an instant, and how long it holds: the part around `at` of `from..to`, which holds `at`, is at most
    /// a day long, and has one change at most.
    pub(crate) fn constant(self, at: i64, from: i64, to: i64) -> (i64, i64, i64) {
        let offset = self.offset(at);
        let start = if self.offset(from) == offset { from } else { self.change(from, at) };
        let last = to.saturating_sub(1);
        let end = if self.offset(last) == offset { to } else { self.change(at, last) };
        (offset, start, end)
    }

    /// The first instant after `low`, and not after `high`, with another offset than at `low`, if the two ends differ.
    fn change(self, mut low: i64, mut high: i64) -> i64 {
        let before = self.offset(low);
        while high - low > 1 {
            let middle = low + (high - low) / 2;
            if self.offset(middle) == before {
                low = middle;
            } else {
                high = middle;
            }
        }
        high
    }
}

/// Whether the starts of local days ascend with time in the zone of this name; unknown zones are not said to.
pub(crate) fn dates_ascend(name: Option<&str>) -> bool {
    name.is_none_or(|name| !DATES_COME_AGAIN.contains(&name))
}

fn offset(zone: Tz, at: i64) -> i64 {
    // Beyond the calendar's range the first and the last rules go on.
    let at = at.clamp(DateTime::<chrono::Utc>::MIN_UTC.timestamp(), DateTime::<chrono::Utc>::MAX_UTC.timestamp());
    let utc = DateTime::from_timestamp(at, 0).unwrap_or_default().naive_utc();
    i64::from(zone.offset_from_utc_datetime(&utc).fix().local_minus_utc())
}

/// What is wrong with the name of a zone that does not exist, and what may have been meant.
pub(crate) fn unknown(name: &str) -> String {
    let shown: String = name.chars().take(64).collect();
    let advice = match (offset_meant(&shown), nearest(&shown)) {
        (Some(offset), _) => format!("; a fixed offset is written {offset}"),
        (None, Some(near)) => format!("; did you mean '{near}'?"),
        (None, None) => "; zones have names such as 'Europe/Berlin', fixed offsets are written '+02:00'".to_owned(),
    };
    format!("there is no time zone '{shown}'{advice}")
}

/// What `UTC+2`, `GMT-03:30` and the like mean, as it is written here.
fn offset_meant(name: &str) -> Option<String> {
    let upper = name.trim().to_ascii_uppercase();
    let rest = upper.strip_prefix("UTC").or_else(|| upper.strip_prefix("GMT")).unwrap_or(&upper).trim();
    let sign = rest.chars().next().filter(|sign| matches!(sign, '+' | '-'))?;
    let digits = rest[1..].trim();
    let (hours, minutes) = match digits.split_once(':') {
        Some((hours, minutes)) => (hours, minutes),
        None if digits.len() > 2 => digits.split_at_checked(digits.len() - 2)?,
        None => (digits, "0"),
    };
    let (hours, minutes): (u32, u32) = (hours.parse().ok()?, minutes.parse().ok()?);
    (hours < 24 && minutes < 60).then(|| format!("'{sign}{hours:02}:{minutes:02}'"))
}

/// The name of a zone that differs least, if it differs little.
fn nearest(name: &str) -> Option<&'static str> {
    let wanted = plain(name);
    let most = if wanted.chars().count() < 6 { 1 } else { 2 };
    let zones = chrono_tz::TZ_VARIANTS.iter().map(|zone| zone.name());
    let city = |zone: &str| plain(zone.rsplit('/').next().unwrap_or(zone)) == wanted;
    let near = zones.clone().map(|zone| (differences(&plain(zone), &wanted), zone)).min_by_key(|(count, _)| *count);
    match near {
        Some((count, zone)) if count <= most => Some(zone),
        _ => zones.clone().find(|zone| zone.contains('/') && city(zone)),
    }
}

fn plain(name: &str) -> String {
    name.trim().to_lowercase().replace([' ', '-'], "_")
}

/// Letters to insert, delete or replace to make one text of the other.
fn differences(one: &str, other: &str) -> usize {
    let other: Vec<char> = other.chars().collect();
    let mut row: Vec<usize> = (0..=other.len()).collect();
    for (line, letter) in one.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = line + 1;
        for (column, wanted) in other.iter().enumerate() {
            let replaced = diagonal + usize::from(letter != *wanted);
            diagonal = row[column + 1];
            row[column + 1] = replaced.min(row[column] + 1).min(diagonal + 1);
        }
    }
    row[other.len()]
}
