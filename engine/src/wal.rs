//! The write-ahead log on disk: files made ahead, one block and one sync per group, rotation, trimming, reading back.
//!
//! Knows files and formats, no buffers and no manifests. [`WalDirectory`] is shared: which files there are, how long
//! they are together, which may go. [`WalWriter`] is the appender's alone. [`WalReader`] reads what an earlier process
//! left.
//!
//! Invariants: a file gets its name only when header and zeros are durable, and its first block only when the name is;
//! one block is written and synced before the next is written; a file that an earlier process wrote is never written
//! on; files go from the oldest on, each removal made durable before the next, so that what is left is always the end
//! of the log without holes.

mod directory;
mod prepare;
mod reader;
mod whole;
mod writer;

pub(crate) use directory::{WalDirectory, WalFile};
pub(crate) use prepare::WalPrepareStep;
pub(crate) use reader::{WalFileEnd, WalFileScan, WalReader, corrupt};
pub(crate) use whole::{FrameOfLog, WholeFile};
pub(crate) use writer::{SealedBlock, WalRoom, WalWait, WalWriter};

#[cfg(test)]
mod tests;
