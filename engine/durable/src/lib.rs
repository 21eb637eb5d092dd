//! What touches the machine: files, object stores, clock, randomness and tasks, each behind a trait, so that tests and
//! simulations put a twin in its place that fails, loses what was not synced, and lets time pass when told to.
//!
//! Knows bytes and names. Knows no WAL, no segments, no organisations, no Arrow: who uses it decides what a failure
//! means.

mod beside;
mod clock;
mod files;
mod random;
mod spawn;
mod store;

pub use beside::{TaskLost, beside};
pub use clock::{Clock, SystemClock};
pub use files::{Dir, File, FileLock, Files, RealFiles, replace_file};
#[cfg(any(test, feature = "fault"))]
pub use files::{FaultCounts, FaultRates, FaultyFiles, Loss, SyncKind};
pub use random::{Random, SystemRandom};
pub use spawn::Spawn;
pub use store::{
    BindingError, CacheCounts, CachedStore, CountedStore, Fault, FaultStore, LocalDurable, LocalDurableError,
    Operation, Provider, PutError, PutOutcome, RemoteSettings, RequestCounts, RequestKind, StoreRequests,
    StoreSetupError, StoreUrl, StoreUrlError, bind, check_address, check_unbound, is_fatal, object_path, open_remote,
    past_cache, put_create, read_object,
};
