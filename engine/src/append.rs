//! The way in: queue → WAL block → sync → write buffers → acknowledgement.
//!
//! [`AppendQueue`] is what callers have: bounded in bytes and frames, never blocking. [`AppendStep`] is the single
//! writer of WAL and write buffers: each `run_once` brings one group to its end: one block is written, synced once,
//! applied, acknowledged; durable, then visible, then acknowledged. The next group may be filled meanwhile. The threads
//! at the end merely call it, and write what it hands them.
//!
//! Invariants: nothing is acknowledged before its sync returned; after a failed write or sync nothing is acknowledged
//! any more, ever; what was taken from the queue and not made durable is told so, or stays held until there is room.

mod disk;
mod lines;
pub(crate) mod metrics;
mod queue;
mod step;
mod thread;

pub(crate) use queue::{AppendQueue, append_queue};
pub use queue::{Submission, SubmitError};
#[cfg(any(test, feature = "fault"))]
pub(crate) use step::AppendProgress;
pub use step::Ordered;
pub(crate) use step::{AppendStep, GroupLimits};
pub(crate) use thread::{StopPreparer, spawn_appender, spawn_wal_preparer};

use storage_format::FrameSequence;

/// Where the answers to submissions go. Called on the appender's thread: must return at once.
pub trait AckSink: Send + Sync {
    /// Every frame submitted with this sink, up to and including this one, is durable and visible, or was answered by
    /// [`AckSink::failed`] before.
    fn durable(&self, up_to: FrameSequence);

    /// This frame was not made durable, and will not be, nor any later one submitted with this sink.
    fn failed(&self, sequence: FrameSequence, failure: SubmitFailure);

    /// Returns whether a frame has failed. What is durable is told by its greatest number, so that after a frame that is
    /// not, none may be: its sender would take it for durable, and never send it again.
    fn has_failed(&self) -> bool;
}

/// Why a submitted frame was not made durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum SubmitFailure {
    /// The organisation is not loaded: it is not there, or was taken away meanwhile.
    UnknownOrg,
    /// The organisation's stored data is damaged or missing: it takes no frames until that is restored. Send it again
    /// later.
    OrgInTrouble,
    /// The engine stopped before, or while, it was written. It may be found durable at the next start: send it again.
    Stopped,
}

#[cfg(test)]
pub(crate) mod support;
#[cfg(test)]
mod tests;
