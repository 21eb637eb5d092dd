//! Application of a commit to a manifest: a pure function that succeeds completely or changes nothing.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use crate::manifest::{Manifest, ManifestDelta, SegmentEntry, SegmentKind, SpoolState};
use crate::{FlushNumber, GatewayId, Lsn, ManifestVersion, SegmentId, SpoolId, Window, WriterEpoch};

/// Most spools of one gateway that a manifest remembers: the most recently used ones. A sender creates a new spool when
/// it has lost the old one. A sender whose spool was forgotten resends readings that are already stored, which is
/// harmless.
pub const SPOOLS_PER_GATEWAY_MAX: usize = 16;

/// Reason why a delta cannot be applied to a manifest.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ApplyError {
    /// The delta leaves a gap in the log, or repeats a commit.
    #[error("version {found} does not follow version {current}")]
    Version {
        /// Version of the manifest.
        current: ManifestVersion,
        /// Value in the delta.
        found: ManifestVersion,
    },
    /// The commit is by a writer that has been fenced.
    #[error("writer epoch {found} is older than {current}")]
    Epoch {
        /// Epoch of the manifest.
        current: WriterEpoch,
        /// Value in the delta.
        found: WriterEpoch,
    },
    /// The covered LSN decreases.
    #[error("covered LSN {found} is before {current}")]
    LsnCovered {
        /// Value in the manifest.
        current: Lsn,
        /// Value in the delta.
        found: Lsn,
    },
    /// The flush number decreases.
    #[error("flush number {found} is before {current}")]
    Flush {
        /// Value in the manifest.
        current: FlushNumber,
        /// Value in the delta.
        found: FlushNumber,
    },
    /// The id is already live, or is added twice.
    #[error("segment {0} is already live, or is added twice")]
    DuplicateSegment(SegmentId),
    /// The id to remove is not live, or is removed twice.
    #[error("segment {0} cannot be removed: it is not live, or is removed twice")]
    NoSuchSegment(SegmentId),
    /// The entry contradicts itself.
    #[error("segment {id}: {detail}")]
    Entry {
        /// Segment of the entry.
        id: SegmentId,
        /// Rule that is broken.
        detail: &'static str,
    },
    /// The spool went backwards, is listed twice, or its last record is not covered.
    #[error("spool {spool} of gateway {gateway}: {detail}")]
    Spool {
        /// Gateway that owns the spool.
        gateway: GatewayId,
        /// Id of the spool.
        spool: SpoolId,
        /// Rule that is broken.
        detail: &'static str,
    },
    /// A total overflows `u64`.
    #[error("a total overflows its range")]
    Totals,
}

/// Checks the rules of a single entry. `flush` is the number of the last flush.
pub(super) fn check_entry(entry: &SegmentEntry, flush: FlushNumber) -> Result<(), ApplyError> {
    let wrong = |detail| Err(ApplyError::Entry { id: entry.id, detail });
    if entry.rows == 0 {
        return wrong("has no rows");
    }
    if entry.flush_first > entry.flush_last || entry.flush_first == FlushNumber::ZERO {
        return wrong("its flush numbers do not form a range");
    }
    if entry.flush_last > flush {
        return wrong("its flush number exceeds the last one");
    }
    if entry.time_min > entry.time_max || entry.logger_min > entry.logger_max {
        return wrong("its smallest time or logger is past its greatest");
    }
    let range = entry.window.range();
    if !range.contains(entry.time_min) || !range.contains(entry.time_max) {
        return wrong("it has times outside its window");
    }
    if entry.lsn_min > entry.lsn_max {
        return wrong("its LSNs do not form a range");
    }
    if entry.key_version == 0 {
        return wrong("its key version is zero");
    }
    if !entry.channels.is_sorted_by(|a, b| a < b) {
        return wrong("its channels are not strictly ascending");
    }
    if entry.channels.is_empty() {
        return wrong("it has no channels");
    }
    if entry.kind.is_rollup() != entry.of.is_some() {
        return wrong("a rollup names the segment that it is of, and nothing else does");
    }
    Ok(())
}

/// Checks that each rollup is of a live readings segment, and the only one of its kind.
fn check_rollups(segments: &[SegmentEntry], rollups: &[SegmentEntry]) -> Result<(), ApplyError> {
    if rollups.is_empty() {
        return Ok(());
    }
    let live: HashMap<SegmentId, Window> = segments.iter().map(|entry| (entry.id, entry.window)).collect();
    let mut seen = HashSet::with_capacity(rollups.len());
    for rollup in rollups {
        let wrong = |detail| Err(ApplyError::Entry { id: rollup.id, detail });
        let Some(of) = rollup.of else { return wrong("it is a rollup of no segment") };
        if live.get(&of) != Some(&rollup.window) {
            return wrong("the segment that it is of is not live in its window");
        }
        if !seen.insert((of, rollup.kind)) {
            return wrong("the segment that it is of has another rollup of its kind");
        }
    }
    Ok(())
}

