//! Compaction: segments of a window into fewer, larger ones, while nothing waits for it.
//!
//! A step of maintenance. `choose` says what is merged next, `merge` reads, encodes and compares, `pace` gives way to
//! ingest and flushes. The organisation's turn is taken for the commit alone, so that flushes go on during a merge: they
//! add segments after all others, so what were neighbours still are. One merge at a time, of one organisation after the
//! other.
//!
//! Invariants: readings, values, provenance and the flush of every row stay as they are; a commit replaces exactly the
//! segments that were merged, all of them live until then. Replaced segments stay in the store as long as
//! somebody reads an older manifest, and for the garbage collection's delay (`org/kept.rs`).
//!
//! Crash consistency, objects and manifest: the new segment is durable, and was read back, before the commit names it;
//! before the commit nothing has happened, after it everything. A crash in between leaves an object that nobody names.
//! Nothing is resumed: what to merge is found anew in the manifest.

mod choose;
mod content;
mod merge;
mod pace;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use durable::{Clock, Spawn, beside};
use storage_format::manifest::SegmentEntry;
use storage_format::{ManifestVersion, OrgId, SegmentId, Window};

use crate::commit::{Commit, CommitReason, Committer};
use crate::config::EngineConfig;
use crate::error::EngineError;
use crate::health::Health;
use crate::limits::{COMPACTION_INPUTS_MAX, ROW_GROUPS_MAX};
use crate::maintain::{Maintenance, Pace, Progress, Stop};
use crate::manifest::ManifestChange;
use crate::metrics;
use crate::org::{Org, Orgs};
use crate::planted::{self, PlantedBug};
use crate::segments::Segments;

use choose::{MergeLimits, next_merge};
use merge::MergeJob;
use pace::{Pacer, Traffic};

/// First pause of an organisation whose merge failed; it doubles up to the longest.
const RETRY_MIN: Duration = Duration::from_secs(10);
const RETRY_MAX: Duration = Duration::from_secs(3600);

/// Merges segments of all organisations.
pub(crate) struct CompactionStep {
    orgs: Arc<Orgs>,
    commits: Arc<Committer>,
    segments: Arc<Segments>,
    /// Where rows are merged: that takes a core for a while.
    spawn: Arc<dyn Spawn>,
    clock: Arc<dyn Clock>,
    health: Arc<Health>,
    limits: MergeLimits,
    bytes_per_second: u64,
    interval: Duration,
    memory: Mutex<Memory>,
}

/// What is known from earlier calls.
#[derive(Debug, Default)]
struct Memory {
    /// The organisation whose segments were merged last.
    last: Option<OrgId>,
    /// For organisations of which nothing is worth a merge: the manifest and the month for which that holds.
    settled: HashMap<OrgId, (ManifestVersion, Window)>,
    /// For organisations whose last merges failed: how many of them, and until when it is not tried again.
    failures: HashMap<OrgId, (u32, Duration)>,
}

/// What a merge did.
#[derive(Debug, Clone, Copy)]
struct Merged {
    segments: u64,
    rows: u64,
    bytes_read: u64,
    bytes_written: u64,
}

/// One merge, with all that it needs to be done beside the loop.
struct Work {
    org: Arc<Org>,
    commits: Arc<Committer>,
    clock: Arc<dyn Clock>,
    job: MergeJob,
}

impl CompactionStep {
    pub(crate) fn new(
        orgs: &Arc<Orgs>,
        commits: &Arc<Committer>,
        segments: &Arc<Segments>,
        spawn: Arc<dyn Spawn>,
        (clock, health): (&Arc<dyn Clock>, &Arc<Health>),
        config: &EngineConfig,
    ) -> Self {
        Self {
            orgs: Arc::clone(orgs),
            commits: Arc::clone(commits),
            segments: Arc::clone(segments),
            spawn,
            clock: Arc::clone(clock),
            health: Arc::clone(health),
            limits: MergeLimits {
                inputs_max: COMPACTION_INPUTS_MAX,
                bytes_max: config.compaction_bytes_max,
                rows_max: (config.row_group_rows.get() as u64).saturating_mul(ROW_GROUPS_MAX),
            },
            bytes_per_second: config.compaction_rate_bytes_max,
            interval: config.compaction_interval,
            memory: Mutex::default(),
        }
    }

