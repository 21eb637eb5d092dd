//! The appender's step: one group from the queue through WAL and buffers to its acknowledgements.

use std::sync::Arc;
use std::time::Duration;

use storage_format::Lsn;

use super::queue::{AppendInbox, Queued, Submission};
use super::{AckSink, SubmitFailure, metrics};
use crate::apply::{FrameRecord, apply};
use crate::buffer::Writers;
use crate::clock::Clock;
use crate::error::{EngineError, EngineErrorKind};
use crate::planted::{self, PlantedBug};
use crate::wal::{WalRoom, WalWait, WalWriter};

/// First pause before trying again to make a WAL file; it doubles up to [`RETRY_MAX`].
const RETRY_MIN: Duration = Duration::from_millis(50);
/// Longest pause: how long after space came back the way in may still be closed.
const RETRY_MAX: Duration = Duration::from_secs(2);
/// How often a way in that stays closed is told about again.
const WARN_INTERVAL: Duration = Duration::from_secs(60);

/// How large a group may get.
#[derive(Debug, Clone, Copy)]
pub(crate) struct GroupLimits {
    /// Frames in one block: bounds how long the first of them waits.
    pub(crate) frames_max: usize,
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

/// A frame in the WAL's block, until it is answered.
#[derive(Debug)]
struct Pending {
    lsn: Lsn,
    submission: Submission,
}

/// Why the way in is closed, since when, and when it is tried again.
#[derive(Debug)]
struct Waiting {
    since: Duration,
    warned: Duration,
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
    limits: GroupLimits,
    /// Taken from the queue, not yet in a block.
    held: Option<Queued>,
    group: Vec<Pending>,
    permits: usize,
    waiting: Option<Waiting>,
    failed: Option<EngineError>,
}

impl AppendStep {
    /// The appender that goes on where recovery ended.
    pub(crate) fn new(
        inbox: AppendInbox,
        wal: WalWriter,
        writers: Writers,
        clock: Arc<dyn Clock>,
        limits: GroupLimits,
    ) -> Self {
        wal.directory().wake_when_trimmed(inbox.waker());
        Self {
            inbox,
            wal,
            writers,
            clock,
            limits,
            held: None,
            group: Vec::new(),
            permits: 0,
            waiting: None,
            failed: None,
        }
    }

    /// Takes what waits, up to one group, and makes it durable, visible and acknowledged, in this order.
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
        // Asked before the queue is looked at: what was submitted before the close is in the queue by then.
        let closing = self.inbox.is_closing();
        if self.held.is_none() {
            self.held = self.inbox.try_recv();
        }
        let Some(first) = &self.held else {
            if !closing {
                return Ok(AppendProgress::Idle);
            }
            self.wal.close()?;
            self.end();
            return Ok(AppendProgress::Closed);
        };
        let frame_bytes = first.submission.frame.bytes().len();
        if let Some(pause) = self.wait_for_room(frame_bytes)? {
            if closing {
                // The end does not wait for a disk to get room: senders keep what is not acknowledged.
                self.refuse_queued();
                return Ok(AppendProgress::Appended { frames: 0 });
            }
            return Ok(AppendProgress::Waiting(pause));
        }
        self.fill();
        let frames = self.group.len();
        if frames > 0 {
            self.commit()?;
        }
        self.inbox.release(std::mem::take(&mut self.permits));
        Ok(AppendProgress::Appended { frames })
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
                if let Some(waiting) = self.waiting.take() {
                    let took = now.saturating_sub(waiting.since);
                    tracing::info!(?took, "the WAL has room again; frames are accepted");
                }
                Ok(None)
            }
            WalRoom::Wait(wait) => Ok(Some(self.wait(&wait, now))),
        }
    }

    fn wait(&mut self, wait: &WalWait, now: Duration) -> Duration {
        if matches!(wait, WalWait::Full) {
            self.writers.orgs().flush_wanted().notify_one();
        }
        let first = self.waiting.is_none();
        let waiting = self.waiting.get_or_insert(Waiting { since: now, warned: now, pause: RETRY_MIN, retry: now });
        if first || now.saturating_sub(waiting.warned) >= WARN_INTERVAL {
            waiting.warned = now;
            match wait {
                WalWait::Full => tracing::warn!(
                    wal_bytes = self.wal.directory().bytes(),
                    "the WAL is as long as it may be: nothing is accepted until a flush lets some of it go"
                ),
                WalWait::NoFile(error) => tracing::warn!(
                    %error,
                    "no new WAL file can be made: nothing is acknowledged until one can; look at the disk"
                ),
            }
            metrics::waited();
        }
        // A flush wakes the appender when the log is shorter, so only a full disk is asked again and again.
        let pause = waiting.pause;
        waiting.retry = match wait {
            WalWait::Full => now,
            WalWait::NoFile(_) => now.saturating_add(pause),
        };
        waiting.pause = (pause * 2).min(RETRY_MAX);
        pause
    }

    /// Moves frames from the queue into the WAL's block.
    fn fill(&mut self) {
        while let Some(queued) = self.held.take().or_else(|| self.inbox.try_recv()) {
            let submission = &queued.submission;
            let frame = submission.frame.bytes();
            if self.group.len() >= self.limits.frames_max || !self.wal.has_room(frame.len()) {
                self.held = Some(queued);
                break;
            }
            self.permits += queued.cost as usize;
            // Whatever could be wrong must be found before the record is written: a durable record is applied.
            if self.writers.org(submission.org).is_none() {
                submission.acks.failed(submission.frame.sequence(), SubmitFailure::UnknownOrg);
                continue;
            }
            let lsn = self.wal.push(submission.org, submission.gateway, submission.received, frame);
            self.group.push(Pending { lsn, submission: queued.submission });
        }
    }

    fn commit(&mut self) -> Result<(), EngineError> {
        let start = self.clock.monotonic();
        if planted::has(PlantedBug::AcknowledgeBeforeSync) {
            for Pending { submission, .. } in &self.group {
                submission.acks.durable(submission.frame.sequence());
            }
        }
        let bytes = self.wal.commit()?;
        let took = self.clock.monotonic().saturating_sub(start);

        let mut readings = 0;
        for Pending { lsn, submission } in &self.group {
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
        if let Some(last) = self.group.last() {
            self.writers.orgs().set_applied(last.lsn);
        }
        metrics::appended(self.group.len(), readings, bytes, took.as_secs_f64());

        let mut group = self.group.drain(..).peekable();
        while let Some(Pending { submission, .. }) = group.next() {
            // Acknowledgements are cumulative: of several frames of one sink in a row, the last one's does.
            let more = group.peek().is_some_and(|next| {
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
        for Pending { submission, .. } in self.group.drain(..) {
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
