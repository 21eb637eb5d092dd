//! The digest of a segment's rows: SHA-256 over a canonical form that no encoding, row group or page changes.

use arrow::array::{Array as _, AsArray as _, RecordBatch};
use arrow::datatypes::{Float64Type, TimestampMillisecondType, UInt64Type};
use ring::digest::{Context, SHA256};

use crate::manifest::SegmentKind;
use crate::segment::schema::channels_of;
use crate::{Channel, ChannelCode};

/// Digests rows in the order given; batches may be cut anywhere.
pub struct RowDigest {
    kind: SegmentKind,
    context: Context,
    row_bytes: Vec<u8>,
    before: Before,
}

/// What the last row of readings was: of the next one only what differs is digested.
#[derive(Default)]
struct Before {
    /// Zero is no logger: the first row differs.
    logger: u64,
    channels: Vec<ChannelCode>,
    /// Gateway and received; zero is no gateway.
    from: (u64, i64),
}

impl std::fmt::Debug for RowDigest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RowDigest").field("kind", &self.kind).finish_non_exhaustive()
    }
}

// Hashing row by row would pay a call for each; batching them up pays none worth counting.
const CHUNK_BYTES: usize = 16 * 1024;

impl RowDigest {
    /// No rows yet.
    #[must_use]
    pub fn new(kind: SegmentKind) -> Self {
        let mut context = Context::new(&SHA256);
        context.update(match kind {
            SegmentKind::Readings => b"icecore readings 2",
            SegmentKind::Conflicts => b"icecore conflicts 1",
        });
        Self { kind, context, row_bytes: Vec::with_capacity(CHUNK_BYTES + 1024), before: Before::default() }
    }

    /// Adds the rows of a batch of [`readings_schema`](crate::segment::readings_schema) or
    /// [`conflicts_schema`](crate::segment::conflicts_schema).
    ///
    /// # Panics
    /// With a batch of another schema.
    pub fn update(&mut self, batch: &RecordBatch) {
        match self.kind {
            SegmentKind::Readings => self.update_readings(batch),
            SegmentKind::Conflicts => self.update_conflicts(batch),
        }
    }

    /// The digest.
    #[must_use]
    pub fn finish(mut self) -> [u8; 32] {
        self.context.update(&self.row_bytes);
        let mut out = [0; 32];
        out.copy_from_slice(self.context.finish().as_ref());
        out
    }

    fn end_row(&mut self) {
        if self.row_bytes.len() >= CHUNK_BYTES {
            self.context.update(&self.row_bytes);
            self.row_bytes.clear();
        }
    }

    fn update_readings(&mut self, batch: &RecordBatch) {
        let codes = channels_of(&batch.schema());
        let last = batch.num_columns() - 1;
        let loggers = batch.column(0).as_primitive::<UInt64Type>().values();
        let times = batch.column(1).as_primitive::<TimestampMillisecondType>().values();
        let columns: Vec<_> = (0..codes.len()).map(|i| batch.column(2 + i).as_primitive::<Float64Type>()).collect();
        let gateways = batch.column(last - 1).as_primitive::<UInt64Type>().values();
        let received = batch.column(last).as_primitive::<TimestampMillisecondType>().values();
        let complete = columns.iter().all(|column| column.null_count() == 0);
        for row in 0..batch.num_rows() {
            self.end_row();
            let from = (gateways[row], received[row]);
            let new_logger = self.before.logger != loggers[row];
            let new_from = self.before.from != from;
            // Where every channel has a value, only a batch's first row can differ in that from the row before.
            let new_channels = (!complete || row == 0) && {
                let here = codes.iter().zip(&columns).filter(|(_, column)| column.is_valid(row)).map(|(code, _)| *code);
                let differ = !here.clone().eq(self.before.channels.iter().copied());
                if differ {
                    self.before.channels = here.collect();
                }
                differ
            };
            let bytes = &mut self.row_bytes;
            if let (false, [first, second], true) = (new_logger | new_channels | new_from, &columns[..], complete) {
                // Nearly all rows of loggers with two channels: in one piece.
                let mut row_bytes = [0; 25];
                row_bytes[1..9].copy_from_slice(&times[row].to_le_bytes());
                row_bytes[9..17].copy_from_slice(&first.values()[row].to_bits().to_le_bytes());
                row_bytes[17..].copy_from_slice(&second.values()[row].to_bits().to_le_bytes());
                bytes.extend_from_slice(&row_bytes);
                continue;
            }
            bytes.push(u8::from(new_logger) | u8::from(new_channels) << 1 | u8::from(new_from) << 2);
            if new_logger {
                self.before.logger = loggers[row];
                bytes.extend_from_slice(&loggers[row].to_le_bytes());
            }
            if new_channels {
                bytes.extend_from_slice(&u16::try_from(self.before.channels.len()).unwrap_or(u16::MAX).to_le_bytes());
                self.before.channels.iter().for_each(|code| bytes.extend_from_slice(&code.get().to_le_bytes()));
            }
            if new_from {
                self.before.from = from;
                bytes.extend_from_slice(&from.0.to_le_bytes());
                bytes.extend_from_slice(&from.1.to_le_bytes());
            }
            bytes.extend_from_slice(&times[row].to_le_bytes());
            if complete {
                columns
                    .iter()
                    .for_each(|column| bytes.extend_from_slice(&column.values()[row].to_bits().to_le_bytes()));
            } else {
                let here = columns.iter().filter(|column| column.is_valid(row));
                here.for_each(|column| bytes.extend_from_slice(&column.value(row).to_bits().to_le_bytes()));
            }
        }
    }

    fn update_conflicts(&mut self, batch: &RecordBatch) {
        let loggers = batch.column(0).as_primitive::<UInt64Type>().values();
        let times = batch.column(1).as_primitive::<TimestampMillisecondType>().values();
        let channels = batch.column(2).as_string::<i32>();
        let kept = batch.column(3).as_primitive::<Float64Type>().values();
        let refused = batch.column(4).as_primitive::<Float64Type>().values();
        let gateways = batch.column(5).as_primitive::<UInt64Type>().values();
        let received = batch.column(6).as_primitive::<TimestampMillisecondType>().values();
        for row in 0..batch.num_rows() {
            let code =
                Channel::by_name(channels.value(row)).map_or(0, |channel: &Channel| ChannelCode::get(channel.code));
            self.row_bytes.extend_from_slice(&loggers[row].to_le_bytes());
            self.row_bytes.extend_from_slice(&times[row].to_le_bytes());
            self.row_bytes.extend_from_slice(&code.to_le_bytes());
            self.row_bytes.extend_from_slice(&kept[row].to_bits().to_le_bytes());
            self.row_bytes.extend_from_slice(&refused[row].to_bits().to_le_bytes());
            self.row_bytes.extend_from_slice(&gateways[row].to_le_bytes());
            self.row_bytes.extend_from_slice(&received[row].to_le_bytes());
            self.end_row();
        }
    }
}
