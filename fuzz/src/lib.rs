//! The bodies of the fuzz targets: plain functions that take any bytes and panic only when a promise is broken.
//! Each answers whether the bytes were good, so that a test can see that its seeds reach what is behind the checks.
//!
//! The ordinary tests replay `corpora/` and mutations of the golden files through the same functions, so that a body
//! that no longer finds anything is noticed without a fuzzer. A canary shows that a broken promise would be reported.
//! What needs the whole server (SQL, CSV, configuration) is in `server/`, apart, so that these build in minutes.

mod canary;
mod frame;
mod manifest;
mod manifest_script;
mod names;
mod script;
mod segment;
mod session;
mod wal;

pub use canary::canary;
pub use frame::frame;
pub use manifest::{manifest, manifest_body};
pub use manifest_script::manifest_script;
pub use names::{names, object_key};
pub use script::Script;
pub use segment::{segment, segment_tail};
pub use session::session;
pub use wal::{wal_records, wal_scan};

#[cfg(test)]
mod replay;
#[cfg(test)]
mod tests;
