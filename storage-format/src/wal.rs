//! The write-ahead log: files of sealed blocks of records. `docs/wal.md` describes the bytes and the rules of validity.
//!
//! A block is a whole number of 512-byte sectors, each of which contains header or ciphertext. The file is filled with
//! zeros first, and each place in it is written once. Therefore a torn write can be distinguished from damage: a crash
//! leaves a sector of zeros in the block, and damage does not.

mod block;
mod file_header;
mod record;
mod scan;

pub use block::{WalBlockBuilder, WalFileKey};
pub use file_header::{WalFileHeader, WalFileKind};
pub use record::{WalRecord, WalRecordKind};
pub use scan::{UnwrapKey, WalBlock, WalEnd, WalScan, scan_wal};

#[cfg(test)]
mod tests;
