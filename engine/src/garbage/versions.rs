//! Versions of a manifest before its newest base: whoever loads it reads none of them.
//!
//! Invariant: a base that versions go for is in the log, reads well, and has been known here for the delay, so that whoever
//! began to load an older one had that long. Nothing in this process needs versions by name that long after: a drop that
//! was cut short is settled by the newest manifest (`retain.rs`), and a commit whose response was lost by the next version.
//!
//! Crash consistency: they go one by one, the oldest first, each removal durable before the next (`manifest/log.rs`). After a
//! crash in between, or a failure, the log begins a few versions later, without gaps, and the next look goes on.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use storage_format::{ManifestVersion, OrgId};

use crate::error::EngineError;
use crate::manifest::{ManifestStore, base_of};
use crate::org::Org;
use crate::planted::{self, PlantedBug};

/// The least time that a base is known before versions go for it: by then lists of every store show it.
const KNOWN_LEAST: Duration = Duration::from_secs(5);

/// Removes old versions of loaded organisations' manifests.
pub(super) struct Versions {
    manifests: Arc<ManifestStore>,
    delay: Duration,
    /// The newest base of each organisation.
    bases: Mutex<HashMap<OrgId, Base>>,
}

/// What is known of an organisation's newest base.
#[derive(Debug, Clone, Copy)]
struct Base {
    version: u64,
    /// Monotonic time from which versions before it may go; `None` once they have.
    due: Option<Duration>,
}

impl Versions {
    pub(super) fn new(manifests: Arc<ManifestStore>, delay: Duration) -> Self {
        Self { manifests, delay: delay.max(KNOWN_LEAST), bases: Mutex::default() }
    }

    /// Removes what is due of this organisation; answers how many versions.
    ///
    /// # Errors
    /// From the store; what is left is due again after the delay.
    pub(super) async fn collect(&self, org: &Org, now: Duration) -> Result<u64, EngineError> {
        let Some(base) = self.due(org, now) else { return Ok(0) };
        let removed = self.manifests.collect_before(org.id(), base).await?;
        if let Some(known) = self.bases.lock().unwrap_or_else(PoisonError::into_inner).get_mut(&org.id())
            && known.version == base.get()
        {
            known.due = None;
        }
        Ok(removed)
    }

    /// The base before which versions may go now. Until somebody says that they have, that is due again after the delay.
    fn due(&self, org: &Org, now: Duration) -> Option<ManifestVersion> {
        let newest = org.state().manifest.version().get();
        let (version, again) = match planted::has(PlantedBug::CollectNeededVersions) {
            true => (newest, now),
            false => (base_of(newest), now.saturating_add(self.delay)),
        };
        let mut bases = self.bases.lock().unwrap_or_else(PoisonError::into_inner);
        let known = bases.entry(org.id()).or_insert(Base { version, due: Some(again) });
        if known.version != version {
            *known = Base { version, due: Some(again) };
        }
        if version == 1 || known.due.is_none_or(|due| due > now) {
            return None;
        }
        known.due = Some(again);
        Some(ManifestVersion::new(version))
    }
}
