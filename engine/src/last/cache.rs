//! What was computed, by organisation, up to a limit in bytes: the least recently used goes first.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use arrow::array::RecordBatch;
use storage_format::manifest::Manifest;
use storage_format::{FlushNumber, ManifestVersion, OrgId};

/// What an entry takes beside its batch, about.
const ENTRY_BYTES: usize = 1024;

/// The last readings in the segments of one manifest.
#[derive(Debug, Clone)]
pub(super) struct Known {
    pub(super) version: ManifestVersion,
    pub(super) flush: FlushNumber,
    /// Readings that retention had dropped.
    dropped: u64,
    pub(super) last: RecordBatch,
}

impl Known {
    pub(super) fn of(manifest: &Manifest, last: RecordBatch) -> Self {
        Self { version: manifest.version(), flush: manifest.flush(), dropped: manifest.totals().dropped, last }
    }

    /// Returns whether this manifest has all readings that this was computed of, and perhaps more, all of later flushes.
    pub(super) fn is_before(&self, manifest: &Manifest) -> bool {
        self.version < manifest.version() && self.dropped == manifest.totals().dropped
    }

    fn bytes(&self) -> usize {
        ENTRY_BYTES + self.last.get_array_memory_size()
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
    orgs: HashMap<OrgId, (u64, Known)>,
    /// By when they were last used.
    used: BTreeMap<u64, OrgId>,
    uses: u64,
    bytes: usize,
}

impl Inner {
    fn remove(&mut self, org: OrgId) -> Option<Known> {
        let (used, known) = self.orgs.remove(&org)?;
        self.used.remove(&used);
        self.bytes -= known.bytes();
        Some(known)
    }

    fn insert(&mut self, org: OrgId, known: Known) {
        self.uses += 1;
        self.bytes += known.bytes();
        self.used.insert(self.uses, org);
        self.orgs.insert(org, (self.uses, known));
    }
}

impl Cache {
    pub(super) fn new(bytes_max: usize) -> Self {
        Self { inner: Mutex::default(), locks: Mutex::default(), bytes_max }
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is known of the organisation, which is used now.
    pub(super) fn get(&self, org: OrgId) -> Option<Known> {
        let mut inner = self.inner();
        let known = inner.remove(org)?;
        inner.insert(org, known.clone());
        Some(known)
    }

    /// Keeps this, if it is not too large, instead of what was known of the organisation, unless that is newer.
    pub(super) fn put(&self, org: OrgId, known: Known) {
        let mut inner = self.inner();
        if inner.orgs.get(&org).is_some_and(|(_, newer)| newer.version > known.version) {
            return;
        }
        inner.remove(org);
        if known.bytes() > self.bytes_max {
            return;
        }
        inner.insert(org, known);
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
    use super::*;
    use crate::last::table::empty;

    fn org(id: u64) -> OrgId {
        OrgId::new(id).expect("not zero")
    }

    #[test]
    fn the_least_recently_used_goes_first() {
        let known = Known::of(&Manifest::empty(), empty());
        let cache = Cache::new(3 * known.bytes());
        for id in 1..=3 {
            cache.put(org(id), known.clone());
        }
        assert!(cache.get(org(1)).is_some());
        cache.put(org(4), known.clone());
        let there: Vec<bool> = (1..=4).map(|id| cache.get(org(id)).is_some()).collect();
        assert_eq!((there, cache.bytes()), (vec![true, false, true, true], 3 * known.bytes()));
        // Again is not twice.
        cache.put(org(4), known.clone());
        assert_eq!(cache.bytes(), 3 * known.bytes());
    }

    #[test]
    fn what_is_newer_stays() {
        let old = Known::of(&Manifest::empty(), empty());
        let new = Known { version: ManifestVersion::new(7), ..old.clone() };
        let cache = Cache::new(1 << 20);
        cache.put(org(1), new);
        cache.put(org(1), old);
        assert_eq!(cache.get(org(1)).map(|known| known.version), Some(ManifestVersion::new(7)));
    }
}
