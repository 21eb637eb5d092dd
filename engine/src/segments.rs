//! Segments in the store: written, opened, read.
//!
//! A segment opens only as what the manifest says it is: its data key unwraps for exactly that organisation, window
//! and id, and its footer must agree with the entry. Every range of it is checked before parquet-rs gets it.
//!
//! Crash consistency: a segment is written, and durable, before a commit names it. One that no commit names is an
//! orphan, for garbage collection to sweep.
//!
//! Does not own any cache: whoever asks for metadata may keep it.

mod filter;
mod locate;
mod read;
mod rollup;
mod write;

use std::num::NonZeroUsize;
use std::sync::Arc;

use bytes::Bytes;
use durable::{Random, is_fatal, object_path, past_cache};
use object_store::path::Path;
use object_store::{Error, GetOptions, GetRange, ObjectStore};
use parquet::encryption::decrypt::FileDecryptionProperties;
use parquet::errors::ParquetError;
use parquet::file::metadata::ParquetMetaData;
use storage_format::encryption::SecretKey;
use storage_format::manifest::SegmentEntry;
use storage_format::segment::{
    MetadataDecoder, MetadataPoll, ROW_GROUP_ROWS_MAX, SegmentFooter, SegmentTail, check_modules,
    decryption_properties, read_tail, tail_bytes,
};
use storage_format::{FileKind, FormatError, FormatErrorKind, ObjectKey, OrgId};

use crate::error::{EngineError, EngineErrorKind};
use crate::limits::READ_ATTEMPTS;
use crate::manifest::OrgKeys;
use crate::manifest::{ManifestError, RESTORE};

pub use filter::SegmentFilter;
pub use read::SegmentStream;
pub use write::NewSegment;
pub(crate) use write::encode_error;

/// How much of a segment's end is read at first: footer and page index of all but the largest.
const TAIL_GUESS_BYTES: u64 = 64 * 1024;

/// A segment that is no larger is read as a whole, in one request, by whoever reads its rows: a small organisation's
/// objects are that small, and there requests cost more than bytes.
const WHOLE_BYTES_MAX: u64 = 256 * 1024;

/// Why a segment can not be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SegmentReadError {
    /// It is not there.
    #[error("{name} is missing")]
    Missing {
        /// Its name.
        name: ObjectKey,
    },
    /// It is damaged, not what its name says, or does not open with the key.
    #[error("{name}: {source}")]
    Object {
        /// Its name.
        name: ObjectKey,
        /// What is wrong, with the offset.
        source: FormatError,
    },
    /// A part of it does not decode.
    #[error("{name}: {source}")]
    Parquet {
        /// Its name.
        name: ObjectKey,
        /// What parquet-rs says.
        source: ParquetError,
    },
    /// The store failed.
    #[error("{name}: {source}")]
    Store {
        /// Its name.
        name: ObjectKey,
        /// The store's error.
        source: Error,
    },
    /// The organisation's key can not be had.
    #[error(transparent)]
    Key(#[from] ManifestError),
}

impl SegmentReadError {
    /// Returns whether the bytes that were read are wrong. They may be right when they are read again.
    const fn is_damage(&self) -> bool {
        matches!(self, Self::Object { .. } | Self::Parquet { .. })
    }
}

fn warn_reread(error: &SegmentReadError) {
    tracing::warn!(%error, "a segment was not read well; it is read again");
}

impl From<SegmentReadError> for EngineError {
    fn from(error: SegmentReadError) -> Self {
        match error {
            SegmentReadError::Key(inner) => inner.into(),
            SegmentReadError::Store { ref source, .. } if is_fatal(source) => {
                Self::new(EngineErrorKind::Failed, "the object store has stopped", "Look at the disk, then start again")
                    .because(error)
            }
            SegmentReadError::Store { .. } => Self::new(
                EngineErrorKind::Retry,
                "a segment could not be read",
                "Look at the object store and try again",
            )
            .because(error),
            SegmentReadError::Missing { .. } | SegmentReadError::Object { .. } | SegmentReadError::Parquet { .. } => {
                Self::new(EngineErrorKind::Corrupt, "a segment can not be read", RESTORE).because(error)
            }
        }
    }
}

/// A segment's metadata.
struct Opened {
    metadata: Arc<ParquetMetaData>,
    /// Its bytes, if all of them were read.
    whole: Option<Bytes>,
}

/// The segments of one store.
#[derive(Debug, Clone)]
pub struct Segments {
    store: Arc<dyn ObjectStore>,
    keys: Arc<OrgKeys>,
    random: Arc<dyn Random>,
    row_group_rows: NonZeroUsize,
    whole_bytes_max: u64,
    /// Whether a cache before the store must not answer.
    past_cache: bool,
}

