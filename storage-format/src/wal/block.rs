//! A WAL block: what one group commit writes. Header in clear, records as ciphertext up to the last byte of the last
//! sector.
//!
//! Invariant: a block's nonce is its offset in the file, the file's key is its own and a place is written once, so no
//! nonce repeats.

use bytes::Bytes;

use super::record;
use crate::checksum::crc32c;
use crate::coding::Cursor;
use crate::encryption::{NONCE_BYTES, SealingKey, SecretKey, TAG_BYTES};
use crate::limits::{WAL_BLOCK_BYTES_MAX, WAL_FILE_HEADER_BYTES, WAL_SECTOR_BYTES};
use crate::{FileKind, FormatError, GatewayId, Lsn, Millis, OrgId};

/// "ICEB"
const MAGIC: [u8; 4] = *b"ICEB";

/// Header checksum, magic, length, first LSN, offset, body checksum, reserved, tag.
pub(super) const BLOCK_HEADER_BYTES: usize = 56;
const BODY_CHECKSUM_AT: usize = 32;
const TAG_AT: usize = 40;
/// The bytes of the header that the tag covers: magic, length, first LSN, offset.
const AAD: std::ops::Range<usize> = 4..BODY_CHECKSUM_AT;

/// A WAL file's data key made ready for sealing blocks.
#[derive(Debug)]
pub struct WalFileKey(SealingKey);

impl WalFileKey {
    /// The key that a file's header carries, unwrapped.
    #[must_use]
    pub fn new(key: &SecretKey) -> Self {
        Self(SealingKey::new(key))
    }
}

/// Collects records and seals them into a block. Reusable: nothing is allocated per record once it has grown.
#[derive(Debug, Default)]
pub struct WalBlockBuilder {
    /// Room for the header, then records.
    bytes: Vec<u8>,
    first_lsn: Lsn,
    records: usize,
}

impl WalBlockBuilder {
    /// An empty builder.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// How long a block would be that held one frame of so many bytes and nothing else.
    #[must_use]
    pub const fn bytes_for(frame_bytes: usize) -> usize {
        (BLOCK_HEADER_BYTES + record::frame_record_bytes(frame_bytes)).next_multiple_of(WAL_SECTOR_BYTES)
    }

    /// Adds a frame's record. LSNs must follow each other.
    pub fn push_frame(&mut self, lsn: Lsn, org: OrgId, gateway: GatewayId, received: Millis, frame: &[u8]) {
        self.begin(lsn);
        record::put_frame(&mut self.bytes, lsn, org, gateway, received, frame);
    }

    /// Adds the mark of a clean close, which must be the file's last record.
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

    /// How many records it holds.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.records
    }

    /// Does it hold none?
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.records == 0
    }

    /// How long the block is: a whole number of sectors; zero when empty.
    #[must_use]
    pub const fn bytes_len(&self) -> usize {
        self.bytes.len().next_multiple_of(WAL_SECTOR_BYTES)
    }

    /// Could a frame of so many bytes be added without passing this length?
    #[must_use]
    pub const fn has_room(&self, frame_bytes: usize, block_bytes_max: usize) -> bool {
        let bytes = if self.records == 0 { BLOCK_HEADER_BYTES } else { self.bytes.len() };
        let with = (bytes + record::frame_record_bytes(frame_bytes)).next_multiple_of(WAL_SECTOR_BYTES);
        with <= block_bytes_max && with <= WAL_BLOCK_BYTES_MAX
    }

    /// Seals the records for this offset of the file and hands the block out; the builder is empty at the next push.
    ///
    /// # Panics
    /// When it is empty.
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

    /// The block that was sealed last, until the next push.
    #[must_use]
    pub fn sealed(&self) -> &[u8] {
        debug_assert!(self.records == 0, "records that are not sealed");
        &self.bytes
    }
}

fn nonce(offset: u64) -> [u8; NONCE_BYTES] {
    let mut nonce = [0; NONCE_BYTES];
    nonce[..8].copy_from_slice(&offset.to_le_bytes());
    nonce
}

/// A block header whose checksum fits and whose place is where it says.
#[derive(Debug, Clone, Copy)]
pub(super) struct BlockHeader {
    /// The block's length, within limits and the file.
    pub(super) bytes: usize,
    pub(super) first_lsn: Lsn,
    body_checksum: u32,
    tag: [u8; TAG_BYTES],
}

impl BlockHeader {
    /// The header at this offset of the file; `None` when there is none that is whole.
    pub(super) fn at(file: &[u8], offset: usize) -> Option<Self> {
        let header = file.get(offset..)?.get(..BLOCK_HEADER_BYTES)?;
        let mut cursor = Cursor::new(FileKind::Wal, header);
        let checksum = cursor.u32().ok()?;
        // The magic is looked at first: it is what a search for later blocks fails on soonest.
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
        let fits = bytes > BLOCK_HEADER_BYTES
            && bytes <= WAL_BLOCK_BYTES_MAX
            && bytes.is_multiple_of(WAL_SECTOR_BYTES)
            && bytes <= file.len() - offset
            && own_offset == offset as u64
            && offset >= WAL_FILE_HEADER_BYTES
            && reserved == 0
            && reserved_too == 0
            && first_lsn != Lsn::ZERO;
        fits.then_some(Self { bytes, first_lsn, body_checksum, tag })
    }

    /// The block's records as plain bytes; `None` when the body is not what was sealed.
    pub(super) fn open(&self, file: &[u8], offset: usize, key: &WalFileKey) -> Option<Bytes> {
        let block = file.get(offset..)?.get(..self.bytes)?;
        let (header, body) = block.split_at(BLOCK_HEADER_BYTES);
        if crc32c(body) != self.body_checksum {
            return None;
        }
        let mut plain = body.to_vec();
        key.0.open_in_place(nonce(offset as u64), &header[AAD], self.tag, &mut plain)?;
        Some(Bytes::from(plain))
    }

    /// Its records.
    pub(super) fn records(plain: &Bytes, first_lsn: Lsn, offset: u64) -> Result<Vec<record::WalRecord>, FormatError> {
        record::decode_all(plain, first_lsn, offset)
    }
}
