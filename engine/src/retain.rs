//! Retention: windows that are wholly older than a policy allows leave the manifest. The only way in which readings are
//! ever removed.
//!
//! Whose policy it is, and what it says, is the caller's to know: here comes a cutoff, and whatever ended by then goes.
//! Two years are the least, whatever the caller says; the commit's own invariant (`manifest/invariants.rs`) holds that
//! once more.
//!
//! Invariants: a window goes with all its objects or not at all; nothing goes before the caller's log has it
//! ([`DropLog::begin`]); the organisation's turn is held from the choice to the commit, so that what goes is what the log
//! has. Objects stay in the store as replaced ones do (`org/kept.rs`), for whoever reads an older manifest.
//!
//! Late readings of a dropped window are written into new segments as any others, and the next run drops those.
//! First-wins cannot look at what is gone.
//!
//! A time of day that has run ahead of the monotonic time since the engine was opened is wrong, and nothing goes by it.
//! A clock that was wrong from the start cannot be told.
//!
//! Crash consistency, log and manifest: the log has the version that the commit is about to make. After a crash in
//! between, the next run looks whether the manifest of that version has lost the windows, and tells the log. A version
//! that is not made yet is taken first, without a change, so that no put that is still under way can make it.

mod choose;
mod count;

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use durable::{Clock, Spawn, beside};
use storage_format::manifest::{Manifest, SegmentEntry, SegmentKind, Totals};
use storage_format::{FlushNumber, ManifestVersion, Millis, OrgId, SegmentId, Window};

use crate::commit::{Commit, CommitReason, Committer, Turn};
use crate::error::{EngineError, EngineErrorKind};
use crate::limits::{DROP_OBJECTS_MAX, KEEP_MONTHS_MIN};
use crate::manifest::ManifestChange;
use crate::metrics;
use crate::org::Org;
use crate::planted::{self, PlantedBug};
use crate::segments::Segments;

use choose::choose;

/// Commits of one run at most; what is left then, the next run drops.
const COMMITS_MAX: usize = 1_000;

/// Most that the time of day may run ahead of the monotonic time: a clock that was set right after a start may jump by as
/// much, and monotonic time stands still while a machine sleeps. A window is dropped that much too early at the worst.
const CLOCK_AHEAD_MAX: Duration = Duration::from_secs(31 * 86_400);

/// A window that goes, with all its objects.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DroppedWindow {
    /// The window.
    pub window: Window,
    /// The last flush whose readings go: later ones of the same window are other readings.
    pub flush_last: FlushNumber,
    /// Readings that go. Before a run has counted them, the rows of its segments, which are as many or a few more.
    pub readings: u64,
    /// All live objects of the window: readings segments first.
    pub objects: Vec<SegmentEntry>,
}

impl DroppedWindow {
    /// The readings segments that go.
    pub fn segments(&self) -> impl Iterator<Item = &SegmentEntry> {
        self.objects.iter().filter(|entry| entry.kind == SegmentKind::Readings)
    }
}

/// What one commit is about to drop.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DropPlan {
    /// Organisation.
    pub org: OrgId,
    /// Windows that ended by then go.
    pub cutoff: Millis,
    /// The version that the commit will make.
    pub version: ManifestVersion,
    /// What goes, by time.
    pub windows: Vec<DroppedWindow>,
}

impl DropPlan {
    /// What a run with this cutoff would drop from this manifest, if none of its segments changes until then.
    #[must_use]
    pub fn of(org: OrgId, manifest: &Manifest, cutoff: Millis) -> Self {
        let version = manifest.version().next().unwrap_or(manifest.version());
        Self { org, cutoff, version, windows: choose(manifest, cutoff, usize::MAX, &HashSet::new()) }
    }

    /// Readings that go.
    #[must_use]
    pub fn readings(&self) -> u64 {
        self.windows.iter().map(|window| window.readings).sum()
    }

    fn objects(&self) -> impl Iterator<Item = &SegmentEntry> {
        self.windows.iter().flat_map(|window| &window.objects)
    }
}

/// Outcome of a drop.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DropOutcome {
    /// All that the plan says is gone.
    Dropped,
    /// Nothing has gone under this plan, nor will.
    Void,
}

/// A drop that was begun, and whose end the log does not know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OpenDrop {
    /// What the log calls it.
    pub id: i64,
    /// The version that its commit was to make.
    pub version: ManifestVersion,
    /// The windows that were to go, and the last flush of each.
    pub windows: Vec<(Window, FlushNumber)>,
}

