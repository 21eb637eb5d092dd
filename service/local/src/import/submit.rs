//! Submits frames to the engine, and waits until all are durable and seen by queries.

use std::sync::Arc;
use std::time::Duration;

use control::Import;
use engine::{AckSink, Submission, SubmitError, SubmitFailure};
use gateway::sender::per_second;
use problem::{Problem, Result};
use storage_format::{FrameSequence, OrgId};
use tokio::sync::{mpsc, watch};

use super::pack::Packed;
use crate::command::CommandContext;
use crate::event::Events;

/// Pause between two looks at how far it is.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// What was submitted.
#[derive(Debug, Default)]
pub(super) struct Submitted {
    pub(super) frames: u64,
    pub(super) readings: u64,
    /// Readings of frames that were durable before.
    pub(super) passed_over: u64,
}

/// Outcome of the frames so far.
#[derive(Debug, Clone, Copy, Default)]
struct Answered {
    up_to: u64,
    failed: Option<SubmitFailure>,
}

/// Receives the outcome of frames from the engine, on the appender's thread.
#[derive(Debug)]
struct Answers(watch::Sender<Answered>);

impl AckSink for Answers {
    fn durable(&self, up_to: FrameSequence) {
        self.0.send_modify(|answered| answered.up_to = answered.up_to.max(up_to.get()));
    }

    fn failed(&self, _: FrameSequence, failure: SubmitFailure) {
        self.0.send_modify(|answered| answered.failed = Some(failure));
    }

    fn has_failed(&self) -> bool {
        self.0.borrow().failed.is_some()
    }
}

pub(super) struct Submitter<'a> {
    pub(super) context: &'a CommandContext,
    pub(super) org: OrgId,
    pub(super) import: &'a Import,
    /// Frames up to this number are durable already.
    pub(super) durable: FrameSequence,
    /// Bytes of all files.
    pub(super) total: u64,
    pub(super) events: &'a Events,
}

fn stopped() -> Problem {
    Problem::new("the engine has stopped, and the import with it")
        .help("run the same command again: it goes on where it was")
}

fn in_trouble() -> Problem {
    Problem::new("what the organisation has is damaged, and nothing is added to it now")
        .help("`icecore doctor` tells what is wrong; run the same command again once it is mended: it goes on")
}

impl Submitter<'_> {
    /// Submits all frames, to the end of the channel.
    pub(super) async fn run(&self, mut packed: mpsc::Receiver<Packed>) -> Result<Submitted> {
        let (sender, mut answered) = watch::channel(Answered::default());
        let answers = Arc::new(Answers(sender));
        let mut submitted = Submitted::default();
        let (begun, mut looked) = (self.context.clock.monotonic(), Duration::ZERO);
        let mut last = 0;
        while let Some(Packed { frame, position }) = packed.recv().await {
            let readings = frame.len() as u64;
            if frame.sequence() <= self.durable {
                submitted.passed_over += readings;
            } else {
                submitted.frames += 1;
                submitted.readings += readings;
                last = frame.sequence().get();
                let acks = Arc::<Answers>::clone(&answers);
                let received = self.context.now();
                let submission = Submission { org: self.org, gateway: self.import.id, received, frame, acks };
                self.context.engine.submit(submission).await.map_err(|error| match error {
                    SubmitError::OrgInTrouble => in_trouble(),
                    SubmitError::Full(_) | SubmitError::Closed | SubmitError::Unavailable => stopped(),
                })?;
            }
            check(*answered.borrow_and_update())?;
            let now = self.context.clock.monotonic();
            if now.saturating_sub(looked) >= LOOK_EVERY {
                looked = now;
                self.progress(position, &submitted, now.saturating_sub(begun));
            }
        }
        self.all_durable(&mut answered, last).await?;
        Ok(submitted)
    }

    async fn all_durable(&self, answered: &mut watch::Receiver<Answered>, last: u64) -> Result<()> {
        let mut failed = self.context.engine.failed();
        loop {
            let now = *answered.borrow_and_update();
            check(now)?;
            if now.up_to >= last {
                return Ok(());
            }
            tokio::select! {
                changed = answered.changed() => changed.map_err(|_| stopped())?,
                fatal = failed.wait_for(Option::is_some) => {
                    let text = fatal.ok().and_then(|error| error.as_ref().map(ToString::to_string)).unwrap_or_default();
                    return Err(stopped().detail(text));
                }
            }
        }
    }

    fn progress(&self, position: u64, submitted: &Submitted, took: Duration) {
        let rate = per_second(submitted.readings, took).unwrap_or(0);
        let text = format!("{} readings, {rate} readings/s", submitted.readings + submitted.passed_over);
        self.events.progress(position.min(self.total), Some(self.total), text);
    }
}

fn check(answered: Answered) -> Result<()> {
    match answered.failed {
        None => Ok(()),
        Some(SubmitFailure::UnknownOrg) => Err(Problem::new("the organisation is not there any more")),
        Some(SubmitFailure::OrgInTrouble) => Err(in_trouble()),
        Some(_) => Err(stopped()),
    }
}
