//! The one door through which an organisation's manifest changes: flushes, compaction, garbage collection, and whatever
//! comes.
//!
//! Whoever wants to change a manifest takes the organisation's [`Turn`], looks at the manifest, and hands in a change
//! with its reason. The door commits it, finds out what happened when the store's response was lost, and swaps the
//! organisation's state.
//!
//! Invariants: an organisation's manifest changes within its turn only, and one turn exists at a time; a record is never
//! flushed twice; what another process has committed is taken over only where it cannot contradict what is in memory.
//!
//! Crash consistency, objects and manifest: all objects that a change names are durable before it is handed in, and the
//! commit is one object, so it is made wholly or not at all. When the store does not say whether it was made, the
//! manifest is loaded again and looked at. A flush was made if the manifest covers its buffer's records: they are in
//! segments, and the buffer goes; if not, it stays. Any other change was made if the version after the one that it was
//! made from carries its nonce.

use std::sync::{Arc, OnceLock};

use durable::PutError;
use storage_format::manifest::Manifest;
use storage_format::{Lsn, ManifestVersion, OrgId};
use tokio::sync::MutexGuard;

use crate::buffer::WriteBuffer;
use crate::error::{EngineError, EngineErrorKind};
use crate::health::{Condition, Health};
use crate::manifest::{CommitError, ManifestChange, ManifestError, ManifestStore, commit_name};
use crate::org::{Frontier, Org};
use crate::planted::{self, PlantedBug};

/// Why a manifest changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum CommitReason {
    /// A write buffer's readings are in segments.
    Flush,
    /// Segments are replaced by one with their rows.
    Compaction,
    /// Windows that are older than a policy allows are dropped.
    Retention,
    /// Rollups of a segment are added.
    Rollup,
    /// A version is taken, so that objects that nobody names can be removed.
    Garbage,
}

impl CommitReason {
    /// A word for logs.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Flush => "flush",
            Self::Compaction => "compaction",
            Self::Retention => "retention",
            Self::Rollup => "rollup",
            Self::Garbage => "garbage",
        }
    }
}

/// A change of a manifest, and why it is made.
#[derive(Debug)]
pub(crate) struct Commit<'a> {
    pub(crate) reason: CommitReason,
    /// What changes. Unless a buffer is flushed, it begins as [`Turn::unchanged`].
    pub(crate) change: ManifestChange,
    /// The frozen buffer whose records the change puts into segments: it leaves the state with the commit.
    pub(crate) flushed: Option<&'a Arc<WriteBuffer>>,
}

/// What was known of an organisation's manifest before objects were written without its turn.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sight {
    version: ManifestVersion,
    is_claimed: bool,
}

/// Commits for all organisations of a store.
#[derive(Debug)]
pub(crate) struct Committer {
    manifests: Arc<ManifestStore>,
    /// Where the log ended when this process began: records up to there may be flushed by earlier processes.
    log_end: Arc<OnceLock<Lsn>>,
    health: Arc<Health>,
}

/// The right to change one organisation's manifest, and what is known of the times of its loggers meanwhile.
#[derive(Debug)]
pub(crate) struct Turn<'a> {
    committer: &'a Committer,
    org: &'a Org,
    frontier: MutexGuard<'a, Frontier>,
}

impl Committer {
    pub(crate) fn new(manifests: Arc<ManifestStore>, log_end: Arc<OnceLock<Lsn>>, health: Arc<Health>) -> Self {
        Self { manifests, log_end, health }
    }

    /// Waits for the organisation's turn. Until it is dropped, nobody else changes the manifest.
    pub(crate) async fn turn<'a>(&'a self, org: &'a Org) -> Turn<'a> {
        Turn { committer: self, org, frontier: org.turn.lock().await }
    }

    /// Notes what is known of the organisation's manifest, before objects are written that a commit is to name: see
    /// [`Turn::check`].
    pub(crate) fn sight(&self, org: &Org) -> Sight {
        Sight { version: org.state().manifest.version(), is_claimed: self.manifests.has_claimed(org.id()) }
    }

