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

#[cfg(test)]
mod tests {
    use arrow::array::{Float64Array, UInt64Array};
    use arrow::datatypes::{DataType, Field, Schema};

    use super::*;

    fn schema() -> SchemaRef {
        Arc::new(Schema::new(vec![
            Field::new("logger", DataType::UInt64, false),
            Field::new("temperature", DataType::Float64, true),
        ]))
    }

    fn batch(first: u64) -> RecordBatch {
        let loggers = UInt64Array::from_iter_values(first..first + 2);
        let temperatures = Float64Array::from(vec![Some(21.79), None]);
        RecordBatch::try_new(schema(), vec![Arc::new(loggers), Arc::new(temperatures)]).expect("a batch")
    }

    fn encoded(format: Format, batches: &[RecordBatch]) -> Vec<u8> {
        let mut encoder = encoder(format, &schema()).expect("an encoder");
        let mut bytes: Vec<u8> = batches.iter().flat_map(|batch| encoder.encode(batch).expect("encoded")).collect();
        bytes.extend(encoder.finish().expect("finished"));
        bytes
    }

    #[test]
    fn every_form_is_whole() {
        let two = [batch(1), batch(3)];
        let text = |format, batches: &[RecordBatch]| String::from_utf8(encoded(format, batches)).expect("UTF-8");
        assert_eq!(text(Format::Csv, &two), "logger,temperature\n1,21.79\n2,\n3,21.79\n4,\n");
        let rows = [
            r#"{"logger":1,"temperature":21.79}"#,
            r#"{"logger":2,"temperature":null}"#,
            r#"{"logger":3,"temperature":21.79}"#,
            r#"{"logger":4,"temperature":null}"#,
        ];
        assert_eq!(text(Format::Json, &two), format!("[{}]", rows.join(",")));
        assert_eq!(text(Format::JsonLines, &two), rows.map(|row| format!("{row}\n")).concat());
        let bytes = encoded(Format::Arrow, &two);
        let reader = arrow::ipc::reader::StreamReader::try_new(bytes.as_slice(), None);
        let read: Result<Vec<_>, _> = reader.expect("a schema").collect();
        assert_eq!(read.expect("whole"), two);
    }

    #[test]
    fn nothing_has_a_header_and_an_end() {
        let nothing = [RecordBatch::new_empty(schema())];
        assert_eq!(encoded(Format::Csv, &nothing), b"logger,temperature\n");
        assert_eq!(encoded(Format::Json, &nothing), b"[]");
        assert_eq!(encoded(Format::JsonLines, &nothing), b"");
        assert!(!encoded(Format::Arrow, &nothing).is_empty());
    }
}
