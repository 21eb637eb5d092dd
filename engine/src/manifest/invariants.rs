//! What must hold between a manifest and the commit that follows it, as predicates: checked before every commit.
//!
//! `storage-format` checks each delta's form when it is applied. Here is what only the writer can break: precedence,
//! counts, and what a flush means.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use storage_format::manifest::{ApplyError, Manifest, ManifestDelta, SegmentEntry, SegmentKind};
use storage_format::{FlushNumber, SegmentId, Window};

use crate::limits::KEEP_MONTHS_MIN;
use crate::planted::{self, PlantedBug};

/// A rule that a commit would break: a defect of this program.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvariantError {
    /// The delta does not follow, or contradicts itself.
    #[error(transparent)]
    Apply(#[from] ApplyError),
    /// Two segments of one window could each claim to be the earlier.
    #[error("segments {first} and {second} of window {window} have flush numbers in common and may share keys")]
    Precedence {
        /// The window.
        window: Window,
        /// One of them.
        first: SegmentId,
        /// The other.
        second: SegmentId,
    },
    /// The rows that are added are not those that are counted.
    #[error("{rows} rows are added, and {readings} readings and {filled} fills counted")]
    Readings {
        /// Rows of the segments added.
        rows: u64,
        /// Readings counted.
        readings: u64,
        /// Fills counted.
        filled: u64,
    },
    /// The rows that are added are not those that they replace, with what the commit says of those that were united.
    #[error("{added} rows replace {removed}, and the commit does not say what became of the others")]
    Merged {
        /// Rows of the segments added.
        added: u64,
        /// Rows of the segments removed.
        removed: u64,
    },
    /// What is added is not what a merge of what is removed can make.
    #[error("objects of window {window} are replaced: {detail}")]
    Replaced {
        /// The window of an object that is removed.
        window: Window,
        /// The rule that is broken.
        detail: &'static str,
    },
    /// Readings go without others in their place, and not as retention lets them go.
    #[error("window {window} loses readings: {detail}")]
    Drop {
        /// The window.
        window: Window,
        /// The rule that is broken.
        detail: &'static str,
    },
    /// The conflicts that are added are not those that are counted.
    #[error("{rows} conflicts are added, and {conflicts} counted")]
    Conflicts {
        /// Rows of the conflicts objects added.
        rows: u64,
        /// Conflicts counted.
        conflicts: u64,
    },
    /// What is added is of a flush that was committed before.
    #[error("segment {id} is of flush {flush}, which was committed before")]
    OldFlush {
        /// The segment.
        id: SegmentId,
        /// The flush.
        flush: FlushNumber,
    },
    /// A segment has readings of records that are not covered.
    #[error("segment {0} has readings of records that the commit does not cover")]
    NotCovered(SegmentId),
}

type Predicate = fn(&Manifest, &ManifestDelta, &Manifest) -> Result<(), InvariantError>;

/// The rules, each by itself.
const PREDICATES: [Predicate; 8] = [
    precedence_is_total,
    rows_are_counted,
    merges_keep_rows,
    replacements_stay_in_place,
    drops_are_old_and_whole,
    conflicts_are_counted,
    flushes_are_new,
    rows_are_covered,
];

/// The state after this commit, if every rule holds.
pub(super) fn check(before: &Manifest, delta: &ManifestDelta) -> Result<Manifest, InvariantError> {
    let mut after = before.clone();
    after.apply(delta)?;
    if planted::has(PlantedBug::MergeAcross) {
        return Ok(after);
    }
    for predicate in PREDICATES {
        predicate(before, delta, &after)?;
    }
    Ok(after)
}

/// Within a window, of two segments that may share keys one is wholly before the other.
fn precedence_is_total(_: &Manifest, delta: &ManifestDelta, after: &Manifest) -> Result<(), InvariantError> {
    let mut windows: BTreeMap<Window, Vec<&SegmentEntry>> = BTreeMap::new();
    for entry in delta.added.iter().filter(|entry| entry.kind == SegmentKind::Readings) {
        windows.entry(entry.window).or_default().push(entry);
    }
    for (window, added) in windows {
        for entry in added {
            for other in after.segments_in(window).filter(|other| other.id != entry.id) {
                let apart = entry.flush_last < other.flush_first || other.flush_last < entry.flush_first;
                if !apart && entry.may_share_keys_with(other) {
                    return Err(InvariantError::Precedence { window, first: other.id, second: entry.id });
                }
            }
        }
    }
    Ok(())
}

/// A commit that removes nothing adds exactly the readings that it counts; those of a segment that shares keys are
/// fills in part, each row at least one.
fn rows_are_counted(_: &Manifest, delta: &ManifestDelta, _: &Manifest) -> Result<(), InvariantError> {
    if !delta.removed.is_empty() {
        return Ok(());
    }
    let rows = |shares: bool| -> u64 {
        let added = delta.added.iter().filter(|e| e.kind == SegmentKind::Readings && e.shares_keys == shares);
        added.map(|entry| entry.rows).sum()
    };
    let (own, shared) = (rows(false), rows(true));
    let (readings, filled) = (delta.totals.readings, delta.totals.filled);
    if own <= readings && readings <= own + shared && own + shared <= readings + filled {
        Ok(())
    } else {
        Err(InvariantError::Readings { rows: own + shared, readings, filled })
    }
}

/// Returns whether the commit lets readings go for good.
const fn is_drop(delta: &ManifestDelta) -> bool {
    delta.totals.dropped > 0
}

