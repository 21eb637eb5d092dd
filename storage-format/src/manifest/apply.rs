//! What a commit does to a manifest: pure, whole or not at all.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use crate::manifest::{Manifest, ManifestDelta, SegmentEntry, SegmentKind, SpoolState};
use crate::{FlushNumber, GatewayId, Lsn, ManifestVersion, SegmentId, SpoolId, WriterEpoch};

/// How many spools of one gateway a manifest remembers: the most recently used. A sender makes a new spool when it
/// lost its old one; whoever comes back after 16 others sends again what is there already, which does no harm.
pub const SPOOLS_PER_GATEWAY_MAX: usize = 16;

/// Why a delta does not fit a manifest.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ApplyError {
    /// A hole in the log, or a commit twice.
    #[error("version {found} does not follow version {current}")]
    Version {
        /// The manifest's version.
        current: ManifestVersion,
        /// The delta's.
        found: ManifestVersion,
    },
    /// A commit by a writer that had been fenced.
    #[error("writer epoch {found} is older than {current}")]
    Epoch {
        /// The manifest's epoch.
        current: WriterEpoch,
        /// The delta's.
        found: WriterEpoch,
    },
    /// What was covered can not be uncovered.
    #[error("covered LSN {found} is before {current}")]
    LsnCovered {
        /// The manifest's.
        current: Lsn,
        /// The delta's.
        found: Lsn,
    },
    /// Flush numbers only grow.
    #[error("flush number {found} is before {current}")]
    Flush {
        /// The manifest's.
        current: FlushNumber,
        /// The delta's.
        found: FlushNumber,
    },
    /// An id that is live already, or is added twice.
    #[error("segment {0} is there already")]
    SegmentTwice(SegmentId),
    /// An id that is not live.
    #[error("segment {0} is removed, and is not there")]
    NoSuchSegment(SegmentId),
    /// An entry that contradicts itself.
    #[error("segment {id}: {detail}")]
    Entry {
        /// Whose entry.
        id: SegmentId,
        /// What is wrong.
        detail: &'static str,
    },
    /// A spool that went backwards, is told twice, or came from a record that is not covered.
    #[error("spool {spool} of gateway {gateway}: {detail}")]
    Spool {
        /// Whose.
        gateway: GatewayId,
        /// Which.
        spool: SpoolId,
        /// What is wrong.
        detail: &'static str,
    },
    /// A count past the end of `u64`.
    #[error("a total is past the end of its range")]
    Totals,
}

/// What must hold of an entry by itself. `flush` is the number of the last flush.
pub(super) fn check_entry(entry: &SegmentEntry, flush: FlushNumber) -> Result<(), ApplyError> {
    let wrong = |detail| Err(ApplyError::Entry { id: entry.id, detail });
    if entry.rows == 0 {
        return wrong("has no rows");
    }
    if entry.flush_first > entry.flush_last || entry.flush_first == FlushNumber::ZERO {
        return wrong("its flush numbers are no range");
    }
    if entry.flush_last > flush {
        return wrong("it is of a flush that is still to come");
    }
    if entry.time_min > entry.time_max || entry.logger_min > entry.logger_max {
        return wrong("its smallest key is past its greatest");
    }
    let range = entry.window.range();
    if !range.contains(entry.time_min) || !range.contains(entry.time_max) {
        return wrong("it has times outside its window");
    }
    if entry.lsn_min > entry.lsn_max {
        return wrong("its LSNs are no range");
    }
    if entry.key_version == 0 {
        return wrong("it has no key");
    }
    if !entry.channels.is_sorted_by(|a, b| a < b) {
        return wrong("its channels are not in ascending order");
    }
    if entry.channels.is_empty() {
        return wrong("it has no channels");
    }
    Ok(())
}

impl Manifest {
    /// The state after this commit. An error leaves the manifest as it was.
    ///
    /// # Errors
    /// [`ApplyError`] if the delta does not follow, or breaks a rule.
    pub fn apply(&mut self, delta: &ManifestDelta) -> Result<(), ApplyError> {
        if self.version.next() != Some(delta.version) {
            return Err(ApplyError::Version { current: self.version, found: delta.version });
        }
        // Epochs count from 1, also those of a first commit: no reader takes another.
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

        let live: HashSet<SegmentId> = self.segments.iter().chain(&self.conflicts).map(|entry| entry.id).collect();
        let mut removed = HashSet::new();
        for &id in &delta.removed {
            if !live.contains(&id) || !removed.insert(id) {
                return Err(ApplyError::NoSuchSegment(id));
            }
        }
        let mut added = HashSet::new();
        for entry in &delta.added {
            check_entry(entry, delta.flush)?;
            // Not even an id that goes in the same commit: a name is never used twice.
            if live.contains(&entry.id) || !added.insert(entry.id) {
                return Err(ApplyError::SegmentTwice(entry.id));
            }
        }
        let spools = self.spools_after(delta)?;

        for (entries, kind) in
            [(&mut self.segments, SegmentKind::Readings), (&mut self.conflicts, SegmentKind::Conflicts)]
        {
            entries.retain(|entry| !removed.contains(&entry.id));
            entries.extend(delta.added.iter().filter(|entry| entry.kind == kind).cloned());
            entries.sort_by_key(|entry| (entry.window, entry.flush_first, entry.id));
        }
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
        let mut told = HashSet::new();
        let mut gateways = BTreeSet::new();
        for position in &delta.spools {
            let wrong = |detail| Err(ApplyError::Spool { gateway: position.gateway, spool: position.spool, detail });
            let key = (position.gateway, position.spool);
            if !told.insert(key) {
                return wrong("told twice");
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
    /// What must hold of any state, and is checked of one that comes from stored bytes.
    pub(super) fn check(&self) -> Result<(), ApplyError> {
        let mut ids = HashSet::new();
        for entries in [&self.segments, &self.conflicts] {
            for entry in entries {
                check_entry(entry, self.flush)?;
                if !ids.insert(entry.id) {
                    return Err(ApplyError::SegmentTwice(entry.id));
                }
            }
            for pair in entries.windows(2) {
                let order = |entry: &SegmentEntry| (entry.window, entry.flush_first, entry.id);
                if order(&pair[0]) >= order(&pair[1]) {
                    return Err(ApplyError::Entry { id: pair[1].id, detail: "it is not in order" });
                }
            }
        }
        let mut of_gateway = 0;
        let mut last = None;
        for (&(gateway, spool), state) in &self.spools {
            let wrong = |detail| Err(ApplyError::Spool { gateway, spool, detail });
            of_gateway = if last == Some(gateway) { of_gateway + 1 } else { 1 };
            last = Some(gateway);
            if of_gateway > SPOOLS_PER_GATEWAY_MAX {
                return wrong("one more than a gateway may have");
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