    /// Does what this manifest covers come from the log that this process writes? An earlier process can only have
    /// flushed what was in the log when this one began; what is past that must be this one's own.
    async fn is_of_this_log(&self, org: OrgId, manifest: &Manifest) -> Result<bool, EngineError> {
        match self.log_end.get() {
            Some(end) if manifest.lsn_covered() > *end => Ok(self.manifests.is_own(org, manifest.version()).await?),
            _ => Ok(true),
        }
    }
}

impl Turn<'_> {
    /// The organisation's manifest, which stays as it is until [`Turn::commit`].
    pub(crate) fn manifest(&self) -> Arc<Manifest> {
        Arc::clone(&self.org.state().manifest)
    }

    /// What is known of the last times of the organisation's loggers.
    pub(crate) fn frontier(&mut self) -> &mut Frontier {
        &mut self.frontier
    }

    /// A change that changes nothing, to be filled in: it keeps which records are covered, and the flush number.
    pub(crate) fn unchanged(&self) -> ManifestChange {
        let manifest = self.manifest();
        ManifestChange { lsn_covered: manifest.lsn_covered(), flush: manifest.flush(), ..ManifestChange::default() }
    }

    /// Returns whether segments hold a frozen buffer's records already, by an earlier commit whose response was lost.
    /// Then the buffer has left the state.
    ///
    /// # Errors
    /// [`EngineErrorKind::Fenced`] when they hold a part of them: only a start can tell which.
    pub(crate) fn settle(&self, buffer: &Arc<WriteBuffer>) -> Result<bool, EngineError> {
        let manifest = self.manifest();
        match covered(&manifest, buffer) {
            Covered::Nothing => Ok(false),
            Covered::All => {
                self.org.flushed(&manifest, buffer);
                Ok(true)
            }
            Covered::Some => Err(late_commit(self.org.id(), manifest.lsn_covered())),
        }
    }

    /// Checks that objects that were written after `sight` are still there as far as other processes are concerned. The
    /// garbage collection of another process makes a commit before it removes what it takes for orphans. That fences a
    /// process that has claimed the organisation; one that has not takes the new manifest over and goes on.
    ///
    /// # Errors
    /// [`EngineErrorKind::Retry`]: they must be written again.
    pub(crate) fn check(&self, sight: Sight) -> Result<(), EngineError> {
        if sight.is_claimed || self.manifest().version() == sight.version {
            return Ok(());
        }
        Err(EngineError::new(
            EngineErrorKind::Retry,
            "another process may have removed objects that were just written",
            "It is tried again with new ones.",
        )
        .at(self.org.id()))
    }

    /// Takes over the newest manifest that the store has, whatever was known before.
    ///
    /// # Errors
    /// When it cannot be read, or the store has none as new as the one that is known; [`EngineErrorKind::Fenced`] when it
    /// covers records that are not of this log.
    pub(crate) async fn reload(&mut self) -> Result<(), EngineError> {
        let (current, org) = (self.manifest(), self.org.id());
        let loaded = Arc::new(self.committer.manifests.load(org).await?);
        if loaded.version() < current.version() {
            let name = commit_name(org, current.version());
            return Err(ManifestError::Missing { name }.into());
        }
        if loaded.lsn_covered() > current.lsn_covered() && !self.committer.is_of_this_log(org, &loaded).await? {
            return Err(another_log(org, &loaded));
        }
        if loaded.version() > current.version() {
            // A commit of this process whose response was lost: its buffer leaves in the same change, so that nobody sees its
            // rows twice.
            match self.org.state().frozen.first().filter(|buffer| covered(&loaded, buffer) == Covered::All) {
                Some(buffer) => self.org.flushed(&loaded, buffer),
                None => self.org.reloaded(&loaded),
            }
        }
        Ok(())
    }

    /// Makes the next version of the manifest and swaps the organisation's state; answers the new manifest.
    ///
    /// # Errors
    /// [`EngineErrorKind::Retry`] when the change was not made, or may be made later: the state is what the store has
    /// now, so that the caller decides anew. [`EngineErrorKind::Fenced`] when another process has taken over. Others
    /// from store, keys and format; then nothing has changed.
    pub(crate) async fn commit(&mut self, commit: Commit<'_>) -> Result<Arc<Manifest>, EngineError> {
        let committed = self.make(commit).await;
        match &committed {
            Ok(_) => self.committer.health.end(Condition::StoreUnavailable),
            Err(error) if error.is_of_the_store() => {
                self.committer.health.begin_with(Condition::StoreUnavailable, error);
            }
            Err(_) => {}
        }
        committed
    }

    async fn make(&mut self, commit: Commit<'_>) -> Result<Arc<Manifest>, EngineError> {
        let Commit { reason, change, flushed } = commit;
        let (current, org) = (self.manifest(), self.org.id());
        debug_assert!(
            flushed.is_some() || (change.lsn_covered, change.flush) == (current.lsn_covered(), current.flush()),
            "only a flush covers records"
        );
        let (added, removed) = (change.added.len(), change.removed.len());
        let committed = match self.committer.manifests.commit(org, &current, change).await {
            Ok(committed) => {
                self.frontier.follow(&current, &committed);
                Arc::new(committed)
            }
            Err(error) if planted::has(PlantedBug::TrustPutErrors) => return Err(error.into()),
            // Whatever happened, the manifest that this process knows may be old.
            Err(error @ (CommitError::Conflict { .. } | CommitError::Put(PutError::MayHaveHappened { .. }))) => {
                self.load_again(&current, flushed, error).await?
            }
            Err(error) => return Err(error.into()),
        };
        match flushed {
            Some(buffer) => self.org.flushed(&committed, buffer),
            None => self.org.reloaded(&committed),
        }
        tracing::debug!(%org, version = %committed.version(), reason = reason.as_str(), added, removed,
            "a manifest has changed");
        Ok(committed)
    }

    /// Looks up what has become of a commit; answers the manifest if it was made.
    async fn load_again(
        &self,
        current: &Manifest,
        flushed: Option<&Arc<WriteBuffer>>,
        error: CommitError,
    ) -> Result<Arc<Manifest>, EngineError> {
        let (committer, org) = (self.committer, self.org.id());
        let loaded = Arc::new(committer.manifests.load(org).await?);
        let made = match flushed {
            Some(buffer) => {
                let covered = covered(&loaded, buffer);
                if covered != Covered::Nothing && !committer.is_of_this_log(org, &loaded).await? {
                    return Err(another_log(org, &loaded));
                }
                covered == Covered::All
            }
            // A commit that covers more is the next flush's to settle, which knows the buffers.
            None if loaded.lsn_covered() != current.lsn_covered() => return Err(error.into()),
            None => match current.version().next() {
                Some(next) if loaded.version() >= next => committer.manifests.is_last_tried(org, next).await?,
                _ => false,
            },
        };
        if made {
            tracing::info!(%org, version = %loaded.version(), "a commit whose response was lost did happen");
            return Ok(loaded);
        }
        self.org.reloaded(&loaded);
        Err(error.into())
    }
}

