//! Codec of an organisation's key as an object in the store (`docs/org-key.md`).

use crate::checksum::crc32c;
use crate::encryption::{WRAPPED_KEY_BYTES, WrappedKey};
use crate::{FileKind, FormatError, FormatErrorKind, OrgId};

/// Length of the object, in bytes.
pub const ORG_KEY_BYTES: usize = 88;

const MAGIC: &[u8; 8] = b"iceorgky";
const FORMAT_VERSION: u16 = 1;
const CHECKED_FROM: usize = 12;

/// A version of an organisation's key, wrapped by the master key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OrgKeyObject {
    /// Organisation that the key belongs to.
    pub org: OrgId,
    /// Version of the key, from 1.
    pub version: u32,
    /// The wrapped key.
    pub wrapped: WrappedKey,
}

fn error(kind: FormatErrorKind, offset: u64, detail: impl Into<String>) -> FormatError {
    FormatError::new(FileKind::Key, kind, offset, detail)
}

fn array<const N: usize>(bytes: &[u8; ORG_KEY_BYTES], at: usize) -> [u8; N] {
    let mut out = [0; N];
    out.copy_from_slice(&bytes[at..at + N]);
    out
}

impl OrgKeyObject {
    /// Encodes the object.
    #[must_use]
    pub fn encode(&self) -> [u8; ORG_KEY_BYTES] {
        let mut bytes = [0; ORG_KEY_BYTES];
        bytes[..8].copy_from_slice(MAGIC);
        bytes[12..14].copy_from_slice(&FORMAT_VERSION.to_le_bytes());
        bytes[16..20].copy_from_slice(&self.version.to_le_bytes());
        bytes[20..28].copy_from_slice(&self.org.get().to_le_bytes());
        bytes[28..].copy_from_slice(self.wrapped.as_bytes());
        let checksum = crc32c(&bytes[CHECKED_FROM..]);
        bytes[8..12].copy_from_slice(&checksum.to_le_bytes());
        bytes
    }

    /// Decodes an object that was read under the name of this organisation and version.
    ///
    /// # Errors
    /// [`FormatError`] with the offset.
    pub fn decode(org: OrgId, version: u32, bytes: &[u8]) -> Result<Self, FormatError> {
        let Ok(bytes) = <&[u8; ORG_KEY_BYTES]>::try_from(bytes) else {
            let detail = format!("an organisation key has {ORG_KEY_BYTES} bytes, this object has {}", bytes.len());
            return Err(error(FormatErrorKind::Truncated, 0, detail));
        };
        if &bytes[..8] != MAGIC {
            return Err(error(
                FormatErrorKind::Invalid,
                0,
                "not an organisation key: the first eight bytes are not iceorgky",
            ));
        }
        if crc32c(&bytes[CHECKED_FROM..]) != u32::from_le_bytes(array(bytes, 8)) {
            return Err(error(FormatErrorKind::Damaged, 8, "the checksum does not match"));
        }
        let format = u16::from_le_bytes(array(bytes, 12));
        if format != FORMAT_VERSION {
            let detail = format!("organisation key format {format}, this program reads {FORMAT_VERSION}");
            return Err(error(FormatErrorKind::UnknownVersion, 12, detail));
        }
        if bytes[14..16] != [0; 2] {
            return Err(error(FormatErrorKind::Invalid, 14, "reserved bytes are not zero"));
        }
        if u32::from_le_bytes(array(bytes, 16)) != version || version == 0 {
            return Err(error(
                FormatErrorKind::Invalid,
                16,
                "the key version differs from the one in the object's name",
            ));
        }
        if u64::from_le_bytes(array(bytes, 20)) != org.get() {
            return Err(error(
                FormatErrorKind::Invalid,
                20,
                "the organisation differs from the one in the object's name",
            ));
        }
        Ok(Self { org, version, wrapped: WrappedKey::from_bytes(array::<WRAPPED_KEY_BYTES>(bytes, 28)) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn object(org: u64, version: u32, fill: u8) -> OrgKeyObject {
        let wrapped = WrappedKey::from_bytes([fill; WRAPPED_KEY_BYTES]);
        OrgKeyObject { org: OrgId::new(org).expect("not zero"), version, wrapped }
    }

    proptest! {
        #[test]
        fn round_trip(org in 1..=u64::MAX, version in 1..=u32::MAX, fill in any::<u8>()) {
            let object = object(org, version, fill);
            prop_assert_eq!(OrgKeyObject::decode(object.org, version, &object.encode()), Ok(object));
        }

        #[test]
        fn flipped_bits_are_detected(at in 0..ORG_KEY_BYTES, bit in 0..8_u8) {
            let object = object(7, 3, 9);
            let mut bytes = object.encode();
            bytes[at] ^= 1 << bit;
            prop_assert!(OrgKeyObject::decode(object.org, 3, &bytes).is_err());
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = OrgKeyObject::decode(OrgId::MIN, 1, &bytes);
        }
    }

    /// Checks that the file written by version 0.1.0 still opens. `UPDATE_FIXTURES=1 cargo test` creates missing files.
    #[test]
    fn golden_file_still_opens() {
        let object = object(0xA1, 1, 9);
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/fixtures/v1/org-key.bin");
        if std::env::var_os("UPDATE_FIXTURES").is_some() && !std::path::Path::new(path).exists() {
            std::fs::write(path, object.encode()).expect("written");
        }
        let bytes = std::fs::read(path).expect("the fixture exists");
        assert_eq!(OrgKeyObject::decode(object.org, 1, &bytes), Ok(object));
        assert_eq!(object.encode()[..], bytes);
    }

    #[test]
    fn mismatched_name_is_rejected() {
        let object = object(7, 3, 9);
        assert!(OrgKeyObject::decode(OrgId::new(8).expect("not zero"), 3, &object.encode()).is_err());
        assert!(OrgKeyObject::decode(object.org, 4, &object.encode()).is_err());
        assert!(OrgKeyObject::decode(object.org, 3, &[0; ORG_KEY_BYTES]).is_err());
    }
}
