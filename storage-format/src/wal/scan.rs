//! Scans a WAL file block by block up to its end, which is the end of the log, a torn block that a crash left, or an
//! error.
//!
//! Rules for the first offset X that has no valid block:
//! 1. a valid block follows anywhere after X: damaged;
//! 2. X is the end of the file, or the rest of the file is zeros: the log ends here;
//! 3. the sector at X is zeros: torn; the block's first sector was not written, other sectors were;
//! 4. X has a valid block header, and a sector of its block is zeros: torn;
//! 5. anything else: damaged, because sectors are written completely or not at all, so no crash leaves this.

use std::ops::Range;

use super::block::{BlockHeader, WalFileKey};
use super::file_header::{WalFileHeader, WalFileKind};
use super::record::{WalRecord, WalRecordKind};
use crate::encryption::{SecretKey, WrappedKey};
use crate::limits::{WAL_FILE_HEADER_BYTES, WAL_SECTOR_BYTES};
use crate::{FileKind, FormatError, FormatErrorKind, Lsn};

use FormatErrorKind::{Damaged, Invalid, Truncated};

/// Function that unwraps a file's data key, given the additional data that it was wrapped with.
pub type UnwrapKey<'a> = dyn Fn(&WrappedKey, &[u8]) -> Result<SecretKey, FormatError> + 'a;

/// Decoded block.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WalBlock {
    /// Offset of the block in the file.
    pub offset: u64,
    /// Size of the block.
    pub bytes: u64,
    /// Records of the block, at least one, with consecutive LSNs, or in a file of carried records with ascending ones.
    pub records: Vec<WalRecord>,
}

/// End of a WAL file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WalEnd {
    /// The file was not closed; nothing was written from this offset on.
    Open {
        /// Offset of the first unused byte.
        offset: u64,
    },
    /// The last block was being written when the machine or the process stopped. It was never acknowledged.
    TornTail {
        /// Offset of the torn block.
        offset: u64,
        /// Bytes from there to the end of the last sector that was written.
        bytes: u64,
    },
    /// The log was closed cleanly.
    Closed,
}

/// Iterator over the blocks of a WAL file. After the last block, [`WalScan::end`] returns how the file ends. An error
/// ends the iteration.
#[derive(Debug)]
pub struct WalScan<'a> {
    header: WalFileHeader,
    key: WalFileKey,
    file: &'a [u8],
    offset: usize,
    next_lsn: Lsn,
    last_block: Option<Range<usize>>,
    closed: bool,
    failed: bool,
    end: Option<WalEnd>,
}

/// Starts a scan: reads the header and unwraps the key.
///
/// # Errors
/// When the header is damaged, the file's length differs from the one in the header, or the key does not unwrap.
pub fn scan_wal<'a>(file: &'a [u8], unwrap: &UnwrapKey<'_>) -> Result<WalScan<'a>, FormatError> {
    let header = WalFileHeader::decode(file)?;
    let len = file.len() as u64;
    if len < header.file_bytes {
        let detail = format!("the file ends here, its header states {} bytes", header.file_bytes);
        return Err(FormatError::new(FileKind::Wal, Truncated, len, detail));
    }
    if len > header.file_bytes {
        let detail = format!("the file continues to byte {len}, past the length in its header");
        return Err(FormatError::new(FileKind::Wal, Invalid, header.file_bytes, detail));
    }
    let key = WalFileKey::new(&unwrap(&header.key, &header.aad())?);
    Ok(WalScan {
        header,
        key,
        file,
        offset: WAL_FILE_HEADER_BYTES,
        next_lsn: header.first_lsn,
        last_block: None,
        closed: false,
        failed: false,
        end: None,
    })
}

