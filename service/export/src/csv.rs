//! Readings as CSV: `time` in RFC 3339 (UTC, milliseconds), `logger` as 16 upper-case hex digits, one column for each
//! channel that the organisation has used, each number in the shortest form that reads back as the same number.
//!
//! What this writes, `gateway send` reads.

use std::io::Write;

use arrow::array::{Array, ArrayRef, AsArray, PrimitiveArray, RecordBatch};
use arrow::datatypes::{ArrowPrimitiveType, DataType, Float64Type, SchemaRef, TimestampMillisecondType, UInt64Type};
use arrow::error::ArrowError;
use storage_format::{ChannelCode, LoggerId, Millis};

use crate::Encoder;

const HOUR_MS: i64 = 3_600_000;
/// `2024-05-01T12:` of `2024-05-01T12:00:00.000Z`.
const HOUR_CHARS: usize = 14;

/// Turns batches of readings into CSV.
#[derive(Debug)]
pub struct CsvEncoder {
    time: usize,
    logger: usize,
    channels: Vec<(usize, String)>,
    header_written: bool,
    // The same for thousands of rows in a row: formatted once.
    hour: Option<(i64, String)>,
    last_logger: Option<(u64, String)>,
}

fn column<T: ArrowPrimitiveType>(columns: &[ArrayRef], index: usize) -> Result<&PrimitiveArray<T>, ArrowError> {
    let column = columns.get(index).and_then(|column| column.as_primitive_opt::<T>());
    column.ok_or_else(|| ArrowError::SchemaError(format!("column {index} of an export has an unexpected type")))
}

impl CsvEncoder {
    /// For batches of this schema; only these channels become columns.
    ///
    /// # Errors
    /// When the schema is not that of readings.
    pub fn new(schema: &SchemaRef, channels: &[ChannelCode]) -> Result<Self, ArrowError> {
        let wanted: Vec<String> = channels.iter().map(ToString::to_string).collect();
        let fields = schema.fields().iter().enumerate();
        let channels = fields
            .filter(|(_, field)| *field.data_type() == DataType::Float64 && wanted.contains(field.name()))
            .map(|(index, field)| (index, field.name().clone()))
            .collect();
        Ok(Self {
            time: schema.index_of("time")?,
            logger: schema.index_of("logger")?,
            channels,
            header_written: false,
            hour: None,
            last_logger: None,
        })
    }

    /// The bytes of one more batch; the first ones begin with the header.
    fn rows(&mut self, batch: &RecordBatch) -> Result<Vec<u8>, ArrowError> {
        let columns = batch.columns();
        let times = column::<TimestampMillisecondType>(columns, self.time)?;
        let loggers = column::<UInt64Type>(columns, self.logger)?;
        let channels: Result<Vec<_>, _> =
            self.channels.iter().map(|(index, _)| column::<Float64Type>(columns, *index)).collect();
        let channels = channels?;
        let mut out = Vec::with_capacity(batch.num_rows() * (44 + 8 * channels.len()));
        if !self.header_written {
            self.header_written = true;
            out.extend_from_slice(b"time,logger");
            for (_, name) in &self.channels {
                out.push(b',');
                out.extend_from_slice(name.as_bytes());
            }
            out.push(b'\n');
        }
        for row in 0..batch.num_rows() {
            self.write_time(&mut out, times.value(row))?;
            out.push(b',');
            self.write_logger(&mut out, loggers.value(row))?;
            for channel in &channels {
                out.push(b',');
                if channel.is_valid(row) {
                    // Rust prints the shortest digits that read back as the same number.
                    write!(out, "{}", channel.value(row))?;
                }
            }
            out.push(b'\n');
        }
        Ok(out)
    }

    fn write_time(&mut self, out: &mut Vec<u8>, ms: i64) -> Result<(), ArrowError> {
        let hour = ms.div_euclid(HOUR_MS);
        let text = match &mut self.hour {
            Some((known, text)) if *known == hour => text,
            other => {
                let wrong = |error| ArrowError::ComputeError(format!("a reading's time: {error}"));
                let mut text = Millis::new(hour * HOUR_MS).map_err(wrong)?.to_string();
                text.truncate(HOUR_CHARS);
                &mut other.insert((hour, text)).1
            }
        };
        out.extend_from_slice(text.as_bytes());
        let rest = ms.rem_euclid(HOUR_MS);
        let (minute, second, fraction) = (rest / 60_000, rest / 1_000 % 60, rest % 1_000);
        write!(out, "{minute:02}:{second:02}.{fraction:03}Z")?;
        Ok(())
    }

