//! The engine: open, submit, snapshot, flush, close; owns the data directory's lock, the threads and their end.
//!
//! Everything is done in steps elsewhere; here they are put together. Threads: the appender (single writer of WAL and
//! write buffers), one that writes its blocks when much waits, the WAL preparer, and the flush with a small runtime of
//! its own, so that encoding never delays the network's runtime. Invariants: the lock is held until the last thread has
//! ended; after a fatal error nothing is accepted any more, and everybody who watches [`Engine::failed`] knows why.
//!
//! Crash consistency: `close` is only a quicker crash. What it leaves to the WAL, the next open replays.

mod load;
mod lock;
mod monitor;
mod open;
mod status;
#[cfg(any(test, feature = "fault"))]
mod stepped;
mod threads;

use std::collections::HashSet;
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arrow::array::RecordBatch;
use durable::{Clock, Files, Random, Spawn};
use object_store::ObjectStore;
use storage_format::{FrameSequence, GatewayId, Millis, OrgId, SpoolId};
use tokio::sync::{oneshot, watch};

use crate::append::{AppendQueue, Submission, SubmitError, SubmitFailure};
use crate::carried::CarriedFiles;
use crate::compact::{CompactProgress, CompactReport, CompactScope, Compactor};
use crate::config::EngineConfig;
use crate::error::{EngineError, EngineErrorKind};
use crate::flush::{FlushReport, FlushRequest, FlushStep, writer_gone};
use crate::health::{Condition, Health};
use crate::keys::KeyProvider;
use crate::last::LastReadings;
use crate::maintain::{Maintenance, Stop, maintain};
use crate::manifest::ManifestStore;
use crate::org::{Org, Orgs};
use crate::recover::RecoveryReport;
use crate::retain::{DropLog, DropReport, Retention};
use crate::segments::Segments;
use crate::snapshot::Snapshot;
use crate::wal::WalDirectory;

pub(crate) use load::Loader;
pub use status::{EngineHealth, EngineStatus, FlushTrouble, OrgTrouble};
#[cfg(any(test, feature = "fault"))]
pub use stepped::{Appended, Stepped};
use threads::Threads;

/// How long `close` waits for the queue to drain before it flushes.
const DRAIN_MAX: Duration = Duration::from_secs(10);

/// What an engine works with; all of it handed in.
#[derive(Debug, Clone)]
pub struct EngineParts {
    /// The file layer of WAL and lock.
    pub files: Arc<dyn Files>,
    /// Where segments and manifests live.
    pub store: Arc<dyn ObjectStore>,
    /// The master key's holder.
    pub keys: Arc<dyn KeyProvider>,
    /// The clock.
    pub clock: Arc<dyn Clock>,
    /// Randomness for ids, keys and nonces.
    pub random: Arc<dyn Random>,
}

/// An open engine. Dropped without [`Engine::close`] it stops in its own time, as after a crash without the loss.
pub struct Engine {
    core: Arc<Core>,
    /// None in an engine whose steps are called by somebody else.
    threads: tokio::sync::Mutex<Option<Threads>>,
}

/// What the engine's calls and threads share.
struct Core {
    config: EngineConfig,
    orgs: Arc<Orgs>,
    loader: Arc<Loader>,
    queue: Arc<AppendQueue>,
    flush: Arc<FlushStep>,
    carried: Arc<CarriedFiles>,
    compactor: Arc<Compactor>,
    health: Arc<Health>,
    /// Every kind of work in the background.
    maintenance: Vec<Arc<dyn Maintenance>>,
    wal: Arc<WalDirectory>,
    retention: Retention,
    manifests: Arc<ManifestStore>,
    segments: Arc<Segments>,
    last: Arc<LastReadings>,
    store: Arc<dyn ObjectStore>,
    recovery: RecoveryReport,
    clock: Arc<dyn Clock>,
    /// Loads that submissions ask for run here: submitting cannot wait.
    spawn: Arc<dyn Spawn>,
    /// Organisations that a submission asked for, and that are not there: the next submission is answered so.
    unknown: Mutex<HashSet<OrgId>>,
    closing: AtomicBool,
    fatal: watch::Sender<Option<EngineError>>,
    appender_ended: watch::Sender<bool>,
    flush_ended: watch::Sender<bool>,
}

impl std::fmt::Debug for Engine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Engine").field("data_dir", &self.core.config.data_dir).finish_non_exhaustive()
    }
}

impl Core {
    /// Stops accepting for good, and tells why. The first reason stays.
    fn fail(&self, error: &EngineError) {
        let first = self.fatal.send_if_modified(|known| {
            let first = known.is_none();
            known.get_or_insert_with(|| error.clone());
            first
        });
        if first {
            tracing::error!(%error, "the engine has stopped");
            self.closing.store(true, Ordering::Release);
            self.queue.close();
        }
    }

