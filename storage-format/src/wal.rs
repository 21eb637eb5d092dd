//! The write-ahead log: files of sealed blocks of records. `docs/wal.md` holds the bytes and the rules of validity.
//!
//! A block is a whole number of 512-byte sectors, every one of them covered by header or ciphertext, in a file of real
//! zeros that is written once. So what a crash tears off stays recognisable: it leaves a sector of zeros, and damage
//! does not.

mod block;
mod file_header;
mod record;
mod scan;

pub use block::{WalBlockBuilder, WalFileKey};
pub use file_header::WalFileHeader;
pub use record::{WalRecord, WalRecordKind};
pub use scan::{UnwrapKey, WalBlock, WalEnd, WalScan, scan_wal};

#[cfg(test)]
mod tests;
