//! The appender's step: one group from the queue through WAL and buffers to its acknowledgements.
//!
//! Groups overlap: while one is on its way to the disk, the next is filled and sealed; and when the first is durable, the
//! second is on its way before the first is applied and acknowledged. So checksums, encryption, write buffers and answers
//! do not keep the disk waiting. When little waits, the block is written here and now, since handing it over would cost
//! more than it gains.

use std::sync::Arc;
use std::time::Duration;

use durable::Clock;
use storage_format::{FrameSequence, GatewayId, Lsn, OrgId, SpoolId};

use super::disk::{DiskThread, Flight};
use super::queue::{AppendInbox, Queued, Submission};
use super::{AckSink, SubmitFailure, metrics};
use crate::apply::{FrameRecord, apply};
use crate::error::{EngineError, EngineErrorKind};
use crate::health::{Condition, Health};
use crate::org::Writers;
use crate::planted::{self, PlantedBug};
use crate::wal::{WalRoom, WalWait, WalWriter};

/// First pause before trying again to make a WAL file; it doubles up to [`RETRY_MAX`].
const RETRY_MIN: Duration = Duration::from_millis(50);
/// Longest pause: how long after space came back the way in may still be closed.
const RETRY_MAX: Duration = Duration::from_secs(2);

/// How large a group may get.
#[derive(Debug, Clone, Copy)]
pub(crate) struct GroupLimits {
    /// Frames in one block: bounds how long the first of them waits.
    pub(crate) frames_max: usize,
    /// Bytes in the queue from which on a group is filled while another is on its way.
    pub(crate) overlap_bytes_min: u64,
}

/// What a step did.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum AppendProgress {
    /// Nothing waits.
    Idle,
    /// So many frames were taken and answered.
    Appended {
        /// Durable, visible and acknowledged.
        frames: usize,
    },
    /// There is no room in the WAL. Nothing is lost; try again when woken, or after this long.
    Waiting(Duration),
    /// The queue is closed and empty, and the log has its mark of a clean close.
    Closed,
}

/// A frame that has its place in the log, durable or not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ordered {
    /// The place.
    pub lsn: Lsn,
    /// Whose frame.
    pub org: OrgId,
    /// Who sent it.
    pub gateway: GatewayId,
    /// From which spool.
    pub spool: SpoolId,
    /// Which of its spool's.
    pub sequence: FrameSequence,
}

/// A frame in the WAL's block, until it is answered.
#[derive(Debug)]
struct Pending {
    lsn: Lsn,
    submission: Submission,
}

/// The frames of one block, with the room in the queue that they hold until they are answered.
#[derive(Debug, Default)]
struct Group {
    frames: Vec<Pending>,
    permits: usize,
}

/// The way in is closed: when it is tried again.
#[derive(Debug)]
struct Waiting {
    pause: Duration,
    retry: Duration,
}

/// The single writer of WAL and write buffers.
#[derive(Debug)]
pub(crate) struct AppendStep {
    inbox: AppendInbox,
    wal: WalWriter,
    writers: Writers,
    clock: Arc<dyn Clock>,
    health: Arc<Health>,
    limits: GroupLimits,
    /// Taken from the queue, not yet in a block.
    held: Option<Queued>,
    /// In the WAL's block, which is not sealed.
    next: Group,
    /// In the block that is on its way.
    current: Group,
    /// The memory of a group that was answered.
    spare: Group,
    /// Room in the queue that the groups hold.
    taken: usize,
    flight: Option<Flight>,
    disk: Option<DiskThread>,
    waiting: Option<Waiting>,
    /// What was put into the log and not asked for yet, if somebody wants to know.
    order: Option<Vec<Ordered>>,
    failed: Option<EngineError>,
}

