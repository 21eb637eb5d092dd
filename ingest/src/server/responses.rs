//! Responses of one stream, shared by its two halves: the reading half and the sink add responses, the writing half
//! sends them.
//!
//! Invariants: acknowledgements are one growing number, so that one message acknowledges many frames. A refusal is
//! added before any higher number can become durable, and the number is read before the refusals are removed, so that a
//! refusal is always sent before the acknowledgement that covers it. At most `PENDING_REFUSALS_MAX` refusals are
//! pending; at that limit the reading half waits. Only frames that the sink has accepted and then failed can exceed it,
//! and the sink is bounded.

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

/// Limit of pending refusals.
const PENDING_REFUSALS_MAX: usize = 64;

/// Responses that the writing half has not encoded yet, and failures.
#[derive(Debug, Default)]
struct Pending {
    opened: Option<FrameSequence>,
    refusals: VecDeque<(FrameSequence, FrameRefusal)>,
    /// Failure of a frame in the sink, with the code of its refusal if it has one. Every later frame of the stream
    /// fails in the same way.
    failed: Option<Option<RefusalCode>>,
    failed_up_to: FrameSequence,
}

/// State that the two halves of a stream share.
#[derive(Debug, Default)]
pub(super) struct Responses {
    durable: AtomicU64,
    pending: Mutex<Pending>,
    submitted: AtomicU64,
    input_ended: AtomicBool,
    /// Wakes the writing half.
    changed: Notify,
    /// Wakes the reading half when there is room for refusals again.
    room: Notify,
}

impl AckSink for Responses {
    fn durable(&self, up_to: FrameSequence) {
        if self.durable.fetch_max(up_to.get(), Ordering::AcqRel) < up_to.get() {
            self.changed.notify_one();
        }
    }

    fn failed(&self, sequence: FrameSequence, code: Option<RefusalCode>) {
        let mut pending = self.lock();
        pending.failed.get_or_insert(code);
        pending.failed_up_to = pending.failed_up_to.max(sequence);
        if let Some(code) = code {
            metrics::refused(code);
            let detail = String::from("the server took it and could not keep it");
            pending.refusals.push_back((sequence, FrameRefusal { code, detail }));
        }
        drop(pending);
        self.changed.notify_one();
    }

    fn has_failed(&self) -> bool {
        self.failure().is_some()
    }
}

impl Responses {
    fn lock(&self) -> MutexGuard<'_, Pending> {
        // Nothing panics while the lock is held, and the state inside is consistent at every moment.
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds the response to `open`.
    pub(super) fn opened(&self, durable: FrameSequence) {
        self.lock().opened = Some(durable);
        self.changed.notify_one();
    }

    /// Adds a refusal; waits while too many are pending.
    pub(super) async fn refuse(&self, sequence: FrameSequence, refusal: FrameRefusal) {
        metrics::refused(refusal.code);
        loop {
            {
                let mut pending = self.lock();
                if pending.refusals.len() < PENDING_REFUSALS_MAX {
                    pending.refusals.push_back((sequence, refusal));
                    break;
                }
            }
            self.room.notified().await;
        }
        self.changed.notify_one();
    }

    /// Returns whether the sink has failed a frame of this stream, with the code of the refusal if it has one.
    pub(super) fn failure(&self) -> Option<Option<RefusalCode>> {
        self.lock().failed
    }

    /// Records that this frame is being submitted to the sink.
    pub(super) fn set_submitted(&self, sequence: FrameSequence) {
        self.submitted.store(sequence.get(), Ordering::Release);
    }

    /// Restores the number before [`set_submitted`](Self::set_submitted), because the sink did not accept the frame.
    pub(super) fn restore_submitted(&self, before: u64) {
        self.submitted.store(before, Ordering::Release);
    }

    /// Returns the last number submitted to the sink; zero when there is none.
    pub(super) fn submitted(&self) -> u64 {
        self.submitted.load(Ordering::Acquire)
    }

    /// Records that no further frame will arrive.
    pub(super) fn end_input(&self) {
        self.input_ended.store(true, Ordering::Release);
        self.changed.notify_one();
    }

    /// Encodes all pending responses into `out`; `sent` is the last acknowledgement sent before.
    ///
    /// Returns `Ok(true)` when every submitted frame has a response and no further frame will arrive.
    pub(super) fn encode_pending(&self, sent: &mut u64, out: &mut BytesMut) -> Result<bool, CloseCode> {
        // The order matters, see the invariants above. `input_ended` is read first, so that nothing added before it is
        // missed.
        let input_ended = self.input_ended.load(Ordering::Acquire);
        let durable = self.durable.load(Ordering::Acquire);
        let submitted = self.submitted();
        let mut pending = self.lock();
        if let Some(durable) = pending.opened.take() {
            Message::Opened { durable }.encode(out);
        }
        while let Some((sequence, FrameRefusal { code, detail })) = pending.refusals.pop_front() {
            Message::Refused { sequence, code, detail }.encode(out);
        }
        let (failed, failed_up_to) = (pending.failed, pending.failed_up_to.get());
        drop(pending);
        self.room.notify_one();
        if durable > *sent {
            *sent = durable;
            Message::Ack { up_to: FrameSequence::new(durable) }.encode(out);
        }
        if failed == Some(None) {
            return Err(CloseCode::Unavailable);
        }
        Ok(input_ended && durable.max(failed_up_to) >= submitted)
    }

    /// Waits for a change.
    pub(super) async fn changed(&self) {
        self.changed.notified().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal() -> FrameRefusal {
        FrameRefusal { code: RefusalCode::Malformed, detail: String::new() }
    }

    #[tokio::test]
    async fn a_refusal_precedes_the_acknowledgement_that_covers_it() {
        let responses = Responses::default();
        responses.opened(FrameSequence::new(3));
        responses.set_submitted(FrameSequence::new(4));
        responses.refuse(FrameSequence::new(5), refusal()).await;
        responses.set_submitted(FrameSequence::new(6));
        responses.durable(FrameSequence::new(4));
        responses.durable(FrameSequence::new(6));
        let (mut sent, mut out) = (0, BytesMut::new());
        assert_eq!(responses.encode_pending(&mut sent, &mut out), Ok(false));
        let mut expected = BytesMut::new();
        Message::Opened { durable: FrameSequence::new(3) }.encode(&mut expected);
        let (code, detail) = (RefusalCode::Malformed, String::new());
        Message::Refused { sequence: FrameSequence::new(5), code, detail }.encode(&mut expected);
        Message::Ack { up_to: FrameSequence::new(6) }.encode(&mut expected);
        assert_eq!(out, expected);
        responses.end_input();
        out.clear();
        assert_eq!(responses.encode_pending(&mut sent, &mut out), Ok(true));
        assert!(out.is_empty());
    }

    #[tokio::test]
    async fn a_failure_without_a_code_ends_the_stream_after_earlier_acknowledgements() {
        let responses = Responses::default();
        responses.set_submitted(FrameSequence::new(2));
        responses.durable(FrameSequence::new(1));
        responses.failed(FrameSequence::new(2), None);
        let (mut sent, mut out) = (0, BytesMut::new());
        assert_eq!(responses.encode_pending(&mut sent, &mut out), Err(CloseCode::Unavailable));
        assert_eq!(out.freeze(), Message::Ack { up_to: FrameSequence::new(1) }.to_bytes());
    }
}
