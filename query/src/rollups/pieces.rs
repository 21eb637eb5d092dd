//! Time cut into pieces by what may be read instead of rows: daily rollups, hourly ones, or nothing.

use datafusion::common::Result;

use super::steps::Steps;

pub(super) const HOUR_MS: i64 = 3_600_000;
pub(super) const DAY_MS: i64 = 24 * HOUR_MS;

/// In which form readings come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Grain {
    Daily,
    Hourly,
    Rows,
}

impl Grain {
    /// Milliseconds that one row stands for.
    pub(super) const fn length(self) -> i64 {
        match self {
            Self::Daily => DAY_MS,
            Self::Hourly => HOUR_MS,
            Self::Rows => 1,
        }
    }
}

/// Grains of time.
///
/// Invariant: ascending, each piece begins at an hour of UTC (at a day if it or the one before is daily), neighbours differ.
/// What is before the first piece is of rows.
#[derive(Debug, Default)]
pub(super) struct Pieces {
    starts: Vec<i64>,
    grains: Vec<Grain>,
}

impl Pieces {
    /// Of these days, which ascend: of days within one group daily, of hours within one group hourly unless only daily rollups
    /// know what is asked. Other days are of rows.
    pub(super) fn new(days: &[i64], steps: &mut Steps, hourly: bool) -> Result<Self> {
        let mut pieces = Self::default();
        let whole = steps.are_constant(days, DAY_MS)?;
        let mut end = i64::MIN;
        for (&day, whole) in days.iter().zip(whole) {
            if day != end {
                pieces.push(end, Grain::Rows);
            }
            end = day + DAY_MS;
            if whole {
                pieces.push(day, Grain::Daily);
            } else if hourly {
                let hours: Vec<i64> = (0..24).map(|hour| day + hour * HOUR_MS).collect();
                for (&hour, whole) in hours.iter().zip(steps.are_constant(&hours, HOUR_MS)?) {
                    pieces.push(hour, if whole { Grain::Hourly } else { Grain::Rows });
                }
            } else {
                pieces.push(day, Grain::Rows);
            }
        }
        pieces.push(end, Grain::Rows);
        Ok(pieces)
    }

    fn push(&mut self, start: i64, grain: Grain) {
        if self.grains.last().copied().unwrap_or(Grain::Rows) != grain {
            self.starts.push(start);
            self.grains.push(grain);
        }
    }

    /// The grain of this time, and when the next piece begins.
    pub(super) fn at(&self, time: i64) -> (Grain, i64) {
        let next = self.starts.partition_point(|&start| start <= time);
        let grain = next.checked_sub(1).and_then(|piece| self.grains.get(piece)).copied().unwrap_or(Grain::Rows);
        (grain, self.starts.get(next).copied().unwrap_or(i64::MAX))
    }

    /// The parts of these times, both ends included, that are of this grain: first and last millisecond of each.
    pub(super) fn within(&self, first: i64, last: i64, of: Grain) -> Vec<(i64, i64)> {
        let mut found = Vec::new();
        let mut time = first;
        while time <= last {
            let (grain, next) = self.at(time);
            if grain == of {
                found.push((time, last.min(next - 1)));
            }
            time = next;
        }
        found
    }
}
