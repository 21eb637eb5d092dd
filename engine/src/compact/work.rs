//! One merge, from its inputs to the commit that replaces them.

use std::sync::Arc;
use std::time::Duration;

use durable::Clock;
use storage_format::SegmentId;

use super::Merged;
use super::merge::MergeJob;
use super::pace::Pacer;
use crate::commit::{Commit, CommitReason, Committer};
use crate::error::EngineError;
use crate::manifest::ManifestChange;
use crate::org::Org;
use crate::planted::{self, PlantedBug};

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
        let Some((encoded, content)) = job.encode(&mut pacer).await? else { return Ok(None) };
        let late = planted::has(PlantedBug::NameBeforePut).then(|| encoded.clone());
        // Named by nobody until the commit, and written without the turn: the garbage collection must know.
        let _writing = org.kept().write(encoded.entry.id);
        let merged = if late.is_some() {
            encoded.entry
        } else {
            let merged = job.segments.put(org.id(), encoded).await?;
            job.verify(&merged, content).await?;
            merged
        };
        let removed: Vec<SegmentId> = job.inputs.iter().map(|entry| entry.id).collect();
        let report = Merged {
            segments: removed.len() as u64,
            rows: merged.rows,
            bytes_read: job.bytes(),
            bytes_written: merged.bytes,
        };
        let mut turn = commits.turn(&org).await;
        let manifest = turn.manifest();
        if !job.inputs.iter().all(|input| manifest.segments().contains(input)) {
            // Another change was faster, such as an earlier try of this one whose response was lost.
            org.suspect();
            return Ok(None);
        }
        let change = ManifestChange { added: vec![merged], removed: removed.clone(), ..turn.unchanged() };
        turn.commit(Commit { reason: CommitReason::Compaction, change, flushed: None }).await?;
        org.kept().replace(removed, clock.monotonic());
        org.suspect();
        drop(turn);
        if let Some(encoded) = late {
            // As a queue of uploads would, in its own time.
            clock.sleep(Duration::from_secs(2)).await;
            job.segments.put(org.id(), encoded).await?;
        }
        Ok(Some(report))
    }
}
