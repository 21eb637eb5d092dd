//! Encodes sorted record batches as a segment (or conflicts or fills object), and creates its manifest entry.
//!
//! Every row is checked against the rules of the format before it is written: the order, the window, finite values. A
//! rejected row is a bug of the caller. The encoder never writes a segment that a reader would reject.

use std::collections::BTreeSet;
use std::num::NonZeroUsize;

use arrow::array::{Array as _, AsArray as _, Float64Array, RecordBatch};
use arrow::datatypes::{Float64Type, SchemaRef, TimestampMillisecondType, UInt64Type};
use bytes::Bytes;
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_writer::ArrowWriterOptions;
use parquet::errors::ParquetError;

use crate::encryption::{NONCE_BYTES, SecretKey};
use crate::manifest::{SegmentEntry, SegmentKind};
use crate::segment::{
    RowDigest, SegmentFooter, SegmentKeyMetadata, channels_of, conflicts_schema, fills_schema, merged_readings_schema,
    readings_schema, writer_properties,
};
use crate::{Channel, ChannelCode, FlushNumber, LoggerId, Lsn, Millis, OrgId, SegmentId, Window};

/// Properties of an object that are known before its rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SegmentSpec {
    /// Kind of its rows.
    pub kind: SegmentKind,
    /// Organisation that owns the object.
    pub org: OrgId,
    /// Window that must contain all rows.
    pub window: Window,
    /// Id of the object, random and never used before.
    pub id: SegmentId,
    /// First flush whose rows are in it.
    pub flush_first: FlushNumber,
    /// Last flush whose rows are in it.
    pub flush_last: FlushNumber,
    /// First WAL record whose readings are in it.
    pub lsn_min: Lsn,
    /// Last WAL record whose readings are in it.
    pub lsn_max: Lsn,
    /// Version of the organisation's key.
    pub key_version: u32,
}

impl SegmentSpec {
    /// Returns whether the rows state the flush that each of them is of.
    #[must_use]
    pub fn has_flush_column(&self) -> bool {
        self.kind == SegmentKind::Readings && self.flush_first != self.flush_last
    }
}

/// Reason why rows cannot be encoded as a segment.
#[derive(Debug, thiserror::Error)]
pub enum SegmentError {
    /// The batch's columns are not those of the segment.
    #[error("the columns of the batch differ from those of the segment")]
    Schema,
    /// The rows are not in strictly ascending order of (logger, time). Conflicts may share a key, and fills of different
    /// channels.
    #[error("row {row}: out of order")]
    Order {
        /// Index of the row in the segment, from 0.
        row: u64,
    },
    /// The row breaks another rule.
    #[error("row {row}: {detail}")]
    Row {
        /// Index of the row in the segment, from 0.
        row: u64,
        /// Rule that is broken.
        detail: &'static str,
    },
    /// The segment has no rows.
    #[error("the segment has no rows")]
    Empty,
    /// The Parquet writer failed.
    #[error("parquet: {0}")]
    Parquet(#[from] ParquetError),
}

/// Encoded object.
#[derive(Debug, Clone)]
pub struct EncodedSegment {
    /// Bytes of the object.
    pub bytes: Bytes,
    /// Manifest entry of the object. The caller must set `shares_keys`, which is false here.
    pub entry: SegmentEntry,
}

/// Encoder of one object.
pub struct SegmentEncoder {
    spec: SegmentSpec,
    schema: SchemaRef,
    codes: Vec<ChannelCode>,
    writer: ArrowWriter<Vec<u8>>,
    digest: RowDigest,
    rows: u64,
    first: Option<(u64, i64)>,
    last: (u64, i64),
    last_fill: Option<(u64, i64, ChannelCode)>,
    time_min: i64,
    time_max: i64,
    seen: BTreeSet<ChannelCode>,
}

impl std::fmt::Debug for SegmentEncoder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SegmentEncoder").field("spec", &self.spec).field("rows", &self.rows).finish_non_exhaustive()
    }
}

impl SegmentEncoder {
    /// Creates an encoder for an object. For readings, `channels` are the value columns, known and ascending; for
    /// conflicts and fills they are ignored. Readings of several flushes have the column `flush`. The data key and the
    /// nonce must be random and used for this object only.
    ///
    /// # Errors
    /// [`SegmentError::Parquet`].
    pub fn new(
        spec: SegmentSpec,
        channels: &[ChannelCode],
        org_key: &SecretKey,
        data_key: &SecretKey,
        nonce: [u8; NONCE_BYTES],
        row_group_rows: NonZeroUsize,
    ) -> Result<Self, SegmentError> {
        let schema = match spec.kind {
            SegmentKind::Readings if spec.has_flush_column() => merged_readings_schema(channels),
            SegmentKind::Readings => readings_schema(channels),
            SegmentKind::Conflicts => conflicts_schema(),
            SegmentKind::Fills => fills_schema(),
            _ => return Err(SegmentError::Schema),
        };
        let identity = (spec.kind, spec.org, spec.window, spec.id);
        let key_metadata = SegmentKeyMetadata::wrap(identity, org_key, spec.key_version, data_key, nonce);
        let properties = writer_properties(&schema, data_key, &key_metadata.encode(), row_group_rows)?;
        let options = ArrowWriterOptions::new().with_properties(properties).with_skip_arrow_metadata(true);
        let writer = ArrowWriter::try_new_with_options(Vec::new(), schema.clone(), options)?;
        Ok(Self {
            codes: channels_of(&schema),
            digest: RowDigest::new(spec.kind),
            spec,
            schema,
            writer,
            rows: 0,
            first: None,
            last: (0, i64::MIN),
            last_fill: None,
            time_min: i64::MAX,
            time_max: i64::MIN,
            seen: BTreeSet::new(),
        })
    }

