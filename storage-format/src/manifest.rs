//! An organisation's manifest: the versioned list of its live segments, and everything that is committed with them.
//!
//! `docs/manifest.md` describes the bytes. A manifest is a numbered log of commits. Every commit is a delta; some
//! objects also hold the complete state after it. Applying a delta is a pure function: the same deltas in the same
//! order give the same state on every machine.

mod apply;
mod base;
mod codec;
mod delta;

pub use apply::{ApplyError, SPOOLS_PER_GATEWAY_MAX};
pub use base::{Manifest, SpoolState};
pub use codec::{
    MANIFEST_HEADER_BYTES, MANIFEST_OBJECT_BYTES_MAX, ManifestBase, ManifestHeader, ManifestObject, decode_manifest,
    encode_manifest,
};
pub use delta::{ManifestDelta, SegmentEntry, SegmentKind, SpoolPosition, Totals};
