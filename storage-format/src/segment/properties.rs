//! Parquet properties of segments: encodings per column, sizes, sort order, encryption.

use std::num::NonZeroUsize;
use std::sync::Arc;

use arrow::datatypes::{DataType, Schema};
use parquet::basic::{Compression, Encoding, ZstdLevel};
use parquet::encryption::decrypt::FileDecryptionProperties;
use parquet::encryption::encrypt::FileEncryptionProperties;
use parquet::errors::ParquetError;
use parquet::file::metadata::SortingColumn;
use parquet::file::properties::{EnabledStatistics, WriterProperties, WriterPropertiesBuilder};
use parquet::schema::types::ColumnPath;

use crate::encryption::SecretKey;

/// Default limit of rows in a row group: small enough that a query for one logger reads little, large enough that
/// dictionaries save space.
pub const ROW_GROUP_ROWS_MAX: NonZeroUsize = NonZeroUsize::new(131_072).expect("not zero");

/// Most rows in a data page. Each page costs two encryption modules (64 bytes) and an entry in the page index.
pub const PAGE_ROWS_MAX: usize = 16_384;

const ZSTD_LEVEL: i32 = 1;

/// Returns the properties for writing segments (`schema` of readings) and conflicts objects.
///
/// # Errors
/// From parquet's checks of the compression level and the key, which this program always passes.
pub fn writer_properties(
    schema: &Schema,
    data_key: &SecretKey,
    key_metadata: &[u8],
    row_group_rows: NonZeroUsize,
) -> Result<WriterProperties, ParquetError> {
    let mut builder = object_properties(data_key, key_metadata, row_group_rows)?;
    for field in schema.fields() {
        let path = ColumnPath::from(field.name().as_str());
        let (dictionary, encoding) = match field.data_type() {
            DataType::Float64 => (true, Encoding::BYTE_STREAM_SPLIT),
            DataType::Utf8 => (true, Encoding::DELTA_LENGTH_BYTE_ARRAY),
            // Times differ from row to row, so a dictionary would save nothing. Loggers, gateways and receive times
            // stay the same for many rows: their deltas are zeros, which cost nearly nothing, while a dictionary looks
            // up each value.
            _ => (false, Encoding::DELTA_BINARY_PACKED),
        };
        // With a dictionary, the encoding applies once the dictionary is full.
        builder =
            builder.set_column_dictionary_enabled(path.clone(), dictionary).set_column_encoding(path.clone(), encoding);
        if ["gateway", "received"].contains(&field.name().as_str()) {
            // Queries rarely filter by gateway or receive time, so statistics are not worth a comparison per value.
            builder = builder.set_column_statistics_enabled(path, EnabledStatistics::None);
        }
    }
    Ok(builder.build())
}

/// Returns what all objects have in common: sorted by their first two columns, compressed, encrypted.
pub(crate) fn object_properties(
    data_key: &SecretKey,
    key_metadata: &[u8],
    row_group_rows: NonZeroUsize,
) -> Result<WriterPropertiesBuilder, ParquetError> {
    // No AAD prefix, because DuckDB cannot open files that have one. Without column keys, the footer key encrypts every
    // column.
    let encryption = FileEncryptionProperties::builder(data_key.expose().to_vec())
        .with_footer_key_metadata(key_metadata.to_vec())
        .build()?;
    let sorted = |column_idx| SortingColumn { column_idx, descending: false, nulls_first: false };
    Ok(WriterProperties::builder()
        .set_created_by("icecore".to_owned())
        .set_compression(Compression::ZSTD(ZstdLevel::try_new(ZSTD_LEVEL)?))
        .set_max_row_group_row_count(Some(row_group_rows.get()))
        .set_data_page_row_count_limit(PAGE_ROWS_MAX)
        .set_write_batch_size(PAGE_ROWS_MAX / 4)
        .set_statistics_enabled(EnabledStatistics::Page)
        .set_bloom_filter_enabled(false)
        .set_sorting_columns(Some(vec![sorted(0), sorted(1)]))
        .with_file_encryption_properties(encryption))
}

/// Returns the properties with which parquet-rs opens an object.
///
/// # Errors
/// From parquet's check of the key length, which a data key of 32 bytes always passes.
pub fn decryption_properties(data_key: &SecretKey) -> Result<Arc<FileDecryptionProperties>, ParquetError> {
    FileDecryptionProperties::builder(data_key.expose().to_vec()).build()
}
