//! Encodes sorted rollup rows as an object, and creates its manifest entry.
//!
//! Every row is checked against the rules of the format, packed, decoded again and compared, before it is written.

use std::num::NonZeroUsize;

use arrow::array::{Array as _, AsArray as _, Float64Array, RecordBatch};
use arrow::datatypes::{DataType, SchemaRef, TimestampMillisecondType, UInt64Type};
use bytes::Bytes;
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_writer::ArrowWriterOptions;
use parquet::basic::Encoding;
use parquet::errors::ParquetError;
use parquet::file::metadata::{KeyValue, ParquetMetaData};
use parquet::file::properties::{EnabledStatistics, WriterProperties};
use parquet::schema::types::ColumnPath;

use super::pack::{ChannelColumns, pack, sums_agree};
use super::schema::{Stored, is_temperature, stored_schema};
use super::{Aggregate, RollupDigest, RollupGrain, decode_rollup, rollup_schema};
use crate::encryption::{NONCE_BYTES, SecretKey};
use crate::manifest::SegmentEntry;
use crate::segment::{EncodedSegment, SegmentError, SegmentFooter, SegmentKeyMetadata, SegmentSpec, object_properties};
use crate::{ChannelCode, FileKind, FormatError, FormatErrorKind, SegmentId};

/// Most rows of a row group: few enough that a query for one logger reads little.
const ROW_GROUP_ROWS: NonZeroUsize = NonZeroUsize::new(65_536).expect("not zero");

const OF: &str = "icecore.of";
const INTERVAL: &str = "icecore.interval_s";

/// What the footer of a rollup states beside what every object's footer does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RollupFooter {
    /// Segment whose readings the rows were made from.
    pub of: SegmentId,
    /// For daily rows: the interval in seconds by which values were weighted. None stood for longer than 2.5 times that.
    pub interval_s: Option<u32>,
}

impl RollupFooter {
    fn key_values(self) -> Vec<KeyValue> {
        let of = KeyValue::new(OF.to_owned(), self.of.to_string());
        let interval = self.interval_s.map(|seconds| KeyValue::new(INTERVAL.to_owned(), seconds.to_string()));
        [of].into_iter().chain(interval).collect()
    }

    /// Reads the key-values of an opened footer.
    ///
    /// # Errors
    /// [`FormatError`] when one is missing or invalid.
    pub fn read(grain: RollupGrain, metadata: &ParquetMetaData) -> Result<Self, FormatError> {
        let pairs = metadata.file_metadata().key_value_metadata().map_or(&[][..], Vec::as_slice);
        let text = |key: &str| pairs.iter().find(|pair| pair.key == key).and_then(|pair| pair.value.as_deref());
        let wrong = |key: &str| {
            let detail = format!("the footer has no valid {key}");
            FormatError::new(FileKind::Segment, FormatErrorKind::Invalid, 0, detail)
        };
        let of = text(OF).and_then(|text| text.parse().ok()).ok_or_else(|| wrong(OF))?;
        let interval_s = match grain {
            RollupGrain::Hourly => None,
            RollupGrain::Daily => {
                let seconds = text(INTERVAL).and_then(|text| text.parse().ok()).filter(|seconds| *seconds > 0);
                Some(seconds.ok_or_else(|| wrong(INTERVAL))?)
            }
        };
        Ok(Self { of, interval_s })
    }
}

/// Encoder of one rollup.
pub struct RollupEncoder {
    spec: SegmentSpec,
    grain: RollupGrain,
    interval_s: Option<u32>,
    channels: Vec<ChannelCode>,
    schema: SchemaRef,
    writer: ArrowWriter<Vec<u8>>,
    digest: RollupDigest,
    rows: u64,
    readings: u64,
    first: Option<u64>,
    last: (u64, i64),
}

impl std::fmt::Debug for RollupEncoder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RollupEncoder").field("spec", &self.spec).field("rows", &self.rows).finish_non_exhaustive()
    }
}

