//! The step of maintenance: carries on what is in the way, and mends what can be mended.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use durable::{Clock, Spawn, beside};
use storage_format::{Frame, Lsn, OrgId};

use super::CarryOn;
use crate::apply::{FrameRecord, apply};
use crate::carried::CarriedFile;
use crate::commit::Committer;
use crate::config::EngineConfig;
use crate::error::{EngineError, EngineErrorKind};
use crate::flush::Flusher;
use crate::maintain::{Maintenance, Pace, Progress, Stop, back_off};
use crate::org::{InTrouble, Org, Orgs, WriterWork, Writers};
use crate::planted::{self, PlantedBug};
use crate::wal::{FrameOfLog, WalDirectory};

/// Longest pause before it is looked again whether an organisation is well: restoring a file is noticed within it.
const RETRY_MAX: Duration = Duration::from_secs(20);

/// Bytes of frames that the single writer applies at once: a few milliseconds for which the log waits.
const APPLY_BYTES: usize = 256 << 10;

/// Pause while frames that were in flight when the trouble began reach the buffers.
const IN_FLIGHT_PAUSE: Duration = Duration::from_millis(5);

/// What the step needs of the layers beside it.
#[async_trait]
pub(crate) trait TroubleHost: Send + Sync {
    /// The organisation, loaded, also if it is in trouble.
    async fn load(&self, org: OrgId) -> Result<Arc<Org>, EngineError>;

    /// Has the single writer do this between two groups. Ends when the work was done or dropped.
    async fn write(&self, work: WriterWork) -> Result<(), EngineError>;
}

/// What the step works with.
pub(crate) struct TroubleParts {
    pub(crate) orgs: Arc<Orgs>,
    pub(crate) host: Box<dyn TroubleHost>,
    pub(crate) carry: CarryOn,
    pub(crate) commits: Arc<Committer>,
    pub(crate) flusher: Flusher,
    pub(crate) wal: Arc<WalDirectory>,
    pub(crate) clock: Arc<dyn Clock>,
    /// Spawner of the tasks that read files and decode records: that takes a core for a while.
    pub(crate) spawn: Arc<dyn Spawn>,
}

/// Looks after organisations in trouble.
pub(crate) struct TroubleStep {
    parts: Arc<TroubleParts>,
    retry_min: Duration,
    interval: Duration,
    /// Of mending.
    mends: Tries,
    /// Of carrying on what is in the way.
    rooms: Tries,
}

/// Tries that failed, by organisation: how many in a row, and the monotonic time before which it is not tried again.
#[derive(Debug, Default)]
struct Tries(Mutex<BTreeMap<OrgId, (u32, Duration)>>);

impl Tries {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<OrgId, (u32, Duration)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns whether a try is due. The first is at `first`.
    fn is_due(&self, org: OrgId, first: Duration, now: Duration) -> bool {
        self.lock().entry(org).or_insert((0, first)).1 <= now
    }

    /// Counts a failure; returns how many there were in a row.
    fn failed(&self, org: OrgId, now: Duration, retry_min: Duration) -> u32 {
        let mut known = self.lock();
        let (failures, not_before) = known.entry(org).or_default();
        *failures = failures.saturating_add(1);
        *not_before = now.saturating_add(back_off(*failures, retry_min, RETRY_MAX));
        *failures
    }

    fn forget(&self, org: OrgId) {
        self.lock().remove(&org);
    }

    /// Forgets all but these.
    fn retain(&self, orgs: &[(OrgId, InTrouble)]) {
        self.lock().retain(|org, _| orgs.iter().any(|(in_trouble, _)| in_trouble == org));
    }
}

impl TroubleStep {
    pub(crate) fn new(parts: TroubleParts, config: &EngineConfig) -> Self {
        Self {
            parts: Arc::new(parts),
            retry_min: config.flush_retry_min,
            interval: config.schedule_interval,
            mends: Tries::default(),
            rooms: Tries::default(),
        }
    }

    /// What was found just now by a flush is not tried again at once; what a start has found is.
    fn is_due(&self, org: OrgId, trouble: &InTrouble) -> bool {
        let now = self.parts.clock.monotonic();
        let first = if trouble.error.is_some() { now.saturating_add(self.retry_min) } else { now };
        self.mends.is_due(org, first, now)
    }

    fn failed(&self, org: OrgId, trouble: &InTrouble, error: &EngineError) {
        let tried = self.mends.failed(org, self.parts.clock.monotonic(), self.retry_min);
        tracing::debug!(%org, tried, %error, "an organisation in trouble is not mended yet");
        if let Some(org) = self.parts.orgs.get(org) {
            // A flush may have left objects that no manifest names.
            org.suspect();
        }
        if error.is_of_one_org() {
            self.parts.orgs.troubles().begin(org, error, trouble.readable, self.parts.clock.now());
        } else {
            self.parts.orgs.troubles().tried(org, error);
        }
    }

