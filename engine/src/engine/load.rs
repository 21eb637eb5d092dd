//! Loading organisations: lazily, each once, however many ask at the same time.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use storage_format::manifest::Manifest;
use storage_format::{Lsn, OrgId};
use tokio::sync::Notify;

use crate::error::{EngineError, EngineErrorKind};
use crate::limits::READ_ATTEMPTS;
use crate::manifest::ManifestStore;
use crate::org::{Org, Orgs};

/// Loads manifests into the registry.
#[derive(Debug)]
pub(crate) struct Loader {
    orgs: Arc<Orgs>,
    manifests: Arc<ManifestStore>,
    /// One lock for each organisation that is being loaded: the second to come waits for the first.
    locks: Mutex<HashMap<OrgId, Arc<tokio::sync::Mutex<()>>>>,
    running: AtomicUsize,
    finished: Notify,
    /// Set once recovery is over: the last LSN of the log then.
    log_end: Arc<OnceLock<Lsn>>,
}

/// Counts a load while it lives, however it ends.
#[derive(Debug)]
pub(crate) struct Running(Arc<Loader>);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.running.fetch_sub(1, Ordering::AcqRel);
        self.0.finished.notify_waiters();
    }
}

impl Loader {
    pub(crate) fn new(orgs: Arc<Orgs>, manifests: Arc<ManifestStore>) -> Self {
        Self {
            orgs,
            manifests,
            locks: Mutex::new(HashMap::new()),
            running: AtomicUsize::new(0),
            finished: Notify::new(),
            log_end: Arc::default(),
        }
    }

    /// The organisation, from memory or from the store.
    ///
    /// # Errors
    /// [`Invalid`](crate::EngineErrorKind::Invalid) for one that does not exist, and whatever the store says.
    pub(crate) async fn load(&self, id: OrgId) -> Result<Arc<Org>, EngineError> {
        if let Some(org) = self.orgs.get(id) {
            return Ok(org);
        }
        let lock = {
            let mut locks = self.locks.lock().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(locks.entry(id).or_default())
        };
        let held = lock.lock().await;
        let loaded = match self.orgs.get(id) {
            Some(org) => Ok(org),
            None => self.read(id).await,
        };
        drop(held);
        self.locks.lock().unwrap_or_else(PoisonError::into_inner).remove(&id);
        loaded
    }

    /// Announces a load: [`Loader::settled`] waits for what this answers to be dropped.
    pub(crate) fn begin(self: &Arc<Self>) -> Running {
        self.running.fetch_add(1, Ordering::AcqRel);
        Running(Arc::clone(self))
    }

    /// Where the log ended when recovery was over; unset before.
    pub(crate) fn log_end(&self) -> Arc<OnceLock<Lsn>> {
        Arc::clone(&self.log_end)
    }

    /// Recovery is over, and the log ends here.
    pub(crate) fn recovered(&self, log_end: Lsn) {
        // Once only: an engine recovers once.
        let _again = self.log_end.set(log_end);
    }

    async fn read(&self, id: OrgId) -> Result<Arc<Org>, EngineError> {
        let manifest = self.read_manifest(id).await?;
        // Recovery has seen only the organisations that the log has records of. A manifest that covers more than the
        // log ever held would let new records be taken for flushed ones at the next start: it must not be served.
        if let Some(&end) = self.log_end.get()
            && manifest.lsn_covered() > end
        {
            return Err(EngineError::new(
                EngineErrorKind::Corrupt,
                "a manifest covers records that the WAL never had: the WAL's last files are missing, or it belongs to another store",
                "Stop the server and put the missing WAL files back, or point to the store that belongs to this data directory.",
            )
            .at(format_args!("organisation {id}: the manifest covers LSN {}, the WAL ended at LSN {end}", manifest.lsn_covered())));
        }
        tracing::debug!(org = %id, version = %manifest.version(), "organisation loaded");
        Ok(self.orgs.add(id, Arc::new(manifest)))
    }

    /// Damage is reported only when several reads find it.
    async fn read_manifest(&self, id: OrgId) -> Result<Manifest, EngineError> {
        let mut attempt = 1;
        loop {
            match self.manifests.load(id).await.map_err(EngineError::from) {
                Err(error) if error.kind() == EngineErrorKind::Corrupt && attempt < READ_ATTEMPTS => attempt += 1,
                read => return read,
            }
        }
    }

    /// Waits until some load that was announced has ended; returns at once if none is.
    pub(crate) async fn settled(&self) {
        let finished = self.finished.notified();
        if self.running.load(Ordering::Acquire) > 0 {
            finished.await;
        }
    }
}
