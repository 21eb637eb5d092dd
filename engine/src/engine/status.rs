//! What the engine is doing, for people and for `readyz`.

use storage_format::{Lsn, OrgId};

use super::Engine;
use crate::error::EngineError;

/// What the engine is doing.
#[derive(Debug, Clone)]
pub struct EngineStatus {
    /// Organisations whose manifest is in memory.
    pub orgs_loaded: usize,
    /// Decoded frames waiting for the appender.
    pub queue_frames: usize,
    /// Their bytes, and those of the group being written.
    pub queue_bytes: u64,
    /// Memory of all write buffers.
    pub buffer_bytes: u64,
    /// And at most.
    pub buffer_bytes_max: u64,
    /// All WAL files together.
    pub wal_bytes: u64,
    /// And at most.
    pub wal_bytes_max: u64,
    /// The last record that is in a write buffer.
    pub lsn_applied: Lsn,
    /// The first record that the WAL must keep.
    pub lsn_first_unflushed: Lsn,
    /// Organisations whose last flush failed: nothing is lost, it is tried again.
    pub flush_troubles: Vec<FlushTrouble>,
    /// Why the engine has stopped, if it has.
    pub failed: Option<EngineError>,
}

/// A flush that failed and is tried again.
#[derive(Debug, Clone)]
pub struct FlushTrouble {
    /// Whose.
    pub org: OrgId,
    /// How many times in a row.
    pub failures: u32,
    /// The last error.
    pub error: EngineError,
}

impl Engine {
    /// What the engine is doing now.
    #[must_use]
    pub fn status(&self) -> EngineStatus {
        let core = &self.core;
        let troubles = core.flush.failures().into_iter();
        let mut flush_troubles: Vec<FlushTrouble> = troubles
            .map(|(org, failure)| FlushTrouble { org, failures: failure.failures, error: failure.error })
            .collect();
        flush_troubles.sort_by_key(|trouble| trouble.org);
        EngineStatus {
            orgs_loaded: core.orgs.len(),
            queue_frames: core.queue.frames(),
            queue_bytes: core.queue.bytes(),
            buffer_bytes: core.orgs.budget().used(),
            buffer_bytes_max: core.orgs.budget().max(),
            wal_bytes: core.wal.bytes(),
            wal_bytes_max: core.config.wal_bytes_max,
            lsn_applied: core.orgs.applied(),
            lsn_first_unflushed: core.orgs.first_unflushed(),
            flush_troubles,
            failed: core.fatal(),
        }
    }
}
