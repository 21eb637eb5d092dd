//! Compaction: objects of a window into fewer, larger ones, while nothing waits for it.
//!
//! `choose` says what is merged next, `work` does one merge and commits it, `merge` reads, encodes and compares (readings
//! by first-wins, conflicts and fills by their order), `pace` gives way to ingest and flushes. The organisation's turn is taken for
//! the commit alone, so that flushes go on during a merge: they add segments after all others, so what were neighbours
//! still are. `background` is the step of maintenance, one merge after the other, for which `walk` finds organisations that
//! nobody uses; `by_hand` merges all that there is for whoever asks. Both claim windows (`claims`), so that no window is
//! merged twice at a time.
//!
//! Invariants: readings, values, provenance and the flush of every value stay as they are; a commit replaces exactly the
//! objects that were merged, all of them live until then. Replaced objects stay in the store as long as somebody reads
//! an older manifest, and for the garbage collection's delay (`org/kept.rs`).
//!
//! Crash consistency, objects and manifest: the new objects are durable, and were read back, before the commit names
//! them; before the commit nothing has happened, after it everything. A crash in between leaves objects that nobody
//! names. Nothing is resumed: what to merge is found anew in the manifest.

mod background;
mod by_hand;
mod choose;
mod claims;
mod content;
mod lists;
mod merge;
mod pace;
mod readings;
mod rollups;
mod walk;
mod work;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use durable::{Clock, Spawn, beside};
use storage_format::manifest::{Manifest, SegmentEntry};
use storage_format::{Millis, OrgId};

use crate::commit::Committer;
use crate::config::EngineConfig;
use crate::error::EngineError;
use crate::health::Health;
use crate::limits::{COMPACTION_INPUTS_MAX, ROW_GROUPS_MAX};
use crate::maintain::Stop;
use crate::metrics;
use crate::org::{Org, Orgs};
use crate::segments::Segments;

pub(crate) use background::CompactionStep;
pub use by_hand::{CompactFailure, CompactProgress, CompactReport, CompactScope};
use choose::{Aim, MergeLimits, next_merge};
use claims::{Claim, Claims};
use merge::MergeJob;
use pace::{Pacer, Traffic};
use rollups::without_rollups;
use work::Work;

/// The organisations of the store, loaded or not.
#[async_trait]
pub(crate) trait OrgSource: Send + Sync {
    /// All of them, ascending.
    ///
    /// # Errors
    /// What the store says.
    async fn all(&self) -> Result<Vec<OrgId>, EngineError>;

    /// An organisation's newest manifest, without loading the organisation; `None` if there is none.
    ///
    /// # Errors
    /// What the store says, or its bytes.
    async fn look(&self, org: OrgId) -> Result<Option<Arc<Manifest>>, EngineError>;

    /// Returns whether the store has objects of the organisation, which is not loaded, that this manifest, its newest, does
    /// not name.
    ///
    /// # Errors
    /// What the store says.
    async fn has_orphans(&self, org: OrgId, manifest: &Manifest) -> Result<bool, EngineError>;

    /// Loads the organisation.
    ///
    /// # Errors
    /// As [`OrgSource::look`].
    async fn load(&self, org: OrgId) -> Result<Arc<Org>, EngineError>;
}

/// Merges windows of any organisation, for the background and for whoever asks.
pub(crate) struct Compactor {
    orgs: Arc<Orgs>,
    source: Arc<dyn OrgSource>,
    commits: Arc<Committer>,
    segments: Arc<Segments>,
    /// Where rows are merged: that takes a core for a while.
    spawn: Arc<dyn Spawn>,
    clock: Arc<dyn Clock>,
    health: Arc<Health>,
    claims: Arc<Claims>,
    limits: MergeLimits,
    /// Merges at the same time.
    concurrency: usize,
}

/// What a merge did.
#[derive(Debug, Clone, Copy)]
struct Merged {
    segments: u64,
    rows: u64,
    bytes_read: u64,
    bytes_written: u64,
}

