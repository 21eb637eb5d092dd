//! An organisation's manifest: the versioned list of its live segments, and everything that is committed with them.
//!
//! The bytes are described in `docs/manifest.md`. A manifest is a numbered log of commits; every commit is a delta, and
//! now and then the whole state is written along with it. Applying a delta is pure: the same deltas in the same order
//! give the same state, on every machine.

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
