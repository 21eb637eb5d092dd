//! The header of a WAL file, its first page: number, first LSN, length, time of creation and wrapped key.

use crate::checksum::crc32c;
use crate::coding::Cursor;
use crate::encryption::{WRAPPED_KEY_BYTES, WrappedKey};
use crate::limits::{WAL_FILE_BYTES_MAX, WAL_FILE_HEADER_BYTES, WAL_SECTOR_BYTES};
use crate::{FileKind, FormatError, FormatErrorKind, Lsn, Millis, WalFileId};

use FormatErrorKind::{Damaged, Invalid, TooLarge, UnknownVersion};

/// "ICEW"
const MAGIC: [u8; 4] = *b"ICEW";
/// Version of a file of the log.
const LOG: u16 = 1;
/// Version of a file of carried records.
const CARRIED: u16 = 2;
/// Offset from which the checksum covers everything.
const CHECKED_FROM: usize = 12;
const FIELDS_FROM: usize = 16;
const KEY_FROM: usize = 48;

/// What a WAL file holds. The version in the header states it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum WalFileKind {
    /// A part of the log: every record's LSN is one more than that of the record before it.
    Log,
    /// Records of one organisation, copied out of the log: LSNs ascend, with gaps. Written completely or not at all.
    Carried,
}

impl WalFileKind {
    const fn version(self) -> u16 {
        match self {
            Self::Log => LOG,
            Self::Carried => CARRIED,
        }
    }

    const fn key_name(self) -> &'static [u8] {
        match self {
            Self::Log => b"icecore wal file key 1",
            Self::Carried => b"icecore wal file key 2",
        }
    }
}

/// Header of a WAL file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WalFileHeader {
    /// What the file holds.
    pub kind: WalFileKind,
    /// Number of the file.
    pub id: WalFileId,
    /// LSN of the file's first record.
    pub first_lsn: Lsn,
    /// Length of the file. A shorter file was truncated.
    pub file_bytes: u64,
    /// Time of creation.
    pub created: Millis,
    /// Data key of the file, wrapped by the master key.
    pub key: WrappedKey,
}

impl WalFileHeader {
    /// Returns the additional data of the data key's wrapping: all other fields of the header, so that the key does not
    /// unwrap when one of them was altered.
    #[must_use]
    pub fn key_aad(kind: WalFileKind, id: WalFileId, first_lsn: Lsn, file_bytes: u64, created: Millis) -> Vec<u8> {
        let mut aad = kind.key_name().to_vec();
        put_fields(&mut aad, id, first_lsn, file_bytes, created);
        aad
    }

    /// Returns [`WalFileHeader::key_aad`] of this header.
    #[must_use]
    pub fn aad(&self) -> Vec<u8> {
        Self::key_aad(self.kind, self.id, self.first_lsn, self.file_bytes, self.created)
    }

    /// Encodes the first page of the file.
    #[must_use]
    pub fn encode(&self) -> [u8; WAL_FILE_HEADER_BYTES] {
        let mut fields = Vec::with_capacity(KEY_FROM - FIELDS_FROM);
        put_fields(&mut fields, self.id, self.first_lsn, self.file_bytes, self.created);
        let mut page = [0; WAL_FILE_HEADER_BYTES];
        page[..4].copy_from_slice(&MAGIC);
        page[4..6].copy_from_slice(&self.kind.version().to_le_bytes());
        page[FIELDS_FROM..KEY_FROM].copy_from_slice(&fields);
        page[KEY_FROM..KEY_FROM + WRAPPED_KEY_BYTES].copy_from_slice(self.key.as_bytes());
        let checksum = crc32c(&page[CHECKED_FROM..]);
        page[8..CHECKED_FROM].copy_from_slice(&checksum.to_le_bytes());
        page
    }

    /// Decodes the first page of a file.
    ///
    /// # Errors
    /// When it is not a WAL file of a known version, or damaged. Does not check whether the key unwraps.
    pub fn decode(file: &[u8]) -> Result<Self, FormatError> {
        let page = Cursor::new(FileKind::Wal, file).take(WAL_FILE_HEADER_BYTES)?;
        let error = |kind, offset, detail: String| FormatError::new(FileKind::Wal, kind, offset, detail);
        let mut cursor = Cursor::new(FileKind::Wal, page);
        if cursor.array()? != MAGIC {
            return Err(error(Invalid, 0, "not a WAL file: the first four bytes are not ICEW".into()));
        }
        let version = cursor.u16()?;
        let kind = match version {
            LOG => WalFileKind::Log,
            CARRIED => WalFileKind::Carried,
            _ => {
                let detail = format!("WAL version {version}, this program reads {LOG} and {CARRIED}");
                return Err(error(UnknownVersion, 4, detail));
            }
        };
        let reserved = cursor.u16()?;
        let checksum = cursor.u32()?;
        if crc32c(&page[CHECKED_FROM..]) != checksum {
            return Err(error(Damaged, 8, "the file header's checksum does not match".into()));
        }
        let reserved_too = cursor.u32()?;
        let id = WalFileId::new(cursor.u64()?).map_err(|e| error(Invalid, 16, e.to_string()))?;
        let first_lsn = Lsn::new(cursor.u64()?);
        let file_bytes = cursor.u64()?;
        let created = Millis::new(cursor.i64()?).map_err(|e| error(Invalid, 40, e.to_string()))?;
        let key = WrappedKey::from_bytes(cursor.array()?);
        let rest = &page[cursor.position()..];
        if reserved != 0 || reserved_too != 0 || rest.iter().any(|&byte| byte != 0) {
            return Err(error(Invalid, 6, "reserved bytes are not zero".into()));
        }
        if first_lsn == Lsn::ZERO {
            return Err(error(Invalid, 24, "the first LSN is zero".into()));
        }
        if file_bytes > WAL_FILE_BYTES_MAX {
            return Err(error(TooLarge, 32, format!("{file_bytes} bytes, the limit is {WAL_FILE_BYTES_MAX}")));
        }
        if file_bytes < WAL_FILE_HEADER_BYTES as u64 || !file_bytes.is_multiple_of(WAL_SECTOR_BYTES as u64) {
            return Err(error(Invalid, 32, format!("{file_bytes} bytes are not a whole number of sectors")));
        }
        Ok(Self { kind, id, first_lsn, file_bytes, created, key })
    }
}

fn put_fields(out: &mut Vec<u8>, id: WalFileId, first_lsn: Lsn, file_bytes: u64, created: Millis) {
    out.extend_from_slice(&id.get().to_le_bytes());
    out.extend_from_slice(&first_lsn.get().to_le_bytes());
    out.extend_from_slice(&file_bytes.to_le_bytes());
    out.extend_from_slice(&created.get().to_le_bytes());
}