    /// Flushes, and whatever else there is to do in the background, until told to stop, or until an error ends the engine.
    async fn maintain(&self, stop: &Stop) -> Result<(), EngineError> {
        maintain(&self.maintenance, &*self.clock, stop).await
    }

    /// Loads an organisation. One whose manifest cannot be read is in trouble from then on.
    async fn load(&self, org: OrgId) -> Result<Arc<Org>, EngineError> {
        let loaded = self.loader.load(org).await;
        if let Err(error) = &loaded
            && error.kind() == EngineErrorKind::Corrupt
        {
            self.orgs.troubles().begin(org, error, false, self.clock.now());
        }
        loaded
    }

    fn fatal(&self) -> Option<EngineError> {
        self.fatal.borrow().clone()
    }

    fn check_open(&self) -> Result<(), EngineError> {
        match self.fatal() {
            Some(error) => Err(error),
            None if self.closing.load(Ordering::Acquire) => Err(writer_gone()),
            None => Ok(()),
        }
    }
}

impl Engine {
    /// Takes a validated frame if there is room; never waits. The answer comes through the submission's sink, after
    /// the frame is durable and visible.
    ///
    /// The organisation's manifest is loaded in the background when this is its first frame: until then there is no
    /// room for it. A frame of an organisation that does not exist is taken and answered as failed.
    ///
    /// # Errors
    /// [`SubmitError::Full`] hands the frame back, for [`Engine::submit`], which waits. The others are final.
    pub fn try_submit(&self, submission: Submission) -> Result<(), SubmitError> {
        let core = &self.core;
        if core.closing.load(Ordering::Acquire) {
            return Err(if core.fatal.borrow().is_some() { SubmitError::Unavailable } else { SubmitError::Closed });
        }
        if core.orgs.troubles().has(submission.org) {
            return Err(SubmitError::OrgInTrouble);
        }
        let Some(org) = core.orgs.get(submission.org) else {
            return self.submit_unloaded(submission);
        };
        if org.must_wait(core.orgs.budget()) {
            core.health.begin(Condition::WriteBuffersFull);
            core.orgs.flush_wanted().notify_one();
            return Err(SubmitError::Full(Box::new(submission)));
        }
        core.queue.try_submit(submission)
    }

    fn submit_unloaded(&self, submission: Submission) -> Result<(), SubmitError> {
        let org = submission.org;
        if self.core.unknown.lock().unwrap_or_else(PoisonError::into_inner).remove(&org) {
            submission.acks.failed(submission.frame.sequence(), SubmitFailure::UnknownOrg);
            return Ok(());
        }
        let core = Arc::clone(&self.core);
        // Counted from now on, so that whoever waits for room waits for this.
        let load = core.loader.begin();
        self.core.spawn.spawn(Box::pin(async move {
            match core.load(org).await {
                Ok(_) => {}
                // The log has it, and the next submission is told.
                Err(_) if core.orgs.troubles().has(org) => {}
                Err(error) if error.kind() == EngineErrorKind::Invalid => {
                    tracing::warn!(%org, %error, "a gateway sends for an organisation that is not there");
                    core.unknown.lock().unwrap_or_else(PoisonError::into_inner).insert(org);
                }
                Err(error) => {
                    tracing::warn!(%org, %error, "an organisation cannot be loaded; its gateways wait");
                    core.clock.sleep(core.config.flush_retry_min).await;
                }
            }
            drop(load);
        }));
        Err(SubmitError::Full(Box::new(submission)))
    }

    /// Takes a validated frame as soon as there is room. Organisations take turns; within one, who waits longest is served
    /// first, but who then finds that memory ran out meanwhile begins anew. Dropped before it is ready, it has taken
    /// nothing.
    ///
    /// # Errors
    /// As [`Engine::try_submit`], but never [`SubmitError::Full`].
    pub async fn submit(&self, submission: Submission) -> Result<(), SubmitError> {
        let core = &self.core;
        let mut submission = submission;
        let mut ended = core.appender_ended.subscribe();
        loop {
            submission = match self.try_submit(submission) {
                Err(SubmitError::Full(back)) => *back,
                done => return done,
            };
            let bytes = submission.frame.memory_bytes();
            let org = core.orgs.get(submission.org);
            let room = async {
                let Some(org) = &org else {
                    // Another organisation's slow load holds nobody up.
                    core.loader.settled().await;
                    return None;
                };
                // Of each organisation one stands in the queue's line: the line's order is the organisations' turns.
                let turn = org.waiting.lock().await;
                org.room(core.orgs.budget()).await;
                Some((org, core.queue.reserve(bytes).await?, turn))
            };
            let reserved = tokio::select! {
                biased;
                reserved = room => reserved,
                // The next try says what has happened.
                _ = ended.wait_for(|ended| *ended) => None,
            };
            // Memory may have run out, and the engine may have closed, while this waited in the queue's line.
            if let Some((org, reserved, _turn)) = reserved
                && !core.closing.load(Ordering::Acquire)
                && !org.must_wait(core.orgs.budget())
            {
                return core.queue.submit(submission, reserved);
            }
        }
    }