impl OpenDrop {
    /// Was it this drop that made its version? Asked of a manifest that is not older than that: what was merged since
    /// still has the flushes, and what came later has later ones.
    fn happened(&self, manifest: &Manifest) -> bool {
        let is_gone = |(window, flush_last): &(Window, FlushNumber)| {
            manifest.objects().all(|entry| entry.window != *window || entry.flush_first > *flush_last)
        };
        self.windows.iter().all(is_gone)
    }
}

/// Log in which drops are recorded for ever, before they happen and after. Must not wait for the engine.
#[async_trait]
pub trait DropLog: Send + Sync {
    /// Records durably what is about to go, and answers what the log calls it. Nothing goes when this fails.
    ///
    /// # Errors
    /// When it is not recorded.
    async fn begin(&self, plan: &DropPlan) -> Result<i64, EngineError>;

    /// Records how it ended.
    ///
    /// # Errors
    /// When it is not recorded; the next run does it.
    async fn end(&self, id: i64, outcome: DropOutcome) -> Result<(), EngineError>;

    /// The organisation's drops that were begun and not ended, oldest first.
    ///
    /// # Errors
    /// When they cannot be read.
    async fn open(&self, org: OrgId) -> Result<Vec<OpenDrop>, EngineError>;
}

/// What a run has dropped.
#[derive(Debug, Clone, Default)]
pub struct DropReport {
    /// What went, in one plan for each commit.
    pub plans: Vec<DropPlan>,
    /// Windows that stay although they are old enough, because their readings could not be counted, and why.
    pub failed: Vec<(Window, EngineError)>,
}

/// Drops windows of all organisations.
pub(crate) struct Retention {
    commits: Arc<Committer>,
    segments: Arc<Segments>,
    clock: Arc<dyn Clock>,
    /// The time of day and the monotonic time when the engine was opened.
    opened: (Millis, Duration),
    /// Where readings are counted: that may take a core for a while.
    spawn: Arc<dyn Spawn>,
}

impl Retention {
    pub(crate) fn new(
        commits: &Arc<Committer>,
        segments: &Arc<Segments>,
        clock: &Arc<dyn Clock>,
        spawn: Arc<dyn Spawn>,
    ) -> Self {
        Self {
            commits: Arc::clone(commits),
            segments: Arc::clone(segments),
            clock: Arc::clone(clock),
            opened: (clock.now(), clock.monotonic()),
            spawn,
        }
    }

    /// Returns the time of day, if it agrees with the monotonic time.
    fn now(&self) -> Result<Millis, EngineError> {
        let (now, (opened, monotonic)) = (self.clock.now(), self.opened);
        let passed = self.clock.monotonic().saturating_sub(monotonic).saturating_add(CLOCK_AHEAD_MAX);
        let latest = opened.saturating_add(i64::try_from(passed.as_millis()).unwrap_or(i64::MAX));
        if now <= latest {
            return Ok(now);
        }
        Err(EngineError::new(
            EngineErrorKind::Retry,
            "the machine's clock has jumped ahead, so that nobody knows what is old; nothing was dropped",
            "Set the clock. If it is right now, and was wrong before, start the server again.",
        )
        .at(format_args!("it says {now}; by the time that has passed since the start it is {latest} at the latest")))
    }