/// Returns the properties for writing a rollup whose stored columns are these.
fn properties(
    grain: RollupGrain,
    channels: &[ChannelCode],
    data_key: &SecretKey,
    key_metadata: &[u8],
    row_group_rows: NonZeroUsize,
) -> Result<WriterProperties, ParquetError> {
    let rows = row_group_rows.min(ROW_GROUP_ROWS);
    let mut builder = object_properties(data_key, key_metadata, rows)?.set_dictionary_enabled(false);
    let schema = stored_schema(grain, channels);
    for field in schema.fields() {
        builder = builder.set_column_encoding(ColumnPath::from(field.name().as_str()), Encoding::DELTA_BINARY_PACKED);
        if !["logger", "bucket"].contains(&field.name().as_str()) {
            // Only loggers and times are filtered by.
            let path = ColumnPath::from(field.name().as_str());
            builder = builder.set_column_statistics_enabled(path, EnabledStatistics::None);
        }
    }
    for &code in channels {
        for stored in Stored::of(grain, code).filter(|stored| !stored.is_steady()) {
            let path = ColumnPath::from(stored.column(code).as_str());
            // Small numbers of any order: their upper bytes are zeros, which compress to nothing, and the lowest byte
            // is what entropy coding works on.
            builder = builder.set_column_encoding(path, Encoding::BYTE_STREAM_SPLIT);
        }
    }
    Ok(builder.build())
}

impl RollupEncoder {
    /// Creates an encoder for the object that `spec` describes, whose kind must be that of a rollup. `channels` are
    /// those of its rows, known and ascending; daily rows are weighted by the interval, in seconds. The data key and the
    /// nonce must be random and used for this object only.
    ///
    /// # Errors
    /// [`SegmentError::Schema`] for another kind, [`SegmentError::Parquet`].
    pub fn new(
        spec: SegmentSpec,
        interval_s: u32,
        channels: &[ChannelCode],
        (org_key, data_key): (&SecretKey, &SecretKey),
        nonce: [u8; NONCE_BYTES],
        row_group_rows: NonZeroUsize,
    ) -> Result<Self, SegmentError> {
        let grain = RollupGrain::of_kind(spec.kind).ok_or(SegmentError::Schema)?;
        let identity = (spec.kind, spec.org, spec.window, spec.id);
        let key_metadata = SegmentKeyMetadata::wrap(identity, org_key, spec.key_version, data_key, nonce);
        let properties = properties(grain, channels, data_key, &key_metadata.encode(), row_group_rows)?;
        let options = ArrowWriterOptions::new().with_properties(properties).with_skip_arrow_metadata(true);
        let writer = ArrowWriter::try_new_with_options(Vec::new(), stored_schema(grain, channels), options)?;
        Ok(Self {
            spec,
            grain,
            interval_s: (grain == RollupGrain::Daily).then_some(interval_s),
            channels: channels.to_vec(),
            schema: rollup_schema(grain, channels),
            writer,
            digest: RollupDigest::new(grain),
            rows: 0,
            readings: 0,
            first: None,
            last: (0, i64::MIN),
        })
    }

    /// Returns the id of the object.
    #[must_use]
    pub const fn id(&self) -> SegmentId {
        self.spec.id
    }

    /// Returns the memory held in bytes: the object so far and the open row group.
    #[must_use]
    pub fn memory_bytes(&self) -> usize {
        self.writer.bytes_written() + self.writer.memory_size()
    }

    /// Adds rows of the schema in memory. All rows of a logger should be in one batch, because numbers take least space
    /// when they have one unit.
    ///
    /// # Errors
    /// [`SegmentError`] for rows that break a rule. The encoder must not be used after an error.
    pub fn write(&mut self, batch: &RecordBatch) -> Result<(), SegmentError> {
        if batch.num_rows() == 0 {
            return Ok(());
        }
        let batch = RecordBatch::try_new(self.schema.clone(), batch.columns().to_vec()).map_err(ParquetError::from)?;
        self.check(&batch)?;
        let packed = pack(self.grain, &self.channels, &batch);
        let decoded = decode_rollup(self.grain, &self.channels, &packed);
        let wrong = |detail| SegmentError::Row { row: self.rows, detail };
        let decoded = decoded.map_err(|_| wrong("the packed rows do not decode"))?;
        self.compare(&batch, &decoded).map_err(wrong)?;
        self.digest.update(&decoded);
        self.writer.write(&packed)?;
        self.rows += batch.num_rows() as u64;
        Ok(())
    }

