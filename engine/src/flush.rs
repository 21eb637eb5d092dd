//! Write buffers into segments: freeze, split by window, resolve against older segments, write, commit, swap.
//!
//! A step of maintenance over injected clock, store and freezer: [`FlushStep`] looks at what is due and does it. Recovery
//! uses the [`Flusher`] alone when memory runs short. It owns the order of these things and what
//! is done after failures (the frozen buffer stays, is tried again after a pause, and nothing is lost). It does not own
//! the swap of the active buffer (the single writer does, when asked) nor the WAL: it tells up to which LSN that may
//! go. A buffer that cannot be flushed because its organisation's stored data is damaged or missing is not tried again
//! here: the organisation is in trouble, which is for `trouble` to mend. So is one whose flush meets a defect of this
//! program again and again.
//!
//! Crash consistency, WAL and objects: until the manifest commit the flush never happened: the WAL holds every record,
//! and replay builds the buffer again; objects already written are orphans, named by nobody, for garbage collection to
//! sweep. The commit is one object: segments, conflicts, covered LSN, spools and totals appear at once. A crash after
//! it and before the WAL is trimmed: replay skips what the manifest covers. Only a commit that is known to have
//! happened moves the LSN up to which the WAL may go.

mod flusher;
mod resolve;
mod schedule;

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use durable::Clock;
use futures::StreamExt as _;
use futures::future::BoxFuture;
use storage_format::{Millis, OrgId};
use tokio::sync::oneshot;

use crate::config::EngineConfig;
use crate::error::{EngineError, EngineErrorKind};
use crate::health::{Condition, Health};
use crate::maintain::{Maintenance, Pace, Progress, Stop, back_off};
use crate::metrics;
use crate::org::{Org, Orgs};
use crate::wal::WalDirectory;

pub(crate) use flusher::Flusher;
pub(crate) use schedule::FlushReason;
use schedule::{Candidate, Pressure, plan};

/// Failures in a row, all of a kind that no time mends, after which an organisation is in trouble: its buffers and its
/// part of the log must not be in the way of others.
const DEFECTS_MAX: u32 = 5;

/// Organisations in memory for which the log is looked at after each of their flushes; with more of them it is looked at
/// less often, because a look asks each for its first record, and ten thousand flushes would ask a hundred million times.
const TRIM_ORGS: usize = 128;

/// Shortest pause after a step that found nothing to do.
const IDLE_PAUSE: Duration = Duration::from_millis(20);

/// What flushes did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct FlushReport {
    /// Write buffers flushed.
    pub buffers: u64,
    /// Readings kept: written to segments under keys that were new.
    pub readings: u64,
    /// Samples that were there already with the same value.
    pub duplicates: u64,
    /// Samples that had another value than the first one.
    pub conflicts: u64,
    /// Samples that filled an empty channel of a reading that was there.
    pub filled: u64,
    /// Segments and conflicts objects written.
    pub segments: u64,
    /// Bytes of them.
    pub bytes: u64,
}

impl FlushReport {
    pub(crate) fn add(&mut self, other: Self) {
        self.buffers += other.buffers;
        self.readings += other.readings;
        self.duplicates += other.duplicates;
        self.conflicts += other.conflicts;
        self.filled += other.filled;
        self.segments += other.segments;
        self.bytes += other.bytes;
    }
}

/// Asks the single writer to freeze an organisation's active buffer.
pub(crate) trait Freezer: Send + Sync {
    /// Answers when it is done, whether there was anything in it or not.
    fn freeze(&self, org: OrgId) -> BoxFuture<'_, Result<(), EngineError>>;
}

/// Somebody waits for a flush.
pub(crate) struct FlushRequest {
    /// Of one organisation, or of all.
    pub(crate) org: Option<OrgId>,
    /// Whether organisations in trouble are left out without an error.
    pub(crate) leaves_trouble: bool,
    /// Told what happened.
    pub(crate) done: oneshot::Sender<Result<FlushReport, EngineError>>,
}

/// The last failures of an organisation's flush.
#[derive(Debug, Clone)]
pub(crate) struct FlushFailure {
    /// How many in a row.
    pub(crate) failures: u32,
    /// How many of the last ones in a row were defects of this program.
    defects: u32,
    /// When the first of them was, by the clock of day.
    pub(crate) since: Millis,
    /// Whether the log has it. It has not what is the store's trouble, and everybody's.
    logged: bool,
    /// Not tried again before this monotonic time.
    pub(crate) not_before: Duration,
    /// The last one.
    pub(crate) error: EngineError,
}

