//! The log of versions as the store lists it: which is the newest, is one missing, and the removal of those that nobody
//! needs any more.
//!
//! Versions go one by one, the oldest first, and none goes before the removal of the one before it is durable. So the log
//! has no gaps from its smallest version on, at any time, and a gap is damage.

use durable::object_path;
use futures::StreamExt as _;
use object_store::path::Path;
use object_store::{Error, ObjectStoreExt as _};
use storage_format::manifest::ManifestObject;
use storage_format::{ManifestVersion, ObjectKey, OrgId};

use super::store::{BASE_EVERY, ManifestStore};
use super::{ManifestError, commit_name};
use crate::planted::{self, PlantedBug};

/// Looks at a log of which versions are removed meanwhile, before what is missing counts as a hole.
pub(super) const LOOKS: u32 = 3;

/// The newest version up to this one that holds the whole state.
pub(crate) const fn base_of(version: u64) -> u64 {
    version - version.saturating_sub(1) % BASE_EVERY
}

/// The versions that a list shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Listed {
    smallest: u64,
    newest: u64,
    count: u64,
}

impl ManifestStore {
    /// The newest version's number, after a look that none is missing from the smallest one on.
    pub(super) async fn newest(&self, org: OrgId) -> Result<Option<u64>, ManifestError> {
        let mut listed = self.list_versions(org).await?;
        let mut look = 1;
        // A hole, a list that lags behind, or a collection at work: asking by name tells.
        while let Some(shown) = listed
            && shown.count <= shown.newest - shown.smallest
            && let Some(missing) = self.first_missing(org, shown).await?
        {
            let again = self.list_versions(org).await?;
            if look == LOOKS || again.is_none_or(|again| again.smallest <= missing) {
                return Err(ManifestError::Missing { name: commit_name(org, ManifestVersion::new(missing)) });
            }
            look += 1;
            listed = again;
        }
        let mut newest = listed.map_or(0, |listed| listed.newest);
        // A list may not show yet what was just made.
        while newest < u64::MAX && self.exists(org, newest + 1).await? {
            newest += 1;
        }
        Ok((newest > 0).then_some(newest))
    }

    /// Returns whether this version was removed since: the log begins after it, with a base that nothing is loaded without.
    pub(super) async fn is_collected(&self, org: OrgId, version: ManifestVersion) -> Result<bool, ManifestError> {
        let listed = self.list_versions(org).await?;
        let is_newer = |listed: Listed| (version.get() + 1..=base_of(listed.newest)).contains(&listed.smallest);
        Ok(listed.is_some_and(is_newer))
    }

    /// The newest version that a list shows; zero if there is none.
    pub(super) async fn newest_listed(&self, org: OrgId) -> Result<u64, ManifestError> {
        Ok(self.list_versions(org).await?.map_or(0, |listed| listed.newest))
    }

    async fn list_versions(&self, org: OrgId) -> Result<Option<Listed>, ManifestError> {
        let prefix = Path::from(ObjectKey::manifest_prefix(org));
        let mut shown = self.store().list(Some(&prefix));
        let mut listed: Option<Listed> = None;
        while let Some(meta) = shown.next().await {
            let meta = meta.map_err(|source| ManifestError::store(&prefix, source))?;
            let version = match meta.location.as_ref().parse() {
                Ok(ObjectKey::Manifest { org: of, version }) if of == org => version.get(),
                _ => return Err(ManifestError::Stranger { name: meta.location.to_string() }),
            };
            let known = listed.get_or_insert(Listed { smallest: version, newest: version, count: 0 });
            known.smallest = known.smallest.min(version);
            known.newest = known.newest.max(version);
            known.count += 1;
        }
        Ok(listed)
    }

    async fn first_missing(&self, org: OrgId, listed: Listed) -> Result<Option<u64>, ManifestError> {
        for version in listed.smallest..=listed.newest {
            if !self.exists(org, version).await? {
                return Ok(Some(version));
            }
        }
        Ok(None)
    }

    async fn exists(&self, org: OrgId, version: u64) -> Result<bool, ManifestError> {
        let name = commit_name(org, ManifestVersion::new(version));
        match self.store().head(&object_path(&name)).await {
            Ok(_) => Ok(true),
            Err(Error::NotFound { .. }) => Ok(false),
            Err(source) => Err(ManifestError::store(name, source)),
        }
    }

    /// Removes all versions before this base, which must be in the log; answers how many were there. Ends at the first that
    /// cannot be removed.
    ///
    /// # Errors
    /// [`ManifestError`]; those that are left stay without gaps. Nothing goes if the base does not read well: then what is
    /// before it may be needed.
    pub(crate) async fn collect_before(&self, org: OrgId, base: ManifestVersion) -> Result<u64, ManifestError> {
        let Some(listed) = self.list_versions(org).await?.filter(|listed| listed.smallest < base.get()) else {
            return Ok(0);
        };
        let is_base = matches!(self.read(org, base).await?, ManifestObject::Base(_));
        if !is_base && !planted::has(PlantedBug::CollectNeededVersions) {
            return Err(ManifestError::Missing { name: commit_name(org, base) });
        }
        let mut removed = 0;
        for version in listed.smallest..base.get() {
            let name = commit_name(org, ManifestVersion::new(version));
            match self.store().delete(&object_path(&name)).await {
                Ok(()) => removed += 1,
                // By an earlier try whose response was lost.
                Err(Error::NotFound { .. }) => {}
                Err(source) => return Err(ManifestError::store(name, source)),
            }
        }
        Ok(removed)
    }
}
