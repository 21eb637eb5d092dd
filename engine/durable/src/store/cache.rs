//! A local cache of objects that never change, before a remote store: blocks of 1 MiB, kept on the disk, bounded.
//!
//! Cached are segments and what is written beside them (conflicts and the like), as they are in the store: encrypted.
//! Manifests and keys always come from the store. A block is found by the store's address and the object's whole name,
//! which begins with its organisation, so that no organisation's block can be taken for another's; what was read is
//! compared with a checksum over name, size, number and bytes before it is used (`cache/disk.rs`).
//!
//! What is asked for is widened to whole blocks; those that are missing are read from the store, neighbours in one
//! request. What is written enters the cache when the store has it. A failing disk costs requests and nothing else.

use std::collections::BTreeSet;
use std::fmt;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use futures::stream::BoxStream;
use futures::{StreamExt as _, TryStreamExt as _};
use object_store::path::Path;
use object_store::{
    CopyOptions, GetOptions, GetRange, GetResult, GetResultPayload, ListResult, MultipartUpload, ObjectMeta,
    ObjectStore, PutMode, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};
use storage_format::ObjectKey;

use super::local_durable::blocking;
use crate::Files;
use disk::CacheDisk;
use index::{BLOCK_BYTES, ObjectId};

mod disk;
mod index;

/// Requests for missing blocks of one read at once.
const REQUESTS_AT_ONCE: usize = 8;
/// Blocks that a long read holds at once.
const STREAM_BLOCKS: u64 = 8;
/// An object larger than this part of the cache does not enter it when it is written: it would push out everything.
const WRITTEN_PART: u64 = 8;

/// Asks that a read goes to the store itself, and that a cache before it forgets what it has of the object.
#[derive(Debug, Clone, Copy)]
struct PastCache;

/// Options of a read that goes past caches, because what a cache has may be damaged.
#[must_use]
pub fn past_cache(mut options: GetOptions) -> GetOptions {
    options.extensions.insert(PastCache);
    options
}

/// What a cache has done and holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct CacheCounts {
    /// Blocks that were there.
    pub hits: u64,
    /// Blocks that were read from the store.
    pub misses: u64,
    /// Bytes of blocks that were there.
    pub hit_bytes: u64,
    /// Bytes of blocks that were read from the store.
    pub missed_bytes: u64,
    /// Blocks that gave way to others.
    pub evicted: u64,
    /// Files that were damaged, or could not be written or read.
    pub failures: u64,
    /// Bytes on the disk.
    pub bytes: u64,
}

#[derive(Debug, Default)]
struct Counters {
    hits: AtomicU64,
    misses: AtomicU64,
    hit_bytes: AtomicU64,
    missed_bytes: AtomicU64,
    evicted: AtomicU64,
    failures: AtomicU64,
}

/// A store with a cache before it. Cheap to clone: all clones share the cache.
#[derive(Clone)]
pub struct CachedStore(Arc<Inner>);

struct Inner {
    store: Arc<dyn ObjectStore>,
    disk: CacheDisk,
    counters: Arc<Counters>,
}

impl fmt::Debug for CachedStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CachedStore({:?})", self.0.store)
    }
}

impl fmt::Display for CachedStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0.store, f)
    }
}

/// An object's bytes in order, with gaps.
struct Pieces(Vec<(u64, Bytes)>);

impl Pieces {
    /// Returns these bytes, as far as the object has them.
    fn range(&self, range: &Range<u64>) -> Bytes {
        let part = |(start, bytes): &(u64, Bytes)| {
            let end = start + bytes.len() as u64;
            let (from, to) = (range.start.max(*start), range.end.min(end));
            (from < to).then(|| index::part(bytes, from - start, to - start))
        };
        let mut parts = self.0.iter().filter_map(part);
        let (Some(first), second) = (parts.next(), parts.next()) else { return Bytes::new() };
        let Some(second) = second else { return first };
        let mut all = BytesMut::from(&first[..]);
        all.extend_from_slice(&second);
        parts.for_each(|part| all.extend_from_slice(&part));
        all.freeze()
    }
}