    /// Carries on what is in the way of others, of each of these organisations.
    ///
    /// # Errors
    /// Only what must end the engine.
    async fn make_room(&self, all: &[(OrgId, InTrouble)]) -> Result<(), EngineError> {
        for (org, _) in all {
            let now = self.parts.clock.monotonic();
            if !self.rooms.is_due(*org, now, now) {
                continue;
            }
            match self.parts.make_room(*org).await {
                Ok(()) => self.rooms.forget(*org),
                Err(error) if error.ends_the_engine() => return Err(error),
                Err(error) => {
                    let failures = self.rooms.failed(*org, self.parts.clock.monotonic(), self.retry_min);
                    if failures == 1 {
                        tracing::warn!(%org, %error, "an organisation in trouble keeps its part of memory and log for now");
                    } else {
                        tracing::debug!(%org, failures, %error, "an organisation in trouble still keeps its part of memory and log");
                    }
                }
            }
        }
        Ok(())
    }
}

#[async_trait]
impl Maintenance for TroubleStep {
    fn pace(&self) -> Pace {
        Pace { idle: Duration::ZERO, interval: self.interval }
    }

    async fn woken(&self) {
        self.parts.orgs.troubles().wanted().await;
    }

    /// Looks at the organisations in trouble, one after the other.
    async fn run_once(&self, stop: &Stop) -> Result<Progress, EngineError> {
        let all = self.parts.orgs.troubles().all();
        self.mends.retain(&all);
        self.rooms.retain(&all);
        self.make_room(&all).await?;
        let mut progress = Progress::Idle;
        for (org, trouble) in &all {
            let org = *org;
            if *stop.borrow() {
                break;
            }
            if !self.is_due(org, trouble) {
                continue;
            }
            if progress == Progress::Worked {
                // The one before may have taken long.
                self.make_room(&all).await?;
            }
            progress = Progress::Worked;
            match self.parts.mend(org).await {
                Ok(()) => {
                    self.parts.orgs.troubles().end(org);
                    self.mends.forget(org);
                }
                Err(error) if error.ends_the_engine() || error.kind() == EngineErrorKind::Closed => {
                    return if error.ends_the_engine() { Err(error) } else { Ok(Progress::Idle) };
                }
                Err(error) => self.failed(org, trouble, &error),
            }
        }
        Ok(progress)
    }
}

impl TroubleParts {
    /// Carries on what the organisation has in memory, if that is in the way of others: of the log or of memory.
    async fn make_room(&self, org: OrgId) -> Result<(), EngineError> {
        let Some(org) = self.orgs.get(org) else { return Ok(()) };
        let Some(first) = org.state().first_unflushed() else { return Ok(()) };
        if self.wal.cut().is_some_and(|cut| first < cut) || self.orgs.budget().is_high() {
            self.freeze(org.id()).await?;
            self.carry_on(&org).await?;
        }
        Ok(())
    }

    async fn carry_on(&self, org: &Arc<Org>) -> Result<(), EngineError> {
        let (carry, of) = (self.carry.clone(), Arc::clone(org));
        let copied = beside(&*self.spawn, async move { carry.run(&of).await }).await??;
        if copied > 0 {
            tracing::info!(org = %org.id(), records = copied,
                "records of an organisation in trouble are carried on in files of their own, so that memory and log are free for others");
        }
        // The log may be shorter now.
        self.orgs.flush_wanted().notify_one();
        Ok(())
    }

    /// Freezes the organisation's active buffer; returns the last LSN that was given to anybody by then.
    async fn freeze(&self, org: OrgId) -> Result<Lsn, EngineError> {
        self.write(move |writers| {
            if let Some(writer) = writers.org(org) {
                writer.freeze();
            }
            writers.orgs().logged()
        })
        .await
    }

