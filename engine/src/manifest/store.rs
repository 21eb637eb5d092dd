//! One organisation's manifest at a time: made, loaded, committed.
//!
//! A commit is one object, made with create-if-absent under the next version's name: of two writers one wins. The
//! first commit of this process for an organisation claims the next epoch; whoever finds a newer epoch than its own in
//! its way is fenced and must end. A version counts only if the one before it is there once it was made: the name of one
//! that another writer's garbage collection has removed is free again. The nonce, and in fact every byte, tells a writer
//! its own commit again after a put that was applied and answered with an error.
//!
//! Crash consistency: everything that belongs together is in one object. Before it is there nothing has happened;
//! objects that it would have named are orphans. After it everything has.
//!
//! Owns the claimed epochs. Does not own the state: callers hold the manifest that they last loaded or committed.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use durable::{Clock, PutError, PutOutcome, Random, object_path, put_create, read_object};
use futures::{StreamExt as _, TryStreamExt as _};
use object_store::path::Path;
use object_store::{Error, ObjectStore, ObjectStoreExt as _};
use storage_format::encryption::NONCE_BYTES;
use storage_format::manifest::{
    Manifest, ManifestBase, ManifestDelta, ManifestHeader, ManifestObject, SegmentEntry, SpoolPosition, Totals,
    decode_manifest, encode_manifest,
};
use storage_format::{FlushNumber, Lsn, ManifestVersion, ObjectKey, OrgId, SegmentId, WriterEpoch};

use crate::manifest::OrgKeys;
use crate::manifest::invariants::{self, InvariantError};
use crate::manifest::log::{LOOKS, base_of};
use crate::manifest::{ManifestError, commit_name};

/// Every so many commits hold the whole state, so that loading reads few objects. Part of the format.
pub const BASE_EVERY: u64 = 64;

/// How many objects are read at once while a manifest is loaded.
const READS_MAX: usize = 16;

/// Number of an organisation's own commits that are known again, of those that were made or may have been. While a store
/// loses its responses and cannot be read, each try to change the manifest adds one.
pub(super) const TRIED_MAX: usize = 256;

/// What a commit changes. The version, epoch, nonce and time are the store's to add.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ManifestChange {
    /// Segments and conflicts objects that are live from now on; their objects are durable already.
    pub added: Vec<SegmentEntry>,
    /// Segments and conflicts objects that are not live any more.
    pub removed: Vec<SegmentId>,
    /// Every WAL record of the organisation up to and including this one is in segments.
    pub lsn_covered: Lsn,
    /// The number of the last flush.
    pub flush: FlushNumber,
    /// Spools that got further.
    pub spools: Vec<SpoolPosition>,
    /// What is added to the totals.
    pub totals: Totals,
}