    /// The highest sequence number of this spool that is durable; zero if none is, or if the organisation is not
    /// loaded: then what the sender repeats is recognised as duplicates. [`Engine::load`] first to know.
    #[must_use]
    pub fn durable_sequence(&self, org: OrgId, gateway: GatewayId, spool: SpoolId) -> FrameSequence {
        self.core.orgs.get(org).map_or(FrameSequence::ZERO, |org| org.durable_sequence(gateway, spool))
    }

    /// Loads an organisation's manifest, if it is not loaded.
    ///
    /// # Errors
    /// [`EngineErrorKind::Invalid`] for one that does not exist, and whatever the store says.
    pub async fn load(&self, org: OrgId) -> Result<(), EngineError> {
        self.loaded(org).await.map(drop)
    }

    /// Loads an organisation, and makes it first if it has never been there.
    ///
    /// # Errors
    /// When its key or manifest cannot be read or made. A store that has lost a write ends the engine.
    pub async fn ensure_org(&self, org: OrgId) -> Result<(), EngineError> {
        match self.load(org).await {
            Err(error) if error.kind() == EngineErrorKind::Invalid => {}
            loaded => return loaded,
        }
        if let Err(error) = self.core.manifests.create_org(org).await {
            let error = EngineError::from(error);
            if error.ends_the_engine() {
                self.core.fail(&error);
            }
            if error.is_of_the_store() {
                self.core.health.begin_with(Condition::StoreUnavailable, &error);
            }
            return Err(error);
        }
        self.core.health.end(Condition::StoreUnavailable);
        tracing::info!(%org, "organisation made");
        self.load(org).await
    }

    async fn loaded(&self, org: OrgId) -> Result<Arc<Org>, EngineError> {
        match self.core.orgs.troubles().get(org).filter(|trouble| !trouble.readable) {
            Some(trouble) => Err(trouble.answer(org)),
            None => self.core.load(org).await,
        }
    }

    /// An organisation's readings as they are now; its manifest is loaded first if need be.
    ///
    /// # Errors
    /// As [`Engine::load`]. Of an organisation in trouble, when not all of its readings are at hand.
    pub async fn snapshot(&self, org: OrgId) -> Result<Snapshot, EngineError> {
        let loaded = self.loaded(org).await?;
        Snapshot::take(&loaded).ok_or_else(|| match self.core.orgs.troubles().get(org) {
            Some(trouble) => trouble.answer(org),
            // It was mended in between.
            None => EngineError::new(EngineErrorKind::Retry, "an organisation is being mended", "Try again.").at(org),
        })
    }

    /// The last reading of each logger of this snapshot, one row each by ascending logger, with the snapshot's channels:
    /// what the logger's row in the readings with the newest time is, as first-wins has it, with NULL for what was not
    /// measured then. In memory after the first time, and brought up to date by flushes.
    ///
    /// # Errors
    /// When a segment that may hold one cannot be read.
    pub async fn last_readings(&self, snapshot: &Snapshot) -> Result<RecordBatch, EngineError> {
        self.core.last.of(snapshot).await
    }

    /// Bytes that last readings of all organisations take in memory.
    #[must_use]
    pub fn last_readings_bytes(&self) -> usize {
        self.core.last.bytes()
    }

    /// Flushes one organisation's write buffers, or all: what was acknowledged before the call is in segments after it.
    ///
    /// # Errors
    /// The first error; what failed stays in WAL and memory and is tried again.
    pub async fn flush(&self, org: Option<OrgId>) -> Result<FlushReport, EngineError> {
        self.core.check_open()?;
        if let Some(org) = org {
            self.load(org).await?;
        }
        self.request_flush(org, false).await
    }

    async fn request_flush(&self, org: Option<OrgId>, leaves_trouble: bool) -> Result<FlushReport, EngineError> {
        let (done, answered) = oneshot::channel();
        self.core.flush.request(FlushRequest { org, leaves_trouble, done });
        let mut ended = self.core.flush_ended.subscribe();
        tokio::select! {
            biased;
            answer = answered => answer.map_err(|_| writer_gone())?,
            _ = ended.wait_for(|ended| *ended) => Err(self.core.fatal().unwrap_or_else(writer_gone)),
        }
    }

