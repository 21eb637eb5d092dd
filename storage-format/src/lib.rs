//! Byte formats of icecore: ids, times, channels, frames, WAL records, segments, manifests, object keys.
//!
//! This crate converts between bytes and values. It does no I/O, reads no clock, has no async runtime and does not
//! depend on an object store, so that every codec can be read, fuzzed and tested on its own. Every kind of file or
//! message has a page in `docs/` and a golden file in `fixtures/`.
//!
//! Without the `storage` feature, only what a gateway needs is built: ids, times, channels and frames.

mod channel;
mod checksum;
mod coding;
#[cfg(feature = "storage")]
pub mod encryption;
mod error;
mod frame;
mod id;
pub mod limits;
#[cfg(feature = "storage")]
pub mod manifest;
mod object_key;
#[cfg(feature = "storage")]
mod org_key;
#[cfg(feature = "storage")]
pub mod rollup;
#[cfg(feature = "storage")]
pub mod segment;
mod sequence;
mod time;
#[cfg(feature = "storage")]
pub mod wal;

pub use channel::{Channel, ChannelCode, channels};
pub use error::{FileKind, FormatError, FormatErrorKind};
pub use frame::{Frame, FrameBuildError, FrameBuilder, FrameColumns, FrameHeader, FrameTemplate, LoggerRun};
pub use id::{GatewayId, IdBase, IdError, LoggerId, OrgId, SegmentId, SpoolId, WalFileId};
pub use object_key::{OBJECT_KEY_BYTES_MAX, ObjectKey};
#[cfg(feature = "storage")]
pub use org_key::{ORG_KEY_BYTES, OrgKeyObject};
pub use sequence::{FlushNumber, FrameSequence, Lsn, ManifestVersion, WriterEpoch};
pub use time::{Millis, TimeError, TimeRange, Window};