impl WalScan<'_> {
    /// Returns the file's header.
    #[must_use]
    pub const fn header(&self) -> &WalFileHeader {
        &self.header
    }

    /// Returns how the file ends; `None` while there are blocks left, and after an error.
    #[must_use]
    pub const fn end(&self) -> Option<WalEnd> {
        self.end
    }

    /// Returns the LSN after the last record that was read.
    #[must_use]
    pub const fn next_lsn(&self) -> Lsn {
        self.next_lsn
    }

    /// Returns the byte range of the last valid block that was read.
    #[must_use]
    pub fn last_block(&self) -> Option<Range<usize>> {
        self.last_block.clone()
    }

    fn step(&mut self) -> Result<Option<WalBlock>, FormatError> {
        let offset = self.offset;
        let header = BlockHeader::at(self.file, offset);
        let opened = header.and_then(|header| Some((header, header.open(self.file, offset, &self.key)?)));
        let Some((header, plaintext)) = opened else {
            self.end = Some(self.end_at(offset, header)?);
            return Ok(None);
        };
        let error = |detail: String| FormatError::new(FileKind::Wal, Invalid, offset as u64, detail);
        if self.closed {
            return Err(error("a block follows the record of a clean close".into()));
        }
        let follows = match self.header.kind {
            WalFileKind::Carried if self.last_block.is_some() => header.first_lsn >= self.next_lsn,
            WalFileKind::Log | WalFileKind::Carried => header.first_lsn == self.next_lsn,
        };
        if !follows {
            return Err(error(format!("LSN {} where {} was expected", header.first_lsn, self.next_lsn)));
        }
        let records = BlockHeader::records(&plaintext, self.header.kind, header.first_lsn, offset as u64)?;
        if let Some(last) = records.last() {
            self.closed = last.kind == WalRecordKind::Closed;
            self.next_lsn = last.lsn.next().ok_or_else(|| error("the LSN is the last possible one".into()))?;
        }
        self.offset += header.bytes;
        self.last_block = Some(offset..self.offset);
        Ok(Some(WalBlock { offset: offset as u64, bytes: header.bytes as u64, records }))
    }

    /// Applies the rules to `offset`, which has no valid block.
    fn end_at(&self, offset: usize, header: Option<BlockHeader>) -> Result<WalEnd, FormatError> {
        let damaged = |detail: String| Err(FormatError::new(FileKind::Wal, Damaged, offset as u64, detail));
        let rest = &self.file[offset..];
        // Rule 2 first, because it is the most frequent case. Rule 1 cannot apply to zeros.
        let Some(last_written) = rest.chunks(WAL_SECTOR_BYTES).rposition(|sector| !is_zero(sector)) else {
            let end = if self.closed { WalEnd::Closed } else { WalEnd::Open { offset: offset as u64 } };
            return Ok(end);
        };
        if self.header.kind == WalFileKind::Carried {
            return damaged("no valid block, in a file that is written completely or not at all".into());
        }
        if let Some(later) = self.later_block(offset) {
            return damaged(format!(
                "no valid block, although one follows at byte {later}: damaged after it was written"
            ));
        }
        if self.closed {
            return damaged("bytes follow the record of a clean close".into());
        }
        let bytes = (last_written as u64 + 1) * WAL_SECTOR_BYTES as u64;
        let torn = Ok(WalEnd::TornTail { offset: offset as u64, bytes });
        if is_zero(&rest[..WAL_SECTOR_BYTES]) {
            return torn;
        }
        match header {
            Some(header) if rest[..header.bytes].chunks(WAL_SECTOR_BYTES).any(is_zero) => torn,
            Some(_) => {
                damaged("a block does not match its checksum and tag, and none of its sectors is missing".into())
            }
            None => damaged("neither a block nor the remains of one after a crash".into()),
        }
    }

    /// Returns the offset of the first valid block after `offset`.
    fn later_block(&self, offset: usize) -> Option<usize> {
        (offset + WAL_SECTOR_BYTES..self.file.len()).step_by(WAL_SECTOR_BYTES).find(|&later| {
            BlockHeader::at(self.file, later).is_some_and(|h| h.open(self.file, later, &self.key).is_some())
        })
    }
}

impl Iterator for WalScan<'_> {
    type Item = Result<WalBlock, FormatError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.failed || self.end.is_some() {
            return None;
        }
        let step = self.step().transpose();
        self.failed = matches!(step, Some(Err(_)));
        step
    }
}

fn is_zero(sector: &[u8]) -> bool {
    sector == &[0; WAL_SECTOR_BYTES][..sector.len()]
}
