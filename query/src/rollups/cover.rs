//! Which readings of a snapshot come from rollups, and from which, and which from rows.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use datafusion::common::Result;
use datafusion::logical_expr::Expr;
use datafusion::logical_expr::utils::disjunction;
use engine::Snapshot;
use storage_format::SegmentId;
use storage_format::manifest::{Manifest, SegmentEntry, SegmentKind};

use super::pieces::{DAY_MS, Grain, Pieces};
use super::steps::Steps;
use crate::key_range::KeyRange;
use crate::limits::{ROLLUP_RANGES_MAX, ROLLUP_ROWS_DAYS_MAX};
use crate::prune::KeyBounds;

/// The rollups of one segment.
#[derive(Debug, Clone)]
pub(super) struct Rollups {
    pub(super) hourly: SegmentEntry,
    pub(super) daily: SegmentEntry,
}

/// A range with whole days.
fn whole_days(range: KeyRange) -> KeyRange {
    let (first, last) = (day_of(range.times.0), day_of(range.times.1));
    KeyRange { times: (first * DAY_MS, last * DAY_MS + DAY_MS - 1), ..range }
}

fn day_of(time: i64) -> i64 {
    time.div_euclid(DAY_MS)
}

/// See the module. Keys of a covered segment are of the grain that `run` tells; all of the other segments are of rows.
///
/// Invariant: a key of a covered segment that another segment or a write buffer may hold too is of rows.
#[derive(Debug)]
pub(crate) struct Cover {
    pieces: Pieces,
    /// The segments of which rollups are used.
    covered: HashMap<SegmentId, Rollups>,
    /// Loggers and days that write buffers may add to, ascending.
    days: Vec<(u64, i64)>,
    /// Keys that segments may share, as whole days.
    shared: Vec<KeyRange>,
}

impl Cover {
    /// Of the segments that can have a key within `bounds`. Without `hourly`, from daily rollups only. None if no rollup would be
    /// read.
    pub(super) fn new(
        snapshot: &Snapshot,
        bounds: &KeyBounds,
        steps: &mut Steps,
        hourly: bool,
        usable: impl Fn(&SegmentEntry) -> bool,
    ) -> Result<Option<Arc<Self>>> {
        if bounds.is_empty() {
            return Ok(None);
        }
        let rollups = rollups_of(&snapshot.manifest);
        let entries: Vec<&SegmentEntry> =
            snapshot.manifest.segments().iter().filter(|entry| bounds.may_hold(entry)).collect();
        let is_covered =
            |entry: &&&SegmentEntry| !entry.shares_keys && rollups.contains_key(&entry.id) && usable(entry);
        let covered: Vec<&SegmentEntry> = entries.iter().filter(is_covered).copied().collect();
        let mut all = BTreeSet::new();
        for entry in &covered {
            let (from, to) = bounds.times();
            let (first, last) = (day_of(entry.time_min.get().max(from)), day_of(entry.time_max.get().min(to)));
            all.extend((first..=last).map(|day| day * DAY_MS));
        }
        let all: Vec<i64> = all.into_iter().collect();
        let mut cover = Self {
            pieces: Pieces::new(&all, steps, hourly)?,
            covered: HashMap::new(),
            days: Vec::new(),
            shared: shared_keys(&entries, &covered),
        };
        let is_read = |entry: &&SegmentEntry| {
            [Grain::Daily, Grain::Hourly].into_iter().any(|grain| cover.reads(entry, grain).is_some())
        };
        let read: Vec<&SegmentEntry> = covered.into_iter().filter(is_read).collect();
        if read.is_empty() {
            return Ok(None);
        }
        // Last, because it looks at every row of the write buffers.
        let Some(days) = buffered_days(snapshot, bounds, &read) else { return Ok(None) };
        let rollups = read.into_iter().filter_map(|entry| Some((entry.id, rollups.get(&entry.id)?.clone())));
        (cover.days, cover.covered) = (days, rollups.collect());
        Ok(Some(Arc::new(cover)))
    }

    /// The rollups of a segment, if it is covered.
    pub(super) fn of(&self, entry: &SegmentEntry) -> Option<&Rollups> {
        self.covered.get(&entry.id)
    }

    /// The grain of this key of a covered segment; and up to which time, at least, other times of the logger are of it too.
    pub(super) fn run(&self, logger: u64, time: i64) -> (Grain, i64) {
        let (grain, next) = self.pieces.at(time);
        if self.days.is_empty() && self.shared.is_empty() {
            return (grain, next);
        }
        let day = day_of(time);
        let day_end = (day + 1).saturating_mul(DAY_MS);
        if self.days.binary_search(&(logger, day)).is_ok() {
            return (Grain::Rows, day_end);
        }
        if self.shared.iter().any(|shared| shared.contains(logger, time)) {
            return (Grain::Rows, day_end);
        }
        (grain, next.min(day_end))
    }