/// A drop adds nothing, takes whole windows, and only those that ended two years ago or earlier, by the writer's clock.
fn drops_are_old_and_whole(before: &Manifest, delta: &ManifestDelta, after: &Manifest) -> Result<(), InvariantError> {
    if !is_drop(delta) || planted::has(PlantedBug::DropEarly) {
        return Ok(());
    }
    let removed: HashSet<SegmentId> = delta.removed.iter().copied().collect();
    let windows: BTreeSet<Window> =
        before.objects().filter(|entry| removed.contains(&entry.id)).map(|entry| entry.window).collect();
    let cutoff = delta.created.months_before(KEEP_MONTHS_MIN);
    for &window in &windows {
        let broken = |detail| Err(InvariantError::Drop { window, detail });
        if !delta.added.is_empty() {
            return broken("something is added in the same commit");
        }
        if window.range().end() > cutoff {
            return broken("it ended less than two years ago");
        }
        if after.objects().any(|entry| entry.window == window) {
            return broken("a part of it stays");
        }
    }
    Ok(())
}

/// Rows of the objects of a kind that a commit adds, and of those that it removes.
fn exchanged(before: &Manifest, delta: &ManifestDelta, kind: SegmentKind) -> (u64, u64) {
    let added = delta.added.iter().filter(|entry| entry.kind == kind).map(|entry| entry.rows).sum();
    let removed = before.objects().filter(|entry| entry.kind == kind && delta.removed.contains(&entry.id));
    (added, removed.map(|entry| entry.rows).sum())
}

/// What replaces segments has as many rows as they have, but for those that are united with others: of each of these, a
/// value is listed as one that filled a channel, kept as a conflict, or counted as a duplicate. A drop replaces nothing: see
/// below.
fn merges_keep_rows(before: &Manifest, delta: &ManifestDelta, _: &Manifest) -> Result<(), InvariantError> {
    if delta.removed.is_empty() || is_drop(delta) {
        return Ok(());
    }
    let (added, removed) = exchanged(before, delta, SegmentKind::Readings);
    let (listed, relisted) = exchanged(before, delta, SegmentKind::Fills);
    let told = listed.saturating_sub(relisted) + delta.totals.conflicts + delta.totals.duplicates;
    if relisted <= listed && added <= removed && removed - added <= told {
        Ok(())
    } else {
        Err(InvariantError::Merged { added, removed })
    }
}

/// A commit that removes, and drops nothing, brings no readings and covers no records. What it adds is of the one window
/// that it removes from, and of the flushes of what it removes; segments have at least one in their place.
fn replacements_stay_in_place(before: &Manifest, delta: &ManifestDelta, _: &Manifest) -> Result<(), InvariantError> {
    let removed: HashSet<SegmentId> = delta.removed.iter().copied().collect();
    let removed: Vec<&SegmentEntry> = before.objects().filter(|entry| removed.contains(&entry.id)).collect();
    let Some(window) = removed.first().map(|entry| entry.window).filter(|_| !is_drop(delta)) else { return Ok(()) };
    let broken = |detail| Err(InvariantError::Replaced { window, detail });
    if removed.iter().copied().chain(&delta.added).any(|entry| entry.window != window) {
        return broken("another window is changed in the same commit");
    }
    if delta.totals.readings > 0 || delta.totals.filled > 0 {
        return broken("readings are counted that came in");
    }
    if (delta.flush, delta.lsn_covered) != (before.flush(), before.lsn_covered()) {
        return broken("records are covered in the same commit");
    }
    let first = removed.iter().map(|entry| entry.flush_first).min();
    let last = removed.iter().map(|entry| entry.flush_last).max();
    if delta.added.iter().any(|entry| Some(entry.flush_first) < first || Some(entry.flush_last) > last) {
        return broken("what is added has flushes of others");
    }
    let is_segment = |entry: &SegmentEntry| entry.kind == SegmentKind::Readings;
    if removed.iter().any(|entry| is_segment(entry)) && !delta.added.iter().any(is_segment) {
        return broken("no segment takes their place");
    }
    Ok(())
}

/// Every conflict counted is kept, and the other way round; a merge keeps those that it merges.
fn conflicts_are_counted(before: &Manifest, delta: &ManifestDelta, _: &Manifest) -> Result<(), InvariantError> {
    let (added, removed) = exchanged(before, delta, SegmentKind::Conflicts);
    let conflicts = delta.totals.conflicts;
    if is_drop(delta) || added == removed.saturating_add(conflicts) {
        Ok(())
    } else {
        Err(InvariantError::Conflicts { rows: added.saturating_sub(removed), conflicts })
    }
}

/// What a flush adds is of that flush; only a commit that removes (compaction) may add older ones. Rollups are made from
/// what was there before.
fn flushes_are_new(before: &Manifest, delta: &ManifestDelta, _: &Manifest) -> Result<(), InvariantError> {
    if !delta.removed.is_empty() {
        return Ok(());
    }
    let mut added = delta.added.iter().filter(|entry| !entry.kind.is_rollup());
    match added.find(|entry| entry.flush_first <= before.flush()) {
        None => Ok(()),
        Some(entry) => Err(InvariantError::OldFlush { id: entry.id, flush: entry.flush_first }),
    }
}

/// What is in segments is covered: replay would add it once more.
fn rows_are_covered(_: &Manifest, delta: &ManifestDelta, _: &Manifest) -> Result<(), InvariantError> {
    match delta.added.iter().find(|entry| entry.lsn_max > delta.lsn_covered) {
        None => Ok(()),
        Some(entry) => Err(InvariantError::NotCovered(entry.id)),
    }
}
