//! One merge, from its inputs to the commit that replaces them.

use std::sync::Arc;
use std::time::Duration;

use durable::Clock;

use super::Merged;
use super::merge::{Encoded, MergeJob};
use super::pace::Pacer;
use crate::commit::{Commit, CommitReason, Committer};
use crate::error::EngineError;
use crate::manifest::ManifestChange;
use crate::org::Org;
use crate::planted::{self, PlantedBug};
use crate::rollup::put_rollups;

/// One merge, with all that it needs to be done beside whoever waits for it.
pub(super) struct Work {
    pub(super) org: Arc<Org>,
    pub(super) commits: Arc<Committer>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) job: MergeJob,
}

impl Work {
    pub(super) async fn run(self, mut pacer: Pacer) -> Result<Option<Merged>, EngineError> {
        let Self { org, commits, clock, job } = self;
        let Some(Encoded { objects, rollups, totals }) = job.encode(&mut pacer).await? else { return Ok(None) };
        let late = planted::has(PlantedBug::NameBeforePut).then(|| objects[0].0.clone());
        // Named by nobody until the commit, and written without the turn: the garbage collection must know.
        let names =
            objects.iter().map(|(object, _)| object.entry.id).chain(rollups.iter().map(|object| object.entry.id));
        let _writing: Vec<_> = names.map(|id| org.kept().write(id)).collect();
        let unnamed = Unnamed(Some(&org));
        let sight = commits.sight(&org);
        let mut added = Vec::with_capacity(objects.len());
        for (object, expected) in objects {
            if late.is_some() && added.is_empty() {
                added.push(object.entry);
                continue;
            }
            let entry = job.segments.put(org.id(), object).await?;
            job.verify(&entry, &expected).await?;
            added.push(entry);
        }
        let rollups = put_rollups(&job.segments, org.id(), rollups).await?;
        let report = Merged {
            segments: job.inputs.len() as u64,
            rows: added[0].rows,
            bytes_read: job.bytes(),
            bytes_written: added.iter().chain(&rollups).map(|entry| entry.bytes).sum(),
        };
        let mut turn = commits.turn(&org).await;
        turn.check(sight)?;
        let manifest = turn.manifest();
        if !job.is_live(&manifest) {
            // Another change was faster, such as an earlier try of this one whose response was lost.
            return Ok(None);
        }
        added[0].shares_keys = job.shares_keys(&manifest);
        // Rows that meet others of the same key are no readings of their own: a reader unites them first.
        let all_named = !added[0].shares_keys || rollups.is_empty();
        if all_named {
            added.extend(rollups);
        }
        let replaced = job.replaced(&manifest);
        let removed = replaced.iter().map(|(id, _)| *id).collect();
        let change = ManifestChange { added, removed, totals, ..turn.unchanged() };
        turn.commit(Commit { reason: CommitReason::Compaction, change, flushed: None }).await?;
        org.kept().replace_named(replaced, clock.monotonic());
        if all_named {
            unnamed.forget();
        }
        drop(turn);
        if let Some(encoded) = late {
            // As a queue of uploads would, in its own time.
            clock.sleep(Duration::from_secs(2)).await;
            job.segments.put(org.id(), encoded).await?;
        }
        Ok(Some(report))
    }
}

/// Objects may be in the store that nobody names, unless this is forgotten: also when whoever waits for a merge has gone.
pub(super) struct Unnamed<'a>(pub(super) Option<&'a Org>);

impl Unnamed<'_> {
    pub(super) fn forget(mut self) {
        self.0 = None;
    }
}

impl Drop for Unnamed<'_> {
    fn drop(&mut self) {
        if let Some(org) = self.0 {
            org.suspect();
        }
    }
}
