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
//! Owns the computed batches of all organisations, up to a limit in bytes: the newest of each, and the one before it, for
//! queries whose snapshots were taken before the last flush. Those least recently asked for go and are computed again when
//! they are asked for. Nothing of it is durable.

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
        let last_after = |last: &RecordBatch| match planted::has(PlantedBug::ForgetLast) {
            true => last.clone(),
            false => fold(last, &buffer.last_of_loggers()),
        };
        // Nobody has asked for it: it is kept no longer because of this.
        let Some(known) = self.cache.peek(org).filter(|known| known.is_of(before)) else { return };
        self.cache.follow(org, Known::of(after, last_after(&known.last)));
    }

    /// Bytes that are in memory.
    pub(crate) fn bytes(&self) -> usize {
        self.cache.bytes()
    }

    async fn stored(&self, org: OrgId, manifest: &Manifest) -> Result<RecordBatch, EngineError> {
        if let Some(known) = self.cache.get(org, manifest) {
            return Ok(known);
        }
        // Whoever asks while it is computed waits for it instead of computing it, too.
        let lock = self.cache.lock(org);
        let _computing = lock.lock().await;
        if let Some(known) = self.cache.get(org, manifest) {
            return Ok(known);
        }
        let (added, before): (Vec<_>, _) = match self.cache.peek(org).filter(|known| known.is_before(manifest)) {
            Some(known) => {
                (manifest.segments().iter().filter(|entry| entry.flush_last > known.flush).collect(), known.last)
            }
            None => (manifest.segments().iter().collect(), table::empty()),
        };
        let last = stored::last_of(&self.segments, org, &added, manifest.rollups(), before).await?;
        self.cache.put(org, Known::of(manifest, last.clone()));
        Ok(last)
    }
}
