//! Segments and conflicts objects: encrypted Parquet, described in `docs/segment.md`.
//!
//! This module turns sorted record batches into the bytes of an object and says how to open such bytes again. What an
//! encoder accepts is checked row by row: an object that breaks a rule of the format is never made.

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
pub use properties::{PAGE_ROWS_MAX, ROW_GROUP_ROWS_MAX, decryption_properties, writer_properties};
pub use schema::{CONFLICT_COLUMNS, channels_of, conflicts_schema, readings_schema};

#[cfg(test)]
mod tests;