impl Segments {
    /// The segments in this store.
    #[must_use]
    pub fn new(store: Arc<dyn ObjectStore>, keys: Arc<OrgKeys>, random: Arc<dyn Random>) -> Self {
        Self {
            store,
            keys,
            random,
            row_group_rows: ROW_GROUP_ROWS_MAX,
            whole_bytes_max: WHOLE_BYTES_MAX,
            past_cache: false,
        }
    }

    /// Segments that read even the smallest ones in parts.
    #[cfg(test)]
    pub(crate) fn in_parts(self) -> Self {
        Self { whole_bytes_max: 0, ..self }
    }

    /// The same, written with row groups of at most so many rows.
    #[must_use]
    pub fn with_row_group_rows(self, row_group_rows: NonZeroUsize) -> Self {
        Self { row_group_rows, ..self }
    }

    /// The store that they are in.
    #[must_use]
    pub const fn store(&self) -> &Arc<dyn ObjectStore> {
        &self.store
    }

    /// A segment's metadata, decrypted, page index included, and checked against the entry. It holds what decrypts the
    /// segment's pages, so it must not reach another organisation.
    ///
    /// # Errors
    /// [`SegmentReadError`]; damage only when several reads find it.
    pub async fn metadata(&self, org: OrgId, entry: &SegmentEntry) -> Result<Arc<ParquetMetaData>, SegmentReadError> {
        Ok(self.open(org, entry, TAIL_GUESS_BYTES).await?.metadata)
    }

    /// The metadata, and the segment's bytes if all of it was read because of that: at first, `guess` bytes of its end are.
    async fn open(&self, org: OrgId, entry: &SegmentEntry, guess: u64) -> Result<Opened, SegmentReadError> {
        let mut read = self.read_metadata(org, entry, guess).await;
        let mut attempt = 1;
        while let Err(error) = &read
            && error.is_damage()
            && attempt < READ_ATTEMPTS
        {
            attempt += 1;
            warn_reread(error);
            read = self.past_cache().read_metadata(org, entry, guess).await;
        }
        read
    }

    async fn read_metadata(&self, org: OrgId, entry: &SegmentEntry, guess: u64) -> Result<Opened, SegmentReadError> {
        let name = entry.object_key(org);
        let (end, tail) = self.tail(org, entry, guess).await?;
        let data_key = self.unwrap(org, entry, &tail).await?;
        let wrong = |source| SegmentReadError::Object { name, source };
        let mut decoder = MetadataDecoder::new(entry.bytes, &tail, &data_key).map_err(wrong)?;
        let end_start = entry.bytes - end.len() as u64;
        let metadata = loop {
            match decoder.poll().map_err(wrong)? {
                MetadataPoll::Done(metadata) => break metadata,
                MetadataPoll::Need(range) => {
                    let bytes = if range.start >= end_start {
                        let at = |offset: u64| usize::try_from(offset - end_start).unwrap_or(usize::MAX);
                        end.slice(at(range.start)..at(range.end))
                    } else {
                        self.range(&name, range.clone()).await?
                    };
                    decoder.push(range, bytes).map_err(wrong)?;
                }
            }
        };
        let footer = SegmentFooter::read(&metadata, tail.key_metadata.key_version).map_err(wrong)?;
        footer.check(org, entry).map_err(wrong)?;
        Ok(Opened { metadata, whole: (end_start == 0).then_some(end) })
    }

    /// The key that a segment's bytes are encrypted with: the footer key for any Parquet reader.
    ///
    /// # Errors
    /// [`SegmentReadError`]; of kind [`FormatErrorKind::WrongKey`] when it is another segment than the entry's.
    pub async fn data_key(&self, org: OrgId, entry: &SegmentEntry) -> Result<SecretKey, SegmentReadError> {
        let (_, tail) = self.tail(org, entry, TAIL_GUESS_BYTES).await?;
        self.unwrap(org, entry, &tail).await
    }

    /// What parquet-rs needs to decrypt a segment.
    ///
    /// # Errors
    /// As [`data_key`](Self::data_key).
    pub async fn decryption_properties(
        &self,
        org: OrgId,
        entry: &SegmentEntry,
    ) -> Result<Arc<FileDecryptionProperties>, SegmentReadError> {
        let name = entry.object_key(org);
        let key = self.data_key(org, entry).await?;
        decryption_properties(&key).map_err(|source| SegmentReadError::Parquet { name, source })
    }

    /// Bytes of a segment that parquet-rs asked for, checked for damage in what it would trust. The range must start
    /// and end between encrypted modules, as those of column chunks and pages do.
    ///
    /// # Errors
    /// [`SegmentReadError`].
    pub async fn read_ranges(
        &self,
        org: OrgId,
        entry: &SegmentEntry,
        ranges: &[std::ops::Range<u64>],
    ) -> Result<Vec<Bytes>, SegmentReadError> {
        let name = entry.object_key(org);
        let read = self.get_ranges(&object_path(&name), ranges).await;
        let read = read.map_err(|source| store_error(name, source))?;
        check_ranges(name, ranges, &read)?;
        Ok(read)
    }

