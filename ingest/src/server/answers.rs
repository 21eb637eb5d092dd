//! What the two halves of a stream share: the reading half and the sink put answers in, the writing half sends them.
//!
//! Invariants: acknowledgements are one growing number, however many frames it stands for, so that one message answers
//! them all. A refusal is put in before any higher number can become durable, and the number is read before the
//! refusals are taken out: so a refusal always goes out before the acknowledgement that covers it. At most
//! `REFUSALS_WAITING_MAX` refusals wait; past that the reading half waits. Only frames that the sink has taken and then
//! failed can add to it, and the sink is bounded.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::BytesMut;
use storage_format::FrameSequence;
use tokio::sync::Notify;

use crate::error::{CloseCode, RefusalCode};
use crate::metrics;
use crate::ports::AckSink;
use crate::protocol::{FrameRefusal, Message};

const REFUSALS_WAITING_MAX: usize = 64;

#[derive(Debug, Default)]
struct Waiting {
    opened: Option<FrameSequence>,
    refusals: VecDeque<(FrameSequence, FrameRefusal)>,
    /// The sink failed a frame: every later one of this stream fails the same way.
    failed: Option<Option<RefusalCode>>,
    failed_up_to: FrameSequence,
}

#[derive(Debug, Default)]
pub(super) struct Answers {
    durable: AtomicU64,
    waiting: Mutex<Waiting>,
    submitted: AtomicU64,
    no_more: AtomicBool,
    /// The writing half waits here.
    wake: Notify,
    /// The reading half waits here while too many refusals wait.
    room: Notify,
}

impl AckSink for Answers {
    fn durable(&self, up_to: FrameSequence) {
        if self.durable.fetch_max(up_to.get(), Ordering::AcqRel) < up_to.get() {
            self.wake.notify_one();
        }
    }

    fn failed(&self, sequence: FrameSequence, code: Option<RefusalCode>) {
        let mut waiting = self.lock();
        waiting.failed.get_or_insert(code);
        waiting.failed_up_to = waiting.failed_up_to.max(sequence);
        if let Some(code) = code {
            metrics::refused(code);
            let detail = String::from("the server took it and could not keep it");
            waiting.refusals.push_back((sequence, FrameRefusal { code, detail }));
        }
        drop(waiting);
        self.wake.notify_one();
    }
}

impl Answers {
    fn lock(&self) -> MutexGuard<'_, Waiting> {
        // Nothing panics while the lock is held; and what is inside is whole at every moment.
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn opened(&self, durable: FrameSequence) {
        self.lock().opened = Some(durable);
        self.wake.notify_one();
    }

    /// Puts a refusal in; waits while too many wait.
    pub(super) async fn refuse(&self, sequence: FrameSequence, refusal: FrameRefusal) {
        metrics::refused(refusal.code);
        loop {
            {
                let mut waiting = self.lock();
                if waiting.refusals.len() < REFUSALS_WAITING_MAX {
                    waiting.refusals.push_back((sequence, refusal));
                    break;
                }
            }
            self.room.notified().await;
        }
        self.wake.notify_one();
    }

    /// Has the sink failed a frame of this stream? The inner code is that of a refusal.
    pub(super) fn failure(&self) -> Option<Option<RefusalCode>> {
        self.lock().failed
    }

    /// The sink takes this frame now.
    pub(super) fn submitting(&self, sequence: FrameSequence) {
        self.submitted.store(sequence.get(), Ordering::Release);
    }

    /// The sink did not take it after all.
    pub(super) fn not_submitted(&self, before: u64) {
        self.submitted.store(before, Ordering::Release);
    }

    pub(super) fn submitted(&self) -> u64 {
        self.submitted.load(Ordering::Acquire)
    }

    /// No further frame will come.
    pub(super) fn no_more(&self) {
        self.no_more.store(true, Ordering::Release);
        self.wake.notify_one();
    }

    /// Writes every answer that waits into `out`, of which `sent` is the last acknowledgement.
    ///
    /// `Ok(true)`: all that was submitted is answered and nothing more comes.
    pub(super) fn take(&self, sent: &mut u64, out: &mut BytesMut) -> Result<bool, CloseCode> {
        // Read first, see the invariants above. `no_more` before both, so that nothing is left behind it.
        let no_more = self.no_more.load(Ordering::Acquire);
        let durable = self.durable.load(Ordering::Acquire);
        let submitted = self.submitted();
        let mut waiting = self.lock();
        if let Some(durable) = waiting.opened.take() {
            Message::Opened { durable }.encode(out);
        }
        while let Some((sequence, FrameRefusal { code, detail })) = waiting.refusals.pop_front() {
            Message::Refused { sequence, code, detail }.encode(out);
        }
        let (failed, failed_up_to) = (waiting.failed, waiting.failed_up_to.get());
        drop(waiting);
        self.room.notify_one();
        if durable > *sent {
            *sent = durable;
            Message::Ack { up_to: FrameSequence::new(durable) }.encode(out);
        }
        if failed == Some(None) {
            return Err(CloseCode::Unavailable);
        }
        Ok(no_more && durable.max(failed_up_to) >= submitted)
    }

    pub(super) async fn woken(&self) {
        self.wake.notified().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal() -> FrameRefusal {
        FrameRefusal { code: RefusalCode::Malformed, detail: String::new() }
    }

    #[tokio::test]
    async fn refusals_go_before_the_acknowledgement_that_covers_them() {
        let answers = Answers::default();
        answers.opened(FrameSequence::new(3));
        answers.submitting(FrameSequence::new(4));
        answers.refuse(FrameSequence::new(5), refusal()).await;
        answers.submitting(FrameSequence::new(6));
        answers.durable(FrameSequence::new(4));
        answers.durable(FrameSequence::new(6));
        let (mut sent, mut out) = (0, BytesMut::new());
        assert_eq!(answers.take(&mut sent, &mut out), Ok(false));
        let mut expected = BytesMut::new();
        Message::Opened { durable: FrameSequence::new(3) }.encode(&mut expected);
        let (code, detail) = (RefusalCode::Malformed, String::new());
        Message::Refused { sequence: FrameSequence::new(5), code, detail }.encode(&mut expected);
        Message::Ack { up_to: FrameSequence::new(6) }.encode(&mut expected);
        assert_eq!(out, expected);
        answers.no_more();
        out.clear();
        assert_eq!(answers.take(&mut sent, &mut out), Ok(true));
        assert!(out.is_empty());
    }

    #[tokio::test]
    async fn a_failure_without_a_code_ends_the_stream_and_keeps_earlier_acknowledgements() {
        let answers = Answers::default();
        answers.submitting(FrameSequence::new(2));
        answers.durable(FrameSequence::new(1));
        answers.failed(FrameSequence::new(2), None);
        let (mut sent, mut out) = (0, BytesMut::new());
        assert_eq!(answers.take(&mut sent, &mut out), Err(CloseCode::Unavailable));
        assert_eq!(out.freeze(), Message::Ack { up_to: FrameSequence::new(1) }.to_bytes());
    }
}
