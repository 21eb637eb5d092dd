//! Up to which time each logger may have readings in segments: what is later is new, without a look at any segment.
//!
//! Most readings arrive in the order of their times, logger by logger, so that most flushes need not read what is
//! flushed. Only bounds are kept, never less than what is true: a bound that is too late costs reading, no more.
//!
//! Memory: some 32 bytes a logger, for [`LOGGERS_MAX`] loggers of an organisation at most; past them, and after a
//! start, one bound does for all loggers that have none of their own.

use std::collections::HashMap;

use storage_format::manifest::Manifest;
use storage_format::{ManifestVersion, Millis};

use crate::planted::{self, PlantedBug};

/// Loggers of one organisation that have a bound of their own.
const LOGGERS_MAX: usize = 1 << 16;

/// The bounds of one organisation.
#[derive(Debug)]
pub(crate) struct Frontier {
    /// The manifest that they hold for.
    version: Option<ManifestVersion>,
    /// For loggers that have none of their own.
    others: i64,
    loggers: HashMap<u64, i64>,
}

impl Frontier {
    /// Of an organisation whose manifest was not looked at.
    pub(crate) fn new() -> Self {
        Self { version: None, others: i64::MAX, loggers: HashMap::new() }
    }

    /// Makes them hold for this manifest.
    pub(crate) fn hold_for(&mut self, manifest: &Manifest) {
        if self.version != Some(manifest.version()) {
            let last = manifest.segments().iter().map(|entry| entry.time_max).max();
            *self = Self {
                version: Some(manifest.version()),
                others: last.map_or(i64::MIN, Millis::get),
                loggers: HashMap::new(),
            };
        }
    }

    /// Makes them hold for `after`, too, if they hold for `before`: it has no readings but those of `before`, and those
    /// that they were raised for since.
    pub(crate) fn follow(&mut self, before: &Manifest, after: &Manifest) {
        if self.version == Some(before.version()) {
            self.version = Some(after.version());
        }
    }

    /// The last time at which this logger may have a reading in a segment.
    pub(crate) fn of(&self, logger: u64) -> i64 {
        self.loggers.get(&logger).copied().unwrap_or(self.others)
    }

    /// The logger may have readings up to this time from now on.
    pub(crate) fn raise(&mut self, logger: u64, time: i64) {
        if planted::has(PlantedBug::ForgetFrontier) {
            return;
        }
        if self.loggers.len() >= LOGGERS_MAX && !self.loggers.contains_key(&logger) {
            self.others = self.loggers.values().copied().max().unwrap_or(i64::MIN).max(self.others);
            self.loggers.clear();
        }
        let bound = self.loggers.entry(logger).or_insert(self.others);
        *bound = time.max(*bound);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_only_rise() {
        let mut frontier = Frontier::new();
        assert_eq!(frontier.of(1), i64::MAX, "nothing is known");
        frontier.hold_for(&Manifest::empty());
        assert_eq!(frontier.of(1), i64::MIN, "nothing is there");
        frontier.raise(1, 5);
        frontier.raise(1, 3);
        assert_eq!((frontier.of(1), frontier.of(2)), (5, i64::MIN));
        frontier.hold_for(&Manifest::empty());
        assert_eq!(frontier.of(1), 5, "the same manifest");
    }

    #[test]
    fn past_its_limit_one_bound_does_for_all() {
        let mut frontier = Frontier::new();
        frontier.hold_for(&Manifest::empty());
        let last = LOGGERS_MAX as u64 + 10;
        for logger in 1..=last {
            frontier.raise(logger, logger.cast_signed());
        }
        assert!(frontier.loggers.len() <= LOGGERS_MAX);
        assert!((1..=last).all(|logger| frontier.of(logger) >= logger.cast_signed()));
    }
}