/// Why a commit was not made, or is not known to be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CommitError {
    /// A newer writer has taken over. This process must not write this organisation any more.
    #[error("version {version} is by writer epoch {newer}, this process has {own}")]
    Fenced {
        /// The version that was to be made.
        version: ManifestVersion,
        /// The epoch of whoever made it.
        newer: WriterEpoch,
        /// The epoch of this process.
        own: WriterEpoch,
    },
    /// Another commit was first. Nothing happened; load again and decide anew.
    #[error("version {version} was made by another writer, of epoch {epoch}")]
    Conflict {
        /// The version that was to be made.
        version: ManifestVersion,
        /// The epoch of whoever made it.
        epoch: WriterEpoch,
    },
    /// The commit would break a rule: nothing was written.
    #[error(transparent)]
    Invariant(#[from] InvariantError),
    /// The store did not write, or may have. After [`PutError::MayHaveHappened`] load again before anything else.
    #[error(transparent)]
    Put(PutError),
    /// A key, or the commit that was first, can not be read.
    #[error(transparent)]
    Manifest(#[from] ManifestError),
}

/// The manifests of one store.
#[derive(Debug)]
pub struct ManifestStore {
    store: Arc<dyn ObjectStore>,
    keys: Arc<OrgKeys>,
    random: Arc<dyn Random>,
    clock: Arc<dyn Clock>,
    claimed: Mutex<HashMap<OrgId, WriterEpoch>>,
    /// What this process tried.
    tried: Mutex<HashMap<OrgId, Tried>>,
}

/// Nonces of an organisation's commits that this process tried.
#[derive(Debug, Default)]
struct Tried {
    /// Of the last one, whatever came of it.
    last: Option<[u8; 16]>,
    /// Of those that were made, or may have been: one that is known not to have been made must not push out one that was.
    perhaps_made: VecDeque<[u8; 16]>,
}

impl ManifestStore {
    /// The manifests in this store.
    #[must_use]
    pub fn new(
        store: Arc<dyn ObjectStore>,
        keys: Arc<OrgKeys>,
        random: Arc<dyn Random>,
        clock: Arc<dyn Clock>,
    ) -> Self {
        Self { store, keys, random, clock, claimed: Mutex::default(), tried: Mutex::default() }
    }

    /// The organisations' keys.
    #[must_use]
    pub const fn keys(&self) -> &Arc<OrgKeys> {
        &self.keys
    }

    pub(super) fn store(&self) -> &dyn ObjectStore {
        self.store.as_ref()
    }

    /// Makes an organisation: its key, then its first, empty version. One that is there already is loaded; one that a
    /// crash left half made is finished.
    ///
    /// # Errors
    /// [`CommitError`].
    pub async fn create_org(&self, org: OrgId) -> Result<Manifest, CommitError> {
        self.keys.create(org).await?;
        match self.load(org).await {
            Err(ManifestError::NotFound(_)) => {}
            loaded => return Ok(loaded?),
        }
        // An organisation that has readings was made before: its manifests are lost, and what nobody names is garbage.
        let prefix = Path::from(ObjectKey::segments_prefix(org));
        let first = self.store.list(Some(&prefix)).next().await.transpose();
        if first.map_err(|source| ManifestError::store(&prefix, source))?.is_some() {
            return Err(ManifestError::Missing { name: commit_name(org, ManifestVersion::new(1)) }.into());
        }
        match self.commit(org, &Manifest::empty(), ManifestChange::default()).await {
            // Somebody else made it at the same time.
            Err(CommitError::Conflict { .. } | CommitError::Fenced { .. }) => Ok(self.load(org).await?),
            made => made,
        }
    }

    /// The organisations that have anything in the store, ascending.
    ///
    /// # Errors
    /// [`ManifestError`].
    pub async fn list_orgs(&self) -> Result<Vec<OrgId>, ManifestError> {
        let prefix = Path::from(ObjectKey::ORGS);
        let listed = self.store.list_with_delimiter(Some(&prefix)).await;
        let listed = listed.map_err(|source| ManifestError::store(&prefix, source))?;
        let mut orgs = Vec::new();
        for place in listed.common_prefixes {
            let org = place.filename().and_then(|name| name.parse::<OrgId>().ok());
            // One text form each: another spelling would be another place.
            match org.filter(|org| ObjectKey::org_prefix(*org) == place.as_ref()) {
                Some(org) => orgs.push(org),
                None => return Err(ManifestError::Stranger { name: place.to_string() }),
            }
        }
        orgs.sort_unstable();
        Ok(orgs)
    }

    /// The organisation's newest manifest, wholly checked: the newest base and every commit after it.
    ///
    /// # Errors
    /// [`ManifestError::NotFound`] for an organisation that was never made; everything else names the object that is
    /// damaged, missing, or of somebody else, and where in it.
    pub async fn load(&self, org: OrgId) -> Result<Manifest, ManifestError> {
        let mut look = 1;
        loop {
            match self.load_once(org).await {
                // The log was collected up to a newer base between the list and the read: begin there.
                Err(ManifestError::Missing { name: ObjectKey::Manifest { version, .. } })
                    if look < LOOKS && self.is_collected(org, version).await? =>
                {
                    look += 1;
                }
                loaded => return loaded,
            }
        }
    }

    async fn load_once(&self, org: OrgId) -> Result<Manifest, ManifestError> {
        let Some(newest) = self.newest(org).await? else {
            return Err(ManifestError::NotFound(org));
        };
        let from = base_of(newest);
        // First and alone: it brings the key into memory, which each of the others would read again.
        let mut state = match self.read(org, ManifestVersion::new(from)).await? {
            ManifestObject::Base(base) => base.state,
            ManifestObject::Delta(_) => {
                return Err(ManifestError::Missing { name: commit_name(org, ManifestVersion::new(from)) });
            }
        };
        let objects: Vec<ManifestObject> = futures::stream::iter(from + 1..=newest)
            .map(|version| self.read(org, ManifestVersion::new(version)))
            .buffered(READS_MAX)
            .try_collect()
            .await?;
        for object in objects {
            let delta = object.delta();
            let name = commit_name(org, delta.version);
            state.apply(delta).map_err(|source| ManifestError::Apply { name, source })?;
        }
        Ok(state)
    }

    /// One commit as it was made, for whoever wants to look.
    ///
    /// # Errors
    /// [`ManifestError`].
    pub async fn read(&self, org: OrgId, version: ManifestVersion) -> Result<ManifestObject, ManifestError> {
        match self.read_once(org, version).await {
            // What was damaged on its way here is whole the second time; what is damaged in the store is not.
            Err(ManifestError::Object { .. }) => self.read_once(org, version).await,
            read => read,
        }
    }

    async fn read_once(&self, org: OrgId, version: ManifestVersion) -> Result<ManifestObject, ManifestError> {
        let name = commit_name(org, version);
        let found = read_object(self.store.as_ref(), &object_path(&name)).await;
        let bytes = found.map_err(|source| ManifestError::store(name, source))?;
        let bytes = bytes.ok_or(ManifestError::Missing { name })?;
        let wrong = |source| ManifestError::Object { name, source };
        let header = ManifestHeader::decode(&bytes).map_err(wrong)?;
        let key = self.keys.get(org, header.key_version).await?;
        decode_manifest(org, version, &bytes, &key).map_err(wrong)
    }

    /// Was this version committed by this process, whatever the store had answered?
    ///
    /// # Errors
    /// [`ManifestError`].
    pub(crate) async fn is_own(&self, org: OrgId, version: ManifestVersion) -> Result<bool, ManifestError> {
        let nonce = self.read(org, version).await?.delta().nonce;
        let tried = self.tried.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(tried.get(&org).is_some_and(|tried| tried.perhaps_made.contains(&nonce)))
    }

    /// Returns whether this version is the last commit that this process tried for the organisation.
    ///
    /// # Errors
    /// [`ManifestError`].
    pub(crate) async fn is_last_tried(&self, org: OrgId, version: ManifestVersion) -> Result<bool, ManifestError> {
        let nonce = self.read(org, version).await?.delta().nonce;
        let tried = self.tried.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(tried.get(&org).and_then(|tried| tried.last) == Some(nonce))
    }

    /// Makes the next version: `current` and this change. `current` is what was last loaded or committed.
    ///
    /// # Errors
    /// [`CommitError`]; `current` is still the state unless the error is [`PutError::MayHaveHappened`].
    pub async fn commit(
        &self,
        org: OrgId,
        current: &Manifest,
        change: ManifestChange,
    ) -> Result<Manifest, CommitError> {
        let own = self.epoch(org, current)?;
        let delta = self.delta(current, own, change);
        let version = delta.version;
        let nonce = delta.nonce;
        let after = invariants::check(current, &delta)?;
        let object = if (version.get() - 1).is_multiple_of(BASE_EVERY) {
            ManifestObject::Base(Box::new(ManifestBase { delta, state: after.clone() }))
        } else {
            ManifestObject::Delta(delta)
        };
        let (key, key_version) = self.keys.current(org).await?;
        let mut seal_nonce = [0; NONCE_BYTES];
        self.random.fill(&mut seal_nonce);
        let name = commit_name(org, version);
        let bytes = encode_manifest(org, &object, &key, key_version, seal_nonce)
            .map_err(|source| ManifestError::Object { name, source })?;
        {
            let mut tried = self.tried.lock().unwrap_or_else(PoisonError::into_inner);
            let tried = tried.entry(org).or_default();
            if tried.perhaps_made.len() == TRIED_MAX {
                tried.perhaps_made.pop_front();
            }
            tried.perhaps_made.push_back(nonce);
            tried.last = Some(nonce);
        }
        let put = put_create(self.store.as_ref(), &object_path(&name), &Bytes::from(bytes)).await;
        if matches!(put, Ok(PutOutcome::Exists(_)) | Err(PutError::DidNotHappen { .. })) {
            self.not_made(org, nonce);
        }
        match put.map_err(CommitError::Put)? {
            PutOutcome::Created => {
                self.check_follows(org, version, nonce).await?;
                self.claimed().insert(org, own);
                Ok(after)
            }
            PutOutcome::Exists(bytes) => {
                let header = ManifestHeader::decode(&bytes).map_err(|source| ManifestError::Object { name, source })?;
                Err(self.overtaken(org, version, header.epoch))
            }
        }
    }

    /// The error of a commit that was not made because another writer, of this epoch, had made the version.
    fn overtaken(&self, org: OrgId, version: ManifestVersion, epoch: WriterEpoch) -> CommitError {
        match self.claimed().get(&org).copied() {
            Some(own) if epoch > own => CommitError::Fenced { version, newer: epoch, own },
            // Not claimed yet: the other's commit is simply older than ours would be.
            _ => CommitError::Conflict { version, epoch },
        }
    }

    /// Checks that a version that was just created follows another. Its name also becomes free when a newer writer has
    /// committed far past it and removed old versions. They go in order, so the version before it is gone then, too. What
    /// was created in that case is removed again, because a version apart from the others is a hole in the log.
    async fn check_follows(&self, org: OrgId, version: ManifestVersion, nonce: [u8; 16]) -> Result<(), CommitError> {
        let path = object_path(&commit_name(org, version));
        let unknown = |source| CommitError::Put(PutError::MayHaveHappened { path: path.to_string(), source });
        let before = version.get() - 1;
        if before == 0 {
            return Ok(());
        }
        match self.store.head(&object_path(&commit_name(org, ManifestVersion::new(before)))).await {
            Ok(_) => return Ok(()),
            Err(Error::NotFound { .. }) => {}
            Err(source) => return Err(unknown(source)),
        }
        // A base may have been followed by others already, which need it, and what is before it may be removed.
        let newest = match self.newest_listed(org).await {
            Ok(newest) => newest,
            Err(ManifestError::Store { source, .. }) => return Err(unknown(source)),
            Err(error) => return Err(error.into()),
        };
        if base_of(newest) <= version.get() {
            return match base_of(version.get()) == version.get() {
                true => Ok(()),
                false => Err(ManifestError::Missing { name: commit_name(org, ManifestVersion::new(before)) }.into()),
            };
        }
        self.not_made(org, nonce);
        if let Err(error) = self.store.delete(&path).await {
            tracing::warn!(%org, %version, %error,
                "a version of a manifest that another process had removed was made again, and could not be removed");
        }
        let newer = self.read(org, ManifestVersion::new(newest)).await?.delta().epoch;
        Err(self.overtaken(org, version, newer))
    }

    /// Forgets a commit that is known not to have been made.
    fn not_made(&self, org: OrgId, nonce: [u8; 16]) {
        let mut tried = self.tried.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(tried) = tried.get_mut(&org) {
            tried.perhaps_made.retain(|made| *made != nonce);
        }
    }

    /// Returns whether this process has made a commit for the organisation, so that another writer's fences it.
    pub(crate) fn has_claimed(&self, org: OrgId) -> bool {
        self.claimed().contains_key(&org)
    }

    /// The epoch that a commit after `current` is made with.
    fn epoch(&self, org: OrgId, current: &Manifest) -> Result<WriterEpoch, CommitError> {
        let next = || current.epoch().next().unwrap_or(WriterEpoch::new(u64::MAX));
        match self.claimed().get(&org).copied() {
            // Somebody claimed after us, and `current` was loaded from what they made.
            Some(own) if current.epoch() > own => {
                Err(CommitError::Fenced { version: current.version(), newer: current.epoch(), own })
            }
            Some(own) => Ok(own),
            None => Ok(next()),
        }
    }

    fn delta(&self, current: &Manifest, epoch: WriterEpoch, change: ManifestChange) -> ManifestDelta {
        let mut nonce = [0; 16];
        self.random.fill(&mut nonce);
        ManifestDelta {
            // Past the end of u64 applying refuses the version.
            version: current.version().next().unwrap_or(current.version()),
            epoch,
            nonce,
            created: self.clock.now(),
            lsn_covered: change.lsn_covered,
            flush: change.flush,
            added: change.added,
            removed: change.removed,
            spools: change.spools,
            totals: change.totals,
        }
    }

    fn claimed(&self) -> std::sync::MutexGuard<'_, HashMap<OrgId, WriterEpoch>> {
        self.claimed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