impl FlushFailure {
    /// Counts an error that is a defect of this program; returns whether there were enough of them in a row.
    fn is_hopeless(&mut self, error: &EngineError) -> bool {
        let is_defect = error.kind() == EngineErrorKind::Failed && !error.is_of_the_store() && !error.ends_the_engine();
        self.defects = if is_defect { self.defects.saturating_add(1) } else { 0 };
        self.defects >= DEFECTS_MAX
    }
}

/// What waits for the flush, and what it does with it. Shared by the engine and the thread that runs the steps.
pub(crate) struct FlushStep {
    orgs: Arc<Orgs>,
    flusher: Flusher,
    freezer: Box<dyn Freezer>,
    wal: Arc<WalDirectory>,
    clock: Arc<dyn Clock>,
    health: Arc<Health>,
    age: Duration,
    interval: Duration,
    retry: (Duration, Duration),
    concurrency: usize,
    requests: Mutex<Vec<FlushRequest>>,
    failures: Mutex<HashMap<OrgId, FlushFailure>>,
}

/// What one step did.
#[derive(Debug, Default)]
struct FlushOutcome {
    /// All that succeeded, together.
    report: FlushReport,
    /// What failed; nothing of it is lost.
    failed: Vec<(OrgId, EngineError)>,
    /// The engine must end.
    fatal: Option<EngineError>,
}

impl FlushOutcome {
    /// Was nothing due?
    fn is_idle(&self) -> bool {
        self.report.buffers == 0 && self.failed.is_empty()
    }
}

impl FlushStep {
    pub(crate) fn new(
        orgs: Arc<Orgs>,
        flusher: Flusher,
        freezer: Box<dyn Freezer>,
        wal: Arc<WalDirectory>,
        clock: Arc<dyn Clock>,
        health: Arc<Health>,
        config: &EngineConfig,
    ) -> Self {
        Self {
            orgs,
            flusher,
            freezer,
            wal,
            clock,
            health,
            age: config.flush_age,
            interval: config.schedule_interval,
            retry: (config.flush_retry_min, config.flush_retry_max),
            concurrency: config.flush_concurrency,
            requests: Mutex::new(Vec::new()),
            failures: Mutex::new(HashMap::new()),
        }
    }

    /// Puts a request where the next step finds it.
    pub(crate) fn request(&self, request: FlushRequest) {
        self.requests.lock().unwrap_or_else(PoisonError::into_inner).push(request);
        self.orgs.flush_wanted().notify_one();
    }

