//! What was computed, by organisation, up to a limit in bytes: the least recently asked for goes first.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use arrow::array::RecordBatch;
use storage_format::manifest::Manifest;
use storage_format::{FlushNumber, OrgId};

/// What an entry takes beside its batch, about.
const ENTRY_BYTES: usize = 1024;

/// The last readings in the segments of manifests that have the same readings.
#[derive(Debug, Clone)]
pub(super) struct Known {
    pub(super) flush: FlushNumber,
    /// Readings that retention had dropped.
    dropped: u64,
    pub(super) last: RecordBatch,
}

impl Known {
    pub(super) fn of(manifest: &Manifest, last: RecordBatch) -> Self {
        Self { flush: manifest.flush(), dropped: manifest.totals().dropped, last }
    }

    /// Returns whether this manifest has exactly the readings that this was computed of: merges change none.
    pub(super) fn is_of(&self, manifest: &Manifest) -> bool {
        (self.flush, self.dropped) == (manifest.flush(), manifest.totals().dropped)
    }

    /// Returns whether this manifest has all readings that this was computed of, and more, all of later flushes.
    pub(super) fn is_before(&self, manifest: &Manifest) -> bool {
        self.flush < manifest.flush() && self.dropped == manifest.totals().dropped
    }

    /// Returns whether this is of a later manifest than the other: both numbers only grow.
    fn is_after(&self, other: &Self) -> bool {
        (self.flush, self.dropped) > (other.flush, other.dropped)
    }

    fn bytes(&self) -> usize {
        ENTRY_BYTES + self.last.get_array_memory_size()
    }
}

/// What is known of one organisation.
#[derive(Debug)]
struct Entry {
    /// The use that was its last.
    used: u64,
    newest: Known,
    /// Of the readings before those.
    previous: Option<Known>,
}

impl Entry {
    fn bytes(&self) -> usize {
        self.newest.bytes() + self.previous.as_ref().map_or(0, Known::bytes)
    }
}

/// See the module.
#[derive(Debug)]
pub(super) struct Cache {
    inner: Mutex<Inner>,
    /// One lock for each organisation whose last readings are being computed.
    locks: Mutex<HashMap<OrgId, Weak<tokio::sync::Mutex<()>>>>,
    bytes_max: usize,
}

#[derive(Debug, Default)]
struct Inner {
    orgs: HashMap<OrgId, Entry>,
    /// By when they were last used.
    used: BTreeMap<u64, OrgId>,
    uses: u64,
    bytes: usize,
}

impl Inner {
    fn remove(&mut self, org: OrgId) -> Option<Entry> {
        let entry = self.orgs.remove(&org)?;
        self.used.remove(&entry.used);
        self.bytes -= entry.bytes();
        Some(entry)
    }

    fn insert(&mut self, org: OrgId, entry: Entry) {
        self.bytes += entry.bytes();
        self.used.insert(entry.used, org);
        self.orgs.insert(org, entry);
    }

    fn next_use(&mut self) -> u64 {
        self.uses += 1;
        self.uses
    }
}

