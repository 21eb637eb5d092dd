//! WAL blocks. One group commit writes one block: a plaintext header, then the encrypted records up to the end of the
//! last sector.
//!
//! Invariant: no nonce repeats under one key, because a block's nonce is its offset in the file, each file has its own
//! key, and each place in a file is written once.

use bytes::Bytes;

use super::file_header::WalFileKind;
use super::record;
use crate::checksum::crc32c;
use crate::coding::Cursor;
use crate::encryption::{NONCE_BYTES, SealingKey, SecretKey, TAG_BYTES};
use crate::limits::{WAL_BLOCK_BYTES_MAX, WAL_FILE_HEADER_BYTES, WAL_SECTOR_BYTES};
use crate::{FileKind, FormatError, GatewayId, Lsn, Millis, OrgId};

/// "ICEB"
const MAGIC: [u8; 4] = *b"ICEB";

/// Size of the header: header checksum, magic, length, first LSN, offset, body checksum, reserved, tag.
pub(super) const BLOCK_HEADER_BYTES: usize = 56;
const BODY_CHECKSUM_AT: usize = 32;
const TAG_AT: usize = 40;
/// Bytes of the header that the tag covers: magic, length, first LSN, offset.
const AAD: std::ops::Range<usize> = 4..BODY_CHECKSUM_AT;

/// Data key of a WAL file, prepared for sealing blocks.
#[derive(Debug)]
pub struct WalFileKey(SealingKey);

impl WalFileKey {
    /// Prepares the unwrapped key of a file's header.
    #[must_use]
    pub fn new(key: &SecretKey) -> Self {
        Self(SealingKey::new(key))
    }
}

/// Collects records and seals them into a block. Reusable: once its buffer has grown, records cause no allocation.
#[derive(Debug, Default)]
pub struct WalBlockBuilder {
    /// Space for the header, then records.
    bytes: Vec<u8>,
    first_lsn: Lsn,
    records: usize,
}

impl WalBlockBuilder {
    /// Creates an empty builder.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Returns the size of a block that holds only one frame of `frame_bytes`.
    #[must_use]
    pub const fn bytes_for(frame_bytes: usize) -> usize {
        (BLOCK_HEADER_BYTES + record::frame_record_bytes(frame_bytes)).next_multiple_of(WAL_SECTOR_BYTES)
    }

    /// Adds a frame's record. LSNs must be consecutive, in a file of carried records only ascending.
    pub fn push_frame(&mut self, lsn: Lsn, org: OrgId, gateway: GatewayId, received: Millis, frame: &[u8]) {
        self.begin(lsn);
        record::put_frame(&mut self.bytes, lsn, org, gateway, received, frame);
    }

    /// Adds the record of a clean close, which must be the last one of the file.
    pub fn push_closed(&mut self, lsn: Lsn) {
        self.begin(lsn);
        record::put_closed(&mut self.bytes, lsn);
    }

    fn begin(&mut self, lsn: Lsn) {
        if self.records == 0 {
            self.bytes.resize(BLOCK_HEADER_BYTES, 0);
            self.first_lsn = lsn;
        }
        self.records += 1;
    }