/// How much of a buffer's records a manifest's segments hold already, if it is of the same log: a commit covers a prefix
/// of an organisation's records, so its one number tells, whether it is an earlier try of this process whose response was
/// lost, or an earlier process's whose put arrived after its end.
#[derive(Debug, PartialEq, Eq)]
enum Covered {
    Nothing,
    Some,
    All,
}

fn covered(manifest: &Manifest, buffer: &WriteBuffer) -> Covered {
    let (Some(first), Some(last)) = (buffer.lsn_first(), buffer.lsn_last()) else { return Covered::Nothing };
    let covered = manifest.lsn_covered();
    if covered < first {
        Covered::Nothing
    } else if covered < last {
        Covered::Some
    } else {
        Covered::All
    }
}

/// Another process has taken over.
fn another_log(org: OrgId, loaded: &Manifest) -> EngineError {
    EngineError::new(
        EngineErrorKind::Fenced,
        "another process has flushed other records under the same numbers",
        "End one of the two: only one may serve a store. What is not flushed stays in this one's WAL.",
    )
    .at(format_args!("organisation {org}, version {}", loaded.version()))
}

/// Some of a buffer's records are flushed and some are not, which only recovery can tell apart.
fn late_commit(org: OrgId, covered: Lsn) -> EngineError {
    EngineError::new(
        EngineErrorKind::Fenced,
        "a commit of an earlier process arrived after its end and covers a part of what is in memory",
        "Start again: the start reads from the WAL what it does not cover. Nothing is lost.",
    )
    .at(format_args!("organisation {org}, covered up to LSN {covered}"))
}

#[cfg(test)]
mod tests;