    /// Organisations whose last flush failed.
    pub(crate) fn failures(&self) -> HashMap<OrgId, FlushFailure> {
        self.failures.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Returns the number of organisations whose last flush failed.
    pub(crate) fn failing(&self) -> usize {
        self.failures.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// Flushes what was asked for and what is due, several organisations at a time, then lets the WAL go as far as it
    /// may.
    async fn flush_due(&self) -> FlushOutcome {
        let requests = std::mem::take(&mut *self.requests.lock().unwrap_or_else(PoisonError::into_inner));
        let due = self.due(&requests);
        let mut outcome = FlushOutcome::default();
        // In the order of the organisations: which error is told must not hang on a hash.
        let mut results: BTreeMap<OrgId, Result<FlushReport, EngineError>> = BTreeMap::new();
        {
            let mut running = futures::stream::iter(due)
                .map(|(org, reason)| async move { (org.id(), self.flush(&org, reason).await) })
                .buffer_unordered(self.concurrency);
            while let Some((org, result)) = running.next().await {
                results.insert(org, result);
                // Now and then, not only at the end: a long row of flushes must not hold the WAL.
                if results.len().is_multiple_of(1 + self.orgs.len() / TRIM_ORGS) {
                    self.trim(&mut outcome);
                }
                if let Some(error) = &outcome.fatal {
                    for request in requests {
                        let _gone = request.done.send(Err(error.clone()));
                    }
                    return outcome;
                }
            }
        }
        for (org, result) in &results {
            match result {
                Ok(report) => outcome.report.add(*report),
                Err(error) => outcome.failed.push((*org, error.clone())),
            }
        }
        let troubles = self.orgs.troubles().all();
        for (org, trouble) in &troubles {
            // Not those alone that are loaded.
            results.entry(*org).or_insert_with(|| Err(trouble.answer(*org)));
        }
        for request in requests {
            let is_left = |org: OrgId| request.leaves_trouble && troubles.iter().any(|(of, _)| *of == org);
            let answer = answer(request.org, &results, is_left);
            let _gone = request.done.send(answer);
        }
        self.trim(&mut outcome);
        outcome
    }

    /// Lets go what segments hold. A file that cannot be removed costs space, no more, and the next call tries again.
    fn trim(&self, outcome: &mut FlushOutcome) {
        match self.wal.trim(self.orgs.first_unflushed()) {
            Ok(_) => {}
            Err(error) if error.kind() == EngineErrorKind::Retry => {
                tracing::warn!(%error, "the WAL keeps a file that is no longer needed");
            }
            Err(error) => outcome.fatal = Some(error),
        }
    }

    fn due(&self, requests: &[FlushRequest]) -> Vec<(Arc<Org>, FlushReason)> {
        let mut due: Vec<(Arc<Org>, FlushReason)> = Vec::new();
        if requests.iter().any(|request| request.org.is_none()) {
            due.extend(self.orgs.all().into_iter().map(|org| (org, FlushReason::Asked)));
            due.sort_by_key(|(org, _)| org.id());
            return due;
        }
        for asked in requests.iter().filter_map(|request| self.orgs.get(request.org?)) {
            if due.iter().all(|(org, _)| org.id() != asked.id()) {
                due.push((asked, FlushReason::Asked));
            }
        }
        let (candidates, pressure) = (self.candidates(), self.pressure());
        if self.orgs.troubles().len() > 0 && (pressure.wal_cut.is_some() || pressure.memory_is_high()) {
            self.orgs.troubles().want_room();
        }
        for (org, reason) in plan(&candidates, &pressure) {
            if let Some(org) = self.orgs.get(org)
                && requests.iter().all(|request| request.org != Some(org.id()))
            {
                due.push((org, reason));
            }
        }
        due
    }

    fn candidates(&self) -> Vec<Candidate> {
        let failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        let candidate = |org: &Arc<Org>| {
            if self.orgs.troubles().has(org.id()) {
                return None;
            }
            let state = org.state();
            Some(Candidate {
                org: org.id(),
                has_frozen: !state.frozen.is_empty(),
                bytes: state.buffer_bytes(),
                oldest_received: state.buffers().filter_map(|buffer| buffer.oldest_received()).min()?,
                first_lsn: state.first_unflushed()?,
                not_before: failures.get(&org.id()).map(|failure| failure.not_before),
            })
        };
        let mut all: Vec<Candidate> = self.orgs.all().iter().filter_map(candidate).collect();
        // One order for one state, whatever the map's: a simulation replays.
        all.sort_by_key(|candidate| candidate.org);
        all
    }

    fn pressure(&self) -> Pressure {
        Pressure {
            now: self.clock.now(),
            monotonic: self.clock.monotonic(),
            memory_used: self.orgs.budget().used(),
            memory_high: self.orgs.budget().high_water(),
            wal_cut: self.wal.cut(),
            flush_age: self.age,
        }
    }

    async fn flush(&self, org: &Org, reason: FlushReason) -> Result<FlushReport, EngineError> {
        if let Some(trouble) = self.orgs.troubles().get(org.id()) {
            return Err(trouble.answer(org.id()));
        }
        let start = self.clock.monotonic();
        let result = async {
            // What was full is frozen already, and what came since may grow.
            if reason != FlushReason::Size {
                self.freezer.freeze(org.id()).await?;
            }
            self.flusher.flush_frozen(org).await
        }
        .await;
        match &result {
            Ok(report) => self.succeeded(org, reason, report, start),
            Err(error) => self.failed(org, reason, error),
        }
        result
    }

    fn succeeded(&self, org: &Org, reason: FlushReason, report: &FlushReport, start: Duration) {
        let failure = self.failures.lock().unwrap_or_else(PoisonError::into_inner).remove(&org.id());
        if let Some(failure) = failure.filter(|failure| failure.logged) {
            tracing::info!(org = %org.id(), failures = failure.failures, since = %failure.since,
                "an organisation that could not flush can again");
        }
        if report.buffers > 0 {
            let took = self.clock.monotonic().saturating_sub(start);
            metrics::flushed(reason.as_str(), took.as_secs_f64());
            metrics::flush_wrote(report.readings, report.duplicates, report.conflicts, report.segments, report.bytes);
            tracing::debug!(org = %org.id(), reason = reason.as_str(), ?took, ?report, "flushed");
        }
    }

    /// Hands the organisation over to those who mend; its buffers are still in memory.
    fn is_in_trouble(&self, org: &Org, error: &EngineError) {
        self.failures.lock().unwrap_or_else(PoisonError::into_inner).remove(&org.id());
        self.orgs.troubles().begin(org.id(), error, true, self.clock.now());
    }

    fn failed(&self, org: &Org, reason: FlushReason, error: &EngineError) {
        org.suspect();
        metrics::flush_failed(error);
        if error.is_of_one_org() {
            return self.is_in_trouble(org, error);
        }
        let of_the_store = error.is_of_the_store();
        if of_the_store {
            self.health.begin_with(Condition::StoreUnavailable, error);
        }
        let (failures, pause, first) = {
            let mut failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
            let known = failures.entry(org.id()).or_insert_with(|| FlushFailure {
                failures: 0,
                since: self.clock.now(),
                defects: 0,
                logged: false,
                not_before: Duration::ZERO,
                error: error.clone(),
            });
            known.failures = known.failures.saturating_add(1);
            let pause = back_off(known.failures, self.retry.0, self.retry.1);
            if known.is_hopeless(error) {
                drop(failures);
                return self.is_in_trouble(org, error);
            }
            known.not_before = self.clock.monotonic().saturating_add(pause);
            known.error = error.clone();
            let first = !known.logged && !of_the_store;
            known.logged |= first;
            (known.failures, pause, first)
        };
        if first {
            tracing::warn!(org = %org.id(), reason = reason.as_str(), failures, %error,
                "an organisation cannot flush; its readings stay in the WAL and in memory, and it is tried again");
        } else {
            tracing::debug!(org = %org.id(), reason = reason.as_str(), failures, ?pause, %error, "a flush failed");
        }
    }
}

#[async_trait]
impl Maintenance for FlushStep {
    fn pace(&self) -> Pace {
        Pace { idle: IDLE_PAUSE.min(self.interval), interval: self.interval }
    }

    async fn woken(&self) {
        self.orgs.flush_wanted().notified().await;
    }

    async fn run_once(&self, _: &Stop) -> Result<Progress, EngineError> {
        let outcome = self.flush_due().await;
        let progress = if outcome.is_idle() { Progress::Idle } else { Progress::Worked };
        let fatal = outcome.failed.into_iter().map(|(_, error)| error).find(EngineError::ends_the_engine);
        outcome.fatal.or(fatal).map_or(Ok(progress), Err)
    }
}

/// What to tell somebody who asked for `org` (or for all), without those that are left out when they fail.
fn answer(
    org: Option<OrgId>,
    results: &BTreeMap<OrgId, Result<FlushReport, EngineError>>,
    is_left: impl Fn(OrgId) -> bool,
) -> Result<FlushReport, EngineError> {
    let mut report = FlushReport::default();
    for (id, result) in results {
        match result {
            _ if org.is_some_and(|org| org != *id) => {}
            Err(_) if is_left(*id) => {}
            result => report.add(result.clone()?),
        }
    }
    Ok(report)
}

/// The error of a flush whose freezer has gone: the engine stops.
pub(crate) fn writer_gone() -> EngineError {
    EngineError::new(
        EngineErrorKind::Closed,
        "the engine is closing or has stopped",
        "What is not flushed is in the WAL and is read at the next start.",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defects_in_a_row_are_hopeless_and_the_store_never_is() {
        let defect = flusher::defect("a test");
        let of_the_store = EngineError::new(EngineErrorKind::Failed, "", "")
            .because(object_store::Error::NotImplemented { operation: String::new(), implementer: String::new() });
        let passing = EngineError::new(EngineErrorKind::Retry, "", "");
        let mut failure = FlushFailure {
            failures: 0,
            since: Millis::EPOCH,
            defects: 0,
            logged: false,
            not_before: Duration::ZERO,
            error: defect.clone(),
        };
        for other in [of_the_store, passing] {
            for _ in 1..DEFECTS_MAX {
                assert!(!failure.is_hopeless(&defect));
            }
            for _ in 0..DEFECTS_MAX {
                assert!(!failure.is_hopeless(&other));
            }
        }
        let told: Vec<bool> = (0..DEFECTS_MAX).map(|_| failure.is_hopeless(&defect)).collect();
        assert_eq!(told, [false, false, false, false, true]);
    }
}
