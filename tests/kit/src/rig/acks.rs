//! Acknowledgements of one stream of frames, for a test that waits for them.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use engine::{AckSink, SubmitFailure};
use storage_format::FrameSequence;
use tokio::sync::Notify;

/// What the engine answered to the frames of one stream.
#[derive(Debug, Default)]
pub struct Acks {
    durable: AtomicU64,
    failed: Mutex<BTreeMap<FrameSequence, SubmitFailure>>,
    changed: Notify,
}

impl AckSink for Acks {
    fn durable(&self, up_to: FrameSequence) {
        self.durable.fetch_max(up_to.get(), Ordering::AcqRel);
        self.changed.notify_waiters();
    }

    fn failed(&self, sequence: FrameSequence, failure: SubmitFailure) {
        self.failed.lock().expect("no panic").insert(sequence, failure);
        self.changed.notify_waiters();
    }

    fn has_failed(&self) -> bool {
        !self.failed.lock().expect("no panic").is_empty()
    }
}

impl Acks {
    /// Returns the failures so far, in the order of their frames.
    ///
    /// # Panics
    /// When another thread has panicked.
    #[must_use]
    pub fn failures(&self) -> Vec<SubmitFailure> {
        self.failed.lock().expect("no panic").values().copied().collect()
    }

    /// Returns the sequence number up to which all frames are durable.
    #[must_use]
    pub fn durable_up_to(&self) -> u64 {
        self.durable.load(Ordering::Acquire)
    }

    /// Waits until this frame is answered; returns whether it is durable.
    ///
    /// # Panics
    /// When another thread has panicked.
    pub async fn answered(&self, sequence: u64) -> bool {
        loop {
            let changed = self.changed.notified();
            if self.failed.lock().expect("no panic").contains_key(&FrameSequence::new(sequence)) {
                return false;
            }
            if self.durable_up_to() >= sequence {
                return true;
            }
            changed.await;
        }
    }
}
