//! icecore's storage core: makes frames durable (WAL), readable (write buffers), and lasting (segments, manifest).
//!
//! Layers, from the top: `engine` over `append`, `flush`, `recover`; these over `wal`, `apply`, `snapshot`; these over
//! `buffer`, `manifest`; these over `first_wins`, `sync`. A lower one knows nothing of an upper one. This crate knows no
//! QUIC, no HTTP and no SQL. Clock, randomness, files and object store are handed in (`durable`); the work is done in
//! steps that threads and tasks merely call.

// Loom proves single files, which it takes by their paths (tests/loom), without the engine and what it depends on.
#![cfg(not(loom))]

mod append;
mod apply;
mod buffer;
mod collect;
mod config;
mod engine;
mod error;
mod first_wins;
mod flush;
mod keys;
mod limits;
mod manifest;
mod metrics;
mod planted;
mod recover;
mod segments;
mod snapshot;
mod sync;
mod wal;

pub use append::{AckSink, Ordered, Submission, SubmitError, SubmitFailure};
pub use buffer::{BufferView, SortedBatches, WriteBuffer};
pub use config::EngineConfig;
pub use durable::{
    Clock, Dir, Fault, FaultStore, File, FileLock, Files, LocalDurable, LocalDurableError, Operation, PutError,
    PutOutcome, Random, RealFiles, Spawn, SystemClock, SystemRandom, is_fatal, put_create,
};
#[cfg(any(test, feature = "fault"))]
pub use durable::{FaultCounts, FaultRates, FaultyFiles, Loss, SyncKind};
#[cfg(any(test, feature = "fault"))]
pub use engine::{Appended, Stepped};
pub use engine::{Engine, EngineParts, EngineStatus, FlushTrouble};
pub use error::{EngineError, EngineErrorKind};
pub use first_wins::{
    MERGE_BATCH_ROWS, MergeCounts, MergeError, MergeKernel, MergeMode, MergePoll, MergedBatch, unify,
};
pub use flush::FlushReport;
pub use keys::{KeyError, KeyProvider, MasterKey, OrgKeys};
pub use manifest::{BASE_EVERY, CommitError, InvariantError, ManifestChange, ManifestError, ManifestStore};
#[cfg(any(test, feature = "fault"))]
pub use planted::{PlantedBug, plant};
pub use recover::RecoveryReport;
pub use segments::{NewSegment, SegmentFilter, SegmentReadError, SegmentStream, Segments};
pub use snapshot::Snapshot;
