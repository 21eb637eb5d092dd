//! Additional authenticated data: the purpose of a wrapped key as bytes, so that a key moved elsewhere does not unwrap.

use crate::{OrgId, SegmentId, Window};

/// Returns the additional data for a version of an organisation's key, wrapped by the master key.
#[must_use]
pub fn org_key_aad(org: OrgId, version: u32) -> Vec<u8> {
    let mut aad = b"icecore org key 1".to_vec();
    aad.extend_from_slice(&org.get().to_le_bytes());
    aad.extend_from_slice(&version.to_le_bytes());
    aad
}

/// Returns the additional data for a segment's (or conflicts object's) data key, wrapped by the organisation's key.
#[must_use]
pub fn data_key_aad(org: OrgId, window: Window, segment: SegmentId) -> Vec<u8> {
    let mut aad = b"icecore data key 1".to_vec();
    aad.extend_from_slice(&org.get().to_le_bytes());
    aad.extend_from_slice(&window.range().start().get().to_le_bytes());
    aad.extend_from_slice(&window.range().end().get().to_le_bytes());
    aad.extend_from_slice(&segment.get().to_le_bytes());
    aad
}