impl AppendStep {
    /// The appender that goes on where recovery ended.
    pub(crate) fn new(
        inbox: AppendInbox,
        wal: WalWriter,
        writers: Writers,
        clock: Arc<dyn Clock>,
        health: Arc<Health>,
        limits: GroupLimits,
    ) -> Self {
        wal.directory().wake_when_trimmed(inbox.waker());
        Self {
            inbox,
            wal,
            writers,
            clock,
            health,
            limits,
            held: None,
            next: Group::default(),
            current: Group::default(),
            spare: Group::default(),
            taken: 0,
            flight: None,
            disk: None,
            waiting: None,
            order: None,
            failed: None,
        }
    }

    /// What was put into the log since the last call, in its order; the first call begins.
    #[cfg_attr(not(any(test, feature = "fault")), expect(dead_code, reason = "for simulations only"))]
    pub(crate) fn take_order(&mut self) -> Vec<Ordered> {
        self.order.replace(Vec::new()).unwrap_or_default()
    }

    /// Has blocks written by a thread beside this one while the next are filled. Without it, the step does one after the
    /// other.
    ///
    /// # Errors
    /// When the thread does not start.
    pub(super) fn start_disk_thread(&mut self) -> Result<(), EngineError> {
        self.disk = Some(DiskThread::start(Arc::clone(&self.clock))?);
        Ok(())
    }

    /// Makes one group durable, visible and acknowledged, in this order: what waits, up to one group, or the one that the
    /// last call left on its way.
    ///
    /// # Errors
    /// When the WAL cannot go on. Everything not acknowledged has been told so; every later call answers the same.
    pub(crate) fn run_once(&mut self) -> Result<AppendProgress, EngineError> {
        if let Some(error) = &self.failed {
            return Err(error.clone());
        }
        let result = self.step();
        if let Err(error) = &result {
            self.fail(error.clone());
        }
        result
    }

    fn step(&mut self) -> Result<AppendProgress, EngineError> {
        while let Some(command) = self.inbox.next_command() {
            self.writers.run(command);
        }
        let flight = match self.flight.take() {
            Some(flight) => flight,
            None => match self.begin()? {
                Ok(flight) => flight,
                Err(nothing) => return Ok(nothing),
            },
        };
        self.fill_ahead();
        let (block, took) = flight.land(&*self.clock)?;
        let bytes = block.bytes();
        self.wal.recycle(block);
        let mut durable = std::mem::replace(&mut self.current, std::mem::take(&mut self.spare));
        self.fill_ahead();
        let answered = self.send_next().and_then(|()| {
            let frames = durable.frames.len();
            self.finish(&mut durable, bytes, took).map(|()| AppendProgress::Appended { frames })
        });
        // What is left in it is not answered, after an error.
        for Pending { submission, .. } in durable.frames.drain(..) {
            submission.refuse();
        }
        self.release(&mut durable);
        self.spare = durable;
        answered
    }

    /// Sends what was filled ahead on its way.
    fn send_next(&mut self) -> Result<(), EngineError> {
        if self.next.frames.is_empty() {
            // It may hold room for frames that were refused.
            let mut refused = std::mem::take(&mut self.next);
            self.release(&mut refused);
        } else {
            self.flight = Some(self.send()?);
        }
        Ok(())
    }

    /// Gives back the room of a group that is answered.
    fn release(&mut self, group: &mut Group) {
        let permits = std::mem::take(&mut group.permits);
        self.taken -= permits;
        self.inbox.release(permits);
    }

    /// Fills a group and sends it on its way; `Err` when there is none.
    fn begin(&mut self) -> Result<Result<Flight, AppendProgress>, EngineError> {
        // Asked before the queue is looked at: what was submitted before the close is in the queue by then.
        let closing = self.inbox.is_closing();
        if self.held.is_none() {
            self.held = self.inbox.try_recv();
        }
        let Some(first) = &self.held else {
            if !closing {
                return Ok(Err(AppendProgress::Idle));
            }
            self.wal.close()?;
            self.end();
            return Ok(Err(AppendProgress::Closed));
        };
        let frame_bytes = first.submission.frame.bytes().len();
        if let Some(pause) = self.wait_for_room(frame_bytes)? {
            if closing {
                // The end does not wait for a disk to get room: senders keep what is not acknowledged.
                self.refuse_queued();
                return Ok(Err(AppendProgress::Appended { frames: 0 }));
            }
            return Ok(Err(AppendProgress::Waiting(pause)));
        }
        self.fill();
        self.send_next()?;
        Ok(self.flight.take().ok_or(AppendProgress::Appended { frames: 0 }))
    }

