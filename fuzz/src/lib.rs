//! Bodies of the fuzz targets: plain functions that take any bytes and panic only when a property is violated. Each
//! returns whether the bytes were valid, so that a test can check that its seeds get past the first checks.
//!
//! Ordinary tests replay `corpora/` and mutations of the golden files through the same functions, so that a body that
//! no longer checks anything is detected without a fuzzer. A canary shows that a violation would be reported. Targets
//! that need the complete server (SQL, CSV, configuration) are in `server/`, so that those here build in minutes.

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
