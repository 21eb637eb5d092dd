//! A whole WAL file, block by block, up to its end: where the log ends, or a tear that a crash leaves, or an error.
//!
//! The rules, at the first place X where no whole block stands:
//! 1. a whole block stands anywhere after X: damaged;
//! 2. X is the file's end, or all zeros from X on: the log ends here;
//! 3. the sector at X is zeros: the rest of the torn block was written, its first sector was not: torn;
//! 4. a whole block header stands at X and a sector of its block is zeros: torn;
//! 5. anything else: damaged. Sectors are written wholly or not at all, so no crash leaves this.

use std::ops::Range;

use super::block::{BlockHeader, WalFileKey};
use super::file_header::WalFileHeader;
use super::record::{WalRecord, WalRecordKind};
use crate::encryption::{SecretKey, WrappedKey};
use crate::limits::{WAL_FILE_HEADER_BYTES, WAL_SECTOR_BYTES};
use crate::{FileKind, FormatError, FormatErrorKind, Lsn};

use FormatErrorKind::{Damaged, Invalid, Truncated};

/// Unwraps a file's data key, given the additional data that it was wrapped with.
pub type UnwrapKey<'a> = dyn Fn(&WrappedKey, &[u8]) -> Result<SecretKey, FormatError> + 'a;

/// A block's records.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WalBlock {
    /// Where it stands in the file.
    pub offset: u64,
    /// How long it is.
    pub bytes: u64,
    /// Its records, at least one, LSNs without holes.
    pub records: Vec<WalRecord>,
}

/// How a file ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WalEnd {
    /// Nothing was written from this offset on.
    Open {
        /// The first unused byte.
        offset: u64,
    },
    /// A block that was being written when machine or process stopped; it was never acknowledged.
    TornTail {
        /// Where it starts.
        offset: u64,
        /// From there to the end of the last sector that was written.
        bytes: u64,
    },
    /// The log was closed cleanly.
    Closed,
}

/// Goes over a file's blocks. After the last one, [`WalScan::end`] tells how the file ends; after an error, nothing
/// more comes.
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

/// Begins a scan: reads the header and unwraps the key.
///
/// # Errors
/// When the header is damaged, the file is shorter than it says, or the key does not unwrap.
pub fn scan_wal<'a>(file: &'a [u8], unwrap: &UnwrapKey<'_>) -> Result<WalScan<'a>, FormatError> {
    let header = WalFileHeader::decode(file)?;
    let len = file.len() as u64;
    if len < header.file_bytes {
        let detail = format!("the file ends here, {} bytes were promised", header.file_bytes);
        return Err(FormatError::new(FileKind::Wal, Truncated, len, detail));
    }
    if len > header.file_bytes {
        let detail = format!("the file goes on to byte {len}, past its declared end");
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
    /// The file's header.
    #[must_use]
    pub const fn header(&self) -> &WalFileHeader {
        &self.header
    }

    /// How the file ends; `None` while there are blocks left, and after an error.
    #[must_use]
    pub const fn end(&self) -> Option<WalEnd> {
        self.end
    }

    /// The LSN after the last record seen.
    #[must_use]
    pub const fn next_lsn(&self) -> Lsn {
        self.next_lsn
    }

    /// Where the last whole block seen stands in the file.
    #[must_use]
    pub fn last_block(&self) -> Option<Range<usize>> {
        self.last_block.clone()
    }

    fn step(&mut self) -> Result<Option<WalBlock>, FormatError> {
        let offset = self.offset;
        let header = BlockHeader::at(self.file, offset);
        let opened = header.and_then(|header| Some((header, header.open(self.file, offset, &self.key)?)));
        let Some((header, plain)) = opened else {
            self.end = Some(self.end_at(offset, header)?);
            return Ok(None);
        };
        let error = |detail: String| FormatError::new(FileKind::Wal, Invalid, offset as u64, detail);
        if self.closed {
            return Err(error("a block after the mark of a clean close".into()));
        }
        if header.first_lsn != self.next_lsn {
            return Err(error(format!("LSN {} where {} should be", header.first_lsn, self.next_lsn)));
        }
        let records = BlockHeader::records(&plain, header.first_lsn, offset as u64)?;
        if let Some(last) = records.last() {
            self.closed = last.kind == WalRecordKind::Closed;
            self.next_lsn = last.lsn.next().ok_or_else(|| error("the last LSN there can be".into()))?;
        }
        self.offset += header.bytes;
        self.last_block = Some(offset..self.offset);
        Ok(Some(WalBlock { offset: offset as u64, bytes: header.bytes as u64, records }))
    }

    /// What the place at `offset` means, where no whole block stands.
    fn end_at(&self, offset: usize, header: Option<BlockHeader>) -> Result<WalEnd, FormatError> {
        let damaged = |detail: String| Err(FormatError::new(FileKind::Wal, Damaged, offset as u64, detail));
        let rest = &self.file[offset..];
        // Looked at first, because it is most often so: no block stands in zeros.
        let Some(last_written) = rest.chunks(WAL_SECTOR_BYTES).rposition(|sector| !is_zero(sector)) else {
            let end = if self.closed { WalEnd::Closed } else { WalEnd::Open { offset: offset as u64 } };
            return Ok(end);
        };
        if let Some(later) = self.later_block(offset) {
            return damaged(format!(
                "no whole block, although one follows at byte {later}: damaged after it was written"
            ));
        }
        if self.closed {
            return damaged("bytes after the mark of a clean close".into());
        }
        let bytes = (last_written as u64 + 1) * WAL_SECTOR_BYTES as u64;
        let torn = Ok(WalEnd::TornTail { offset: offset as u64, bytes });
        if is_zero(&rest[..WAL_SECTOR_BYTES]) {
            return torn;
        }
        match header {
            Some(header) if rest[..header.bytes].chunks(WAL_SECTOR_BYTES).any(is_zero) => torn,
            Some(_) => {
                damaged("a block's bytes do not fit its checksum and tag, and none of its sectors is missing".into())
            }
            None => damaged("not a block, and not what a crash leaves of one".into()),
        }
    }

    /// The first place after `offset` where a whole block of this file stands.
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
