//! The digest of a segment's rows: SHA-256 over a canonical form, independent of encodings, row groups and pages.

use arrow::array::{Array as _, AsArray as _, RecordBatch};
use arrow::datatypes::{Float64Type, TimestampMillisecondType, UInt64Type};
use ring::digest::{Context, SHA256};

use crate::manifest::SegmentKind;
use crate::segment::schema::channels_of;
use crate::{Channel, ChannelCode};

/// Digest of rows in the order given, regardless of how they are divided into batches.
pub struct RowDigest {
    kind: SegmentKind,
    context: Context,
    row_bytes: Vec<u8>,
    previous: PreviousRow,
}

/// Properties of the previous row of readings. The canonical form of a row has only the properties that differ.
#[derive(Default)]
struct PreviousRow {
    /// Logger id; initially zero, which is not a valid id, so that the first row differs.
    logger: u64,
    channels: Vec<ChannelCode>,
    /// Gateway and receive time; the gateway is initially zero, which is not a valid id.
    origin: (u64, i64),
}

impl std::fmt::Debug for RowDigest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RowDigest").field("kind", &self.kind).finish_non_exhaustive()
    }
}

/// Bytes collected before they are hashed, because a call of the hash function per row would be slow.
const CHUNK_BYTES: usize = 16 * 1024;

impl RowDigest {
    /// Creates the digest of no rows.
    #[must_use]
    pub fn new(kind: SegmentKind) -> Self {
        let mut context = Context::new(&SHA256);
        context.update(match kind {
            SegmentKind::Readings => b"icecore readings 2",
            SegmentKind::Conflicts => b"icecore conflicts 1",
            SegmentKind::Fills => b"icecore fills 1",
            SegmentKind::RollupHourly => b"icecore rollup hourly 1",
            SegmentKind::RollupDaily => b"icecore rollup daily 1",
        });
        Self { kind, context, row_bytes: Vec::with_capacity(CHUNK_BYTES + 1024), previous: PreviousRow::default() }
    }

    /// Adds the rows of a batch of [`readings_schema`](crate::segment::readings_schema),
    /// [`merged_readings_schema`](crate::segment::merged_readings_schema) (without its last column),
    /// [`conflicts_schema`](crate::segment::conflicts_schema) or [`fills_schema`](crate::segment::fills_schema).
    ///
    /// # Panics
    /// With a batch of another schema.
    pub fn update(&mut self, batch: &RecordBatch) {
        match self.kind {
            SegmentKind::Readings => self.update_readings(batch),
            SegmentKind::Conflicts => {
                let kept = batch.column(3).as_primitive::<Float64Type>().values();
                let refused = batch.column(4).as_primitive::<Float64Type>().values();
                self.update_listed(batch, |row| [kept[row].to_bits(), refused[row].to_bits()]);
            }
            SegmentKind::Fills => {
                let values = batch.column(3).as_primitive::<Float64Type>().values();
                let flushes = batch.column(4).as_primitive::<UInt64Type>().values();
                self.update_listed(batch, |row| [values[row].to_bits(), flushes[row]]);
            }
            kind => panic!("rows of kind {} have no canonical form here", kind.name()),
        }
    }

