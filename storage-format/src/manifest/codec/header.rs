//! The plaintext header of a manifest object.

use super::{MANIFEST_OBJECT_BYTES_MAX, error};
use crate::checksum::crc32c;
use crate::encryption::{NONCE_BYTES, TAG_BYTES};
use crate::{FormatError, FormatErrorKind, ManifestVersion, OrgId, WriterEpoch};

/// Length of the plaintext header.
pub const MANIFEST_HEADER_BYTES: usize = 80;

/// Offset from which the checksum covers everything.
pub(super) const CHECKED_FROM: usize = 12;

const MAGIC: &[u8; 8] = b"icemanif";
/// The version that is written; older ones are read.
pub(super) const FORMAT_VERSION: u16 = 2;
const KIND_DELTA: u8 = 1;
const KIND_BASE: u8 = 2;

/// Fields of a manifest object that can be read without a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ManifestHeader {
    /// Format version.
    pub format: u16,
    /// Whether the object also holds the complete state.
    pub base: bool,
    /// Version of the organisation's key that seals the body.
    pub key_version: u32,
    /// Size of the body before sealing.
    pub body_bytes: u32,
    /// Organisation that owns the manifest.
    pub org: OrgId,
    /// Version of the commit.
    pub version: ManifestVersion,
    /// Epoch of the writer.
    pub epoch: WriterEpoch,
    /// Nonce of the writer for this commit.
    pub nonce: [u8; 16],
    /// Nonce of the cipher.
    pub seal_nonce: [u8; NONCE_BYTES],
}

impl ManifestHeader {
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(MANIFEST_HEADER_BYTES + self.body_bytes as usize + TAG_BYTES);
        bytes.extend_from_slice(MAGIC);
        bytes.extend_from_slice(&[0; 4]);
        bytes.extend_from_slice(&self.format.to_le_bytes());
        bytes.push(if self.base { KIND_BASE } else { KIND_DELTA });
        bytes.push(0);
        bytes.extend_from_slice(&self.key_version.to_le_bytes());
        bytes.extend_from_slice(&self.body_bytes.to_le_bytes());
        bytes.extend_from_slice(&self.org.get().to_le_bytes());
        bytes.extend_from_slice(&self.version.get().to_le_bytes());
        bytes.extend_from_slice(&self.epoch.get().to_le_bytes());
        bytes.extend_from_slice(&self.nonce);
        bytes.extend_from_slice(&self.seal_nonce);
        bytes.extend_from_slice(&[0; 4]);
        debug_assert_eq!(bytes.len(), MANIFEST_HEADER_BYTES);
        bytes
    }

    /// Decodes the header of an object, and checks the object's length and checksum.
    ///
    /// # Errors
    /// [`FormatError`] with the offset.
    pub fn decode(bytes: &[u8]) -> Result<Self, FormatError> {
        if bytes.len() < MANIFEST_HEADER_BYTES + TAG_BYTES {
            let detail = format!("{} bytes are too few for a manifest object", bytes.len());
            return Err(error(FormatErrorKind::Truncated, bytes.len(), detail));
        }
        if bytes.len() > MANIFEST_OBJECT_BYTES_MAX {
            return Err(error(
                FormatErrorKind::TooLarge,
                0,
                format!("{} bytes, the limit is {MANIFEST_OBJECT_BYTES_MAX}", bytes.len()),
            ));
        }
        if &bytes[..8] != MAGIC {
            return Err(error(
                FormatErrorKind::Invalid,
                0,
                "not a manifest object: the first eight bytes are not icemanif",
            ));
        }
        let checksum = u32::from_le_bytes(array(bytes, 8));
        if crc32c(&bytes[CHECKED_FROM..]) != checksum {
            return Err(error(FormatErrorKind::Damaged, 8, "the checksum does not match: damaged or truncated"));
        }
        let format = u16::from_le_bytes(array(bytes, 12));
        if format == 0 || format > FORMAT_VERSION {
            let detail = format!("manifest format {format}, this program reads 1 to {FORMAT_VERSION}");
            return Err(error(FormatErrorKind::UnknownVersion, 12, detail));
        }
        let invalid = |offset, detail: &str| error(FormatErrorKind::Invalid, offset, detail);
        let base = match bytes[14] {
            KIND_DELTA => false,
            KIND_BASE => true,
            other => return Err(invalid(14, &format!("kind {other} is neither delta nor base"))),
        };
        if bytes[15] != 0 || bytes[76..80] != [0; 4] {
            return Err(invalid(15, "reserved bytes are not zero"));
        }
        let key_version = u32::from_le_bytes(array(bytes, 16));
        let body_bytes = u32::from_le_bytes(array(bytes, 20));
        if bytes.len() - MANIFEST_HEADER_BYTES - TAG_BYTES != body_bytes as usize {
            let detail = format!("a body of {body_bytes} bytes does not fill an object of {} bytes", bytes.len());
            return Err(invalid(20, &detail));
        }
        let org = OrgId::new(u64::from_le_bytes(array(bytes, 24))).map_err(|e| invalid(24, &e.to_string()))?;
        let version = ManifestVersion::new(u64::from_le_bytes(array(bytes, 32)));
        let epoch = WriterEpoch::new(u64::from_le_bytes(array(bytes, 40)));
        if key_version == 0 || version == ManifestVersion::ZERO || epoch == WriterEpoch::ZERO {
            return Err(invalid(16, "key version, manifest version and writer epoch count from 1"));
        }
        Ok(Self {
            format,
            base,
            key_version,
            body_bytes,
            org,
            version,
            epoch,
            nonce: array(bytes, 48),
            seal_nonce: array(bytes, 64),
        })
    }
}

/// Fills in the checksum of a complete object.
pub(super) fn set_checksum(bytes: &mut [u8]) {
    let checksum = crc32c(&bytes[CHECKED_FROM..]);
    bytes[8..12].copy_from_slice(&checksum.to_le_bytes());
}

/// Returns `N` bytes at an offset that the caller has checked to be inside.
fn array<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    let mut out = [0; N];
    out.copy_from_slice(&bytes[at..at + N]);
    out
}
