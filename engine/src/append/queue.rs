//! The queue before the appender: lock-free, bounded in frames and, through permits, in bytes.
//!
//! Organisations take turns: of those who wait for room, each has one in the line for it ([`AppendQueue::reserve`]), and
//! of what is in the queue, the appender takes one frame of each after the other ([`Lines`]).
//!
//! A frame costs at least a floor, so that permits run out before the channel's slots do: whoever waits for room
//! waits for one thing only.
//!
//! Invariant: a frame is either not taken, and then its sink hears nothing, or taken and then answered once. The
//! channel does not drop what is in it when the appender goes, so whoever sends in the instant of the end takes out
//! and refuses what nobody else will see ([`Gate`]).

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, TrySendError, bounded, select};
use storage_format::{Frame, GatewayId, Millis, OrgId};
use tokio::sync::{Semaphore, SemaphorePermit};

use super::lines::Lines;
use super::{AckSink, SubmitFailure};
use crate::org::WriterCommand;
use crate::sync::{Gate, GateState};

/// Frames in the queue at most. Its slots are allocated at once: about 4 MiB.
const FRAMES_MAX: usize = 16_384;
/// And at least, so that a small byte budget still has a queue.
const FRAMES_MIN: usize = 16;

/// A frame on its way in.
pub struct Submission {
    /// Organisation of the readings.
    pub org: OrgId,
    /// Who sent them.
    pub gateway: GatewayId,
    /// When they arrived.
    pub received: Millis,
    /// The validated frame.
    pub frame: Frame,
    /// Where the answer goes: a sink of this organisation and no other, since its answers are cumulative, and only within
    /// an organisation frames keep their order.
    pub acks: Arc<dyn AckSink>,
}

impl Submission {
    /// Tells its sender that it is not made durable.
    pub(super) fn refuse(&self) {
        self.acks.failed(self.frame.sequence(), SubmitFailure::Stopped);
    }
}

impl fmt::Debug for Submission {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Submission")
            .field("org", &self.org)
            .field("gateway", &self.gateway)
            .field("sequence", &self.frame.sequence())
            .finish_non_exhaustive()
    }
}

/// Why a frame was not taken. It got no answer through its sink.
#[derive(Debug)]
pub enum SubmitError {
    /// There is no room now: here it is back, for [`Engine::submit`](crate::Engine::submit), which waits.
    Full(Box<Submission>),
    /// The engine is closed or closing.
    Closed,
    /// The engine has stopped after an error.
    Unavailable,
    /// The organisation's stored data is damaged or missing: it takes no frames until that is restored. Others go on.
    OrgInTrouble,
}

/// The sending half: what callers and the engine have.
#[derive(Debug)]
pub(crate) struct AppendQueue {
    frames: Sender<Queued>,
    wake: Sender<()>,
    shared: Arc<Shared>,
}

/// The receiving half: the appender's.
#[derive(Debug)]
pub(crate) struct AppendInbox {
    wake: Receiver<()>,
    waker: Sender<()>,
    /// Taken out of the channel.
    lines: Lines<Queued>,
    shared: Arc<Shared>,
}

/// A frame with the permits that it holds.
#[derive(Debug)]
pub(super) struct Queued {
    pub(super) submission: Submission,
    pub(super) cost: u32,
}

/// Room in the queue that is kept for one frame; given back when dropped.
#[derive(Debug)]
pub(crate) struct Reserved<'a> {
    permit: SemaphorePermit<'a>,
    cost: u32,
}

#[derive(Debug)]
struct Shared {
    permits: Semaphore,
    permits_max: u32,
    cost_min: u32,
    gate: Gate,
    /// The appender's while there is one.
    frames: Receiver<Queued>,
    /// `None` once nobody will run any.
    commands: Mutex<Option<VecDeque<WriterCommand>>>,
}

/// Both halves of a queue that holds so many bytes of decoded frames.
pub(crate) fn append_queue(bytes_max: u64) -> (Arc<AppendQueue>, AppendInbox) {
    let permits_max = u32::try_from(bytes_max).unwrap_or(u32::MAX);
    let slots = usize::try_from(permits_max / 4096).unwrap_or(usize::MAX).clamp(FRAMES_MIN, FRAMES_MAX);
    let cost_min = permits_max.div_ceil(u32::try_from(slots).unwrap_or(u32::MAX)).max(1);
    let (frames, frames_in) = bounded(slots);
    let (wake, wake_in) = bounded(1);
    let shared = Arc::new(Shared {
        permits: Semaphore::new(permits_max as usize),
        permits_max,
        cost_min,
        gate: Gate::new(),
        frames: frames_in,
        commands: Mutex::new(Some(VecDeque::new())),
    });
    let waker = wake.clone();
    let queue = AppendQueue { frames, wake, shared: Arc::clone(&shared) };
    (Arc::new(queue), AppendInbox { wake: wake_in, waker, lines: Lines::new(), shared })
}

