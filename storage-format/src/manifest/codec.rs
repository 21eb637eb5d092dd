//! Codec of manifest objects (`docs/manifest.md`).
//!
//! A count is rejected when the bytes that follow cannot hold that many entries. Every decoded value is validated.

mod body;
mod header;

use crate::encryption::{NONCE_BYTES, SecretKey, TAG_BYTES, open, seal};
use crate::manifest::{Manifest, ManifestDelta};
use crate::{FileKind, FormatError, FormatErrorKind, ManifestVersion, ObjectKey, OrgId};

pub use header::{MANIFEST_HEADER_BYTES, ManifestHeader};

/// Largest manifest object, in bytes. A base of a million segments stays below it.
pub const MANIFEST_OBJECT_BYTES_MAX: usize = (256 << 20) + MANIFEST_HEADER_BYTES + TAG_BYTES;

/// Commit with the complete state after it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ManifestBase {
    /// The commit.
    pub delta: ManifestDelta,
    /// State after the commit.
    pub state: Manifest,
}

/// Content of a manifest object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ManifestObject {
    /// A commit.
    Delta(ManifestDelta),
    /// A commit with the complete state after it.
    Base(Box<ManifestBase>),
}

impl ManifestObject {
    /// Returns the commit.
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

/// Encodes a manifest object, sealed with this version of the organisation's key. The nonce must be random.
///
/// # Errors
/// [`FormatErrorKind::TooLarge`] above [`MANIFEST_OBJECT_BYTES_MAX`].
pub fn encode_manifest(
    org: OrgId,
    object: &ManifestObject,
    key: &SecretKey,
    key_version: u32,
    seal_nonce: [u8; NONCE_BYTES],
) -> Result<Vec<u8>, FormatError> {
    let body = body::encode(object);
    let too_large =
        || error(FormatErrorKind::TooLarge, 20, format!("a body of {} bytes exceeds the limit", body.len()));
    if body.len() > MANIFEST_OBJECT_BYTES_MAX - MANIFEST_HEADER_BYTES - TAG_BYTES {
        return Err(too_large());
    }
    let delta = object.delta();
    let header = ManifestHeader {
        format: header::FORMAT_VERSION,
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

/// Opens a manifest object that was read under the name of this organisation and version.
///
/// # Errors
/// [`FormatError`] with the offset, when the object breaks a rule of the format page.
pub fn decode_manifest(
    org: OrgId,
    version: ManifestVersion,
    bytes: &[u8],
    key: &SecretKey,
) -> Result<ManifestObject, FormatError> {
    let header = ManifestHeader::decode(bytes)?;
    if header.org != org {
        let detail = format!("the object belongs to organisation {}, but its name to organisation {org}", header.org);
        return Err(error(FormatErrorKind::Invalid, 24, detail));
    }
    if header.version != version {
        let detail = format!("the object is version {}, but its name says version {version}", header.version);
        return Err(error(FormatErrorKind::Invalid, 32, detail));
    }
    let (head, sealed) = bytes.split_at(MANIFEST_HEADER_BYTES);
    let body = open(FileKind::Manifest, key, header.seal_nonce, &aad(org, version, head), sealed.to_vec())
        // The checksum matches, so the object is not damaged.
        .map_err(|_| {
            error(
                FormatErrorKind::WrongKey,
                MANIFEST_HEADER_BYTES,
                format!("the object does not open with version {} of the organisation's key", header.key_version),
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
