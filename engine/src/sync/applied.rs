//! The last record that is applied, and what follows from it: the first that the log must keep.
//!
//! Invariant: every record up to the number is in a write buffer, or in segments, for whoever has read the number.

#[cfg(loom)]
use loom::sync::atomic::{AtomicU64, Ordering};
#[cfg(not(loom))]
use std::sync::atomic::{AtomicU64, Ordering};

/// The LSN of the last record that is applied.
#[derive(Debug)]
pub(crate) struct Applied(AtomicU64);

impl Applied {
    /// None yet.
    pub(crate) fn new() -> Self {
        Self(AtomicU64::new(0))
    }

    /// Every record up to this one is applied, or set aside.
    pub(crate) fn set(&self, lsn: u64) {
        self.0.fetch_max(lsn, Ordering::Release);
    }

    /// The last one.
    pub(crate) fn get(&self) -> u64 {
        self.0.load(Ordering::Acquire)
    }

    /// The first record that is perhaps not in segments; `buffered` looks for the first one in the write buffers.
    pub(crate) fn first_unflushed(&self, buffered: impl FnOnce() -> Option<u64>) -> u64 {
        // This order matters: a record that is applied after the first line is not missed, because its LSN is past it.
        let next = self.get().saturating_add(1);
        buffered().map_or(next, |first| first.min(next))
    }
}