    /// Returns the schema that batches must have.
    #[must_use]
    pub const fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    /// Returns the number of rows written so far.
    #[must_use]
    pub const fn rows(&self) -> u64 {
        self.rows
    }

    /// Returns the memory held in bytes: the object so far and the open row group.
    #[must_use]
    pub fn memory_bytes(&self) -> usize {
        self.writer.bytes_written() + self.writer.memory_size()
    }

    /// Adds rows.
    ///
    /// # Errors
    /// [`SegmentError`] for rows that break a rule. The encoder must not be used after an error.
    pub fn write(&mut self, batch: &RecordBatch) -> Result<(), SegmentError> {
        if batch.num_rows() == 0 {
            return Ok(());
        }
        let same_columns = batch.num_columns() == self.schema.fields().len()
            && batch
                .schema()
                .fields()
                .iter()
                .zip(self.schema.fields())
                .all(|(a, b)| a.name() == b.name() && a.data_type() == b.data_type());
        if !same_columns {
            return Err(SegmentError::Schema);
        }
        for (index, field) in self.schema.fields().iter().enumerate() {
            if !field.is_nullable() && batch.column(index).null_count() > 0 {
                return Err(SegmentError::Row {
                    row: self.rows,
                    detail: "a null in a column that must not have nulls",
                });
            }
        }
        self.check_keys(batch)?;
        match self.spec.kind {
            SegmentKind::Readings => {
                self.check_values(batch)?;
                self.check_flushes(batch)?;
            }
            SegmentKind::Fills => {
                self.check_fills(batch)?;
                self.check_flushes(batch)?;
            }
            _ => self.check_conflicts(batch)?,
        }
        self.digest.update(batch);
        // The batch may declare columns nullable that the segment does not.
        let batch = RecordBatch::try_new(self.schema.clone(), batch.columns().to_vec()).map_err(ParquetError::from)?;
        self.writer.write(&batch)?;
        self.rows += batch.num_rows() as u64;
        Ok(())
    }

    fn check_keys(&mut self, batch: &RecordBatch) -> Result<(), SegmentError> {
        let origin = match self.spec.kind {
            SegmentKind::Readings => 2 + self.codes.len(),
            _ => 5,
        };
        let loggers = batch.column(0).as_primitive::<UInt64Type>().values();
        let times = batch.column(1).as_primitive::<TimestampMillisecondType>().values();
        let gateways = batch.column(origin).as_primitive::<UInt64Type>().values();
        let received = batch.column(origin + 1).as_primitive::<TimestampMillisecondType>().values();
        let window = self.spec.window.range();
        let (start, end) = (window.start().get(), window.end().get());
        let key = |row: usize| (loggers[row], times[row]);
        let ordered = |before, key| match self.spec.kind {
            SegmentKind::Readings => before < key,
            _ => before <= key,
        };
        let mut from = None;
        for row in 0..batch.num_rows() {
            let at = self.rows + row as u64;
            let wrong = |detail| Err(SegmentError::Row { row: at, detail });
            let before = if row == 0 { self.first.map(|_| self.last) } else { Some(key(row - 1)) };
            if before.is_some_and(|before| !ordered(before, key(row))) {
                return Err(SegmentError::Order { row: at });
            }
            if times[row] < start || times[row] >= end {
                return wrong("the time is outside the window");
            }
            if from == Some((loggers[row], gateways[row], received[row])) {
                continue;
            }
            from = Some((loggers[row], gateways[row], received[row]));
            if loggers[row] == 0 || gateways[row] == 0 {
                return wrong("the logger or gateway id is zero");
            }
            if received[row].rem_euclid(1000) != 0 || Millis::new(received[row]).is_err() {
                return wrong("the receive time is out of range or not in whole seconds");
            }
        }
        self.first.get_or_insert(key(0));
        self.last = key(batch.num_rows() - 1);
        self.time_min = times.iter().copied().fold(self.time_min, i64::min);
        self.time_max = times.iter().copied().fold(self.time_max, i64::max);
        Ok(())
    }

