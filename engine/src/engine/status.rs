//! What the engine is doing, and what keeps it from it: for people, `/readyz` and `/metrics`.

use std::path::PathBuf;

use storage_format::{Lsn, Millis, OrgId};

use super::Engine;
use crate::carried::CarriedFile;
use crate::error::EngineError;
use crate::flush::FlushFailure;
use crate::health::{Condition, Trouble};
use crate::org::InTrouble;

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
    /// Upper limit of `buffer_bytes`.
    pub buffer_bytes_max: u64,
    /// All WAL files together.
    pub wal_bytes: u64,
    /// Upper limit of `wal_bytes`.
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
    /// Organisation.
    pub org: OrgId,
    /// When the first failure of this row was.
    pub since: Millis,
    /// How many times in a row.
    pub failures: u32,
    /// The last error.
    pub error: EngineError,
}

/// An organisation whose stored data is damaged or missing. Its frames are refused, what it has sent is kept, and it is
/// tried again and again whether it is well.
#[derive(Debug, Clone)]
pub struct OrgTrouble {
    /// Organisation.
    pub org: OrgId,
    /// Since when.
    pub since: Millis,
    /// What is wrong, with the object's name, or why the last try failed; `None` while it was not tried yet what an earlier process has carried on.
    pub error: Option<EngineError>,
    /// Whether queries see all of its acknowledged readings, as far as the objects that they need can be read.
    pub readable: bool,
    /// Files in `carried/` with records of it that are in no segment and not in the log any more.
    pub carried: Vec<CarriedFile>,
    /// Paths of them.
    pub carried_paths: Vec<PathBuf>,
}

/// What keeps the engine from taking, acknowledging or flushing readings now. Nothing acknowledged is in danger.
#[derive(Debug, Clone, Default)]
pub struct EngineHealth {
    /// The WAL has reached `wal_bytes_max`: no frames are taken until a flush shortens it.
    pub wal_full: Option<Trouble>,
    /// The next WAL file cannot be made, for want of space or file handles, say: no frames are acknowledged.
    pub wal_without_file: Option<Trouble>,
    /// The write buffers have reached `buffer_bytes_max`: frames of all organisations wait, or of those that hold much.
    pub write_buffers_full: Option<Trouble>,
    /// The last object or commit could not be written: flushes fail, and WAL and write buffers grow.
    pub store_unavailable: Option<Trouble>,
    /// Organisations whose last flush failed, for whatever reason, by their ids.
    pub orgs_not_flushing: Vec<FlushTrouble>,
    /// Organisations whose stored data is damaged or missing, by their ids.
    pub orgs_in_trouble: Vec<OrgTrouble>,
    /// Why the engine has stopped, if it has.
    pub failed: Option<EngineError>,
}

impl EngineHealth {
    /// Conditions of the engine as a whole, each with its name in metrics (less `icecore_`).
    #[must_use]
    pub fn conditions(&self) -> [(&'static str, Option<&Trouble>); 4] {
        [
            ("wal_full", self.wal_full.as_ref()),
            ("wal_without_file", self.wal_without_file.as_ref()),
            ("write_buffers_full", self.write_buffers_full.as_ref()),
            ("store_unavailable", self.store_unavailable.as_ref()),
        ]
    }

    /// Returns whether frames of every organisation that is not in trouble are taken and acknowledged.
    #[must_use]
    pub fn takes_frames(&self) -> bool {
        let full = [&self.wal_full, &self.wal_without_file, &self.write_buffers_full];
        self.failed.is_none() && full.iter().all(|trouble| trouble.is_none())
    }

    /// Returns whether nothing at all is wrong.
    #[must_use]
    pub fn is_well(&self) -> bool {
        self.takes_frames()
            && self.store_unavailable.is_none()
            && self.orgs_not_flushing.is_empty()
            && self.orgs_in_trouble.is_empty()
    }
}

impl Engine {
    /// What keeps the engine from its work now. Does not wait for disk, store or a flush.
    #[must_use]
    pub fn health(&self) -> EngineHealth {
        let health = &self.core.health;
        EngineHealth {
            wal_full: health.get(Condition::WalFull),
            wal_without_file: health.get(Condition::WalWithoutFile),
            write_buffers_full: health.get(Condition::WriteBuffersFull),
            store_unavailable: health.get(Condition::StoreUnavailable),
            orgs_not_flushing: self.flush_troubles(),
            orgs_in_trouble: self.org_troubles(),
            failed: self.core.fatal(),
        }
    }

    fn flush_troubles(&self) -> Vec<FlushTrouble> {
        let trouble = |(org, failure): (OrgId, FlushFailure)| {
            let FlushFailure { failures, since, error, .. } = failure;
            FlushTrouble { org, since, failures, error }
        };
        let mut troubles: Vec<_> = self.core.flush.failures().into_iter().map(trouble).collect();
        troubles.sort_by_key(|trouble| trouble.org);
        troubles
    }

    fn org_troubles(&self) -> Vec<OrgTrouble> {
        let all = self.core.orgs.troubles().all();
        let trouble = |(org, trouble): (OrgId, InTrouble)| {
            let InTrouble { since, error, readable, carried } = trouble;
            let carried_paths = carried.iter().map(|file| self.core.carried.path(file)).collect();
            OrgTrouble { org, since, error, readable, carried, carried_paths }
        };
        all.into_iter().map(trouble).collect()
    }

    /// What the engine is doing now.
    #[must_use]
    pub fn status(&self) -> EngineStatus {
        let core = &self.core;
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
            flush_troubles: self.flush_troubles(),
            failed: core.fatal(),
        }
    }
}