/// Returns whether the object never changes, and is worth keeping.
fn is_cached(location: &Path) -> bool {
    match location.as_ref().parse() {
        Ok(ObjectKey::Manifest { .. } | ObjectKey::OrgKey { .. }) | Err(_) => false,
        Ok(_) => true,
    }
}

fn blocks_of(range: &Range<u64>) -> Range<u64> {
    range.start / BLOCK_BYTES..range.end.div_ceil(BLOCK_BYTES)
}

/// Runs of neighbours.
fn runs(blocks: &BTreeSet<u64>) -> Vec<Range<u64>> {
    let mut runs: Vec<Range<u64>> = Vec::new();
    for block in blocks {
        match runs.last_mut() {
            Some(run) if run.end == *block => run.end += 1,
            _ => runs.push(*block..*block + 1),
        }
    }
    runs
}

impl CachedStore {
    /// Puts a cache in `dir` before a store. `address` tells this store from others that the directory may have been
    /// used for before. What is there already is used.
    ///
    /// # Errors
    /// When the directory cannot be made or read.
    pub fn open(
        store: Arc<dyn ObjectStore>,
        address: &str,
        files: Arc<dyn Files>,
        dir: PathBuf,
        bytes_max: u64,
    ) -> std::io::Result<Self> {
        let disk = CacheDisk::open(files, dir, address, bytes_max)?;
        Ok(Self(Arc::new(Inner { store, disk, counters: Arc::default() })))
    }

    /// What it has done and holds.
    #[must_use]
    pub fn counts(&self) -> CacheCounts {
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let counters = &self.0.counters;
        CacheCounts {
            hits: load(&counters.hits),
            misses: load(&counters.misses),
            hit_bytes: load(&counters.hit_bytes),
            missed_bytes: load(&counters.missed_bytes),
            evicted: load(&counters.evicted),
            failures: load(&counters.failures),
            bytes: self.0.disk.bytes(),
        }
    }
}