    /// Returns the number of records.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.records
    }

    /// Returns whether there are no records.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.records == 0
    }

    /// Returns the size of the block: a whole number of sectors, zero when empty.
    #[must_use]
    pub const fn bytes_len(&self) -> usize {
        self.bytes.len().next_multiple_of(WAL_SECTOR_BYTES)
    }

    /// Returns whether a frame of `frame_bytes` fits without the block exceeding `block_bytes_max`.
    #[must_use]
    pub const fn has_room(&self, frame_bytes: usize, block_bytes_max: usize) -> bool {
        let bytes = if self.records == 0 { BLOCK_HEADER_BYTES } else { self.bytes.len() };
        let with = (bytes + record::frame_record_bytes(frame_bytes)).next_multiple_of(WAL_SECTOR_BYTES);
        with <= block_bytes_max && with <= WAL_BLOCK_BYTES_MAX
    }

    /// Seals the records for this offset of the file and returns the block. The next push starts a new block.
    ///
    /// # Panics
    /// When the builder is empty.
    pub fn seal(&mut self, key: &WalFileKey, offset: u64) -> &[u8] {
        assert!(self.records > 0, "a block has at least one record");
        self.records = 0;
        self.bytes.resize(self.bytes.len().next_multiple_of(WAL_SECTOR_BYTES), 0);
        let len = u32::try_from(self.bytes.len()).expect("a block is at most 16 MiB");
        let (header, body) = self.bytes.split_at_mut(BLOCK_HEADER_BYTES);
        header.fill(0);
        header[4..8].copy_from_slice(&MAGIC);
        header[8..12].copy_from_slice(&len.to_le_bytes());
        header[16..24].copy_from_slice(&self.first_lsn.get().to_le_bytes());
        header[24..BODY_CHECKSUM_AT].copy_from_slice(&offset.to_le_bytes());
        let tag = key.0.seal_in_place(nonce(offset), &header[AAD], body);
        header[BODY_CHECKSUM_AT..BODY_CHECKSUM_AT + 4].copy_from_slice(&crc32c(body).to_le_bytes());
        header[TAG_AT..].copy_from_slice(&tag);
        let checksum = crc32c(&header[4..]);
        header[..4].copy_from_slice(&checksum.to_le_bytes());
        &self.bytes
    }

    /// Returns the block that was sealed last. Valid until the next push.
    #[must_use]
    pub fn sealed(&self) -> &[u8] {
        debug_assert!(self.records == 0, "there are records that are not sealed");
        &self.bytes
    }
}

fn nonce(offset: u64) -> [u8; NONCE_BYTES] {
    let mut nonce = [0; NONCE_BYTES];
    nonce[..8].copy_from_slice(&offset.to_le_bytes());
    nonce
}

/// Block header whose checksum matches and which stands at the offset that it states.
#[derive(Debug, Clone, Copy)]
pub(super) struct BlockHeader {
    /// Length of the block, within the limits and the file.
    pub(super) bytes: usize,
    pub(super) first_lsn: Lsn,
    body_checksum: u32,
    tag: [u8; TAG_BYTES],
}

impl BlockHeader {
    /// Reads the header at this offset of the file; `None` when there is no valid one.
    pub(super) fn at(file: &[u8], offset: usize) -> Option<Self> {
        let header = file.get(offset..)?.get(..BLOCK_HEADER_BYTES)?;
        let mut cursor = Cursor::new(FileKind::Wal, header);
        let checksum = cursor.u32().ok()?;
        // Check the magic first, because a search for later blocks fails on it soonest.
        if cursor.array().ok()? != MAGIC || crc32c(&header[4..]) != checksum {
            return None;
        }
        let bytes = cursor.u32().ok()? as usize;
        let reserved = cursor.u32().ok()?;
        let first_lsn = Lsn::new(cursor.u64().ok()?);
        let own_offset = cursor.u64().ok()?;
        let body_checksum = cursor.u32().ok()?;
        let reserved_too = cursor.u32().ok()?;
        let tag = cursor.array().ok()?;
        let valid = bytes > BLOCK_HEADER_BYTES
            && bytes <= WAL_BLOCK_BYTES_MAX
            && bytes.is_multiple_of(WAL_SECTOR_BYTES)
            && bytes <= file.len() - offset
            && own_offset == offset as u64
            && offset >= WAL_FILE_HEADER_BYTES
            && reserved == 0
            && reserved_too == 0
            && first_lsn != Lsn::ZERO;
        valid.then_some(Self { bytes, first_lsn, body_checksum, tag })
    }

    /// Decrypts the block's records; `None` when the body is not what was sealed.
    pub(super) fn open(&self, file: &[u8], offset: usize, key: &WalFileKey) -> Option<Bytes> {
        let block = file.get(offset..)?.get(..self.bytes)?;
        let (header, body) = block.split_at(BLOCK_HEADER_BYTES);
        if crc32c(body) != self.body_checksum {
            return None;
        }
        let mut plaintext = body.to_vec();
        key.0.open_in_place(nonce(offset as u64), &header[AAD], self.tag, &mut plaintext)?;
        Some(Bytes::from(plaintext))
    }

    /// Decodes the records of a decrypted block.
    pub(super) fn records(
        plaintext: &Bytes,
        kind: WalFileKind,
        first_lsn: Lsn,
        offset: u64,
    ) -> Result<Vec<record::WalRecord>, FormatError> {
        record::decode_all(plaintext, kind, first_lsn, offset)
    }
}