    /// Drops the windows of an organisation that ended by `cutoff`, and nothing that is younger than two years. Each drop
    /// is in `log` before it happens. A second run finds what the first has left, and settles what was cut short.
    ///
    /// # Errors
    /// From the log, the store and the manifest; nothing is gone that the log does not have.
    pub async fn drop_older(&self, org: OrgId, cutoff: Millis, log: &dyn DropLog) -> Result<DropReport, EngineError> {
        self.core.check_open()?;
        let org = self.loaded(org).await?;
        let dropped = self.core.retention.drop_older(&org, cutoff, log).await;
        if let Err(error) = &dropped
            && error.ends_the_engine()
        {
            self.core.fail(error);
        }
        dropped
    }

    /// Merges segments of one organisation or of all until nothing is left to do; a flush is not needed for it. Windows
    /// that are over have three at most afterwards, as far as the limits of merges go. It gives way to ingest and
    /// flushes, and works beside the merges in the background. Dropped, it stops, and all stays as it is by then.
    /// `progress` is told after each merge and each organisation.
    ///
    /// # Errors
    /// [`EngineErrorKind::Invalid`] for an organisation that does not exist, and what ends the engine. What could not be
    /// merged, such as windows with damaged segments, is in the report.
    pub async fn compact(
        &self,
        scope: CompactScope,
        progress: &(dyn Fn(CompactProgress) + Send + Sync),
    ) -> Result<CompactReport, EngineError> {
        self.core.check_open()?;
        let compacted = self.core.compactor.compact(scope, progress).await;
        match compacted {
            // Whatever a merge says that was given up then.
            Err(_) if self.core.closing.load(Ordering::Acquire) => Err(self.core.fatal().unwrap_or_else(writer_gone)),
            Err(error) => {
                if error.ends_the_engine() {
                    self.core.fail(&error);
                }
                Err(error)
            }
            compacted => compacted,
        }
    }

    /// The object store that segments and manifests live in.
    #[must_use]
    pub fn store(&self) -> &Arc<dyn ObjectStore> {
        &self.core.store
    }

    /// Reads and writes segments: what a query needs beside a snapshot.
    #[must_use]
    pub fn segments(&self) -> &Arc<Segments> {
        &self.core.segments
    }

    /// Reads and commits manifests; makes organisations.
    #[must_use]
    pub fn manifests(&self) -> &Arc<ManifestStore> {
        &self.core.manifests
    }

    /// The settings it was opened with.
    #[must_use]
    pub fn config(&self) -> &EngineConfig {
        &self.core.config
    }

    /// What the start found and did.
    #[must_use]
    pub fn recovery(&self) -> &RecoveryReport {
        &self.core.recovery
    }

    /// Becomes `Some` when the engine has stopped after an error that it cannot go on from: the process should end.
    #[must_use]
    pub fn failed(&self) -> watch::Receiver<Option<EngineError>> {
        self.core.fatal.subscribe()
    }

    /// Stops accepting, makes durable what is in the queue, flushes if the settings say so, marks the WAL as cleanly
    /// closed, ends all threads and gives up the lock. A second call finds nothing to do.
    ///
    /// # Errors
    /// What the engine had stopped with, or what went wrong while closing. It is closed all the same, and nothing
    /// acknowledged is lost.
    pub async fn close(&self) -> Result<(), EngineError> {
        let mut threads = self.threads.lock().await;
        let Some(running) = threads.take() else {
            return Ok(());
        };
        let core = &self.core;
        core.closing.store(true, Ordering::Release);
        let mut flushed = Ok(());
        if core.config.flush_at_close && core.fatal().is_none() {
            // All room is there when the queue is empty and all of it answered; on a full disk it never is.
            let drained = core.queue.reserve(usize::MAX);
            tokio::select! {
                biased;
                _ = drained => {}
                () = core.clock.sleep(DRAIN_MAX) => {}
            }
            // What organisations in trouble have stays in the log, or in carried files.
            flushed = self.request_flush(None, true).await.map(drop);
        }
        core.queue.close();
        running.end(core).await;
        match core.fatal() {
            Some(error) => Err(error),
            None => {
                tracing::info!(data_dir = %core.config.data_dir.display(), "engine closed");
                flushed
            }
        }
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        // Without waiting: the threads end in their own time, and hold the lock until then.
        self.core.closing.store(true, Ordering::Release);
        self.core.queue.close();
    }
}

/// An error of the file layer.
fn io_error(what: &'static str, path: &Path, error: io::Error) -> EngineError {
    let kind = match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => EngineErrorKind::Full,
        _ => EngineErrorKind::Failed,
    };
    EngineError::new(kind, what, "Look at the path, its owner and its rights, and at the disk.")
        .at(path.display())
        .because(error)
}