impl Inner {
    /// Does blocking work of the cache. Its failures are counted, and cost nobody anything but requests.
    async fn on_disk<T: Send + Default + 'static>(
        self: &Arc<Self>,
        work: impl FnOnce(&CacheDisk) -> std::io::Result<T> + Send + 'static,
    ) -> T {
        let inner = Arc::clone(self);
        let done = blocking(move || {
            Ok(work(&inner.disk).unwrap_or_else(|_| {
                inner.counters.failures.fetch_add(1, Ordering::Relaxed);
                T::default()
            }))
        });
        done.await.unwrap_or_default()
    }

    /// Keeps the whole blocks of these bytes, which begin at `start` of an object of `size` bytes.
    async fn keep(self: &Arc<Self>, location: &Path, size: u64, start: u64, bytes: Bytes) {
        let (id, name) = (self.disk.id(location.as_ref()), location.to_string());
        let evicted = self
            .on_disk(move |disk| {
                let mut evicted = 0;
                for block in blocks_of(&(start..start + bytes.len() as u64)) {
                    let range = index::block_range(size, block);
                    if range.start >= start && range.end <= start + bytes.len() as u64 {
                        let part = index::part(&bytes, range.start - start, range.end - start);
                        evicted += disk.insert(&name, id, size, block, &part)?;
                    }
                }
                Ok(evicted)
            })
            .await;
        self.counters.evicted.fetch_add(evicted, Ordering::Relaxed);
    }

    /// Returns those of the blocks that are there, as runs with their offsets.
    async fn have(self: &Arc<Self>, location: &Path, id: ObjectId, size: u64, blocks: &BTreeSet<u64>) -> Pieces {
        let (name, wanted) = (location.to_string(), runs(blocks));
        let (pieces, damaged) = self
            .on_disk(move |disk| {
                let mut pieces = Vec::new();
                let mut damaged = 0;
                for run in wanted {
                    damaged += disk.read_run(&name, id, size, run, &mut pieces);
                }
                Ok((pieces, damaged))
            })
            .await;
        self.counters.failures.fetch_add(damaged, Ordering::Relaxed);
        let bytes: u64 = pieces.iter().map(|(_, bytes): &(u64, Bytes)| bytes.len() as u64).sum();
        self.counters.hits.fetch_add(bytes.div_ceil(BLOCK_BYTES), Ordering::Relaxed);
        self.counters.hit_bytes.fetch_add(bytes, Ordering::Relaxed);
        Pieces(pieces)
    }

    /// Reads a run of blocks from the store and keeps them.
    async fn fetch(self: &Arc<Self>, location: &Path, run: Range<u64>) -> Result<(ObjectMeta, (u64, Bytes))> {
        let range = run.start * BLOCK_BYTES..run.end * BLOCK_BYTES;
        let options = GetOptions { range: Some(GetRange::Bounded(range)), ..GetOptions::default() };
        let got = self.store.get_opts(location, options).await?;
        let (meta, start) = (got.meta.clone(), got.range.start);
        let bytes = got.bytes().await?;
        self.missed(bytes.len());
        self.keep(location, meta.size, start, bytes.clone()).await;
        Ok((meta, (start, bytes)))
    }

    fn missed(&self, bytes: usize) {
        self.counters.misses.fetch_add((bytes as u64).div_ceil(BLOCK_BYTES), Ordering::Relaxed);
        self.counters.missed_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// Returns these blocks, from the cache or the store.
    async fn blocks(self: &Arc<Self>, location: &Path, wanted: &BTreeSet<u64>) -> Result<Pieces> {
        let id = self.disk.id(location.as_ref());
        let mut pieces = match self.disk.size(id) {
            Some(size) => self.have(location, id, size, wanted).await,
            None => Pieces(Vec::new()),
        };
        let mut missing = wanted.clone();
        for (start, bytes) in &pieces.0 {
            for block in blocks_of(&(*start..start + bytes.len() as u64)) {
                missing.remove(&block);
            }
        }
        let fetched: Vec<_> = futures::stream::iter(runs(&missing))
            .map(|run| self.fetch(location, run))
            .buffered(REQUESTS_AT_ONCE)
            .try_collect()
            .await?;
        pieces.0.extend(fetched.into_iter().map(|(_, piece)| piece));
        pieces.0.sort_by_key(|(start, _)| *start);
        Ok(pieces)
    }

    async fn ranges(self: &Arc<Self>, location: &Path, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        let pieces = self.blocks(location, &ranges.iter().flat_map(blocks_of).collect()).await?;
        Ok(ranges.iter().map(|range| pieces.range(range)).collect())
    }

    /// The end of an object of unknown size, widened so that its last block is in it.
    async fn suffix(self: &Arc<Self>, location: &Path, length: u64) -> Result<GetResult> {
        let options = GetOptions { range: Some(GetRange::Suffix(length.max(BLOCK_BYTES))), ..GetOptions::default() };
        let got = self.store.get_opts(location, options).await?;
        let (meta, range) = (got.meta.clone(), got.range.clone());
        let bytes = got.bytes().await?;
        self.missed(bytes.len());
        self.keep(location, meta.size, range.start, bytes.clone()).await;
        let start = range.end.saturating_sub(length).max(range.start);
        let end = index::part(&bytes, start - range.start, range.end - range.start);
        let payload = futures::stream::once(async { Ok(end) }).boxed();
        Ok(result(meta, start..range.end, payload))
    }

    /// A range of an object of known size, a few blocks at a time.
    fn stream(self: &Arc<Self>, location: &Path, size: u64, range: Range<u64>) -> GetResult {
        let meta = ObjectMeta {
            location: location.clone(),
            // The cache does not know; of objects that never change nobody asks.
            last_modified: Default::default(),
            size,
            e_tag: None,
            version: None,
        };
        let (inner, location, end) = (Arc::clone(self), location.clone(), range.end);
        let chunks = futures::stream::try_unfold(range.start, move |at| {
            let (inner, location) = (Arc::clone(&inner), location.clone());
            async move {
                if at >= end {
                    return Ok(None);
                }
                let part = at..end.min((at / BLOCK_BYTES + STREAM_BLOCKS) * BLOCK_BYTES);
                let chunk = inner.ranges(&location, std::slice::from_ref(&part)).await?.pop().unwrap_or_default();
                Ok(Some((chunk, part.end)))
            }
        });
        result(meta, range, chunks.boxed())
    }

    async fn forget(self: &Arc<Self>, location: &Path) {
        let id = self.disk.id(location.as_ref());
        self.on_disk(move |disk| {
            disk.forget(id);
            Ok(())
        })
        .await;
    }
}

