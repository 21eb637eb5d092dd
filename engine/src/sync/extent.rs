//! How far a write buffer goes: its rows, its frames, and the LSNs of the first and the last of them.
//!
//! Invariants: one writer; whoever sees rows finds the frames that they came in, and an LSN; whoever sees the first LSN
//! sees a last one. Whole frames are shown, never a part of one. LSNs are not zero and grow.

#[cfg(loom)]
use loom::sync::atomic::{AtomicU64, Ordering};
#[cfg(not(loom))]
use std::sync::atomic::{AtomicU64, Ordering};

use super::column::Published;

/// What a buffer shows of itself.
pub(crate) struct Extent {
    rows: Published,
    frames: Published,
    /// Zero while the buffer is empty.
    lsn_first: AtomicU64,
    lsn_last: AtomicU64,
}

impl Extent {
    /// Of an empty buffer.
    pub(crate) fn new() -> Self {
        Self {
            rows: Published::new(),
            frames: Published::new(),
            lsn_first: AtomicU64::new(0),
            lsn_last: AtomicU64::new(0),
        }
    }

    /// Rows to read up to.
    pub(crate) fn rows(&self) -> usize {
        self.rows.observe()
    }

    /// Frames: at least those of the rows observed before.
    pub(crate) fn frames(&self) -> usize {
        self.frames.observe()
    }

    /// The first LSN; `None` while the buffer is empty.
    pub(crate) fn lsn_first(&self) -> Option<u64> {
        // Acquire, with the writer's release: whoever sees a record's LSN applied sees that it is in here.
        Some(self.lsn_first.load(Ordering::Acquire)).filter(|lsn| *lsn != 0)
    }

    /// The last LSN; `None` while the buffer is empty.
    pub(crate) fn lsn_last(&self) -> Option<u64> {
        self.lsn_first().map(|_| self.lsn_last.load(Ordering::Acquire))
    }

    /// Shows one frame more, which ends before row `rows` and is the buffer's `frames`th.
    pub(crate) fn publish(&self, rows: usize, frames: usize, lsn: u64) {
        self.lsn_last.store(lsn, Ordering::Release);
        if frames == 1 {
            self.lsn_first.store(lsn, Ordering::Release);
        }
        // Frames first: whoever sees the rows finds the frames that they came in.
        self.frames.publish(frames);
        self.rows.publish(rows);
    }
}
