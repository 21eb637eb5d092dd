//! The end of the way in: frames that are submitted while the appender ends, or while it is asked to close.

use loom::sync::Arc;
use loom::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use crate::engine::gate::{Gate, GateState};

/// A queue of one frame, which promises less than a channel does: that a frame is taken out once, and no more.
struct Queue {
    gate: Gate,
    frame: AtomicBool,
    durable: AtomicUsize,
    refused: AtomicUsize,
}

impl Queue {
    fn new() -> Arc<Self> {
        let (durable, refused) = (AtomicUsize::new(0), AtomicUsize::new(0));
        Arc::new(Self { gate: Gate::new(), frame: AtomicBool::new(false), durable, refused })
    }

    fn try_recv(&self) -> bool {
        self.frame.load(Ordering::Acquire)
            && self.frame.compare_exchange(true, false, Ordering::AcqRel, Ordering::Relaxed).is_ok()
    }

    fn refuse_queued(&self) {
        while self.try_recv() {
            self.refused.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// As `AppendQueue::try_submit`: was it taken?
    fn submit(&self) -> bool {
        if self.gate.state() != GateState::Open {
            return false;
        }
        self.frame.store(true, Ordering::Release);
        if self.gate.ended_behind() {
            self.refuse_queued();
        }
        true
    }

    /// As `AppendStep::step`: false once it has ended.
    fn step(&self) -> bool {
        let closing = self.gate.state() == GateState::Closing;
        if self.try_recv() {
            self.durable.fetch_add(1, Ordering::Relaxed);
        } else if closing {
            self.end(false);
            return false;
        }
        true
    }

    /// As `AppendStep::end`.
    fn end(&self, failed: bool) {
        self.gate.end(failed);
        self.refuse_queued();
    }

    fn answers(&self) -> (usize, usize) {
        (self.durable.load(Ordering::Relaxed), self.refused.load(Ordering::Relaxed))
    }
}

#[test]
fn a_frame_that_was_taken_is_answered_once() {
    for failed in [false, true] {
        loom::model(move || {
            let queue = Queue::new();
            let submitter = {
                let queue = Arc::clone(&queue);
                loom::thread::spawn(move || queue.submit())
            };
            queue.step();
            queue.end(failed);
            let taken = submitter.join().expect("the submitter ends");
            let (durable, refused) = queue.answers();
            assert_eq!(durable + refused, usize::from(taken));
        });
    }
}

#[test]
fn what_was_submitted_before_the_close_is_made_durable() {
    loom::model(|| {
        let queue = Queue::new();
        let submitter = {
            let queue = Arc::clone(&queue);
            loom::thread::spawn(move || {
                assert!(queue.submit());
                queue.gate.close();
            })
        };
        while queue.step() {
            loom::thread::yield_now();
        }
        submitter.join().expect("the submitter ends");
        assert_eq!(queue.answers(), (1, 0));
    });
}
