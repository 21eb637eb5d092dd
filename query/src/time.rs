//! Local time: zones, the starts of local days and other periods, and texts that are times.
//!
//! Rules that hold everywhere: a local time that comes twice means its earliest instant; a local time that never comes
//! means the first instant after the gap. Both are one rule: the earliest instant at which the zone's clocks show that
//! time or a later one ([`Zone::first_instant`]).

mod instant;
mod period;
mod zone;

pub(crate) use instant::{Rounding, Stamp, WANTED, parse, per_second};
pub(crate) use period::{Period, Truncate};
pub(crate) use zone::{Zone, dates_ascend, unknown};
