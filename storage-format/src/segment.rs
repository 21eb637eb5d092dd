//! Segments, conflicts and fills objects: encrypted Parquet, described in `docs/segment.md`.
//!
//! This module encodes sorted record batches as an object, and provides what a reader needs to open one. The encoder
//! checks every row, so it never creates an object that breaks a rule of the format.

mod digest;
mod encoder;
mod footer;
mod key_metadata;
mod properties;
mod schema;

pub use digest::RowDigest;
pub use encoder::{EncodedSegment, SegmentEncoder, SegmentError, SegmentSpec};
pub use footer::{MetadataDecoder, MetadataPoll, SegmentFooter, SegmentTail, check_modules, read_tail, tail_bytes};
pub use key_metadata::{SEGMENT_KEY_METADATA_BYTES, SegmentKeyMetadata};
pub(crate) use properties::object_properties;
pub use properties::{PAGE_ROWS_MAX, ROW_GROUP_ROWS_MAX, decryption_properties, writer_properties};
pub use schema::{
    CONFLICT_COLUMNS, FILL_COLUMNS, FLUSH_COLUMN, channels_of, conflicts_schema, fills_schema, merged_readings_schema,
    readings_schema,
};

#[cfg(test)]
mod tests;
