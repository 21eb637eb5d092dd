//! Footers of segments, decrypted and parsed, for the queries that come after.
//!
//! Holds no more bytes than it was given; the least recently used goes first. The cache is one for all organisations,
//! so that its bound is one; but an entry can only be reached through the [`OrgMetadataCache`] of its organisation,
//! which no caller chooses. An entry holds the data key of its segment, as a reader of that segment needs it.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};

use parquet::file::metadata::ParquetMetaData;
use storage_format::{OrgId, SegmentId};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct CacheKey {
    org: OrgId,
    segment: SegmentId,
    key_version: u32,
}

#[derive(Debug)]
struct Entry {
    metadata: Arc<ParquetMetaData>,
    bytes: usize,
    used: u64,
}

/// Invariants: `bytes` is the sum over `entries` and at most the bound; `order` has exactly one element per entry, at
/// its `used`.
#[derive(Debug, Default)]
struct State {
    entries: HashMap<CacheKey, Entry>,
    order: BTreeMap<u64, CacheKey>,
    bytes: usize,
    uses: u64,
}

impl State {
    fn next_use(&mut self) -> u64 {
        self.uses += 1;
        self.uses
    }

    fn remove(&mut self, key: &CacheKey) {
        if let Some(entry) = self.entries.remove(key) {
            self.order.remove(&entry.used);
            self.bytes -= entry.bytes;
        }
    }
}

/// The cache of all organisations. By itself it answers nothing: see [`MetadataCache::of`].
#[derive(Debug)]
pub(crate) struct MetadataCache {
    bytes_max: usize,
    state: Mutex<State>,
}

impl MetadataCache {
    pub(crate) fn new(bytes_max: usize) -> Arc<Self> {
        Arc::new(Self { bytes_max, state: Mutex::default() })
    }

    /// The part of one organisation.
    pub(crate) fn of(self: &Arc<Self>, org: OrgId) -> OrgMetadataCache {
        OrgMetadataCache { org, cache: Arc::clone(self) }
    }

    pub(crate) fn bytes(&self) -> usize {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).bytes
    }
}

/// One organisation's part of the cache.
#[derive(Debug, Clone)]
pub(crate) struct OrgMetadataCache {
    org: OrgId,
    cache: Arc<MetadataCache>,
}

impl OrgMetadataCache {
    fn key(&self, segment: SegmentId, key_version: u32) -> CacheKey {
        CacheKey { org: self.org, segment, key_version }
    }

    pub(crate) fn get(&self, segment: SegmentId, key_version: u32) -> Option<Arc<ParquetMetaData>> {
        let key = self.key(segment, key_version);
        let mut state = self.cache.state.lock().unwrap_or_else(PoisonError::into_inner);
        let used = state.next_use();
        let entry = state.entries.get_mut(&key)?;
        let before = std::mem::replace(&mut entry.used, used);
        let metadata = Arc::clone(&entry.metadata);
        state.order.remove(&before);
        state.order.insert(used, key);
        Some(metadata)
    }

    pub(crate) fn put(&self, segment: SegmentId, key_version: u32, metadata: &Arc<ParquetMetaData>) {
        let key = self.key(segment, key_version);
        let bytes = metadata.memory_size() + size_of::<CacheKey>() + size_of::<Entry>();
        if bytes > self.cache.bytes_max {
            return;
        }
        let mut state = self.cache.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.remove(&key);
        while state.bytes + bytes > self.cache.bytes_max {
            let Some((_, oldest)) = state.order.pop_first() else { break };
            state.remove(&oldest);
        }
        let used = state.next_use();
        state.bytes += bytes;
        state.order.insert(used, key);
        state.entries.insert(key, Entry { metadata: Arc::clone(metadata), bytes, used });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use parquet::file::metadata::FileMetaData;
    use parquet::schema::types::{SchemaDescriptor, Type};

    fn metadata() -> Arc<ParquetMetaData> {
        let root = Type::group_type_builder("schema").build().expect("a schema");
        let schema = Arc::new(SchemaDescriptor::new(Arc::new(root)));
        Arc::new(ParquetMetaData::new(FileMetaData::new(2, 0, None, None, schema, None), Vec::new()))
    }

    fn org(id: u64) -> OrgId {
        OrgId::new(id).expect("not zero")
    }

    fn segment(id: u128) -> SegmentId {
        SegmentId::new(id).expect("not zero")
    }

    #[test]
    fn an_entry_is_its_organisation_s_alone() {
        let cache = MetadataCache::new(1 << 20);
        cache.of(org(1)).put(segment(1), 1, &metadata());
        assert!(cache.of(org(1)).get(segment(1), 1).is_some());
        assert!(cache.of(org(2)).get(segment(1), 1).is_none());
        assert!(cache.of(org(1)).get(segment(1), 2).is_none());
        assert!(cache.of(org(1)).get(segment(2), 1).is_none());
    }

    #[test]
    fn bytes_are_bounded_and_the_least_recently_used_goes_first() {
        let one = MetadataCache::new(1 << 20);
        one.of(org(1)).put(segment(1), 1, &metadata());
        let each = one.bytes();

        let cache = MetadataCache::new(each * 3);
        let part = cache.of(org(1));
        for id in 1..=3 {
            part.put(segment(id), 1, &metadata());
        }
        assert!(part.get(segment(1), 1).is_some(), "used again");
        part.put(segment(4), 1, &metadata());
        assert_eq!(cache.bytes(), each * 3);
        assert!(part.get(segment(2), 1).is_none(), "the least recently used");
        assert!(part.get(segment(1), 1).is_some() && part.get(segment(4), 1).is_some());
        part.put(segment(4), 1, &metadata());
        assert_eq!(cache.bytes(), each * 3, "the same again costs nothing");

        let tiny = MetadataCache::new(each - 1);
        tiny.of(org(1)).put(segment(1), 1, &metadata());
        assert_eq!(tiny.bytes(), 0, "too big to keep");
    }
}