impl Cache {
    pub(super) fn new(bytes_max: usize) -> Self {
        Self { inner: Mutex::default(), locks: Mutex::default(), bytes_max }
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is known of the readings of this manifest, which is asked for now.
    pub(super) fn get(&self, org: OrgId, manifest: &Manifest) -> Option<RecordBatch> {
        let mut inner = self.inner();
        let entry = inner.orgs.get(&org)?;
        let known = [Some(&entry.newest), entry.previous.as_ref()].into_iter().flatten();
        let last = known.into_iter().find(|known| known.is_of(manifest))?.last.clone();
        let (entry, used) = (inner.remove(org)?, inner.next_use());
        inner.insert(org, Entry { used, ..entry });
        Some(last)
    }

    /// The newest that is known of the organisation, without its being asked for.
    pub(super) fn peek(&self, org: OrgId) -> Option<Known> {
        self.inner().orgs.get(&org).map(|entry| entry.newest.clone())
    }

    /// Keeps what was asked for and computed, unless something newer is known.
    pub(super) fn put(&self, org: OrgId, known: Known) {
        let mut inner = self.inner();
        let used = inner.next_use();
        self.keep(&mut inner, org, known, used);
    }

    /// Keeps what follows from what is known, as long as that would have been kept.
    pub(super) fn follow(&self, org: OrgId, known: Known) {
        let mut inner = self.inner();
        let Some(used) = inner.orgs.get(&org).map(|entry| entry.used) else { return };
        self.keep(&mut inner, org, known, used);
    }

    fn keep(&self, inner: &mut Inner, org: OrgId, known: Known, used: u64) {
        let before = inner.remove(org);
        let mut entry = match before {
            Some(before) if known.is_after(&before.newest) => {
                Entry { used, newest: known, previous: Some(before.newest) }
            }
            // Computed for an older snapshot: others may be as old.
            Some(before) if before.newest.is_after(&known) => Entry { used, previous: Some(known), ..before },
            Some(before) => Entry { used, ..before },
            None => Entry { used, newest: known, previous: None },
        };
        if entry.bytes() > self.bytes_max {
            entry.previous = None;
        }
        if entry.bytes() > self.bytes_max {
            return;
        }
        inner.insert(org, entry);
        while inner.bytes > self.bytes_max
            && let Some((_, oldest)) = inner.used.first_key_value()
        {
            let oldest = *oldest;
            inner.remove(oldest);
        }
    }

    /// The lock of whoever computes for this organisation.
    pub(super) fn lock(&self, org: OrgId) -> Arc<tokio::sync::Mutex<()>> {
        let mut locks = self.locks.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(lock) = locks.get(&org).and_then(Weak::upgrade) {
            return lock;
        }
        locks.retain(|_, lock| lock.strong_count() > 0);
        let lock = Arc::default();
        locks.insert(org, Arc::downgrade(&lock));
        lock
    }

    pub(super) fn bytes(&self) -> usize {
        self.inner().bytes
    }
}

#[cfg(test)]
mod tests {
    use storage_format::manifest::{ManifestDelta, Totals};
    use storage_format::{Lsn, ManifestVersion, Millis, WriterEpoch};

    use super::*;
    use crate::last::table::empty;

    fn org(id: u64) -> OrgId {
        OrgId::new(id).expect("not zero")
    }

    /// A manifest of so many flushes.
    fn manifest(flush: u64) -> Manifest {
        let mut manifest = Manifest::empty();
        let delta = ManifestDelta {
            version: ManifestVersion::new(1),
            epoch: WriterEpoch::new(1),
            nonce: [0; 16],
            created: Millis::EPOCH,
            lsn_covered: Lsn::ZERO,
            flush: FlushNumber::new(flush),
            added: Vec::new(),
            removed: Vec::new(),
            spools: Vec::new(),
            totals: Totals::default(),
        };
        manifest.apply(&delta).expect("a valid commit");
        manifest
    }

    fn known(flush: u64) -> Known {
        Known::of(&manifest(flush), empty())
    }

    #[test]
    fn the_least_recently_asked_for_goes_first() {
        let cache = Cache::new(3 * known(0).bytes());
        let there = |id: u64| cache.peek(org(id)).is_some();
        for id in 1..=3 {
            cache.put(org(id), known(0));
        }
        assert!(cache.get(org(1), &manifest(0)).is_some());
        cache.put(org(4), known(0));
        assert_eq!(
            ((1..=4).map(there).collect::<Vec<_>>(), cache.bytes()),
            (vec![true, false, true, true], cache.bytes_max)
        );
        // Again is not twice.
        cache.put(org(4), known(0));
        assert_eq!(cache.bytes(), cache.bytes_max);
        // A flush does not ask for it: it gives way to itself and its previous state.
        cache.follow(org(3), known(1));
        assert_eq!((1..=4).map(there).collect::<Vec<_>>(), [true, false, false, true]);
        cache.follow(org(2), known(1));
        assert!(!there(2), "nothing was known");
    }

    #[test]
    fn the_newest_and_the_one_before_it_stay() {
        let cache = Cache::new(1 << 20);
        for flush in [7, 8, 5] {
            cache.put(org(1), known(flush));
            assert!(cache.get(org(1), &manifest(flush)).is_some());
        }
        assert_eq!(cache.peek(org(1)).map(|known| known.flush), Some(FlushNumber::new(8)));
        let there = |flush: u64| cache.get(org(1), &manifest(flush)).is_some();
        assert_eq!([5, 6, 7, 8].map(there), [true, false, false, true]);
        cache.follow(org(1), known(9));
        assert_eq!([5, 8, 9].map(there), [false, true, true]);
    }
}