    /// Seals the next group, which becomes the current one, and sends it on its way.
    fn send(&mut self) -> Result<Flight, EngineError> {
        std::mem::swap(&mut self.current, &mut self.next);
        if planted::has(PlantedBug::AcknowledgeBeforeSync) {
            for Pending { submission, .. } in &self.current.frames {
                submission.acks.durable(submission.frame.sequence());
            }
        }
        let block = self.wal.seal()?;
        match &self.disk {
            Some(disk) if self.is_worth_overlapping() => disk.send(block).map(Flight::There),
            _ => Ok(Flight::Here(block)),
        }
    }

    /// Is there enough to do while a block is on its way?
    fn is_worth_overlapping(&self) -> bool {
        self.inbox.bytes() - self.taken as u64 >= self.limits.overlap_bytes_min
    }

    /// Fills the next group, if the file has room for it: a file is not changed while a block is on its way.
    fn fill_ahead(&mut self) {
        if self.is_worth_overlapping() {
            self.fill();
        }
    }

    /// `None` when there is room; else how long to wait before asking again.
    fn wait_for_room(&mut self, frame_bytes: usize) -> Result<Option<Duration>, EngineError> {
        let now = self.clock.monotonic();
        if let Some(waiting) = &self.waiting
            && now < waiting.retry
        {
            return Ok(Some(waiting.retry - now));
        }
        match self.wal.make_room(frame_bytes)? {
            WalRoom::Ready => {
                if self.waiting.take().is_some() {
                    self.health.end(Condition::WalFull);
                    self.health.end(Condition::WalWithoutFile);
                }
                Ok(None)
            }
            WalRoom::Wait(wait) => Ok(Some(self.wait(&wait, now))),
        }
    }

    fn wait(&mut self, wait: &WalWait, now: Duration) -> Duration {
        match wait {
            WalWait::Full => {
                self.writers.orgs().flush_wanted().notify_one();
                self.health.end(Condition::WalWithoutFile);
                self.health.begin(Condition::WalFull);
            }
            WalWait::NoFile(error) => {
                self.health.end(Condition::WalFull);
                self.health.begin_advised(Condition::WalWithoutFile, error, wait.advice());
            }
        }
        if self.waiting.is_none() {
            metrics::waited();
        }
        let waiting = self.waiting.get_or_insert(Waiting { pause: RETRY_MIN, retry: now });
        // A flush wakes the appender when the log is shorter, so only a full disk is asked again and again.
        let pause = waiting.pause;
        waiting.retry = match wait {
            WalWait::Full => now,
            WalWait::NoFile(_) => now.saturating_add(pause),
        };
        waiting.pause = (pause * 2).min(RETRY_MAX);
        pause
    }