impl Shared {
    fn bytes(&self) -> u64 {
        u64::from(self.permits_max).saturating_sub(self.permits.available_permits() as u64)
    }

    fn cost(&self, bytes: usize) -> u32 {
        // Never more than there is: one frame always fits an empty queue.
        u32::try_from(bytes).unwrap_or(u32::MAX).clamp(self.cost_min, self.permits_max)
    }

    /// Takes out and refuses what is in the queue.
    fn refuse_queued(&self) {
        for queued in self.frames.try_iter() {
            queued.submission.refuse();
        }
    }
}

impl AppendQueue {
    /// Takes a frame if there is room; never waits. The organisation must be loaded.
    pub(crate) fn try_submit(&self, submission: Submission) -> Result<(), SubmitError> {
        match self.shared.gate.state() {
            GateState::Open => {}
            GateState::Closing | GateState::Closed => return Err(SubmitError::Closed),
            GateState::Failed => return Err(SubmitError::Unavailable),
        }
        let cost = self.shared.cost(submission.frame.memory_bytes());
        let Ok(permit) = self.shared.permits.try_acquire_many(cost) else {
            return Err(SubmitError::Full(Box::new(submission)));
        };
        self.submit(submission, Reserved { permit, cost })
    }

    /// Takes a frame for which room was reserved.
    pub(crate) fn submit(&self, submission: Submission, reserved: Reserved<'_>) -> Result<(), SubmitError> {
        let Reserved { permit, cost } = reserved;
        match self.frames.try_send(Queued { submission, cost }) {
            Ok(()) => {
                // Given back by the appender, once the frame is answered.
                permit.forget();
                // Then the appender may have looked for the last time: nobody else would take it out.
                if self.shared.gate.ended_behind() {
                    self.shared.refuse_queued();
                }
                Ok(())
            }
            Err(TrySendError::Full(queued)) => Err(SubmitError::Full(Box::new(queued.submission))),
            Err(TrySendError::Disconnected(_)) => Err(SubmitError::Unavailable),
        }
    }

    /// Waits for room for a frame of so many bytes in memory, and keeps it for the caller: were it given back, to be
    /// taken again, whoever waits next would have it first, and two who wait could pass it between them for ever. In
    /// the order of asking. `None` once the queue is closed.
    pub(crate) async fn reserve(&self, bytes: usize) -> Option<Reserved<'_>> {
        let cost = self.shared.cost(bytes);
        let permit = self.shared.permits.acquire_many(cost).await.ok()?;
        Some(Reserved { permit, cost })
    }

    /// Has the single writer do something between two groups. Once the appender has ended, the command is dropped,
    /// and whoever waits for its answer sees that.
    pub(crate) fn command(&self, command: WriterCommand) {
        if let Some(commands) = &mut *self.shared.commands.lock().unwrap_or_else(PoisonError::into_inner) {
            commands.push_back(command);
        }
        self.wake();
    }

    /// Wakes the appender: WAL or memory came free.
    pub(crate) fn wake(&self) {
        // A wake that waits already does for both; and there may be nobody left to wake.
        let _full = self.wake.try_send(());
    }

    /// Takes no more frames. What is in the queue is still made durable; then the appender writes the mark of a clean
    /// close and ends.
    pub(crate) fn close(&self) {
        self.shared.gate.close();
        self.wake();
    }

    /// Bytes of decoded frames in the queue, and in the groups on their way.
    pub(crate) fn bytes(&self) -> u64 {
        self.shared.bytes()
    }

    /// Frames in the queue that the appender has not looked at.
    pub(crate) fn frames(&self) -> usize {
        self.frames.len()
    }
}

impl AppendInbox {
    /// Wakes the appender.
    pub(super) fn waker(&self) -> Sender<()> {
        self.waker.clone()
    }

    /// The next frame, of the organisation whose turn it is.
    pub(super) fn try_recv(&mut self) -> Option<Queued> {
        // Ends: permits bound what is in both.
        for queued in self.shared.frames.try_iter() {
            self.lines.push(queued.submission.org, queued);
        }
        self.lines.pop()
    }

    /// Waits for a frame or a wake. To be called when there is no frame.
    pub(super) fn wait(&self) -> Option<Queued> {
        select! {
            recv(self.shared.frames) -> queued => queued.ok(),
            recv(self.wake) -> _woken => None,
        }
    }

