//! The engine-wide budget of write buffer bytes.
//!
//! Taking never fails: a frame that is durable must be applied. Instead the way in asks [`Budget::is_full_for`] before it
//! accepts more, and the flush schedule looks at [`Budget::is_high`]; so use can pass the maximum by what the queue
//! held, and no more. The last of the budget is for those who hold little of it: who fills memory faster than flushes
//! free it waits, and the others do not.

#[cfg(loom)]
use loom::sync::atomic::{AtomicU64, Ordering};
#[cfg(not(loom))]
use std::sync::atomic::{AtomicU64, Ordering};

#[cfg(not(loom))]
use tokio::sync::Notify;

#[cfg(loom)]
use super::notify::Notify;

/// The part of the budget that only those get who hold little.
const RESERVED_PART: u64 = 8;
/// The part of the budget under which an organisation's buffers are little.
const LITTLE_PART: u64 = 32;

/// Bytes in use over all write buffers, frozen ones and those that readers still hold included.
#[derive(Debug)]
pub(crate) struct Budget {
    used: AtomicU64,
    max: u64,
    given_back: Notify,
}

impl Budget {
    /// A budget of `max` bytes.
    pub(crate) fn new(max: u64) -> Self {
        Self { used: AtomicU64::new(0), max, given_back: Notify::new() }
    }

    /// Bytes in use.
    pub(crate) fn used(&self) -> u64 {
        self.used.load(Ordering::Relaxed)
    }

    /// The maximum.
    pub(crate) fn max(&self) -> u64 {
        self.max
    }

    /// Must the way in wait, for an organisation that holds so much? It is only asked when it matters.
    pub(crate) fn is_full_for(&self, held: impl FnOnce() -> u64) -> bool {
        let used = self.used();
        used >= self.max || (used >= self.max - self.max / RESERVED_PART && held() >= self.max / LITTLE_PART)
    }

    /// Three quarters: what a flush should free memory down to.
    pub(crate) fn high_water(&self) -> u64 {
        self.max / 4 * 3
    }

    /// Should something be flushed to free memory?
    pub(crate) fn is_high(&self) -> bool {
        self.used() >= self.high_water()
    }

    pub(crate) fn take(&self, bytes: u64) {
        self.used.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(crate) fn give_back(&self, bytes: u64) {
        self.used.fetch_sub(bytes, Ordering::Relaxed);
        self.given_back.notify_waiters();
    }

    /// Somebody holds less than before, though readers still hold the memory: who waits looks again.
    pub(crate) fn let_look_again(&self) {
        self.given_back.notify_waiters();
    }

    /// Waits until the budget is not full for an organisation that holds so much.
    pub(crate) async fn room_for(&self, held: impl Fn() -> u64) {
        loop {
            // Made before the look: it hears of whatever is given back from here on.
            let given_back = self.given_back.notified();
            if !self.is_full_for(&held) {
                return;
            }
            given_back.await;
        }
    }
}
