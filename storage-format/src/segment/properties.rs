//! How Parquet is written: encodings per column, sizes, sort order, encryption.

use std::num::NonZeroUsize;
use std::sync::Arc;

use arrow::datatypes::{DataType, Schema};
use parquet::basic::{Compression, Encoding, ZstdLevel};
use parquet::encryption::decrypt::FileDecryptionProperties;
use parquet::encryption::encrypt::FileEncryptionProperties;
use parquet::errors::ParquetError;
use parquet::file::metadata::SortingColumn;
use parquet::file::properties::{EnabledStatistics, WriterProperties};
use parquet::schema::types::ColumnPath;

use crate::encryption::SecretKey;

/// Rows in a row group, unless told otherwise: small, so that a query for one logger reads little; large enough that
/// dictionaries pay.
pub const ROW_GROUP_ROWS_MAX: NonZeroUsize = NonZeroUsize::new(131_072).expect("not zero");

/// Rows in a data page at most: each page costs two encryption modules (64 bytes) and a line in the page index.
pub const PAGE_ROWS_MAX: usize = 16_384;

const ZSTD_LEVEL: i32 = 1;

/// The properties that segments (`schema` of readings) and conflicts objects are written with.
///
/// # Errors
/// None that this program could cause: parquet's own checks of the level and the key.
pub fn writer_properties(
    schema: &Schema,
    data_key: &SecretKey,
    key_metadata: &[u8],
    row_group_rows: NonZeroUsize,
) -> Result<WriterProperties, ParquetError> {
    // No AAD prefix: DuckDB opens no file that has one. Naming the footer key only encrypts every column with it.
    let encryption = FileEncryptionProperties::builder(data_key.expose().to_vec())
        .with_footer_key_metadata(key_metadata.to_vec())
        .build()?;
    let sorted = |column_idx| SortingColumn { column_idx, descending: false, nulls_first: false };
    let mut builder = WriterProperties::builder()
        .set_created_by("icecore".to_owned())
        .set_compression(Compression::ZSTD(ZstdLevel::try_new(ZSTD_LEVEL)?))
        .set_max_row_group_row_count(Some(row_group_rows.get()))
        .set_data_page_row_count_limit(PAGE_ROWS_MAX)
        .set_write_batch_size(PAGE_ROWS_MAX / 4)
        .set_statistics_enabled(EnabledStatistics::Page)
        .set_bloom_filter_enabled(false)
        .set_sorting_columns(Some(vec![sorted(0), sorted(1)]))
        .with_file_encryption_properties(encryption);
    for field in schema.fields() {
        let path = ColumnPath::from(field.name().as_str());
        let (dictionary, encoding) = match field.data_type() {
            DataType::Float64 => (true, Encoding::BYTE_STREAM_SPLIT),
            DataType::Utf8 => (true, Encoding::DELTA_LENGTH_BYTE_ARRAY),
            // Times differ from row to row: a dictionary would hold each once and help nobody. Loggers, gateways and
            // times of arrival stay the same for many rows: their deltas are zeros, which cost nearly nothing, while a
            // dictionary looks up each value.
            _ => (false, Encoding::DELTA_BINARY_PACKED),
        };
        // With a dictionary, the encoding is what follows once the dictionary is full.
        builder =
            builder.set_column_dictionary_enabled(path.clone(), dictionary).set_column_encoding(path.clone(), encoding);
        if ["gateway", "received"].contains(&field.name().as_str()) {
            // Nobody looks for readings by who sent them: it is not worth comparing each value.
            builder = builder.set_column_statistics_enabled(path, EnabledStatistics::None);
        }
    }
    Ok(builder.build())
}

/// What parquet-rs needs to open an object with its data key.
///
/// # Errors
/// None that this program could cause: a data key always has 32 bytes.
pub fn decryption_properties(data_key: &SecretKey) -> Result<Arc<FileDecryptionProperties>, ParquetError> {
    FileDecryptionProperties::builder(data_key.expose().to_vec()).build()
}