fn result(meta: ObjectMeta, range: Range<u64>, payload: BoxStream<'static, Result<Bytes>>) -> GetResult {
    GetResult { payload: GetResultPayload::Stream(payload), meta, range, attributes: Default::default() }
}

/// Returns whether it is a plain read, without conditions.
fn is_plain(options: &GetOptions) -> bool {
    !options.head
        && options.version.is_none()
        && options.if_match.is_none()
        && options.if_none_match.is_none()
        && options.if_modified_since.is_none()
        && options.if_unmodified_since.is_none()
}

#[async_trait]
impl ObjectStore for CachedStore {
    async fn put_opts(&self, location: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        if !is_cached(location) {
            return self.0.store.put_opts(location, payload, options).await;
        }
        let created = options.mode == PutMode::Create;
        let done = self.0.store.put_opts(location, payload.clone(), options).await?;
        let size = payload.content_length() as u64;
        if !created {
            self.0.forget(location).await;
        } else if size <= self.0.disk.bytes_max() / WRITTEN_PART {
            self.0.keep(location, size, 0, payload.into()).await;
        }
        Ok(done)
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        self.0.store.put_multipart_opts(location, options).await
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        if !is_cached(location) || !is_plain(&options) {
            return self.0.store.get_opts(location, options).await;
        }
        if options.extensions.get::<PastCache>().is_some() {
            self.0.forget(location).await;
            return self.0.store.get_opts(location, options).await;
        }
        let known = self.0.disk.size(self.0.disk.id(location.as_ref()));
        match (known, &options.range) {
            (Some(size), Some(range)) => match range.as_range(size) {
                Ok(range) => Ok(self.0.stream(location, size, range)),
                Err(_) => self.0.store.get_opts(location, options).await,
            },
            (Some(size), None) => Ok(self.0.stream(location, size, 0..size)),
            (None, Some(GetRange::Suffix(length))) if *length > 0 => self.0.suffix(location, *length).await,
            (None, _) => self.0.store.get_opts(location, options).await,
        }
    }

    async fn get_ranges(&self, location: &Path, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        if !is_cached(location) || ranges.iter().any(Range::is_empty) {
            return self.0.store.get_ranges(location, ranges).await;
        }
        self.0.ranges(location, ranges).await
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        let inner = Arc::clone(&self.0);
        self.0
            .store
            .delete_stream(locations)
            .and_then(move |location| {
                let inner = Arc::clone(&inner);
                async move {
                    inner.forget(&location).await;
                    Ok(location)
                }
            })
            .boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.0.store.list(prefix)
    }

    fn list_with_offset(&self, prefix: Option<&Path>, offset: &Path) -> BoxStream<'static, Result<ObjectMeta>> {
        self.0.store.list_with_offset(prefix, offset)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.0.store.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        let copied = self.0.store.copy_opts(from, to, options).await;
        self.0.forget(to).await;
        copied
    }
}

#[cfg(test)]
#[allow(clippy::single_range_in_vec_init, reason = "one range")]
mod tests;
