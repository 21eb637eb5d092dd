//! Batches to files: encoders that turn record batches into bytes, one batch at a time.
//!
//! An encoder does no I/O and knows no runtime: whoever drives it decides on which thread that happens and where the
//! bytes go.

use arrow::array::RecordBatch;
use arrow::error::ArrowError;

mod csv;
mod formats;

pub use csv::CsvEncoder;
pub use formats::{Format, encoder};

/// Turns batches into bytes.
pub trait Encoder: Send + 'static {
    /// The media type of the bytes.
    fn content_type(&self) -> &'static str;

    /// The bytes of one more batch.
    ///
    /// # Errors
    /// When the batch has not the schema that the encoder was made for.
    fn encode(&mut self, batch: &RecordBatch) -> Result<Vec<u8>, ArrowError>;

    /// The bytes after the last batch.
    ///
    /// # Errors
    /// When the form cannot be completed.
    fn finish(&mut self) -> Result<Vec<u8>, ArrowError>;
}