impl Manifest {
    /// Applies a commit. An error leaves the manifest unchanged.
    ///
    /// # Errors
    /// [`ApplyError`] if the delta does not follow the current version, or breaks a rule.
    pub fn apply(&mut self, delta: &ManifestDelta) -> Result<(), ApplyError> {
        if self.version.next() != Some(delta.version) {
            return Err(ApplyError::Version { current: self.version, found: delta.version });
        }
        // Epochs count from 1, also that of the first commit, because readers reject epoch 0.
        let current = self.epoch.max(WriterEpoch::new(1));
        if delta.epoch < current {
            return Err(ApplyError::Epoch { current, found: delta.epoch });
        }
        if delta.lsn_covered < self.lsn_covered {
            return Err(ApplyError::LsnCovered { current: self.lsn_covered, found: delta.lsn_covered });
        }
        if delta.flush < self.flush {
            return Err(ApplyError::Flush { current: self.flush, found: delta.flush });
        }
        let totals = self.totals.checked_add(delta.totals).ok_or(ApplyError::Totals)?;

        let live: HashSet<SegmentId> = self.objects().map(|entry| entry.id).collect();
        let mut removed = HashSet::new();
        for &id in &delta.removed {
            if !live.contains(&id) || !removed.insert(id) {
                return Err(ApplyError::NoSuchSegment(id));
            }
        }
        let mut added = HashSet::new();
        for entry in &delta.added {
            check_entry(entry, delta.flush)?;
            // An id that this commit removes may not be added again either: a name is never reused.
            if live.contains(&entry.id) || !added.insert(entry.id) {
                return Err(ApplyError::DuplicateSegment(entry.id));
            }
        }
        let spools = self.spools_after(delta)?;
        let after = |entries: &Vec<SegmentEntry>, belongs: fn(SegmentKind) -> bool| -> Option<Vec<SegmentEntry>> {
            let gone = entries.iter().any(|entry| removed.contains(&entry.id));
            let mut added = delta.added.iter().filter(|entry| belongs(entry.kind)).peekable();
            if !gone && added.peek().is_none() {
                return None;
            }
            let kept = entries.iter().filter(|entry| !removed.contains(&entry.id));
            let mut entries: Vec<SegmentEntry> = kept.chain(added).cloned().collect();
            entries.sort_by_key(|entry| (entry.window, entry.flush_first, entry.id));
            Some(entries)
        };
        let segments = after(&self.segments, |kind| kind == SegmentKind::Readings);
        let rollups = after(&self.rollups, SegmentKind::is_rollup);
        if segments.is_some() || rollups.is_some() {
            check_rollups(segments.as_ref().unwrap_or(&self.segments), rollups.as_ref().unwrap_or(&self.rollups))?;
        }
        let conflicts = after(&self.conflicts, |kind| kind == SegmentKind::Conflicts);
        let fills = after(&self.fills, |kind| kind == SegmentKind::Fills);
        self.segments = segments.unwrap_or_else(|| std::mem::take(&mut self.segments));
        self.conflicts = conflicts.unwrap_or_else(|| std::mem::take(&mut self.conflicts));
        self.fills = fills.unwrap_or_else(|| std::mem::take(&mut self.fills));
        self.rollups = rollups.unwrap_or_else(|| std::mem::take(&mut self.rollups));
        self.spools = spools;
        self.totals = totals;
        self.version = delta.version;
        self.epoch = delta.epoch;
        self.lsn_covered = delta.lsn_covered;
        self.flush = delta.flush;
        Ok(())
    }

    fn spools_after(&self, delta: &ManifestDelta) -> Result<BTreeMap<(GatewayId, SpoolId), SpoolState>, ApplyError> {
        let mut spools = self.spools.clone();
        let mut listed = HashSet::new();
        let mut gateways = BTreeSet::new();
        for position in &delta.spools {
            let wrong = |detail| Err(ApplyError::Spool { gateway: position.gateway, spool: position.spool, detail });
            let key = (position.gateway, position.spool);
            if !listed.insert(key) {
                return wrong("is listed twice");
            }
            if position.lsn > delta.lsn_covered {
                return wrong("its last record is not covered");
            }
            if spools.get(&key).is_some_and(|state| position.sequence < state.sequence || position.lsn < state.lsn) {
                return wrong("went backwards");
            }
            spools.insert(key, SpoolState { sequence: position.sequence, lsn: position.lsn });
            gateways.insert(position.gateway);
        }
        for gateway in gateways {
            forget_oldest(&mut spools, gateway);
        }
        Ok(spools)
    }
}

fn forget_oldest(spools: &mut BTreeMap<(GatewayId, SpoolId), SpoolState>, gateway: GatewayId) {
    let all = (gateway, SpoolId::MIN)..=(gateway, SpoolId::MAX);
    let mut by_use: Vec<(Lsn, SpoolId)> = spools.range(all).map(|(&(_, spool), state)| (state.lsn, spool)).collect();
    if by_use.len() <= SPOOLS_PER_GATEWAY_MAX {
        return;
    }
    by_use.sort_unstable();
    for (_, spool) in &by_use[..by_use.len() - SPOOLS_PER_GATEWAY_MAX] {
        spools.remove(&(gateway, *spool));
    }
}

impl Manifest {
    /// Checks the invariants of a state that was decoded from stored bytes.
    pub(super) fn check(&self) -> Result<(), ApplyError> {
        let mut ids = HashSet::new();
        for entries in self.lists() {
            for entry in entries {
                check_entry(entry, self.flush)?;
                if !ids.insert(entry.id) {
                    return Err(ApplyError::DuplicateSegment(entry.id));
                }
            }
            for pair in entries.windows(2) {
                let order = |entry: &SegmentEntry| (entry.window, entry.flush_first, entry.id);
                if order(&pair[0]) >= order(&pair[1]) {
                    return Err(ApplyError::Entry { id: pair[1].id, detail: "it is out of order" });
                }
            }
        }
        check_rollups(&self.segments, &self.rollups)?;
        let mut of_gateway = 0;
        let mut last = None;
        for (&(gateway, spool), state) in &self.spools {
            let wrong = |detail| Err(ApplyError::Spool { gateway, spool, detail });
            of_gateway = if last == Some(gateway) { of_gateway + 1 } else { 1 };
            last = Some(gateway);
            if of_gateway > SPOOLS_PER_GATEWAY_MAX {
                return wrong("exceeds the limit of spools per gateway");
            }
            if state.lsn > self.lsn_covered {
                return wrong("its last record is not covered");
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
