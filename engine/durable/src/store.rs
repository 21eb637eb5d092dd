//! The object store underneath: a local directory that really syncs, writes that are made at most once, and a faulty
//! store for tests.
//!
//! What a failed write means is told apart here: it did not happen, it may have happened (and is read back, never
//! blindly repeated), or the store cannot be trusted any more.

mod binding;
mod cache;
mod counted;
mod credentials;
mod fault;
mod http;
mod local_durable;
mod remote;
mod requests;
mod retry;
mod url;

use object_store::path::Path;
use storage_format::ObjectKey;

pub use binding::{BindingError, bind, check_address, check_unbound};
pub use cache::{CacheCounts, CachedStore, past_cache};
pub use counted::CountedStore;
pub use fault::{Fault, FaultStore, Operation};
pub use local_durable::{LocalDurable, LocalDurableError};
pub use requests::{RequestCounts, RequestKind, StoreRequests};
pub use retry::{PutError, PutOutcome, is_fatal, put_create, read_object};
pub use url::{Provider, RemoteSettings, StoreSetupError, StoreUrl, StoreUrlError, open_remote};

/// The name as the store takes it.
#[must_use]
pub fn object_path(key: &ObjectKey) -> Path {
    // Only lower-case hexadecimal digits, `-`, `.` and `/`: nothing that the store would escape.
    Path::from(key.to_string())
}

#[cfg(test)]
mod tests;