    fn check(&mut self, batch: &RecordBatch) -> Result<(), SegmentError> {
        let loggers = batch.column(0).as_primitive::<UInt64Type>().values();
        let buckets = batch.column(1).as_primitive::<TimestampMillisecondType>().values();
        let rows = batch.column(2).as_primitive::<UInt64Type>().values();
        let window = self.spec.window.range();
        let (start, end) = (self.grain.floor(window.start().get()), window.end().get());
        let channels: Vec<_> =
            (0..self.channels.len()).map(|place| ChannelColumns::new(batch, self.grain, place)).collect();
        for row in 0..batch.num_rows() {
            let at = self.rows + row as u64;
            let key = (loggers[row], buckets[row]);
            if key <= self.last {
                return Err(SegmentError::Order { row: at });
            }
            self.last = key;
            let wrong = |detail| Err(SegmentError::Row { row: at, detail });
            if key.0 == 0 {
                return wrong("the logger id is zero");
            }
            if key.1 < start || key.1 >= end || self.grain.floor(key.1) != key.1 {
                return wrong("the bucket is outside the window, or is none");
            }
            let most = channels.iter().map(|channel| channel.counts[row]).max().unwrap_or(0);
            if most == 0 || most > rows[row] || rows[row] > i64::MAX.cast_unsigned() {
                return wrong("no channel has a value, or one has more than there are readings");
            }
            self.readings = self.readings.saturating_add(rows[row]);
        }
        for (channel, &code) in channels.iter().zip(&self.channels) {
            if !channel.is_null_where_empty(is_temperature(code)) {
                return Err(SegmentError::Row { row: self.rows, detail: "values and counts do not agree" });
            }
        }
        self.first.get_or_insert(loggers[0]);
        Ok(())
    }

    /// Compares rows with what they decode to: sums may be off by what the format allows, nothing else.
    fn compare(&self, rows: &RecordBatch, decoded: &RecordBatch) -> Result<(), &'static str> {
        if rows.columns()[..3] != decoded.columns()[..3] {
            return Err("keys come back as others");
        }
        for place in 0..self.channels.len() {
            let (given, found) =
                (ChannelColumns::new(rows, self.grain, place), ChannelColumns::new(decoded, self.grain, place));
            for &aggregate in Aggregate::of(self.grain) {
                let (given_column, found_column) = (given.column(aggregate), found.column(aggregate));
                let same = match aggregate {
                    Aggregate::Sum => sums_agree(&given, &found),
                    _ if given_column.data_type() == &DataType::Float64 => {
                        let may_be_infinite = matches!(aggregate, Aggregate::SumSquares | Aggregate::WeightedSum);
                        same_doubles(given.doubles(aggregate), found.doubles(aggregate), may_be_infinite)
                    }
                    _ => given_column == found_column,
                };
                if !same {
                    return Err("values come back as others, or are not finite");
                }
            }
        }
        Ok(())
    }

    /// Finishes the rollup of the readings of `source`, a readings segment of the same window.
    ///
    /// # Errors
    /// [`SegmentError::Empty`] if no rows were written, [`SegmentError::Row`] if they are not of as many readings as the
    /// segment has.
    pub fn finish(mut self, source: &SegmentEntry) -> Result<EncodedSegment, SegmentError> {
        let Some(first) = self.first else { return Err(SegmentError::Empty) };
        if self.readings != source.rows {
            return Err(SegmentError::Row {
                row: self.rows,
                detail: "the rows are not those of the segment's readings",
            });
        }
        let digest = self.digest.finish();
        let footer = SegmentFooter { spec: self.spec, rows: self.rows, digest };
        let rollup = RollupFooter { of: source.id, interval_s: self.interval_s };
        for pair in footer.key_values().into_iter().chain(rollup.key_values()) {
            self.writer.append_key_value_metadata(pair);
        }
        let bytes = Bytes::from(self.writer.into_inner()?);
        let logger = |id| crate::LoggerId::new(id).expect("checked row by row");
        let entry = SegmentEntry {
            id: self.spec.id,
            kind: self.spec.kind,
            of: Some(source.id),
            window: self.spec.window,
            flush_first: self.spec.flush_first,
            flush_last: self.spec.flush_last,
            rows: self.rows,
            bytes: bytes.len() as u64,
            // When the readings were: days need not start inside the window.
            time_min: source.time_min,
            time_max: source.time_max,
            logger_min: logger(first),
            logger_max: logger(self.last.0),
            channels: self.channels,
            shares_keys: false,
            key_version: self.spec.key_version,
            lsn_min: self.spec.lsn_min,
            lsn_max: self.spec.lsn_max,
            digest,
        };
        Ok(EncodedSegment { bytes, entry })
    }
}

/// Returns whether these are the same bits, and numbers.
fn same_doubles(given: &Float64Array, found: &Float64Array, may_be_infinite: bool) -> bool {
    (0..given.len()).all(|row| {
        let (value, same) = (given.value(row), given.value(row).to_bits() == found.value(row).to_bits());
        let is_number = value.is_finite() || (may_be_infinite && !value.is_nan());
        given.is_valid(row) == found.is_valid(row) && (given.is_null(row) || (same && is_number))
    })
}