    /// Drops what ended by `cutoff`, and settles what earlier runs have left open.
    ///
    /// # Errors
    /// From the log, the store and the manifest. What is recorded as dropped is gone; what was begun is settled by the
    /// next run.
    pub(crate) async fn drop_older(
        &self,
        org: &Org,
        cutoff: Millis,
        log: &dyn DropLog,
    ) -> Result<DropReport, EngineError> {
        // Whatever the clock says, what was left open is settled.
        let (cutoff, wrong_clock) = match self.now() {
            Ok(now) => (cutoff.min(now.months_before(KEEP_MONTHS_MIN)), None),
            Err(error) => (Millis::MIN, Some(error)),
        };
        let mut report = DropReport::default();
        let mut left_out = HashSet::new();
        let mut settled = false;
        for _ in 0..COMMITS_MAX {
            // Counted before the turn is taken: that may read segments.
            let chosen = choose(&org.state().manifest, cutoff, DROP_OBJECTS_MAX, &left_out);
            let mut counted = Vec::with_capacity(chosen.len());
            for window in chosen {
                match self.counted(org.id(), window.clone()).await {
                    Ok(window) => counted.push(window),
                    Err(error) if error.ends_the_engine() => return Err(error),
                    Err(error) => {
                        left_out.insert(window.window);
                        report.failed.push((window.window, error));
                    }
                }
            }
            let mut turn = self.commits.turn(org).await;
            // Before anything else goes: what this run drops must not be taken for what an earlier one was about to.
            if !settled {
                self.settle(&mut turn, org.id(), log).await?;
                settled = true;
            }
            let manifest = turn.manifest();
            let mut windows = choose(&manifest, cutoff, DROP_OBJECTS_MAX, &left_out);
            if windows.is_empty() {
                return wrong_clock.map_or(Ok(report), Err);
            }
            // What has changed since it was counted is counted again, in the next round.
            windows.retain_mut(|window| {
                let known = counted.iter().find(|known| known.window == window.window);
                known.filter(|known| known.objects == window.objects).is_some_and(|known| {
                    window.readings = known.readings;
                    true
                })
            });
            if windows.is_empty() {
                continue;
            }
            let version = manifest.version().next().unwrap_or(manifest.version());
            let plan = DropPlan { org: org.id(), cutoff, version, windows };
            self.commit(org, &mut turn, &plan, log).await?;
            report.plans.push(plan);
        }
        Ok(report)
    }

    async fn commit(
        &self,
        org: &Org,
        turn: &mut Turn<'_>,
        plan: &DropPlan,
        log: &dyn DropLog,
    ) -> Result<(), EngineError> {
        let late = planted::has(PlantedBug::DropUnrecorded);
        let id = if late { 0 } else { log.begin(plan).await? };
        let removed: Vec<SegmentId> = plan.objects().map(|entry| entry.id).collect();
        // A commit whose response is lost may be made and never known as such: then its objects are orphans.
        org.suspect();
        let change = ManifestChange {
            removed,
            totals: Totals { dropped: plan.readings(), ..Totals::default() },
            ..turn.unchanged()
        };
        turn.commit(Commit { reason: CommitReason::Retention, change, flushed: None }).await?;
        let gone = plan.objects().map(|entry| (entry.id, entry.object_key(org.id())));
        org.kept().replace_named(gone, self.clock.monotonic());
        metrics::dropped(plan.readings());
        let (windows, readings) = (plan.windows.len(), plan.readings());
        tracing::info!(org = %plan.org, cutoff = %plan.cutoff, windows, readings, "retention has dropped readings");
        let id = if late { log.begin(plan).await? } else { id };
        log.end(id, DropOutcome::Dropped).await
    }

    /// Tells the log how the drops ended that were begun and whose end it does not know.
    async fn settle(&self, turn: &mut Turn<'_>, org: OrgId, log: &dyn DropLog) -> Result<(), EngineError> {
        for open in log.open(org).await? {
            if turn.manifest().version() < open.version {
                // Its put may be under way still: take its place.
                let change = turn.unchanged();
                turn.commit(Commit { reason: CommitReason::Retention, change, flushed: None }).await?;
            }
            let manifest = turn.manifest();
            if manifest.version() < open.version {
                // The commit just made says that the store has nothing newer, so that this drop is not in it.
                let (ours, recorded) = (manifest.version(), open.version);
                tracing::warn!(%org, version = %ours, %recorded, "a drop of readings was recorded for a version of the \
                    manifest that the store does not have: was it put back to an older state?");
            }
            let outcome = if open.happened(&manifest) { DropOutcome::Dropped } else { DropOutcome::Void };
            tracing::info!(%org, version = %open.version, ?outcome, "a drop that was cut short is settled");
            log.end(open.id, outcome).await?;
        }
        Ok(())
    }

    /// The window with its readings counted exactly.
    async fn counted(&self, org: OrgId, mut window: DroppedWindow) -> Result<DroppedWindow, EngineError> {
        if window.segments().any(|entry| entry.shares_keys) {
            let segments: Vec<SegmentEntry> = window.segments().cloned().collect();
            let all = Arc::clone(&self.segments);
            let count = async move { count::readings(&all, org, &segments).await };
            window.readings = beside(&*self.spawn, count).await??;
        }
        Ok(window)
    }
}

#[cfg(test)]
mod tests;