    /// Returns the digest.
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
        let loggers = batch.column(0).as_primitive::<UInt64Type>().values();
        let times = batch.column(1).as_primitive::<TimestampMillisecondType>().values();
        let columns: Vec<_> = (0..codes.len()).map(|i| batch.column(2 + i).as_primitive::<Float64Type>()).collect();
        let gateways = batch.column(2 + codes.len()).as_primitive::<UInt64Type>().values();
        let received = batch.column(3 + codes.len()).as_primitive::<TimestampMillisecondType>().values();
        let complete = columns.iter().all(|column| column.null_count() == 0);
        let mut row = 0;
        while row < batch.num_rows() {
            if let (true, true, [first, second]) = (complete, row > 0, &columns[..]) {
                // If every channel has a value in all rows, only the first row of a batch can have other channels than
                // the row before.
                let end = self.end_of_run(loggers, gateways, received, row);
                self.add_pairs(&times[row..end], &first.values()[row..end], &second.values()[row..end]);
                row = end;
                if row == batch.num_rows() {
                    break;
                }
            }
            self.end_row();
            let origin = (gateways[row], received[row]);
            let new_logger = self.previous.logger != loggers[row];
            let new_origin = self.previous.origin != origin;
            let new_channels = (!complete || row == 0) && {
                let here = codes.iter().zip(&columns).filter(|(_, column)| column.is_valid(row)).map(|(code, _)| *code);
                let differ = !here.clone().eq(self.previous.channels.iter().copied());
                if differ {
                    self.previous.channels = here.collect();
                }
                differ
            };
            let bytes = &mut self.row_bytes;
            if let (false, true, [first, second], true) =
                (new_logger | new_channels, new_origin, &columns[..], complete)
            {
                // Fast path for loggers with two channels whose frames hold one reading of each logger.
                self.previous.origin = origin;
                let mut row_bytes = [0; 41];
                row_bytes[0] = 1 << 2;
                row_bytes[1..9].copy_from_slice(&origin.0.to_le_bytes());
                row_bytes[9..17].copy_from_slice(&origin.1.to_le_bytes());
                row_bytes[17..25].copy_from_slice(&times[row].to_le_bytes());
                row_bytes[25..33].copy_from_slice(&first.values()[row].to_bits().to_le_bytes());
                row_bytes[33..].copy_from_slice(&second.values()[row].to_bits().to_le_bytes());
                bytes.extend_from_slice(&row_bytes);
                row += 1;
                continue;
            }
            bytes.push(u8::from(new_logger) | u8::from(new_channels) << 1 | u8::from(new_origin) << 2);
            if new_logger {
                self.previous.logger = loggers[row];
                bytes.extend_from_slice(&loggers[row].to_le_bytes());
            }
            if new_channels {
                bytes.extend_from_slice(&u16::try_from(self.previous.channels.len()).unwrap_or(u16::MAX).to_le_bytes());
                self.previous.channels.iter().for_each(|code| bytes.extend_from_slice(&code.get().to_le_bytes()));
            }
            if new_origin {
                self.previous.origin = origin;
                bytes.extend_from_slice(&origin.0.to_le_bytes());
                bytes.extend_from_slice(&origin.1.to_le_bytes());
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
            row += 1;
        }
    }

    /// Returns the end of the rows from `row` on that have the previous row's logger, gateway and receive time.
    fn end_of_run(&self, loggers: &[u64], gateways: &[u64], received: &[i64], row: usize) -> usize {
        let PreviousRow { logger, origin: (gateway, time), .. } = self.previous;
        let rows = loggers[row..].iter().zip(&gateways[row..]).zip(&received[row..]);
        row + rows.take_while(|((l, g), r)| (**l, **g, **r) == (logger, gateway, time)).count()
    }

    /// Adds rows that differ from the previous one only in time and in their two values: nearly all rows of loggers
    /// with two channels whose frames hold several readings of each logger.
    fn add_pairs(&mut self, times: &[i64], first: &[f64], second: &[f64]) {
        const BYTES: usize = 25;
        for start in (0..times.len()).step_by(CHUNK_BYTES / BYTES) {
            let end = times.len().min(start + CHUNK_BYTES / BYTES);
            self.end_row();
            let before = self.row_bytes.len();
            self.row_bytes.resize(before + (end - start) * BYTES, 0);
            let (rows, _) = self.row_bytes[before..].as_chunks_mut::<BYTES>();
            for (((row, time), first), second) in
                rows.iter_mut().zip(&times[start..end]).zip(&first[start..end]).zip(&second[start..end])
            {
                row[1..9].copy_from_slice(&time.to_le_bytes());
                row[9..17].copy_from_slice(&first.to_bits().to_le_bytes());
                row[17..].copy_from_slice(&second.to_bits().to_le_bytes());
            }
        }
    }

    /// Adds rows of conflicts or fills, which differ in two numbers: those of a row, by its place.
    fn update_listed(&mut self, batch: &RecordBatch, numbers: impl Fn(usize) -> [u64; 2]) {
        let loggers = batch.column(0).as_primitive::<UInt64Type>().values();
        let times = batch.column(1).as_primitive::<TimestampMillisecondType>().values();
        let channels = batch.column(2).as_string::<i32>();
        let gateways = batch.column(5).as_primitive::<UInt64Type>().values();
        let received = batch.column(6).as_primitive::<TimestampMillisecondType>().values();
        for row in 0..batch.num_rows() {
            let code =
                Channel::by_name(channels.value(row)).map_or(0, |channel: &Channel| ChannelCode::get(channel.code));
            self.row_bytes.extend_from_slice(&loggers[row].to_le_bytes());
            self.row_bytes.extend_from_slice(&times[row].to_le_bytes());
            self.row_bytes.extend_from_slice(&code.to_le_bytes());
            for number in numbers(row) {
                self.row_bytes.extend_from_slice(&number.to_le_bytes());
            }
            self.row_bytes.extend_from_slice(&gateways[row].to_le_bytes());
            self.row_bytes.extend_from_slice(&received[row].to_le_bytes());
            self.end_row();
        }
    }
}
