//! The key metadata in a segment's footer: the identity of the segment, and its wrapped data key.

use crate::checksum::crc32c;
use crate::encryption::{NONCE_BYTES, SecretKey, WRAPPED_KEY_BYTES, WrappedKey, data_key_aad, unwrap_key, wrap_key};
use crate::manifest::{SegmentEntry, SegmentKind};
use crate::{FileKind, FormatError, FormatErrorKind, ObjectKey, OrgId, SegmentId, Window};

/// Length of the key metadata.
pub const SEGMENT_KEY_METADATA_BYTES: usize = 120;

const MAGIC: &[u8; 8] = b"icesegky";
const FORMAT_VERSION: u16 = 1;
const CHECKED_FROM: usize = 12;

/// Properties of a segment that can be read without its key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SegmentKeyMetadata {
    /// Kind of its rows.
    pub kind: SegmentKind,
    /// Version of the organisation's key that wraps the data key.
    pub key_version: u32,
    /// Organisation that owns the segment.
    pub org: OrgId,
    /// Window that contains all of its rows.
    pub window: Window,
    /// Id of the segment.
    pub id: SegmentId,
    /// Data key, wrapped for exactly this organisation, window and segment.
    pub wrapped: WrappedKey,
}

fn error(kind: FormatErrorKind, offset: u64, detail: impl Into<String>) -> FormatError {
    FormatError::new(FileKind::Key, kind, offset, detail)
}

fn array<const N: usize>(bytes: &[u8; SEGMENT_KEY_METADATA_BYTES], at: usize) -> [u8; N] {
    let mut out = [0; N];
    out.copy_from_slice(&bytes[at..at + N]);
    out
}

impl SegmentKeyMetadata {
    /// Wraps a data key for one segment. The nonce must be random.
    #[must_use]
    pub fn wrap(
        (kind, org, window, id): (SegmentKind, OrgId, Window, SegmentId),
        org_key: &SecretKey,
        key_version: u32,
        data_key: &SecretKey,
        nonce: [u8; NONCE_BYTES],
    ) -> Self {
        let wrapped = wrap_key(org_key, data_key, nonce, &data_key_aad(org, window, id));
        Self { kind, key_version, org, window, id, wrapped }
    }

    /// Unwraps the data key.
    ///
    /// # Errors
    /// [`FormatErrorKind::WrongKey`] when it was not wrapped with this key for this organisation, window and segment.
    pub fn unwrap(&self, org_key: &SecretKey) -> Result<SecretKey, FormatError> {
        unwrap_key(org_key, &self.wrapped, &data_key_aad(self.org, self.window, self.id))
    }

    /// Unwraps the data key if the segment is the one that `entry` in the manifest of `org` describes. Unwraps for the
    /// identity in the entry, not for the one that the segment states, so that a segment under another's name does not
    /// open.
    ///
    /// # Errors
    /// [`FormatErrorKind::WrongKey`] when it is another segment or another key.
    pub fn unwrap_for(&self, org: OrgId, entry: &SegmentEntry, org_key: &SecretKey) -> Result<SecretKey, FormatError> {
        if (self.kind, self.org, self.window, self.id) != (entry.kind, org, entry.window, entry.id) {
            let detail = format!(
                "the key belongs to {}, but the object was read as {}",
                self.object_key(),
                entry.object_key(org)
            );
            return Err(error(FormatErrorKind::WrongKey, 0, detail));
        }
        if self.key_version != entry.key_version {
            let detail = format!(
                "the key is wrapped with version {} of the organisation's key, the manifest states {}",
                self.key_version, entry.key_version
            );
            return Err(error(FormatErrorKind::WrongKey, 0, detail));
        }
        unwrap_key(org_key, &self.wrapped, &data_key_aad(org, entry.window, entry.id))
    }

    /// Returns the name of the object that the metadata states.
    #[must_use]
    pub const fn object_key(&self) -> ObjectKey {
        self.kind.object_key(self.org, self.window, self.id)
    }

    /// Encodes the key metadata.
    #[must_use]
    pub fn encode(&self) -> [u8; SEGMENT_KEY_METADATA_BYTES] {
        let mut bytes = [0; SEGMENT_KEY_METADATA_BYTES];
        bytes[..8].copy_from_slice(MAGIC);
        bytes[12..14].copy_from_slice(&FORMAT_VERSION.to_le_bytes());
        bytes[14] = self.kind.code();
        bytes[16..20].copy_from_slice(&self.key_version.to_le_bytes());
        bytes[20..28].copy_from_slice(&self.org.get().to_le_bytes());
        bytes[28..36].copy_from_slice(&self.window.range().start().get().to_le_bytes());
        bytes[36..44].copy_from_slice(&self.window.range().end().get().to_le_bytes());
        bytes[44..60].copy_from_slice(&self.id.get().to_le_bytes());
        bytes[60..].copy_from_slice(self.wrapped.as_bytes());
        let checksum = crc32c(&bytes[CHECKED_FROM..]);
        bytes[8..12].copy_from_slice(&checksum.to_le_bytes());
        bytes
    }

    /// Decodes key metadata.
    ///
    /// # Errors
    /// [`FormatError`] with the offset within the key metadata.
    pub fn decode(bytes: &[u8]) -> Result<Self, FormatError> {
        let Ok(bytes) = <&[u8; SEGMENT_KEY_METADATA_BYTES]>::try_from(bytes) else {
            let detail = format!("segment key metadata has {SEGMENT_KEY_METADATA_BYTES} bytes, not {}", bytes.len());
            return Err(error(FormatErrorKind::Invalid, 0, detail));
        };
        if &bytes[..8] != MAGIC {
            return Err(error(
                FormatErrorKind::Invalid,
                0,
                "not segment key metadata: the first eight bytes are not icesegky",
            ));
        }
        if crc32c(&bytes[CHECKED_FROM..]) != u32::from_le_bytes(array(bytes, 8)) {
            return Err(error(FormatErrorKind::Damaged, 8, "the checksum does not match"));
        }
        let version = u16::from_le_bytes(array(bytes, 12));
        if version != FORMAT_VERSION {
            let detail = format!("segment format {version}, this program reads {FORMAT_VERSION}");
            return Err(error(FormatErrorKind::UnknownVersion, 12, detail));
        }
        let invalid = |offset, detail: String| error(FormatErrorKind::Invalid, offset, detail);
        let kind = SegmentKind::from_code(bytes[14]).ok_or_else(|| invalid(14, "unknown segment kind".to_owned()))?;
        let key_version = u32::from_le_bytes(array(bytes, 16));
        if bytes[15] != 0 || key_version == 0 {
            return Err(invalid(15, "the key version is zero, or a reserved byte is not".to_owned()));
        }
        let org = OrgId::new(u64::from_le_bytes(array(bytes, 20))).map_err(|e| invalid(20, e.to_string()))?;
        let window = Window::from_bounds(i64::from_le_bytes(array(bytes, 28)), i64::from_le_bytes(array(bytes, 36)))
            .map_err(|e| invalid(28, e.to_string()))?;
        let id = SegmentId::new(u128::from_le_bytes(array(bytes, 44))).map_err(|e| invalid(44, e.to_string()))?;
        let wrapped = WrappedKey::from_bytes(array::<WRAPPED_KEY_BYTES>(bytes, 60));
        Ok(Self { kind, key_version, org, window, id, wrapped })
    }
}
