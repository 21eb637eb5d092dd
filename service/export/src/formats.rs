//! Results of queries in the forms that arrow itself can write.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use arrow::error::ArrowError;
use arrow::ipc::writer::StreamWriter;
use arrow::json::writer::{JsonArray, LineDelimited};
use arrow::{csv, json};

use crate::Encoder;

/// Forms of a query's result.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// An Arrow IPC stream.
    Arrow,
    /// CSV with a header.
    Csv,
    /// One JSON array of objects.
    Json,
    /// JSON objects, one on each line.
    JsonLines,
}

/// A buffer that a writer fills and the encoder empties.
#[derive(Debug, Clone, Default)]
struct Buffer(Arc<Mutex<Vec<u8>>>);

impl Buffer {
    fn take(&self) -> Vec<u8> {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl io::Write for Buffer {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

enum Writer {
    Arrow(Box<StreamWriter<Buffer>>),
    Csv(Box<csv::Writer<Buffer>>),
    Json(Box<json::Writer<Buffer, JsonArray>>),
    JsonLines(Box<json::Writer<Buffer, LineDelimited>>),
}

/// Encodes with arrow's writers.
struct ArrowEncoder {
    buffer: Buffer,
    writer: Writer,
}

/// An encoder of this form, for batches of this schema.
///
/// # Errors
/// When the form cannot hold a column of the schema.
pub fn encoder(format: Format, schema: &SchemaRef) -> Result<Box<dyn Encoder>, ArrowError> {
    let buffer = Buffer::default();
    let json = || json::WriterBuilder::new().with_explicit_nulls(true);
    let writer = match format {
        Format::Arrow => Writer::Arrow(Box::new(StreamWriter::try_new(buffer.clone(), schema)?)),
        Format::Csv => Writer::Csv(Box::new(csv::Writer::new(buffer.clone()))),
        Format::Json => Writer::Json(Box::new(json().build(buffer.clone()))),
        Format::JsonLines => Writer::JsonLines(Box::new(json().build(buffer.clone()))),
    };
    Ok(Box::new(ArrowEncoder { buffer, writer }))
}

impl Encoder for ArrowEncoder {
    fn content_type(&self) -> &'static str {
        match self.writer {
            Writer::Arrow(_) => "application/vnd.apache.arrow.stream",
            Writer::Csv(_) => "text/csv; charset=utf-8",
            Writer::Json(_) => "application/json",
            Writer::JsonLines(_) => "application/x-ndjson",
        }
    }

    fn encode(&mut self, batch: &RecordBatch) -> Result<Vec<u8>, ArrowError> {
        match &mut self.writer {
            Writer::Arrow(writer) => writer.write(batch)?,
            Writer::Csv(writer) => writer.write(batch)?,
            Writer::Json(writer) => writer.write(batch)?,
            Writer::JsonLines(writer) => writer.write(batch)?,
        }
        Ok(self.buffer.take())
    }

    fn finish(&mut self) -> Result<Vec<u8>, ArrowError> {
        match &mut self.writer {
            Writer::Arrow(writer) => writer.finish()?,
            Writer::Csv(_) => {}
            Writer::Json(writer) => writer.finish()?,
            Writer::JsonLines(writer) => writer.finish()?,
        }
        Ok(self.buffer.take())
    }
}