    /// Moves frames from the queue into the WAL's block and the next group.
    fn fill(&mut self) {
        while let Some(queued) = self.held.take().or_else(|| self.inbox.try_recv()) {
            let submission = &queued.submission;
            let frame = submission.frame.bytes();
            if self.next.frames.len() >= self.limits.frames_max || !self.wal.has_room(frame.len()) {
                self.held = Some(queued);
                break;
            }
            self.next.permits += queued.cost as usize;
            self.taken += queued.cost as usize;
            // Whatever could be wrong must be found before the record is written: a durable record is applied.
            // A trouble that is over by now is not over for a sink that was told of it: see `AckSink::has_failed`.
            if submission.acks.has_failed() || self.writers.orgs().troubles().has(submission.org) {
                submission.acks.failed(submission.frame.sequence(), SubmitFailure::OrgInTrouble);
                continue;
            }
            if self.writers.org(submission.org).is_none() {
                submission.acks.failed(submission.frame.sequence(), SubmitFailure::UnknownOrg);
                continue;
            }
            let lsn = self.wal.push(submission.org, submission.gateway, submission.received, frame);
            self.writers.orgs().set_logged(lsn);
            if let Some(order) = &mut self.order {
                let Submission { org, gateway, frame, .. } = submission;
                let (spool, sequence) = (frame.spool(), frame.sequence());
                order.push(Ordered { lsn, org: *org, gateway: *gateway, spool, sequence });
            }
            self.next.frames.push(Pending { lsn, submission: queued.submission });
        }
    }

    /// Makes a durable group visible, then acknowledges it.
    fn finish(&mut self, group: &mut Group, bytes: u64, took: Duration) -> Result<(), EngineError> {
        let mut readings = 0;
        for Pending { lsn, submission } in &group.frames {
            let Submission { org, gateway, received, frame, .. } = submission;
            let Some(writer) = self.writers.org(*org) else {
                // An organisation once loaded stays: `fill` found it.
                return Err(EngineError::new(
                    EngineErrorKind::Failed,
                    "an organisation vanished between a record and its write buffer",
                    "Start again: the record is in the WAL.",
                ));
            };
            apply(&FrameRecord { lsn: *lsn, gateway: *gateway, received: *received, frame }, writer);
            readings += frame.len();
        }
        if let Some(last) = group.frames.last() {
            self.writers.orgs().set_applied(last.lsn);
        }
        metrics::appended(group.frames.len(), readings, bytes, took.as_secs_f64());

        // A stream's frames together, in their order: organisations and streams take turns in a group.
        group
            .frames
            .sort_by_key(|Pending { submission, .. }| (submission.org, submission.gateway, submission.frame.spool()));
        let mut frames = group.frames.drain(..).peekable();
        while let Some(Pending { submission, .. }) = frames.next() {
            // Acknowledgements are cumulative: of several frames of one sink in a row, the last one's does.
            let more = frames.peek().is_some_and(|next| {
                same(&next.submission.acks, &submission.acks)
                    && next.submission.frame.sequence() >= submission.frame.sequence()
            });
            if !more {
                submission.acks.durable(submission.frame.sequence());
            }
        }
        Ok(())
    }

    /// Tells everybody who waits that it is over.
    fn fail(&mut self, error: EngineError) {
        tracing::error!(%error, "the engine stops acknowledging");
        self.failed = Some(error);
        self.end();
    }

    /// Takes nothing more, and answers everything that is not answered.
    fn end(&mut self) {
        self.inbox.end(self.failed.is_some());
        for Pending { submission, .. } in self.current.frames.drain(..).chain(self.next.frames.drain(..)) {
            submission.refuse();
        }
        self.refuse_queued();
    }

    /// Answers what is still in the queue.
    fn refuse_queued(&mut self) {
        while let Some(queued) = self.held.take().or_else(|| self.inbox.try_recv()) {
            queued.submission.refuse();
        }
    }

    /// Waits until there may be something to do.
    pub(super) fn wait_for_work(&mut self) {
        if self.held.is_none() {
            self.held = self.inbox.wait();
        }
    }

    /// Waits until it may be worth trying again.
    pub(super) fn wait_for_retry(&self, at_most: Duration) {
        self.inbox.wait_for_wake(at_most);
    }
}

impl Drop for AppendStep {
    fn drop(&mut self) {
        // Also after a panic: nobody may wait for an answer for ever.
        self.end();
    }
}

fn same(first: &Arc<dyn AckSink>, second: &Arc<dyn AckSink>) -> bool {
    Arc::ptr_eq(first, second)
}
