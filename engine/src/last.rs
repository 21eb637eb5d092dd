//! The last reading of each logger, exact at the instant of a snapshot, without a look at what is older.
//!
//! Two parts make it. What segments hold is computed once, when it is first asked for: window by window, the newest first,
//! and of older windows only the loggers that no newer one has. It stays in memory as one batch, and flushes bring it up to
//! date. What write buffers hold is found in their rows whenever it is asked for, so that readings on their way in pay
//! nothing for it.
//!
//! Why it is exact under late data: the newest time of a logger is the newest of all parts', and every part that has a
//! reading of that time has it as its own last one. So a fold of the parts' last readings in order of precedence, with
//! first-wins where times are equal (`table`), is that of all readings. Merging segments changes no reading, so
//! it changes nothing here; when retention has dropped readings, it is computed anew.
//!
//! Owns the computed batches of all organisations, up to a limit in bytes; the least recently used ones go and are computed
//! again when they are asked for. Nothing of it is durable.

mod cache;
mod stored;
mod table;

use std::sync::Arc;

use arrow::array::RecordBatch;
use storage_format::OrgId;
use storage_format::manifest::Manifest;

use crate::buffer::BufferView;
use crate::error::EngineError;
use crate::planted::{self, PlantedBug};
use crate::segments::Segments;
use crate::snapshot::Snapshot;

use cache::{Cache, Known};
use table::fold;

/// The last readings of all organisations.
#[derive(Debug)]
pub(crate) struct LastReadings {
    segments: Arc<Segments>,
    cache: Cache,
}

impl LastReadings {
    /// None known yet. At most so many bytes stay in memory.
    pub(crate) fn new(segments: Arc<Segments>, bytes_max: usize) -> Self {
        Self { segments, cache: Cache::new(bytes_max) }
    }

    /// One row for each logger with a reading in the snapshot, ascending, with the snapshot's channels.
    ///
    /// # Errors
    /// When a segment that may hold one cannot be read.
    pub(crate) async fn of(&self, snapshot: &Snapshot) -> Result<RecordBatch, EngineError> {
        let mut last = self.stored(snapshot.org, &snapshot.manifest).await?;
        for buffer in &snapshot.buffers {
            last = fold(&last, &buffer.last_of_loggers());
        }
        Ok(table::with_channels(&last, &snapshot.channels()))
    }

    /// A flush made `after` of `before` by putting this buffer's rows into segments.
    pub(crate) fn flushed(&self, org: OrgId, before: &Manifest, after: &Manifest, buffer: &BufferView) {
        let Some(known) = self.cache.get(org).filter(|known| known.version == before.version()) else { return };
        if planted::has(PlantedBug::ForgetLast) {
            return self.cache.put(org, Known::of(after, known.last));
        }
        self.cache.put(org, Known::of(after, fold(&known.last, &buffer.last_of_loggers())));
    }

    /// Bytes that are in memory.
    pub(crate) fn bytes(&self) -> usize {
        self.cache.bytes()
    }

    async fn stored(&self, org: OrgId, manifest: &Manifest) -> Result<RecordBatch, EngineError> {
        // Whoever asks while it is computed waits for it instead of computing it, too.
        let lock = self.cache.lock(org);
        let _computing = lock.lock().await;
        let known = self.cache.get(org);
        let newer = known.as_ref().is_some_and(|known| known.version > manifest.version());
        let last = match known {
            Some(known) if known.version == manifest.version() => return Ok(known.last),
            Some(known) if known.is_before(manifest) => {
                let added = manifest.segments().iter().filter(|entry| entry.flush_last > known.flush);
                stored::last_of(&self.segments, org, &added.collect::<Vec<_>>(), manifest.rollups(), known.last).await?
            }
            _ => {
                let all: Vec<_> = manifest.segments().iter().collect();
                stored::last_of(&self.segments, org, &all, manifest.rollups(), table::empty()).await?
            }
        };
        if !newer {
            self.cache.put(org, Known::of(manifest, last.clone()));
        }
        Ok(last)
    }
}
