//! Compaction for whoever asks for it: of one organisation or of all, until nothing is left to do.
//!
//! Nothing here knows who asked. Merges run where those of the background run, as many at a time as flushes may, and give
//! way to ingest and flushes as those do; only the rate of the background does not hold. When the future is dropped, what
//! is under way is given up, and costs nothing but its work.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use storage_format::manifest::{Manifest, SegmentEntry};
use storage_format::{OrgId, Window};
use tokio::sync::watch;

use super::{Aim, Claim, Compactor, Merged, Traffic};
use crate::error::{EngineError, EngineErrorKind};
use crate::metrics;
use crate::org::Org;

/// Organisations that are looked at and merged at the same time; merges have a limit of their own.
const ORGS_AT_ONCE: usize = 4;
/// Tries of a merge that fails in a way that may pass.
const TRIES: u32 = 4;
/// Pause after the first failed try of a merge; it doubles.
const RETRY_PAUSE: Duration = Duration::from_secs(1);
/// Failures that a report lists. It counts all of them.
const FAILURES_MAX: usize = 100;

/// What to compact.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CompactScope {
    /// One organisation.
    Org(OrgId),
    /// All that the store has.
    All,
}

/// A window, or a whole organisation, whose objects could not be merged. They stay as they are.
#[derive(Debug, Clone)]
pub struct CompactFailure {
    /// Organisation.
    pub org: OrgId,
    /// Window; `None` if the organisation could not be looked at.
    pub window: Option<Window>,
    /// Reason.
    pub error: EngineError,
}

/// What a compaction did.
#[derive(Debug, Clone, Default)]
pub struct CompactReport {
    /// Organisations that were looked at.
    pub orgs: u64,
    /// Merges that were made.
    pub merges: u64,
    /// Objects that they replaced.
    pub segments: u64,
    /// Rows of the merged objects.
    pub rows: u64,
    /// Bytes of what was replaced.
    pub bytes_read: u64,
    /// Bytes of what replaces it.
    pub bytes_written: u64,
    /// Number of windows or organisations that could not be compacted.
    pub failed: u64,
    /// The first of them.
    pub failures: Vec<CompactFailure>,
}

impl CompactReport {
    fn merged(&mut self, merged: &Merged) {
        // Rollups alone replace nothing.
        self.merges += u64::from(merged.segments > 0);
        self.segments += merged.segments;
        self.rows += merged.rows;
        self.bytes_read += merged.bytes_read;
        self.bytes_written += merged.bytes_written;
    }

    fn failed(&mut self, failure: CompactFailure) {
        self.failed += 1;
        if self.failures.len() < FAILURES_MAX {
            self.failures.push(failure);
        }
    }

    fn add(&mut self, other: Self) {
        self.orgs += other.orgs;
        self.merges += other.merges;
        self.segments += other.segments;
        self.rows += other.rows;
        self.bytes_read += other.bytes_read;
        self.bytes_written += other.bytes_written;
        self.failed += other.failed;
        let room = FAILURES_MAX.saturating_sub(self.failures.len());
        self.failures.extend(other.failures.into_iter().take(room));
    }
}

/// Progress of a compaction: after each merge, and after each organisation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CompactProgress {
    /// The organisation that this is about.
    pub org: OrgId,
    /// Merges of that organisation so far.
    pub merges: u64,
    /// Rows that they have written.
    pub rows: u64,
    /// Bytes of what they have replaced.
    pub bytes_read: u64,
    /// Bytes of what they have written.
    pub bytes_written: u64,
    /// Organisations of the scope that are done.
    pub orgs_done: u64,
    /// Organisations of the scope.
    pub orgs: u64,
}

/// Receiver of its progress.
pub(crate) type TellProgress<'a> = &'a (dyn Fn(CompactProgress) + Send + Sync);

/// What an organisation's merges report to.
struct Teller<'a> {
    tell: TellProgress<'a>,
    orgs: u64,
    orgs_done: std::sync::atomic::AtomicU64,
}

impl Teller<'_> {
    fn tell(&self, org: OrgId, report: &CompactReport) {
        (self.tell)(CompactProgress {
            org,
            merges: report.merges,
            rows: report.rows,
            bytes_read: report.bytes_read,
            bytes_written: report.bytes_written,
            orgs_done: self.orgs_done.load(std::sync::atomic::Ordering::Relaxed),
            orgs: self.orgs,
        });
    }

    fn org_done(&self, org: OrgId, report: &CompactReport) {
        self.orgs_done.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        self.tell(org, report);
    }
}

/// Search for an organisation's next step by hand.
enum Next {
    Merge(Claim, Vec<SegmentEntry>),
    /// Somebody else merges what could be merged.
    Busy,
    Nothing,
}

impl Compactor {
    /// Merges all that is worth it, until nothing is left to do.
    ///
    /// # Errors
    /// [`EngineErrorKind::Invalid`] for an organisation that is not there, and what must end the engine. What could not be
    /// merged is in the report.
    pub(crate) async fn compact(
        &self,
        scope: CompactScope,
        tell: TellProgress<'_>,
    ) -> Result<CompactReport, EngineError> {
        let orgs = match scope {
            CompactScope::Org(org) => vec![org],
            CompactScope::All => self.source.all().await?,
        };
        // Held here: merges end when this is dropped.
        let (_go_on, stop) = watch::channel(false);
        let traffic = self.traffic(stop);
        let teller = Teller { tell, orgs: orgs.len() as u64, orgs_done: 0.into() };
        let runs = orgs.into_iter().map(|org| self.compact_org(org, scope, &traffic, &teller));
        let mut runs = pin!(futures::stream::iter(runs).buffer_unordered(ORGS_AT_ONCE));
        let mut report = CompactReport::default();
        while let Some(of_org) = runs.next().await {
            report.add(of_org?);
        }
        Ok(report)
    }