    fn check_values(&mut self, batch: &RecordBatch) -> Result<(), SegmentError> {
        let columns: Vec<&Float64Array> =
            (0..self.codes.len()).map(|index| batch.column(2 + index).as_primitive::<Float64Type>()).collect();
        for (column, &code) in columns.iter().zip(&self.codes) {
            if column.null_count() < column.len() {
                self.seen.insert(code);
            }
            let bad = |(row, value): (usize, &f64)| !value.is_finite() && column.is_valid(row);
            if let Some(row) = column.values().iter().enumerate().position(bad) {
                return Err(SegmentError::Row { row: self.rows + row as u64, detail: "a value is not finite" });
            }
        }
        if columns.iter().any(|column| column.null_count() == 0) {
            return Ok(());
        }
        match (0..batch.num_rows()).find(|&row| columns.iter().all(|column| column.is_null(row))) {
            None => Ok(()),
            Some(row) => Err(SegmentError::Row { row: self.rows + row as u64, detail: "no channel has a value" }),
        }
    }

    fn check_flushes(&self, batch: &RecordBatch) -> Result<(), SegmentError> {
        let column = match self.spec.kind {
            SegmentKind::Fills => 4,
            _ if self.spec.has_flush_column() => 4 + self.codes.len(),
            _ => return Ok(()),
        };
        let flushes = batch.column(column).as_primitive::<UInt64Type>().values();
        let valid = self.spec.flush_first.get()..=self.spec.flush_last.get();
        match flushes.iter().position(|flush| !valid.contains(flush)) {
            None => Ok(()),
            Some(row) => {
                Err(SegmentError::Row { row: self.rows + row as u64, detail: "its flush is not one of the segment's" })
            }
        }
    }

    fn check_fills(&mut self, batch: &RecordBatch) -> Result<(), SegmentError> {
        let loggers = batch.column(0).as_primitive::<UInt64Type>().values();
        let times = batch.column(1).as_primitive::<TimestampMillisecondType>().values();
        let channels = batch.column(2).as_string::<i32>();
        let values = batch.column(3).as_primitive::<Float64Type>().values();
        for row in 0..batch.num_rows() {
            let at = self.rows + row as u64;
            let wrong = |detail| Err(SegmentError::Row { row: at, detail });
            let Some(channel) = Channel::by_name(channels.value(row)) else {
                return wrong("the channel is not in the registry");
            };
            self.seen.insert(channel.code);
            if !values[row].is_finite() {
                return wrong("a value is not finite");
            }
            let fill = (loggers[row], times[row], channel.code);
            if self.last_fill.is_some_and(|last| last >= fill) {
                return Err(SegmentError::Order { row: at });
            }
            self.last_fill = Some(fill);
        }
        Ok(())
    }

    fn check_conflicts(&mut self, batch: &RecordBatch) -> Result<(), SegmentError> {
        let channels = batch.column(2).as_string::<i32>();
        let finite = |column: &Float64Array, row| column.value(row).is_finite();
        let (kept, refused) =
            (batch.column(3).as_primitive::<Float64Type>(), batch.column(4).as_primitive::<Float64Type>());
        for row in 0..batch.num_rows() {
            let at = self.rows + row as u64;
            let Some(channel) = Channel::by_name(channels.value(row)) else {
                return Err(SegmentError::Row { row: at, detail: "the channel is not in the registry" });
            };
            self.seen.insert(channel.code);
            if !finite(kept, row) || !finite(refused, row) {
                return Err(SegmentError::Row { row: at, detail: "a value is not finite" });
            }
        }
        Ok(())
    }

    /// Finishes the object.
    ///
    /// # Errors
    /// [`SegmentError::Empty`] if no rows were written.
    pub fn finish(mut self) -> Result<EncodedSegment, SegmentError> {
        let Some(first) = self.first else { return Err(SegmentError::Empty) };
        let digest = self.digest.finish();
        let spec = self.spec;
        let footer = SegmentFooter { spec, rows: self.rows, digest };
        for pair in footer.key_values() {
            self.writer.append_key_value_metadata(pair);
        }
        let bytes = Bytes::from(self.writer.into_inner()?);
        let id = |value| LoggerId::new(value).expect("checked row by row");
        let time = |value| Millis::new(value).expect("checked row by row: inside a window");
        let entry = SegmentEntry {
            id: spec.id,
            kind: spec.kind,
            of: None,
            window: spec.window,
            flush_first: spec.flush_first,
            flush_last: spec.flush_last,
            rows: self.rows,
            bytes: bytes.len() as u64,
            time_min: time(self.time_min),
            time_max: time(self.time_max),
            logger_min: id(first.0),
            logger_max: id(self.last.0),
            channels: self.seen.into_iter().collect(),
            shares_keys: false,
            key_version: spec.key_version,
            lsn_min: spec.lsn_min,
            lsn_max: spec.lsn_max,
            digest,
        };
        Ok(EncodedSegment { bytes, entry })
    }
}