    /// The same segments, read from the store itself: a cache before it may hold what was damaged on its way, or what
    /// was damaged in the store until somebody mended it.
    pub(crate) fn past_cache(&self) -> Self {
        Self { past_cache: true, ..self.clone() }
    }

    fn options(&self, range: GetRange) -> GetOptions {
        let options = GetOptions { range: Some(range), ..GetOptions::default() };
        if self.past_cache { past_cache(options) } else { options }
    }

    async fn get_ranges(&self, path: &Path, ranges: &[std::ops::Range<u64>]) -> Result<Vec<Bytes>, Error> {
        if !self.past_cache {
            return self.store.get_ranges(path, ranges).await;
        }
        // All between the first and the last in one request: the columns of a row group are neighbours.
        let (Some(start), Some(end)) =
            (ranges.iter().map(|range| range.start).min(), ranges.iter().map(|range| range.end).max())
        else {
            return Ok(Vec::new());
        };
        let all = self.store.get_opts(path, self.options(GetRange::Bounded(start..end))).await?.bytes().await?;
        let at = |offset: u64| usize::try_from(offset - start).unwrap_or(usize::MAX).min(all.len());
        // What is too short is found by whoever knows how long it should be.
        Ok(ranges.iter().map(|range| all.slice(at(range.start)..at(range.end).max(at(range.start)))).collect())
    }

    async fn range(&self, name: &ObjectKey, range: std::ops::Range<u64>) -> Result<Bytes, SegmentReadError> {
        let read = self.get_ranges(&object_path(name), std::slice::from_ref(&range)).await;
        let read = read.map_err(|source| store_error(*name, source))?;
        let bytes = read.into_iter().next().unwrap_or_default();
        check_length(&range, &bytes).map_err(|source| SegmentReadError::Object { name: *name, source })?;
        Ok(bytes)
    }

    /// The end of the object, with the whole tail in it, and the tail.
    async fn tail(
        &self,
        org: OrgId,
        entry: &SegmentEntry,
        guess: u64,
    ) -> Result<(Bytes, SegmentTail), SegmentReadError> {
        let name = entry.object_key(org);
        let wrong = |source| SegmentReadError::Object { name, source };
        let path = object_path(&name);
        let (end, length) = self.end(&path, &name, guess).await?;
        if length != entry.bytes {
            let detail = format!("it has {length} bytes, the manifest says {}", entry.bytes);
            return Err(wrong(FormatError::new(FileKind::Segment, FormatErrorKind::Truncated, length, detail)));
        }
        let wanted = tail_bytes(length, &end).map_err(wrong)?;
        let end = if wanted > end.len() as u64 { self.end(&path, &name, wanted).await?.0 } else { end };
        let tail = read_tail(length, &end).map_err(wrong)?;
        Ok((end, tail))
    }

    /// At most the last `bytes` of an object, and its length.
    async fn end(&self, path: &Path, name: &ObjectKey, bytes: u64) -> Result<(Bytes, u64), SegmentReadError> {
        let options = self.options(GetRange::Suffix(bytes));
        let got = self.store.get_opts(path, options).await.map_err(|source| store_error(*name, source))?;
        let length = got.meta.size;
        Ok((got.bytes().await.map_err(|source| store_error(*name, source))?, length))
    }

    async fn unwrap(
        &self,
        org: OrgId,
        entry: &SegmentEntry,
        tail: &SegmentTail,
    ) -> Result<SecretKey, SegmentReadError> {
        let org_key = self.keys.get(org, entry.key_version).await?;
        let name = entry.object_key(org);
        tail.key_metadata.unwrap_for(org, entry, &org_key).map_err(|source| SegmentReadError::Object { name, source })
    }
}

fn store_error(name: ObjectKey, source: Error) -> SegmentReadError {
    match source {
        Error::NotFound { .. } => SegmentReadError::Missing { name },
        source => SegmentReadError::Store { name, source },
    }
}

/// Checks bytes for damage in what parquet-rs would trust.
fn check_ranges(name: ObjectKey, ranges: &[std::ops::Range<u64>], read: &[Bytes]) -> Result<(), SegmentReadError> {
    for (range, bytes) in ranges.iter().zip(read) {
        check_length(range, bytes)
            .and_then(|()| check_modules(bytes, range.start))
            .map_err(|source| SegmentReadError::Object { name, source })?;
    }
    Ok(())
}

fn check_length(range: &std::ops::Range<u64>, bytes: &Bytes) -> Result<(), FormatError> {
    if bytes.len() as u64 == range.end.saturating_sub(range.start) {
        return Ok(());
    }
    let detail = "the object is shorter than the manifest says";
    Err(FormatError::new(FileKind::Segment, FormatErrorKind::Truncated, range.start, detail))
}

#[cfg(test)]
pub(crate) mod tests;
