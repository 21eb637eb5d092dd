//! Manifest objects as bytes: `docs/manifest.md`.
//!
//! Counts are believed only as far as the bytes that follow could hold so many; what is decoded is wholly checked.

mod body;
mod header;

use crate::encryption::{NONCE_BYTES, SecretKey, TAG_BYTES, open, seal};
use crate::manifest::{Manifest, ManifestDelta};
use crate::{FileKind, FormatError, FormatErrorKind, ManifestVersion, ObjectKey, OrgId};

pub use header::{MANIFEST_HEADER_BYTES, ManifestHeader};

/// The largest manifest object. A base of a million segments stays below it.
pub const MANIFEST_OBJECT_BYTES_MAX: usize = (256 << 20) + MANIFEST_HEADER_BYTES + TAG_BYTES;

/// A commit, and the whole state after it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ManifestBase {
    /// The commit that led here.
    pub delta: ManifestDelta,
    /// The state after it.
    pub state: Manifest,
}

/// What one manifest object holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ManifestObject {
    /// A commit.
    Delta(ManifestDelta),
    /// A commit, and the whole state after it.
    Base(Box<ManifestBase>),
}

impl ManifestObject {
    /// The commit.
    #[must_use]
    pub fn delta(&self) -> &ManifestDelta {
        match self {
            Self::Delta(delta) => delta,
            Self::Base(base) => &base.delta,
        }
    }
}

pub(super) fn error(kind: FormatErrorKind, offset: usize, detail: impl Into<String>) -> FormatError {
    FormatError::new(FileKind::Manifest, kind, offset as u64, detail)
}

/// The bytes of a manifest object, sealed with the organisation's key of this version. The nonce must be random.
///
/// # Errors
/// [`FormatErrorKind::TooLarge`] past [`MANIFEST_OBJECT_BYTES_MAX`].
pub fn encode_manifest(
    org: OrgId,
    object: &ManifestObject,
    key: &SecretKey,
    key_version: u32,
    seal_nonce: [u8; NONCE_BYTES],
) -> Result<Vec<u8>, FormatError> {
    let body = body::encode(object);
    let too_large = || error(FormatErrorKind::TooLarge, 20, format!("a body of {} bytes", body.len()));
    if body.len() > MANIFEST_OBJECT_BYTES_MAX - MANIFEST_HEADER_BYTES - TAG_BYTES {
        return Err(too_large());
    }
    let delta = object.delta();
    let header = ManifestHeader {
        base: matches!(object, ManifestObject::Base(_)),
        key_version,
        body_bytes: u32::try_from(body.len()).map_err(|_| too_large())?,
        org,
        version: delta.version,
        epoch: delta.epoch,
        nonce: delta.nonce,
        seal_nonce,
    };
    let mut bytes = header.encode();
    let sealed = seal(key, seal_nonce, &aad(org, delta.version, &bytes), body);
    bytes.extend_from_slice(&sealed);
    header::set_checksum(&mut bytes);
    Ok(bytes)
}

/// Opens a manifest object that was read from the name of this organisation and version.
///
/// # Errors
/// [`FormatError`] with the offset, for everything that the page does not allow.
pub fn decode_manifest(
    org: OrgId,
    version: ManifestVersion,
    bytes: &[u8],
    key: &SecretKey,
) -> Result<ManifestObject, FormatError> {
    let header = ManifestHeader::decode(bytes)?;
    if header.org != org {
        let detail = format!("it is of organisation {}, under a name of organisation {org}", header.org);
        return Err(error(FormatErrorKind::Invalid, 24, detail));
    }
    if header.version != version {
        let detail = format!("it is version {}, under the name of version {version}", header.version);
        return Err(error(FormatErrorKind::Invalid, 32, detail));
    }
    let (head, sealed) = bytes.split_at(MANIFEST_HEADER_BYTES);
    let body = open(FileKind::Manifest, key, header.seal_nonce, &aad(org, version, head), sealed.to_vec())
        // The checksum fits: it is not damage.
        .map_err(|_| {
            error(
                FormatErrorKind::WrongKey,
                MANIFEST_HEADER_BYTES,
                format!("it does not open with version {} of the organisation's key", header.key_version),
            )
        })?;
    body::decode(&header, &body)
}

fn aad(org: OrgId, version: ManifestVersion, header: &[u8]) -> Vec<u8> {
    let mut aad = ObjectKey::Manifest { org, version }.to_string().into_bytes();
    aad.extend_from_slice(&header[header::CHECKED_FROM..MANIFEST_HEADER_BYTES]);
    aad
}

#[cfg(test)]
pub(super) mod tests;