    fn memory(&self) -> MutexGuard<'_, Memory> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next merge: of the organisation after the last one that has any.
    fn choose(&self) -> Option<(Arc<Org>, Vec<SegmentEntry>)> {
        let (now, monotonic) = (self.clock.now(), self.clock.monotonic());
        let month = Window::month_of(now);
        let mut orgs = self.orgs.all();
        orgs.sort_by_key(|org| org.id());
        let mut memory = self.memory();
        let first = memory.last.map_or(0, |last| orgs.partition_point(|org| org.id() <= last));
        orgs.rotate_left(first);
        for org in orgs {
            let manifest = Arc::clone(&org.state().manifest);
            let known = (manifest.version(), month);
            let waits = memory.failures.get(&org.id()).is_some_and(|(_, until)| *until > monotonic);
            if waits || memory.settled.get(&org.id()) == Some(&known) {
                continue;
            }
            if let Some(inputs) = next_merge(manifest.segments(), now, self.limits) {
                memory.last = Some(org.id());
                let inputs = match planted::has(PlantedBug::MergeAcross) {
                    true => across(manifest.segments()),
                    false => inputs.to_vec(),
                };
                return Some((org, inputs));
            }
            memory.settled.insert(org.id(), known);
        }
        None
    }

    /// Does one merge; `None` if it was given up because the engine stops, or because it is not wanted any more.
    async fn compact(
        &self,
        org: &Arc<Org>,
        inputs: Vec<SegmentEntry>,
        traffic: &Traffic,
    ) -> Result<Option<Merged>, EngineError> {
        let job = MergeJob { segments: Arc::clone(&self.segments), org: org.id(), inputs };
        let pacer = Pacer::new(traffic.clone(), job.rows(), job.bytes(), self.bytes_per_second);
        let work =
            Work { org: Arc::clone(org), commits: Arc::clone(&self.commits), clock: Arc::clone(&self.clock), job };
        beside(&*self.spawn, work.run(pacer)).await?
    }

    fn succeeded(&self, org: OrgId, merged: &Merged, took: Duration) {
        self.memory().failures.remove(&org);
        metrics::compacted(merged.segments, merged.bytes_read, merged.bytes_written, took.as_secs_f64());
        let Merged { segments, rows, bytes_read, bytes_written } = *merged;
        tracing::debug!(%org, segments, rows, bytes_read, bytes_written, ?took, "segments were merged into one");
    }

    fn failed(&self, org: &Org, error: &EngineError) {
        org.suspect();
        metrics::compaction_failed(error);
        let now = self.clock.monotonic();
        let failures = {
            let mut memory = self.memory();
            let (failures, until) = memory.failures.entry(org.id()).or_default();
            *failures = failures.saturating_add(1);
            let doubled = RETRY_MIN.saturating_mul(1 << (*failures - 1).min(16));
            *until = now.saturating_add(doubled.min(RETRY_MAX));
            *failures
        };
        if failures == 1 {
            tracing::warn!(org = %org.id(), %error, "segments are not merged now; nothing is lost, and it is tried again");
        } else {
            tracing::debug!(org = %org.id(), failures, %error, "a merge of segments failed again");
        }
    }
}

impl Work {
    async fn run(self, mut pacer: Pacer) -> Result<Option<Merged>, EngineError> {
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
        let replaced = job.inputs.iter().map(|entry| (entry.id, entry.object_key(org.id())));
        org.kept().replace_named(replaced, clock.monotonic());
        drop(turn);
        if let Some(encoded) = late {
            // As a queue of uploads would, in its own time.
            clock.sleep(Duration::from_secs(2)).await;
            job.segments.put(org.id(), encoded).await?;
        }
        Ok(Some(report))
    }
}

/// For [`PlantedBug::MergeAcross`]: two segments with another one between them.
fn across(segments: &[SegmentEntry]) -> Vec<SegmentEntry> {
    let apart = segments.windows(3).find(|three| three[0].window == three[2].window && three[2].shares_keys);
    apart.map_or_else(|| segments[..2].to_vec(), |three| vec![three[0].clone(), three[2].clone()])
}

#[async_trait]
impl Maintenance for CompactionStep {
    fn pace(&self) -> Pace {
        Pace { idle: Duration::ZERO, interval: self.interval }
    }

    /// Merges what is worth it, one merge after the other, as long as nothing else needs the machine more.
    async fn run_once(&self, stop: &Stop) -> Result<Progress, EngineError> {
        let traffic = Traffic {
            orgs: Arc::clone(&self.orgs),
            health: Arc::clone(&self.health),
            clock: Arc::clone(&self.clock),
            stop: stop.clone(),
        };
        let mut progress = Progress::Idle;
        while !traffic.is_stopped() && !traffic.is_heavy() {
            let Some((org, inputs)) = self.choose() else { break };
            progress = Progress::Worked;
            let start = self.clock.monotonic();
            match self.compact(&org, inputs, &traffic).await {
                Ok(Some(merged)) => {
                    self.succeeded(org.id(), &merged, self.clock.monotonic().saturating_sub(start));
                }
                Ok(None) => break,
                Err(error) if error.ends_the_engine() => return Err(error),
                Err(error) => self.failed(&org, &error),
            }
        }
        Ok(progress)
    }
}
