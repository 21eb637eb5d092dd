//! icecore's storage core: makes frames durable (WAL), readable (write buffers), and lasting (segments, manifest).
//!
//! Rooms, from the top: `engine` puts everything together. Below it `append`, `recover`, `flush`, `compact`, `retain` and
//! `garbage` do the work, and `trouble` keeps an organisation with damaged data from holding up the others, each in steps
//! that threads and `maintain` merely call. Below these: `commit`, the one door through which manifests change; `last`,
//! `snapshot`, `apply`, `wal`, `org`; then `buffer`, `segments`, `manifest`, `first_wins`; at the bottom what all
//! use. A room imports only rooms below it: which, is a table in `tests/tidy/rooms.rs` that a test holds. This crate
//! knows no QUIC, no HTTP and no SQL. Clock, randomness, files, object store and tasks are handed in (`durable`).

// Loom proves single files, which it takes by their paths (tests/loom), without the engine and what it depends on.
#![cfg(not(loom))]

mod append;
mod apply;
mod buffer;
mod carried;
mod commit;
mod compact;
mod config;
mod doctor;
mod engine;
mod error;
mod first_wins;
mod flush;
mod garbage;
mod health;
mod keys;
mod last;
mod limits;
mod maintain;
mod manifest;
mod metrics;
mod org;
mod planted;
mod recover;
mod retain;
mod rollup;
mod segments;
mod snapshot;
mod sync;
mod trouble;
mod wal;

pub use append::{AckSink, Ordered, Submission, SubmitError, SubmitFailure};
pub use buffer::{BufferView, SortedBatches, WriteBuffer};
pub use carried::CarriedFile;
pub use compact::{CompactFailure, CompactProgress, CompactReport, CompactScope};
pub use config::EngineConfig;
pub use doctor::{Doctor, DoctorProgress, Examined, FaultKind, Finding, LogState};
pub use durable::{
    BindingError, CacheCounts, CachedStore, Clock, CountedStore, Dir, Fault, FaultStore, File, FileLock, Files,
    LocalDurable, LocalDurableError, Operation, Provider, PutError, PutOutcome, Random, RealFiles, RemoteSettings,
    RequestCounts, RequestKind, Spawn, StoreRequests, StoreSetupError, StoreUrl, StoreUrlError, SystemClock,
    SystemRandom, bind, check_address, check_unbound, is_fatal, open_remote, put_create, read_object,
};
#[cfg(any(test, feature = "fault"))]
pub use durable::{FaultCounts, FaultRates, FaultyFiles, Loss, SyncKind};
#[cfg(any(test, feature = "fault"))]
pub use engine::{Appended, Stepped};
pub use engine::{Engine, EngineHealth, EngineParts, EngineStatus, FlushTrouble, OrgTrouble};
pub use error::{EngineError, EngineErrorKind};
pub use first_wins::{
    MERGE_BATCH_ROWS, Merge, MergeCounts, MergeError, MergeKernel, MergeMode, MergePoll, MergedBatch, United, unify,
};
pub use flush::FlushReport;
pub use health::Trouble;
pub use keys::{KeyError, KeyProvider, MasterKey};
pub use manifest::{BASE_EVERY, CommitError, InvariantError, ManifestChange, ManifestError, ManifestStore, OrgKeys};
#[cfg(any(test, feature = "fault"))]
pub use planted::{PlantedBug, plant};
pub use recover::RecoveryReport;
pub use retain::{DropLog, DropOutcome, DropPlan, DropReport, DroppedWindow, OpenDrop};
pub use segments::{NewSegment, SegmentFilter, SegmentReadError, SegmentStream, Segments};
pub use snapshot::Snapshot;