impl Compactor {
    pub(crate) fn new(
        (orgs, source): (&Arc<Orgs>, Arc<dyn OrgSource>),
        commits: &Arc<Committer>,
        segments: &Arc<Segments>,
        spawn: Arc<dyn Spawn>,
        (clock, health): (&Arc<dyn Clock>, &Arc<Health>),
        config: &EngineConfig,
    ) -> Arc<Self> {
        Arc::new(Self {
            orgs: Arc::clone(orgs),
            source,
            commits: Arc::clone(commits),
            segments: Arc::clone(segments),
            spawn,
            clock: Arc::clone(clock),
            health: Arc::clone(health),
            claims: Claims::new(config.flush_concurrency, config.compaction_bytes_max),
            limits: MergeLimits {
                inputs_max: COMPACTION_INPUTS_MAX,
                bytes_max: config.compaction_bytes_max,
                rows_max: (config.row_group_rows.get() as u64).saturating_mul(ROW_GROUPS_MAX),
                small_inputs_min: config.compaction_inputs_min,
            },
            concurrency: config.flush_concurrency,
        })
    }

    fn traffic(&self, stop: Stop) -> Traffic {
        Traffic { orgs: Arc::clone(&self.orgs), health: Arc::clone(&self.health), clock: Arc::clone(&self.clock), stop }
    }

    /// The next work on a window of this manifest: a merge of several objects, or rollups of one segment.
    fn next_work<'a>(
        &self,
        manifest: &Manifest,
        of_window: &'a [SegmentEntry],
        aim: Aim,
        now: Millis,
    ) -> Option<&'a [SegmentEntry]> {
        next_merge(of_window, aim, self.limits).or_else(|| without_rollups(manifest, of_window, now))
    }

    /// Merges inputs of a claimed window, or makes the rollups of a segment that is the only input; `None` if that was
    /// given up because the engine stops, or because it is not wanted any more.
    async fn merge(
        &self,
        org: &Arc<Org>,
        inputs: Vec<SegmentEntry>,
        traffic: &Traffic,
        bytes_per_second: u64,
    ) -> Result<Option<Merged>, EngineError> {
        let window = inputs[0].window;
        let manifest = Arc::clone(&org.state().manifest);
        let fills = manifest.fills().iter().filter(|fills| fills.window == window).cloned().collect();
        let segments = Arc::clone(&self.segments);
        let mut job = MergeJob { segments, org: org.id(), inputs, fills, rolls_up: true };
        // Nobody would name them. Older segments do not come while the window is claimed.
        job.rolls_up = !job.shares_keys(&manifest);
        let _room = self.claims.room(job.bytes()).await;
        let start = self.clock.monotonic();
        let pacer = Pacer::new(traffic.clone(), job.rows(), job.bytes(), bytes_per_second);
        let (org, commits, clock) = (Arc::clone(org), Arc::clone(&self.commits), Arc::clone(&self.clock));
        let id = org.id();
        let is_merge = job.inputs.len() > 1;
        let work = Work { org, commits, clock, job };
        let work = async move { if is_merge { work.run(pacer).await } else { work.roll_up(pacer).await } };
        let merged = beside(&*self.spawn, work).await?;
        if let Ok(Some(merged)) = &merged {
            succeeded(id, merged, self.clock.monotonic().saturating_sub(start));
        }
        merged
    }
}

fn succeeded(org: OrgId, merged: &Merged, took: Duration) {
    metrics::compacted(merged.segments, merged.bytes_read, merged.bytes_written, took.as_secs_f64());
    let Merged { segments, rows, bytes_read, bytes_written } = *merged;
    if segments == 0 {
        tracing::debug!(%org, rows, bytes_read, bytes_written, ?took, "rollups of a segment were made");
        return;
    }
    tracing::debug!(%org, segments, rows, bytes_read, bytes_written, ?took, "segments were merged into one");
}