    /// Waits for a wake, but no longer than this.
    pub(super) fn wait_for_wake(&self, at_most: Duration) {
        let _woken_or_not = self.wake.recv_timeout(at_most);
    }

    pub(super) fn next_command(&self) -> Option<WriterCommand> {
        self.shared.commands.lock().unwrap_or_else(PoisonError::into_inner).as_mut()?.pop_front()
    }

    pub(super) fn is_closing(&self) -> bool {
        matches!(self.shared.gate.state(), GateState::Closing | GateState::Closed)
    }

    /// Nobody takes anything out any more, but the caller, who empties the queue after this: frames are refused,
    /// commands dropped, and who waits for room is woken.
    pub(super) fn end(&self, failed: bool) {
        self.shared.gate.end(failed);
        self.shared.permits.close();
        self.shared.commands.lock().unwrap_or_else(PoisonError::into_inner).take();
    }

    /// Bytes of decoded frames in the queue, and taken out of it and not released.
    pub(super) fn bytes(&self) -> u64 {
        self.shared.bytes()
    }

    /// Gives room back.
    pub(super) fn release(&self, permits: usize) {
        self.shared.permits.add_permits(permits);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use futures::FutureExt as _;

    use super::super::support::{Answer, Sink, frame, gateway, org};
    use super::*;

    fn submission(number: u64, sink: &Arc<Sink>) -> Submission {
        let acks = Arc::<Sink>::clone(sink);
        Submission { org: org(1), gateway: gateway(), received: Millis::EPOCH, frame: frame(number, 1), acks }
    }

    #[test]
    fn what_slips_in_behind_the_last_look_is_refused() {
        for gone in [false, true] {
            let sink = Arc::<Sink>::default();
            let (queue, mut inbox) = append_queue(1 << 20);
            let reserved = queue.reserve(1).now_or_never().expect("at once").expect("open");
            inbox.end(gone);
            assert!(inbox.try_recv().is_none(), "the last look");
            if gone {
                drop(inbox);
            }
            queue.submit(submission(1, &sink), reserved).expect("it is taken, and answered");
            assert_eq!(sink.take(), [Answer::Failed(1, SubmitFailure::Stopped)]);
            assert!(queue.try_submit(submission(2, &sink)).is_err());
            assert!(sink.take().is_empty(), "the error was the answer");
        }
    }

    #[test]
    fn what_slips_in_behind_the_close_is_the_appenders() {
        let sink = Arc::<Sink>::default();
        let (queue, mut inbox) = append_queue(1 << 20);
        let reserved = queue.reserve(1).now_or_never().expect("at once").expect("open");
        queue.try_submit(submission(1, &sink)).expect("room");
        queue.close();
        queue.submit(submission(2, &sink), reserved).expect("it is taken");
        assert!(inbox.is_closing() && inbox.try_recv().is_some() && inbox.try_recv().is_some());
        assert!(sink.take().is_empty(), "it is not over");
    }

    #[test]
    fn a_frame_is_not_taken_or_answered_once_wherever_the_end_falls() {
        for round in 0..500 {
            let sink = Arc::<Sink>::default();
            let (queue, mut inbox) = append_queue(1 << 20);
            let under_way = AtomicBool::new(false);
            let frame = frame(1, 1);
            let taken = std::thread::scope(|scope| {
                let submitter = scope.spawn(|| {
                    let mut taken = 0;
                    loop {
                        under_way.store(true, Ordering::Relaxed);
                        let acks = Arc::<Sink>::clone(&sink);
                        let (org, gateway, received) = (org(1), gateway(), Millis::EPOCH);
                        let submission = Submission { org, gateway, received, frame: frame.clone(), acks };
                        match queue.try_submit(submission) {
                            Ok(()) => taken += 1,
                            Err(SubmitError::Full(_)) => {}
                            Err(_) => break taken,
                        }
                    }
                });
                while !under_way.load(Ordering::Relaxed) {
                    std::thread::yield_now();
                }
                // Let the end come to different places.
                for _ in 0..round % 50 {
                    if let Some(queued) = inbox.try_recv() {
                        inbox.release(queued.cost as usize);
                        queued.submission.acks.durable(queued.submission.frame.sequence());
                    }
                }
                inbox.end(round % 2 == 0);
                while let Some(queued) = inbox.try_recv() {
                    queued.submission.refuse();
                }
                drop(inbox);
                submitter.join().expect("no panic")
            });
            assert_eq!(sink.take().len(), taken, "round {round}");
        }
    }
}