    fn write_logger(&mut self, out: &mut Vec<u8>, logger: u64) -> Result<(), ArrowError> {
        let text = match &mut self.last_logger {
            Some((known, text)) if *known == logger => text,
            other => {
                let wrong = |error| ArrowError::ComputeError(format!("a reading's logger: {error}"));
                let text = LoggerId::new(logger).map_err(wrong)?.to_string();
                &mut other.insert((logger, text)).1
            }
        };
        out.extend_from_slice(text.as_bytes());
        Ok(())
    }
}

impl Encoder for CsvEncoder {
    fn content_type(&self) -> &'static str {
        "text/csv; charset=utf-8"
    }

    fn encode(&mut self, batch: &RecordBatch) -> Result<Vec<u8>, ArrowError> {
        self.rows(batch)
    }

    fn finish(&mut self) -> Result<Vec<u8>, ArrowError> {
        Ok(Vec::new())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{Float64Array, TimestampMillisecondArray, UInt64Array};
    use arrow::datatypes::{Field, Schema, TimeUnit};

    use super::*;

    fn schema() -> SchemaRef {
        let time = DataType::Timestamp(TimeUnit::Millisecond, Some("UTC".into()));
        Arc::new(Schema::new(vec![
            Field::new("logger", DataType::UInt64, false),
            Field::new("time", time.clone(), false),
            Field::new("temperature", DataType::Float64, true),
            Field::new("humidity", DataType::Float64, true),
            Field::new("gateway", DataType::UInt64, false),
            Field::new("received", time, false),
        ]))
    }

    fn batch(rows: &[(u64, i64, Option<f64>)]) -> RecordBatch {
        let times = TimestampMillisecondArray::from_iter_values(rows.iter().map(|row| row.1)).with_timezone("UTC");
        let columns: Vec<ArrayRef> = vec![
            Arc::new(UInt64Array::from_iter_values(rows.iter().map(|row| row.0))),
            Arc::new(times.clone()),
            Arc::new(Float64Array::from_iter(rows.iter().map(|row| row.2))),
            Arc::new(Float64Array::from_iter(rows.iter().map(|_| None))),
            Arc::new(UInt64Array::from_iter_values(rows.iter().map(|_| 9))),
            Arc::new(times),
        ];
        RecordBatch::try_new(schema(), columns).expect("a batch")
    }

    fn code(number: u16) -> ChannelCode {
        ChannelCode::new(number).expect("a code")
    }

    #[test]
    fn what_is_written_is_what_gateways_send() {
        let mut encoder = CsvEncoder::new(&schema(), &[code(1)]).expect("an encoder");
        let rows = [(0x0012_4B00_0A6E_0001, -1, Some(21.79)), (0x0012_4B00_0A6E_0001, 3_600_250, Some(-0.1))];
        let more = [(u64::MAX, 1_706_572_800_000, None), (u64::MAX, 1_706_572_800_001, Some(1e-7))];
        let mut text = encoder.encode(&batch(&rows)).expect("encoded");
        text.extend(encoder.encode(&batch(&more)).expect("encoded"));
        let text = String::from_utf8(text).expect("UTF-8");
        assert_eq!(
            text,
            "time,logger,temperature\n\
             1969-12-31T23:59:59.999Z,00124B000A6E0001,21.79\n\
             1970-01-01T01:00:00.250Z,00124B000A6E0001,-0.1\n\
             2024-01-30T00:00:00.000Z,FFFFFFFFFFFFFFFF,\n\
             2024-01-30T00:00:00.001Z,FFFFFFFFFFFFFFFF,0.0000001\n"
        );
    }

    #[test]
    fn nothing_is_a_header() {
        let mut encoder = CsvEncoder::new(&schema(), &[code(1), code(2)]).expect("an encoder");
        let text = encoder.encode(&RecordBatch::new_empty(schema())).expect("encoded");
        assert_eq!(text, b"time,logger,temperature,humidity\n");
        assert_eq!(encoder.encode(&RecordBatch::new_empty(schema())).expect("encoded"), b"");
    }

    #[test]
    fn every_number_comes_back() {
        let mut encoder = CsvEncoder::new(&schema(), &[code(1)]).expect("an encoder");
        let numbers = [0.1 + 0.2, f64::MIN_POSITIVE, f64::MAX, -0.0, 1.0 / 3.0, 39.9, 5e-324];
        let rows: Vec<_> = numbers.iter().enumerate().map(|(i, n)| (1, i as i64, Some(*n))).collect();
        let text = String::from_utf8(encoder.encode(&batch(&rows)).expect("encoded")).expect("UTF-8");
        let back: Vec<f64> = text
            .lines()
            .skip(1)
            .map(|line| line.rsplit(',').next().expect("a cell").parse().expect("a number"))
            .collect();
        assert_eq!(back.iter().map(|n| n.to_bits()).collect::<Vec<_>>(), numbers.map(f64::to_bits));
    }
}