    /// First and last time that are read of a covered segment's rollup of this grain; none if nothing is.
    pub(super) fn reads(&self, entry: &SegmentEntry, grain: Grain) -> Option<(i64, i64)> {
        let all = KeyRange::of(entry);
        let days = whole_days(all);
        if self.shared.iter().any(|shared| shared.and(days) == Some(days)) {
            return None;
        }
        let parts = self.pieces.within(days.times.0, days.times.1, grain);
        Some((parts.first()?.0, parts.last()?.1))
    }

    /// What is read as rows of a segment: all, or what has such keys, or nothing. Rows that are of rollups may pass this.
    pub(crate) fn rows(&self, entry: &SegmentEntry) -> Rows {
        if !self.covered.contains_key(&entry.id) {
            return Rows::All;
        }
        let all = KeyRange::of(entry);
        let pieces = self.pieces.within(all.times.0, all.times.1, Grain::Rows);
        let mut ranges: Vec<KeyRange> = pieces.into_iter().map(|times| KeyRange { times, ..all }).collect();
        ranges.extend(self.shared.iter().filter_map(|shared| shared.and(all)));
        let from = self.days.partition_point(|day| day.0 < all.loggers.0);
        let days = self.days[from..].iter().take_while(|day| day.0 <= all.loggers.1);
        let days = days.map(|&(logger, day)| KeyRange {
            loggers: (logger, logger),
            times: (day * DAY_MS, day * DAY_MS + DAY_MS - 1),
        });
        ranges.extend(days.filter_map(|day| day.and(all)));
        match disjunction(fewer(ranges).into_iter().map(KeyRange::predicate)) {
            Some(predicate) => Rows::Some(predicate),
            None => Rows::None,
        }
    }

    /// Bytes that it holds.
    pub(super) fn bytes(&self) -> usize {
        self.days.capacity() * size_of::<(u64, i64)>() + self.shared.capacity() * size_of::<KeyRange>()
    }
}

/// What is read as rows of a segment.
#[derive(Debug)]
pub(crate) enum Rows {
    All,
    /// Only what passes this; keys that are of rollups are to be left out of it.
    Some(Expr),
    None,
}

fn rollups_of(manifest: &Manifest) -> HashMap<SegmentId, Rollups> {
    let of_kind = |kind| {
        let entries = manifest.rollups().iter().filter(move |entry| entry.kind == kind);
        entries.filter_map(|entry| Some((entry.of?, entry)))
    };
    let hourly: HashMap<SegmentId, &SegmentEntry> = of_kind(SegmentKind::RollupHourly).collect();
    let both = of_kind(SegmentKind::RollupDaily).filter_map(|(of, daily)| {
        let hourly = hourly.get(&of)?;
        Some((of, Rollups { hourly: SegmentEntry::clone(hourly), daily: daily.clone() }))
    });
    both.collect()
}

/// Days of loggers of which a write buffer has rows that a covered segment may have too. None if they are too many.
fn buffered_days(snapshot: &Snapshot, bounds: &KeyBounds, covered: &[&SegmentEntry]) -> Option<Vec<(u64, i64)>> {
    let mut days: Vec<(u64, i64)> = Vec::new();
    for view in &snapshot.buffers {
        let Some(buffered) = KeyRange::of_buffer(view) else { continue };
        let near = covered.iter().map(|entry| KeyRange::of(entry)).filter(|held| held.and(buffered).is_some());
        let near: Vec<KeyRange> = near.collect();
        if near.is_empty() {
            continue;
        }
        let (mut newest, mut too_many) = (None, false);
        view.each_key(|logger, time| {
            let key = (logger, day_of(time));
            let is_held = |held: &KeyRange| held.contains(logger, time);
            if newest != Some(key) && bounds.contains(logger, time) && near.iter().any(is_held) {
                newest = Some(key);
                if days.len() >= 2 * ROLLUP_ROWS_DAYS_MAX && !too_many {
                    days.sort_unstable();
                    days.dedup();
                    too_many = days.len() > ROLLUP_ROWS_DAYS_MAX;
                }
                if !too_many {
                    days.push(key);
                }
            }
        });
        days.sort_unstable();
        days.dedup();
        if too_many || days.len() > ROLLUP_ROWS_DAYS_MAX {
            return None;
        }
    }
    days.shrink_to_fit();
    Some(days)
}

/// Keys that covered segments may share with segments that fill channels of older readings.
fn shared_keys(entries: &[&SegmentEntry], covered: &[&SegmentEntry]) -> Vec<KeyRange> {
    let mut shared = Vec::new();
    for filling in entries.iter().filter(|entry| entry.shares_keys) {
        let near = covered.iter().filter(|entry| entry.window == filling.window);
        let common = near.filter_map(|entry| KeyRange::of(entry).and(KeyRange::of(filling)));
        shared.extend(common.reduce(KeyRange::around).map(whole_days));
    }
    shared
}

/// Not more than so many, around all of these.
fn fewer(mut ranges: Vec<KeyRange>) -> Vec<KeyRange> {
    while ranges.len() > ROLLUP_RANGES_MAX {
        let pairs = ranges.chunks(2).map(|pair| match pair {
            [one, other] => one.around(*other),
            rest => rest[0],
        });
        ranges = pairs.collect();
    }
    ranges
}