    async fn compact_org(
        &self,
        org: OrgId,
        scope: CompactScope,
        traffic: &Traffic,
        teller: &Teller<'_>,
    ) -> Result<CompactReport, EngineError> {
        let mut report = CompactReport { orgs: 1, ..CompactReport::default() };
        let fatal = |error: &EngineError| error.ends_the_engine();
        match self.open(org).await {
            Ok(None) => {}
            Ok(Some(org)) => self.compact_loaded(&org, traffic, teller, &mut report).await?,
            Err(error) if fatal(&error) => return Err(error),
            // Of one that was named it is the response; of one of all it holds up nobody else.
            Err(error) if scope == CompactScope::Org(org) => return Err(error),
            // Half made: a crash came between its key and its first manifest.
            Err(error) if error.kind() == EngineErrorKind::Invalid => {}
            Err(error) => report.failed(CompactFailure { org, window: None, error }),
        }
        teller.org_done(org, &report);
        Ok(report)
    }

    /// The organisation, if it has something to merge. One that is not loaded is only looked at first.
    async fn open(&self, org: OrgId) -> Result<Option<Arc<Org>>, EngineError> {
        if let Some(loaded) = self.orgs.get(org) {
            return Ok(Some(loaded));
        }
        match self.source.look(org).await? {
            Some(manifest) if !self.has_work(&manifest) => Ok(None),
            _ => self.source.load(org).await.map(Some),
        }
    }

    /// Returns whether anything of this manifest would be merged by hand.
    pub(super) fn has_work(&self, manifest: &Manifest) -> bool {
        let now = self.clock.now();
        windows(manifest)
            .any(|of_window| self.next_work(manifest, of_window, self.aim_by_hand(of_window, now), now).is_some())
    }

    fn aim_by_hand(&self, of_window: &[SegmentEntry], now: storage_format::Millis) -> Aim {
        if of_window[0].window.range().end() <= now { Aim::Few } else { Aim::Even }
    }

    async fn compact_loaded(
        &self,
        org: &Arc<Org>,
        traffic: &Traffic,
        teller: &Teller<'_>,
        report: &mut CompactReport,
    ) -> Result<(), EngineError> {
        let mut failed: Vec<Window> = Vec::new();
        let mut running = FuturesUnordered::new();
        loop {
            let next = if running.len() < self.concurrency { self.next_by_hand(org, &failed) } else { Next::Busy };
            match next {
                Next::Merge(claim, inputs) => {
                    let window = inputs[0].window;
                    running.push(async move {
                        let merged = self.merge_with_tries(org, inputs, traffic).await;
                        drop(claim);
                        (window, merged)
                    });
                    continue;
                }
                Next::Nothing if running.is_empty() => return Ok(()),
                Next::Busy if running.is_empty() => {
                    self.claims.released(org.id()).await;
                    continue;
                }
                Next::Busy | Next::Nothing => {}
            }
            let Some((window, merged)) = running.next().await else { continue };
            match merged {
                Ok(Some(merged)) => {
                    report.merged(&merged);
                    teller.tell(org.id(), report);
                }
                // Another merge was faster: the next look sees what it made.
                Ok(None) => {}
                Err(error) if error.ends_the_engine() => return Err(error),
                Err(error) => {
                    failed.push(window);
                    report.failed(CompactFailure { org: org.id(), window: Some(window), error });
                }
            }
        }
    }

    fn next_by_hand(&self, org: &Org, failed: &[Window]) -> Next {
        let (manifest, now) = (Arc::clone(&org.state().manifest), self.clock.now());
        let mut next = Next::Nothing;
        for of_window in windows(&manifest).filter(|of_window| !failed.contains(&of_window[0].window)) {
            let aim = self.aim_by_hand(of_window, now);
            let Some(inputs) = self.next_work(&manifest, of_window, aim, now) else { continue };
            match self.claims.claim(org.id(), of_window[0].window) {
                Some(claim) => return Next::Merge(claim, inputs.to_vec()),
                None => next = Next::Busy,
            }
        }
        next
    }

    async fn merge_with_tries(
        &self,
        org: &Arc<Org>,
        inputs: Vec<SegmentEntry>,
        traffic: &Traffic,
    ) -> Result<Option<Merged>, EngineError> {
        let mut tries = 1;
        loop {
            match self.merge(org, inputs.clone(), traffic, u64::MAX).await {
                Err(error) if error.kind() == EngineErrorKind::Retry && tries < TRIES && !error.ends_the_engine() => {
                    self.clock.sleep(RETRY_PAUSE.saturating_mul(1 << (tries - 1))).await;
                    tries += 1;
                }
                Err(error) => {
                    org.suspect();
                    metrics::compaction_failed(&error);
                    return Err(error);
                }
                merged => return merged,
            }
        }
    }
}

/// All live objects that can be merged, by kind and window.
pub(super) fn windows(manifest: &Manifest) -> impl Iterator<Item = &[SegmentEntry]> {
    let kinds = [manifest.segments(), manifest.conflicts(), manifest.fills()];
    kinds.into_iter().flat_map(|of_kind| of_kind.chunk_by(|a, b| a.window == b.window))
}
