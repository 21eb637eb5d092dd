//! Orphans, found and removed: objects that no manifest names: written, and a crash or a failure came in between; or
//! replaced by a merge. `versions` removes versions of the manifest that nobody needs any more.
//!
//! What this process has replaced it knows by name: after the delay it is removed without a look, since a commit that was
//! made says that nobody names it again. That takes one request.
//!
//! An organisation's objects are looked through some time after it was loaded, since an earlier process may have left
//! orphans, and after a flush or a merge of it failed, until a look finds none. One that nobody uses is loaded for that if
//! it has any (`compact/walk.rs`). A store that fails is left alone until the next interval, whoever's turn it is.
//!
//! Invariant: nothing that a manifest names, or may ever name, is removed. Replaced segments stay as
//! long as an older manifest is held, and at least for the delay (`org/kept.rs`). Whoever writes an object knows the manifest
//! by then, and can name it only in the version that follows, or not at all, but for a merge of this process, which says what it writes. So a look ends in a commit of its own,
//! which changes nothing: if it is made, then the manifest that it follows was the newest, and the version in which
//! somebody might have named what was found is taken. No clock takes part in that.
//!
//! Crash consistency: a crash in between leaves a version without a change, or fewer orphans. The next look finds them.

mod versions;

use std::collections::{BTreeMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use durable::{Clock, is_fatal, object_path};
use futures::{StreamExt as _, TryStreamExt as _};
use object_store::path::Path;
use object_store::{Error, ObjectStore};
use storage_format::manifest::Manifest;
use storage_format::{ObjectKey, OrgId, SegmentId};

use crate::commit::{Commit, CommitReason, Committer};
use crate::error::{EngineError, EngineErrorKind};
use crate::maintain::{Maintenance, Pace, Progress, Stop};
use crate::manifest::ManifestStore;
use crate::metrics;
use crate::org::{Org, Orgs};
use crate::planted::{self, PlantedBug};

use versions::Versions;

/// Orphans that one look finds at most: bounds its memory, and how long it takes. The next one finds the others.
const FOUND_MAX: usize = 1000;

/// Removals that fail in a row before the others are left for later: a store that is not there fails all of them, and each
/// takes its time.
const FAILURES_MAX: u32 = 3;

/// Looks through what is due.
pub(crate) struct GarbageStep {
    orgs: Arc<Orgs>,
    commits: Arc<Committer>,
    store: Arc<dyn ObjectStore>,
    clock: Arc<dyn Clock>,
    delay: Duration,
    versions: Versions,
    /// When each of the organisations that may have orphans is looked through, in monotonic time.
    due: Mutex<BTreeMap<OrgId, Duration>>,
}

impl GarbageStep {
    pub(crate) fn new(
        orgs: Arc<Orgs>,
        commits: Arc<Committer>,
        manifests: Arc<ManifestStore>,
        store: Arc<dyn ObjectStore>,
        clock: Arc<dyn Clock>,
        delay: Duration,
    ) -> Self {
        let versions = Versions::new(manifests, delay);
        Self { orgs, commits, store, clock, delay, versions, due: Mutex::default() }
    }

    fn due(&self) -> MutexGuard<'_, BTreeMap<OrgId, Duration>> {
        self.due.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take_due(&self) -> Vec<Arc<Org>> {
        let now = self.clock.monotonic();
        let mut due = self.due();
        for org in self.orgs.all().iter().filter(|org| org.take_suspicion()) {
            due.entry(org.id()).or_insert(now.saturating_add(self.delay));
        }
        let ripe = due.extract_if(.., |_, at| *at <= now).filter_map(|(org, _)| self.orgs.get(org));
        ripe.collect()
    }

    /// Organisations whose turn did not come are looked through as soon as possible.
    fn put_back(&self, orgs: &[Arc<Org>]) {
        let now = self.clock.monotonic();
        self.due().extend(orgs.iter().map(|org| (org.id(), now)));
    }

    /// Removes this organisation's orphans; answers how many.
    async fn collect(&self, org: &Org, stop: &Stop) -> Result<usize, EngineError> {
        let (mut found, some_kept) = self.unnamed(org).await?;
        if some_kept {
            org.suspect();
        }
        if found.is_empty() {
            return Ok(0);
        }
        if !planted::has(PlantedBug::CollectInFlight) {
            // A flush of this process that was under way has ended once the turn is had: what it has written and named
            // is in the manifest by now, and what it has not named never will be.
            let mut turn = self.commits.turn(org).await;
            let (named, kept) = (names(&turn.manifest()), self.kept(org));
            found.retain(|(id, _)| !named.contains(id) && !kept.contains(id));
            if found.is_empty() {
                return Ok(0);
            }
            // The version after the manifest is taken, without a change: see the module.
            let change = turn.unchanged();
            turn.commit(Commit { reason: CommitReason::Garbage, change, flushed: None }).await?;
        }
        let removal = self.remove(found.into_iter().map(|(_, path)| path).collect(), stop).await;
        if !removal.left.is_empty() {
            org.suspect();
        }
        removal.failed.map_or(Ok(removal.count), Err)
    }

    /// Removes what this process has replaced, and nobody reads any more; answers how many objects. What is not removed now
    /// is taken over again after the delay.
    async fn remove_replaced(&self, org: &Org, stop: &Stop) -> Result<usize, EngineError> {
        let now = self.clock.monotonic();
        let replaced = org.kept().take_over(now, self.delay);
        if replaced.is_empty() {
            return Ok(0);
        }
        let removal = self.remove(replaced.iter().map(|(_, name)| object_path(name)).collect(), stop).await;
        let left = replaced.into_iter().filter(|(_, name)| removal.left.contains(&object_path(name)));
        org.kept().replace_named(left, now);
        removal.failed.map_or(Ok(removal.count), Err)
    }

    /// Removes objects, until it is told to stop or the store fails several times in a row.
    async fn remove(&self, paths: Vec<Path>, stop: &Stop) -> Removal {
        let mut left: HashSet<Path> = paths.iter().cloned().collect();
        let count = left.len();
        let mut removed = self.store.delete_stream(futures::stream::iter(paths.into_iter().map(Ok)).boxed());
        let (mut failed, mut in_a_row) = (None, 0);
        let is_through = loop {
            if *stop.borrow() || in_a_row == FAILURES_MAX {
                break false;
            }
            match removed.next().await {
                None => break true,
                Some(Ok(path)) => {
                    left.remove(&path);
                    in_a_row = 0;
                }
                Some(Err(Error::NotFound { .. })) => in_a_row = 0,
                // One that cannot be removed hides none of the others.
                Some(Err(error)) => {
                    in_a_row += 1;
                    failed = failed.or(Some(error));
                }
            }
        };
        if is_through && failed.is_none() {
            // Those that were not there as well.
            left.clear();
        }
        let failed = failed.map(|error| store_error("an orphaned object could not be removed", error));
        Removal { count: count - left.len(), left, failed }
    }

    /// Objects that must stay although the manifest does not name them.
    fn kept(&self, org: &Org) -> HashSet<SegmentId> {
        org.kept().now(self.clock.monotonic(), self.delay)
    }

    /// See [`unnamed`]: what the newest manifest known does not name.
    async fn unnamed(&self, org: &Org) -> Result<(Vec<(SegmentId, Path)>, bool), EngineError> {
        let (named, kept) = (names(&org.state().manifest), self.kept(org));
        unnamed(&*self.store, org.id(), &named, &kept, FOUND_MAX).await
    }
}

/// Returns whether the store has objects of this organisation that this manifest, its newest, does not name. It must not be
/// loaded: nobody writes such objects then.
///
/// # Errors
/// What the store says.
pub(crate) async fn has_unnamed(store: &dyn ObjectStore, org: OrgId, manifest: &Manifest) -> Result<bool, EngineError> {
    Ok(!unnamed(store, org, &names(manifest), &HashSet::new(), 1).await?.0.is_empty())
}

/// Objects of the organisation that are not named, without those that must stay, up to a number; and whether there are any
/// of the latter.
async fn unnamed(
    store: &dyn ObjectStore,
    org: OrgId,
    named: &HashSet<SegmentId>,
    kept: &HashSet<SegmentId>,
    found_max: usize,
) -> Result<(Vec<(SegmentId, Path)>, bool), EngineError> {
    let (mut found, mut some_kept) = (Vec::new(), false);
    // One list for all kinds: what else there is of an organisation is a hundred versions of its manifest.
    let prefix = Path::from(ObjectKey::org_prefix(org));
    let mut listed = store.list(Some(&prefix));
    let failed = |error| store_error("an organisation's objects could not be listed", error);
    while let Some(meta) = listed.try_next().await.map_err(failed)? {
        // What is not ours to name is not ours to remove.
        let id = match meta.location.as_ref().parse() {
            Ok(
                ObjectKey::Segment { org: of, id, .. }
                | ObjectKey::Conflicts { org: of, id, .. }
                | ObjectKey::Fills { org: of, id, .. }
                | ObjectKey::Rollup { org: of, id, .. },
            ) if of == org => id,
            _ => continue,
        };
        if named.contains(&id) {
            continue;
        }
        if kept.contains(&id) {
            some_kept = true;
            continue;
        }
        found.push((id, meta.location));
        if found.len() == found_max {
            break;
        }
    }
    Ok((found, some_kept))
}

/// What a removal of objects came to.
struct Removal {
    count: usize,
    /// Those that may still be there.
    left: HashSet<Path>,
    failed: Option<EngineError>,
}

#[async_trait]
impl Maintenance for GarbageStep {
    /// What is due is looked for a few times within the delay.
    fn pace(&self) -> Pace {
        Pace { idle: Duration::ZERO, interval: self.delay / 8 }
    }

    /// Looks through the organisations that are due, one after the other.
    async fn run_once(&self, stop: &Stop) -> Result<Progress, EngineError> {
        let due = self.take_due();
        let mut progress = if due.is_empty() { Progress::Idle } else { Progress::Worked };
        let orgs = self.orgs.in_order();
        for org in &orgs {
            if *stop.borrow() {
                return Ok(progress);
            }
            match self.remove_replaced(org, stop).await {
                Ok(0) => {}
                Ok(removed) => {
                    progress = Progress::Worked;
                    metrics::collected(removed as u64);
                    tracing::debug!(org = %org.id(), removed, "objects that were replaced are removed");
                }
                Err(error) if error.ends_the_engine() => return Err(error),
                Err(error) => {
                    tracing::warn!(org = %org.id(), %error, "replaced objects are not removed now; it is tried again");
                    self.put_back(&due);
                    return Ok(progress);
                }
            }
        }
        for org in &orgs {
            if *stop.borrow() {
                return Ok(progress);
            }
            match self.versions.collect(org, self.clock.monotonic()).await {
                Ok(0) => {}
                Ok(removed) => {
                    progress = Progress::Worked;
                    metrics::collected(removed);
                    tracing::debug!(org = %org.id(), removed, "versions of a manifest before its newest base are removed");
                }
                Err(error) if error.ends_the_engine() => return Err(error),
                Err(error) => {
                    tracing::warn!(org = %org.id(), %error, "old versions of a manifest are not removed now; it is tried again");
                    if error.is_of_the_store() {
                        self.put_back(&due);
                        return Ok(progress);
                    }
                }
            }
        }
        for (index, org) in due.iter().enumerate() {
            if *stop.borrow() {
                break;
            }
            match self.collect(org, stop).await {
                Ok(0) => {}
                Ok(removed) => {
                    metrics::collected(removed as u64);
                    tracing::info!(org = %org.id(), removed, "objects that a crash or a failure left behind are removed");
                    org.suspect();
                }
                Err(error) if error.ends_the_engine() => return Err(error),
                Err(error) => {
                    tracing::warn!(org = %org.id(), %error, "orphaned objects are not removed now; it is tried again");
                    org.suspect();
                    if error.is_of_the_store() {
                        self.put_back(&due[index + 1..]);
                        break;
                    }
                }
            }
        }
        Ok(progress)
    }
}

/// All that the manifest names.
fn names(manifest: &Manifest) -> HashSet<SegmentId> {
    manifest.objects().map(|entry| entry.id).collect()
}

fn store_error(what: &'static str, error: Error) -> EngineError {
    if is_fatal(&error) {
        return EngineError::new(EngineErrorKind::Failed, what, "Look at the disk, then start again").because(error);
    }
    EngineError::new(EngineErrorKind::Retry, what, "Look at the object store's reach; it is tried again").because(error)
}