    async fn write<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Writers) -> T + Send + 'static,
    ) -> Result<T, EngineError> {
        let (done, told) = futures::channel::oneshot::channel();
        let work = move |writers: &mut Writers| {
            // Whoever asked may have gone away.
            let _gone = done.send(work(writers));
        };
        self.host.write(WriterWork(Box::new(work))).await?;
        told.await.map_err(|_| {
            EngineError::new(EngineErrorKind::Closed, "the engine is closing or has stopped", "Nothing is lost.")
        })
    }

    /// Tries whether the organisation is well: then all that is kept for it goes into segments.
    async fn mend(&self, id: OrgId) -> Result<(), EngineError> {
        let org = self.host.load(id).await?;
        let carried = self.orgs.troubles().get(id).map(|trouble| trouble.carried).unwrap_or_default();
        let logged = self.freeze(id).await?;
        if carried.is_empty() && org.state().whole {
            // Memory holds all of it: a flush tells. Another process may have replaced what this one's manifest names.
            self.commits.turn(&org).await.reload().await?;
            return self.flusher.flush_frozen(&org).await.map(drop);
        }
        // Frames that were in flight when the trouble began come after all that was carried on until now.
        while self.orgs.applied() < logged {
            self.clock.sleep(IN_FLIGHT_PAUSE).await;
            self.write(|_| ()).await?;
        }
        self.freeze(id).await?;
        self.carry_on(&org).await?;
        // Whatever this process knew of the manifest, the store may have another.
        self.commits.turn(&org).await.reload().await?;
        let carried = self.orgs.troubles().get(id).map(|trouble| trouble.carried).unwrap_or_default();
        for file in &carried {
            if let Err(error) = self.apply_again(&org, file).await {
                // What the next try applies must not be there twice.
                self.freeze(id).await?;
                org.carried(&org.state().frozen.clone());
                return Err(error);
            }
            if let Err(error) = self.carry.carried.remove(file) {
                tracing::warn!(org = %id, file = %self.carry.carried.path(file).display(), %error,
                    "a file of carried records, which are in segments now, could not be removed; the next start removes it");
            }
            self.orgs.troubles().let_go(id, file);
        }
        org.mended();
        Ok(())
    }

    /// A file's records that the manifest does not cover, into buffers and segments.
    async fn apply_again(&self, org: &Arc<Org>, file: &CarriedFile) -> Result<(), EngineError> {
        let covered = org.lsn_covered();
        if file.last <= covered || planted::has(PlantedBug::ForgetCarried) {
            return Ok(());
        }
        let (carry, of) = (self.carry.clone(), *file);
        let records = beside(&*self.spawn, async move { carry.carried.read(&of) }).await??;
        let mut records = records.into_iter().filter(|record| record.lsn > covered).peekable();
        while records.peek().is_some() {
            let mut batch: Vec<(FrameOfLog, Frame)> = Vec::new();
            let mut bytes = 0;
            while let Some(record) = records.next_if(|_| bytes < APPLY_BYTES) {
                bytes += record.frame.len();
                let frame = Frame::decode(record.frame.clone()).map_err(|error| undecodable(&record, error))?;
                batch.push((record, frame));
            }
            let id = org.id();
            self.write(move |writers| {
                let Some(writer) = writers.org(id) else { return };
                for (record, frame) in &batch {
                    let FrameOfLog { lsn, gateway, received, .. } = *record;
                    if planted::has(PlantedBug::ApplyCarriedTwice) {
                        // Into the same buffer: of two buffers with the same LSNs the commit would take one away.
                        writer.buffer().append(frame, gateway, received, lsn);
                    }
                    apply(&FrameRecord { lsn, gateway, received, frame }, writer);
                }
            })
            .await?;
            if self.orgs.budget().is_high() {
                self.freeze(id).await?;
            }
            if !org.state().frozen.is_empty() {
                self.flusher.flush_frozen(org).await?;
            }
        }
        self.freeze(org.id()).await?;
        self.flusher.flush_frozen(org).await?;
        if org.lsn_covered() < file.last {
            return Err(EngineError::new(
                EngineErrorKind::Retry,
                "carried records were applied, and the manifest does not cover them",
                "It is tried again.",
            )
            .at(format_args!("organisation {}, LSN {}", org.id(), file.last)));
        }
        Ok(())
    }
}

fn undecodable(record: &FrameOfLog, error: impl std::error::Error + Send + Sync + 'static) -> EngineError {
    EngineError::new(
        EngineErrorKind::Corrupt,
        "a carried record does not decode",
        "Was it written by a newer version? Start that one.",
    )
    .at(format_args!("organisation {}, LSN {}", record.org, record.lsn))
    .because(error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tries_come_less_and_less_often() {
        let org = |id| OrgId::new(id).expect("not zero");
        let s = Duration::from_secs;
        let tries = Tries::default();
        assert!(!tries.is_due(org(1), s(5), s(4)) && tries.is_due(org(1), s(99), s(5)));
        let mut now = s(5);
        for (failures, wait) in [(1, 1), (2, 2), (3, 4), (4, 8), (5, 16), (6, 20), (7, 20)] {
            assert_eq!(tries.failed(org(1), now, s(1)), failures);
            now += s(wait);
            assert!(!tries.is_due(org(1), now, now - s(1)) && tries.is_due(org(1), now, now));
        }
        assert!(tries.is_due(org(2), now, now), "each has its own");
        tries.forget(org(1));
        assert_eq!(tries.failed(org(1), now, s(1)), 1);
        tries.retain(&[]);
        assert!(tries.lock().is_empty());
    }
}
