//! Tests of segments: round trips, rows that the encoder rejects, damage, swapped files, golden files.

use std::path::PathBuf;
use std::sync::Arc;

use arrow::array::{ArrayRef, Float64Array, RecordBatch, StringArray, TimestampMillisecondArray, UInt64Array};
use bytes::Bytes;
use parquet::arrow::arrow_reader::{ArrowReaderMetadata, ArrowReaderOptions, ParquetRecordBatchReaderBuilder};
use parquet::basic::Encoding;
use parquet::file::metadata::ParquetMetaData;
use proptest::prelude::*;

use super::*;
use crate::encryption::SecretKey;
use crate::manifest::{SegmentEntry, SegmentKind};
use crate::{ChannelCode, FlushNumber, FormatError, FormatErrorKind, Lsn, OrgId, SegmentId, Window};

/// 2024-05-01T00:00:00Z.
const MAY: i64 = 1_714_521_600_000;

fn org() -> OrgId {
    OrgId::new(0xA1).expect("not zero")
}

fn org_key() -> SecretKey {
    SecretKey::from_bytes([7; 32])
}

fn data_key() -> SecretKey {
    SecretKey::from_bytes([8; 32])
}

fn code(code: u16) -> ChannelCode {
    ChannelCode::new(code).expect("not zero")
}

fn spec(kind: SegmentKind) -> SegmentSpec {
    SegmentSpec {
        kind,
        org: org(),
        window: "2024050100-2024060100".parse().expect("a window"),
        id: SegmentId::new(0xABCD).expect("not zero"),
        flush_first: FlushNumber::new(3),
        flush_last: FlushNumber::new(3),
        lsn_min: Lsn::new(10),
        lsn_max: Lsn::new(20),
        key_version: 1,
    }
}

fn times(values: impl IntoIterator<Item = i64>) -> ArrayRef {
    Arc::new(TimestampMillisecondArray::from_iter_values(values).with_timezone("UTC"))
}

type Row = (u64, i64, Option<f64>, Option<f64>);

fn readings(rows: &[Row]) -> RecordBatch {
    readings_from(rows, &vec![(5, MAY); rows.len()])
}

/// Creates a batch of readings; `from` has the gateway and the receive time of each row.
fn readings_from(rows: &[Row], from: &[(u64, i64)]) -> RecordBatch {
    let columns: Vec<ArrayRef> = vec![
        Arc::new(UInt64Array::from_iter_values(rows.iter().map(|row| row.0))),
        times(rows.iter().map(|row| row.1)),
        Arc::new(rows.iter().map(|row| row.2).collect::<Float64Array>()),
        Arc::new(rows.iter().map(|row| row.3).collect::<Float64Array>()),
        Arc::new(UInt64Array::from_iter_values(from.iter().map(|from| from.0))),
        times(from.iter().map(|from| from.1)),
    ];
    RecordBatch::try_new(readings_schema(&[code(1), code(2)]), columns).expect("a batch")
}

fn conflicts() -> RecordBatch {
    let columns: Vec<ArrayRef> = vec![
        Arc::new(UInt64Array::from(vec![1, 1])),
        times([MAY, MAY]),
        Arc::new(StringArray::from(vec!["temperature", "humidity"])),
        Arc::new(Float64Array::from(vec![1.0, 2.0])),
        Arc::new(Float64Array::from(vec![1.5, 2.5])),
        Arc::new(UInt64Array::from(vec![5, 5])),
        times([MAY, MAY]),
    ];
    RecordBatch::try_new(conflicts_schema(), columns).expect("a batch")
}

fn fills(rows: &[(u64, i64, &str, f64, u64)]) -> RecordBatch {
    let numbers = |of: fn(&(u64, i64, &str, f64, u64)) -> u64| -> ArrayRef {
        Arc::new(UInt64Array::from_iter_values(rows.iter().map(of)))
    };
    let columns: Vec<ArrayRef> = vec![
        numbers(|row| row.0),
        times(rows.iter().map(|row| row.1)),
        Arc::new(StringArray::from_iter_values(rows.iter().map(|row| row.2))),
        Arc::new(Float64Array::from_iter_values(rows.iter().map(|row| row.3))),
        numbers(|row| row.4),
        Arc::new(UInt64Array::from_iter_values(rows.iter().map(|_| 5))),
        times(rows.iter().map(|_| MAY)),
    ];
    RecordBatch::try_new(fills_schema(), columns).expect("a batch")
}

/// Fills of two loggers, of flushes 3 to 6.
const FILLS: [(u64, i64, &str, f64, u64); 4] = [
    (1, MAY, "temperature", 1.5, 4),
    (1, MAY, "humidity", 50.0, 3),
    (1, MAY + 1, "temperature", 2.5, 6),
    (2, MAY, "humidity", 51.0, 4),
];

fn encode_fills(rows: &[(u64, i64, &str, f64, u64)]) -> Result<EncodedSegment, SegmentError> {
    let spec = SegmentSpec { flush_last: FlushNumber::new(6), ..spec(SegmentKind::Fills) };
    let mut encoder = SegmentEncoder::new(spec, &[], &org_key(), &data_key(), [2; 12], ROW_GROUP_ROWS_MAX)?;
    for row in rows {
        encoder.write(&fills(&[*row]))?;
    }
    encoder.finish()
}

#[test]
fn fills_round_trip_and_wrong_ones_are_rejected() {
    let segment = encode_fills(&FILLS).expect("valid rows");
    let entry = &segment.entry;
    assert_eq!((entry.kind, entry.rows, &entry.channels[..]), (SegmentKind::Fills, 4, &[code(1), code(2)][..]));
    assert_eq!((entry.logger_min.get(), entry.logger_max.get(), entry.time_max.get()), (1, 2, MAY + 1));
    let metadata = open(&segment.bytes, entry, &org_key()).expect("it opens");
    let read = rows(&segment.bytes, &metadata);
    assert_eq!(read, [fills(&FILLS)]);
    let mut bytes = b"icecore fills 1".to_vec();
    for (logger, time, name, value, flush) in FILLS {
        bytes.extend(logger.to_le_bytes());
        bytes.extend(time.to_le_bytes());
        bytes.extend((if name == "humidity" { 2_u16 } else { 1 }).to_le_bytes());
        bytes.extend(value.to_bits().to_le_bytes());
        bytes.extend(flush.to_le_bytes());
        bytes.extend(5_u64.to_le_bytes());
        bytes.extend(MAY.to_le_bytes());
    }
    assert_eq!(entry.digest, ring::digest::digest(&ring::digest::SHA256, &bytes).as_ref());

    let [first, second, ..] = FILLS;
    let order = encode_fills(&[second, first]).expect_err("channels out of order");
    assert!(matches!(order, SegmentError::Order { row: 1 }), "{order}");
    assert!(matches!(encode_fills(&[first, first]), Err(SegmentError::Order { row: 1 })), "twice");
    for wrong in [
        (1, MAY, "colour", 1.5, 4),
        (1, MAY, "temperature", f64::NAN, 4),
        (1, MAY, "temperature", 1.5, 2),
        (1, MAY, "temperature", 1.5, 7),
        (0, MAY, "temperature", 1.5, 4),
    ] {
        assert!(matches!(encode_fills(&[wrong]), Err(SegmentError::Row { row: 0, .. })), "{wrong:?}");
    }
}

/// Creates readings of several loggers, one per minute, with every third value of the second channel missing.
fn day(loggers: u64, per_logger: i64) -> Vec<Row> {
    let mut rows = Vec::new();
    for logger in 1..=loggers {
        for at in 0..per_logger {
            let value = 4.0 + ((at * 7 + logger.cast_signed()) % 40) as f64 / 16.0;
            rows.push((logger + (1 << 63), MAY + at * 60_000, Some(value), (at % 3 > 0).then_some(value * 10.0)));
        }
    }
    rows
}

fn encoder(kind: SegmentKind) -> SegmentEncoder {
    SegmentEncoder::new(spec(kind), &[code(1), code(2)], &org_key(), &data_key(), [2; 12], ROW_GROUP_ROWS_MAX)
        .expect("an encoder")
}

fn encode(batches: &[RecordBatch]) -> EncodedSegment {
    let mut encoder = encoder(SegmentKind::Readings);
    for batch in batches {
        encoder.write(batch).expect("valid rows");
    }
    encoder.finish().expect("rows")
}

/// Opens a complete object the way a reader of a store does.
fn open(bytes: &Bytes, entry: &SegmentEntry, org_key: &SecretKey) -> Result<Arc<ParquetMetaData>, FormatError> {
    let length = bytes.len() as u64;
    let tail = read_tail(length, bytes)?;
    let data_key = tail.key_metadata.unwrap_for(org(), entry, org_key)?;
    let mut decoder = MetadataDecoder::new(length, &tail, &data_key)?;
    loop {
        match decoder.poll()? {
            MetadataPoll::Need(range) => {
                let at = |offset: u64| usize::try_from(offset).expect("small");
                decoder.push(range.clone(), bytes.slice(at(range.start)..at(range.end)))?;
            }
            MetadataPoll::Done(metadata) => {
                SegmentFooter::read(&metadata, entry.key_version)?.check(org(), entry)?;
                return Ok(metadata);
            }
        }
    }
}

fn rows(bytes: &Bytes, metadata: &Arc<ParquetMetaData>) -> Vec<RecordBatch> {
    let metadata = ArrowReaderMetadata::try_new(Arc::clone(metadata), ArrowReaderOptions::new()).expect("metadata");
    let reader = ParquetRecordBatchReaderBuilder::new_with_metadata(bytes.clone(), metadata);
    reader.build().expect("a reader").collect::<Result<_, _>>().expect("rows")
}

fn digest(batches: &[RecordBatch]) -> [u8; 32] {
    let mut digest = RowDigest::new(SegmentKind::Readings);
    batches.iter().for_each(|batch| digest.update(batch));
    digest.finish()
}

#[test]
fn readings_round_trip() {
    let all = readings(&day(3, 1000));
    let segment = encode(&[all.slice(0, 1), all.slice(1, 1999), all.slice(2000, 0), all.slice(2000, 1000)]);
    let entry = &segment.entry;
    assert_eq!((entry.rows, entry.bytes), (3000, segment.bytes.len() as u64));
    assert_eq!((entry.time_min.get(), entry.time_max.get()), (MAY, MAY + 999 * 60_000));
    assert_eq!((entry.logger_min.get(), entry.logger_max.get()), ((1 << 63) + 1, (1 << 63) + 3));
    assert_eq!(entry.channels, [code(1), code(2)]);
    let metadata = open(&segment.bytes, entry, &org_key()).expect("it opens");
    let read = rows(&segment.bytes, &metadata);
    assert_eq!(arrow::compute::concat_batches(all.schema_ref(), &read).expect("one schema"), all);
    // The digest does not depend on the batches.
    assert_eq!(entry.digest, digest(std::slice::from_ref(&all)));
    assert_eq!(entry.digest, digest(&read));
    assert_ne!(entry.digest, digest(&[all.slice(1, 2999)]));
}

#[test]
fn digest_matches_the_page() {
    // Two loggers, a channel that is not always present, two gateways.
    let batch = RecordBatch::try_new(
        readings_schema(&[code(1), code(2)]),
        vec![
            Arc::new(UInt64Array::from(vec![5, 5, 6])),
            Arc::new(TimestampMillisecondArray::from(vec![MAY, MAY + 1, MAY]).with_timezone("UTC")),
            Arc::new(Float64Array::from(vec![1.5, 2.5, 3.5])),
            Arc::new(Float64Array::from(vec![Some(50.0), None, None])),
            Arc::new(UInt64Array::from(vec![9, 9, 8])),
            Arc::new(TimestampMillisecondArray::from(vec![MAY, MAY, MAY]).with_timezone("UTC")),
        ],
    )
    .expect("a batch");
    let mut bytes = b"icecore readings 2".to_vec();
    let mut row = |marks: u8, words: &[&[u8]]| {
        bytes.push(marks);
        words.iter().for_each(|word| bytes.extend_from_slice(word));
    };
    let may = MAY.to_le_bytes();
    let (one, both) = ([1, 0, 1, 0], [2, 0, 1, 0, 2, 0]);
    let eight = |value: u64| value.to_le_bytes();
    let value = |value: f64| value.to_bits().to_le_bytes();
    row(7, &[&eight(5), &both, &eight(9), &may, &may, &value(1.5), &value(50.0)]);
    row(2, &[&one, &(MAY + 1).to_le_bytes(), &value(2.5)]);
    row(5, &[&eight(6), &eight(8), &may, &may, &value(3.5)]);
    assert_eq!(digest(std::slice::from_ref(&batch)), ring::digest::digest(&ring::digest::SHA256, &bytes).as_ref());
    assert_eq!(
        digest(&[batch.slice(0, 1), batch.slice(1, 1), batch.slice(2, 1)]),
        digest(std::slice::from_ref(&batch))
    );
    // Rows that have both channels, as one batch and after rows that have not.
    let times: Vec<i64> = (2..5).map(|ms| MAY + ms).collect();
    let complete = RecordBatch::try_new(
        batch.schema(),
        vec![
            Arc::new(UInt64Array::from(vec![6; 3])),
            Arc::new(TimestampMillisecondArray::from(times).with_timezone("UTC")),
            Arc::new(Float64Array::from(vec![4.5, 5.5, 6.5])),
            Arc::new(Float64Array::from(vec![51.0, 52.0, 53.0])),
            Arc::new(UInt64Array::from(vec![8; 3])),
            Arc::new(TimestampMillisecondArray::from(vec![MAY; 3]).with_timezone("UTC")),
        ],
    )
    .expect("a batch");
    let mut row = |marks: u8, words: &[&[u8]]| {
        bytes.push(marks);
        words.iter().for_each(|word| bytes.extend_from_slice(word));
    };
    row(2, &[&both, &(MAY + 2).to_le_bytes(), &value(4.5), &value(51.0)]);
    row(0, &[&(MAY + 3).to_le_bytes(), &value(5.5), &value(52.0)]);
    row(0, &[&(MAY + 4).to_le_bytes(), &value(6.5), &value(53.0)]);
    let expected = ring::digest::digest(&ring::digest::SHA256, &bytes);
    assert_eq!(digest(&[batch.clone(), complete.clone()]), expected.as_ref());
    let all = arrow::compute::concat_batches(&batch.schema(), [&batch, &complete]).expect("one schema");
    assert_eq!(digest(&[all.slice(0, 5), all.slice(5, 1)]), expected.as_ref());
}

#[test]
fn layout_matches_the_page() {
    let segment = encode(&[readings(&day(5, 40_000))]);
    let metadata = open(&segment.bytes, &segment.entry, &org_key()).expect("it opens");
    assert_eq!(metadata.num_row_groups(), 2);
    assert!(metadata.column_index().is_some() && metadata.offset_index().is_some());
    for (index, group) in metadata.row_groups().iter().enumerate() {
        let sorting = group.sorting_columns().expect("declared");
        assert_eq!(sorting.iter().map(|s| (s.column_idx, s.descending)).collect::<Vec<_>>(), [(0, false), (1, false)]);
        for column in group.columns() {
            let provenance = ["gateway", "received"].contains(&column.column_path().string().as_str());
            assert_eq!(column.statistics().is_some(), !provenance, "{}", column.column_path());
            assert!(column.bloom_filter_offset().is_none());
            assert!(column.crypto_metadata().is_some());
        }
        assert!(group.column(1).encodings().any(|e| e == Encoding::DELTA_BINARY_PACKED));
        assert!(group.column(2).encodings().any(|e| e == Encoding::RLE_DICTIONARY));
        let pages = metadata.offset_index().expect("there")[index][1].page_locations().len();
        assert!(pages >= usize::try_from(group.num_rows()).expect("small").div_ceil(PAGE_ROWS_MAX), "{pages} pages");
    }
    let pairs = metadata.file_metadata().key_value_metadata().expect("there");
    assert!(pairs.iter().all(|pair| pair.key.starts_with("icecore.")), "{pairs:?}");
    // No column name and no footer value appears in plaintext.
    let bytes = &segment.bytes[..];
    assert!(!bytes.windows(11).any(|w| w == b"temperature") && !bytes.windows(7).any(|w| w == b"icecore"));
}

/// Encodes these readings, of which row `i` is of flush 3 + `i` / `per_flush`, as a segment of flushes 3 to 6.
fn encode_merged(batch: &RecordBatch, per_flush: u64) -> Result<(RecordBatch, EncodedSegment), SegmentError> {
    let flushes = UInt64Array::from_iter_values((0..batch.num_rows() as u64).map(|row| 3 + row / per_flush));
    let columns = batch.columns().iter().cloned().chain([Arc::new(flushes) as ArrayRef]).collect();
    let merged = RecordBatch::try_new(merged_readings_schema(&[code(1), code(2)]), columns).expect("a batch");
    let spec = SegmentSpec { flush_last: FlushNumber::new(6), ..spec(SegmentKind::Readings) };
    let mut encoder =
        SegmentEncoder::new(spec, &[code(1), code(2)], &org_key(), &data_key(), [2; 12], ROW_GROUP_ROWS_MAX)?;
    assert!(matches!(encoder.write(batch), Err(SegmentError::Schema)), "it must say which flush each row is of");
    encoder.write(&merged)?;
    Ok((merged, encoder.finish()?))
}

#[test]
fn readings_of_several_flushes_state_the_flush_of_each() {
    let batch = readings(&day(3, 1000));
    let (merged, segment) = encode_merged(&batch, 750).expect("valid rows");
    let metadata = open(&segment.bytes, &segment.entry, &org_key()).expect("it opens");
    let read = rows(&segment.bytes, &metadata);
    assert_eq!(arrow::compute::concat_batches(merged.schema_ref(), &read).expect("one schema"), merged);
    let pairs = metadata.file_metadata().key_value_metadata().expect("there");
    assert!(pairs.iter().any(|pair| pair.key == "icecore.format" && pair.value.as_deref() == Some("2")));
    // The digest is of the readings: the same, in whichever flush they came.
    assert_eq!(segment.entry.digest, encode(std::slice::from_ref(&batch)).entry.digest);
    assert_eq!(digest(&read), segment.entry.digest);
    // Constant over long runs, the column takes next to nothing.
    let bytes: i64 = metadata.row_groups().iter().map(|group| group.column(6).compressed_size()).sum();
    assert!(bytes < 600, "{bytes} bytes for 3,000 rows of four flushes");
    // Row 2,800 would be of flush 7.
    assert!(matches!(encode_merged(&batch, 700), Err(SegmentError::Row { .. })), "a flush that the segment has not");
}

#[test]
fn conflicts_round_trip() {
    let mut encoder = encoder(SegmentKind::Conflicts);
    encoder.write(&conflicts()).expect("valid rows");
    let segment = encoder.finish().expect("rows");
    assert_eq!((segment.entry.kind, segment.entry.rows), (SegmentKind::Conflicts, 2));
    let metadata = open(&segment.bytes, &segment.entry, &org_key()).expect("it opens");
    assert_eq!(rows(&segment.bytes, &metadata), [conflicts()]);
}

#[test]
fn encoder_rejects_invalid_rows() {
    let valid: Row = (1, MAY, Some(1.0), None);
    let june = MAY + 31 * 86_400_000;
    for (what, bad) in [
        ("the same key", valid),
        ("an earlier time", (1, MAY - 1, Some(1.0), None)),
        ("logger zero", (0, MAY, Some(1.0), None)),
        ("after the window", (2, june, Some(1.0), None)),
        ("before the window", (2, MAY - 1, Some(1.0), None)),
        ("not a number", (2, MAY, Some(f64::NAN), None)),
        ("infinite", (2, MAY, Some(1.0), Some(f64::NEG_INFINITY))),
        ("nothing measured", (2, MAY, None, None)),
    ] {
        let mut first = encoder(SegmentKind::Readings);
        assert!(first.write(&readings(&[valid, bad])).is_err(), "{what}, in one batch");
        let mut second = encoder(SegmentKind::Readings);
        second.write(&readings(&[valid])).expect("a valid row");
        assert!(second.write(&readings(&[bad])).is_err(), "{what}, in the next batch");
    }
    let later: Row = (1, MAY + 1, Some(1.0), None);
    for (what, bad) in [
        ("gateway zero", (0, MAY)),
        ("half a second", (5, MAY + 500)),
        ("a millisecond before 1970", (5, -1)),
        ("past the last time", (5, i64::MAX / 1000 * 1000)),
    ] {
        let write = |from: &[_]| encoder(SegmentKind::Readings).write(&readings_from(&[valid, later], from));
        write(&[(5, MAY), (5, MAY + 1000)]).expect("valid rows");
        for from in [[(5, MAY), bad], [bad, (5, MAY)]] {
            assert!(matches!(write(&from), Err(SegmentError::Row { .. })), "{what}");
        }
    }
    let mut zero = encoder(SegmentKind::Readings);
    assert!(matches!(zero.write(&readings(&[(0, MAY, Some(1.0), None)])), Err(SegmentError::Row { row: 0, .. })));
    assert!(matches!(encoder(SegmentKind::Readings).finish(), Err(SegmentError::Empty)));
    assert!(matches!(encoder(SegmentKind::Readings).write(&conflicts()), Err(SegmentError::Schema)));
    let mut last = encoder(SegmentKind::Readings);
    last.write(&readings(&[(1, june - 1, Some(1.0), None)])).expect("the last time of the window");
}

#[test]
fn segment_under_another_name_does_not_open() {
    let segment = encode(&[readings(&day(1, 10))]);
    type Mutation = fn(&mut SegmentEntry);
    let mutations: [(&str, FormatErrorKind, Mutation); 6] = [
        ("another id", FormatErrorKind::WrongKey, |e| e.id = SegmentId::new(1).expect("not zero")),
        ("another window", FormatErrorKind::WrongKey, |e| {
            e.window = "2024040100-2024060100".parse::<Window>().expect("a window");
        }),
        ("another kind", FormatErrorKind::WrongKey, |e| e.kind = SegmentKind::Conflicts),
        ("another key version", FormatErrorKind::WrongKey, |e| e.key_version = 2),
        ("other rows", FormatErrorKind::Invalid, |e| e.rows += 1),
        ("another digest", FormatErrorKind::Invalid, |e| e.digest[0] ^= 1),
    ];
    for (what, kind, mutate) in mutations {
        let mut entry = segment.entry.clone();
        mutate(&mut entry);
        assert_eq!(open(&segment.bytes, &entry, &org_key()).expect_err(what).kind, kind, "{what}");
    }
    let error = open(&segment.bytes, &segment.entry, &SecretKey::from_bytes([9; 32])).expect_err("another org's key");
    assert_eq!(error.kind, FormatErrorKind::WrongKey);
    // Key metadata with another name and a matching checksum: unwrapping still fails.
    let tail = read_tail(segment.bytes.len() as u64, &segment.bytes).expect("a tail");
    let mut forged = tail.key_metadata;
    forged.id = SegmentId::new(1).expect("not zero");
    let forged = SegmentKeyMetadata::decode(&forged.encode()).expect("well formed");
    let mut entry = segment.entry;
    entry.id = forged.id;
    assert_eq!(forged.unwrap_for(org(), &entry, &org_key()).expect_err("forged").kind, FormatErrorKind::WrongKey);
}

#[test]
fn wrong_lengths_are_damage() {
    for (bytes, at) in [
        (&[0, 0, 0, 0][..], 0_u64),
        (&[27, 0, 0, 0, 1, 2, 3], 0),
        (&[0xFF, 0xFF, 0xFF, 0xFF, 1, 2, 3], 0),
        (&[1, 0, 0], 0),
    ] {
        let error = check_modules(bytes, 100).expect_err("no module");
        assert_eq!((error.kind, error.offset), (FormatErrorKind::Damaged, 100 + at));
    }
    let mut two = vec![28, 0, 0, 0];
    two.extend_from_slice(&[0; 28]);
    assert_eq!(check_modules(&two.repeat(2), 0), Ok(()));
    two.push(1);
    assert_eq!(check_modules(&two, 0).expect_err("one byte more").offset, 32);
    assert_eq!(check_modules(&[], 0), Ok(()));
}

/// Reads metadata, every range that a reader of all columns requests, and the rows.
fn read_all(bytes: &Bytes, entry: &SegmentEntry) -> Result<Vec<RecordBatch>, String> {
    let metadata = open(bytes, entry, &org_key()).map_err(|e| e.to_string())?;
    for column in metadata.row_groups().iter().flat_map(|group| group.columns()) {
        let (start, length) = column.byte_range();
        let at = |offset: u64| usize::try_from(offset).expect("small");
        let chunk = bytes.get(at(start)..at(start + length)).ok_or("truncated")?;
        check_modules(chunk, start).map_err(|e| e.to_string())?;
    }
    let metadata = ArrowReaderMetadata::try_new(metadata, ArrowReaderOptions::new()).map_err(|e| e.to_string())?;
    let reader = ParquetRecordBatchReaderBuilder::new_with_metadata(bytes.clone(), metadata);
    let reader = reader.build().map_err(|e| e.to_string())?;
    reader.collect::<Result<_, _>>().map_err(|e| e.to_string())
}

/// Computes the digest row by row as the page describes it.
fn digest_by_the_page(rows: &[Row], from: &[(u64, i64)]) -> [u8; 32] {
    let mut bytes = b"icecore readings 2".to_vec();
    let mut before = (0, Vec::new(), (0, 0));
    for (&(logger, time, first, second), &from) in rows.iter().zip(from) {
        let values: Vec<(u16, f64)> =
            [(1, first), (2, second)].into_iter().filter_map(|(c, v)| Some((c, v?))).collect();
        let here = (logger, values.iter().map(|(code, _)| *code).collect::<Vec<_>>(), from);
        let marks = [here.0 != before.0, here.1 != before.1, here.2 != before.2];
        bytes.push(marks.iter().enumerate().map(|(bit, mark)| u8::from(*mark) << bit).sum());
        if marks[0] {
            bytes.extend(logger.to_le_bytes());
        }
        if marks[1] {
            bytes.extend(u16::try_from(here.1.len()).expect("two at most").to_le_bytes());
            here.1.iter().for_each(|code| bytes.extend(code.to_le_bytes()));
        }
        if marks[2] {
            bytes.extend(from.0.to_le_bytes());
            bytes.extend(from.1.to_le_bytes());
        }
        bytes.extend(time.to_le_bytes());
        values.iter().for_each(|(_, value)| bytes.extend(value.to_bits().to_le_bytes()));
        before = here;
    }
    ring::digest::digest(&ring::digest::SHA256, &bytes).as_ref().try_into().expect("32 bytes")
}

/// Generates runs of rows with the same logger, channels, gateway and receive time; some exceed a chunk of the digest.
fn runs() -> impl Strategy<Value = Vec<(usize, u64, u8, u64, i64)>> {
    let rows = prop_oneof![4 => Just(1_usize), 3 => 2..6_usize, 1 => 600..1500_usize];
    // Both channels in most cases.
    let channels = prop_oneof![6 => Just(3_u8), 1 => 1..3_u8];
    prop::collection::vec((rows, 1..3_u64, channels, 1..3_u64, 0..2_i64), 1..12)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn any_digest_matches_the_page(runs in runs(), cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..4)) {
        let (mut rows, mut from): (Vec<Row>, Vec<_>) = (Vec::new(), Vec::new());
        for (count, logger, channels, gateway, second) in runs {
            for _ in 0..count {
                let at = rows.len() as i64;
                let value = |bit: u8| (channels & bit != 0).then_some(at as f64 + f64::from(bit) / 4.0);
                rows.push((logger, MAY + at, value(1), value(2)));
                from.push((gateway, MAY + second * 1000));
            }
        }
        let all = readings_from(&rows, &from);
        let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(rows.len())).chain([0, rows.len()]).collect();
        cuts.sort_unstable();
        let batches: Vec<_> = cuts.windows(2).map(|cut| all.slice(cut[0], cut[1] - cut[0])).collect();
        prop_assert_eq!(digest(&batches), digest_by_the_page(&rows, &from));
    }

    #[test]
    fn flipped_bits_are_detected(at in any::<prop::sample::Index>(), bit in 0..8_u8) {
        static SEGMENT: std::sync::LazyLock<EncodedSegment> =
            std::sync::LazyLock::new(|| encode(&[readings(&day(2, 40))]));
        let mut bytes = SEGMENT.bytes.to_vec();
        // Skip the magic at the start, which only other programs use.
        let at = 4 + at.index(bytes.len() - 4);
        bytes[at] ^= 1 << bit;
        prop_assert!(read_all(&Bytes::from(bytes), &SEGMENT.entry).is_err());
    }

    #[test]
    fn zeroed_and_removed_parts_are_detected(
        from in any::<prop::sample::Index>(), length in 1..3000_usize, cut: bool,
    ) {
        static SEGMENT: std::sync::LazyLock<EncodedSegment> =
            std::sync::LazyLock::new(|| encode(&[readings(&day(2, 40))]));
        let mut bytes = SEGMENT.bytes.to_vec();
        let from = 4 + from.index(bytes.len() - 4);
        let to = (from + length).min(bytes.len());
        if cut {
            bytes.drain(from..to);
        } else if bytes[from..to].iter().any(|&byte| byte != 0) {
            bytes[from..to].fill(0);
        } else {
            return Ok(());
        }
        prop_assert!(read_all(&Bytes::from(bytes), &SEGMENT.entry).is_err());
    }

    #[test]
    fn arbitrary_tails_never_panic(mut bytes in prop::collection::vec(any::<u8>(), 0..400), length in 0..400_u32) {
        bytes.extend_from_slice(&length.to_le_bytes());
        bytes.extend_from_slice(b"PARE");
        prop_assert!(read_tail(bytes.len() as u64, &bytes).is_err());
        let _ = SegmentKeyMetadata::decode(&bytes);
    }

    #[test]
    fn key_metadata_round_trips(id in 1..=u128::MAX, org in 1..=u64::MAX, version in 1..=u32::MAX, fill: u8, flip in 0..960_usize) {
        let spec = spec(SegmentKind::Conflicts);
        let (org, id) = (OrgId::new(org).expect("not zero"), SegmentId::new(id).expect("not zero"));
        let identity = (spec.kind, org, spec.window, id);
        let metadata = SegmentKeyMetadata::wrap(identity, &org_key(), version, &SecretKey::from_bytes([fill; 32]), [fill; 12]);
        let mut bytes = metadata.encode();
        prop_assert_eq!(SegmentKeyMetadata::decode(&bytes), Ok(metadata));
        let unwrapped = metadata.unwrap(&org_key()).expect("it unwraps");
        prop_assert_eq!(unwrapped.expose(), &[fill; 32]);
        bytes[flip / 8] ^= 1 << (flip % 8);
        prop_assert!(SegmentKeyMetadata::decode(&bytes).is_err());
    }
}

fn fixture(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("fixtures").join(name)
}

/// Checks that the files written by version 0.1.0 still open. `UPDATE_FIXTURES=1 cargo test` creates missing files.
/// Two encodings of a segment differ because of random nonces, so the test compares only what is read.
#[test]
fn golden_files_still_open() {
    let batch = readings(&day(2, 100));
    let segment = fixture("v1/segment.parquet");
    let merged = fixture("v2/segment.parquet");
    let conflicts_object = fixture("v1/conflicts.parquet");
    let fills_object = fixture("v3/fills.parquet");
    if std::env::var_os("UPDATE_FIXTURES").is_some() {
        if !segment.exists() {
            std::fs::write(&segment, encode(std::slice::from_ref(&batch)).bytes).expect("written");
        }
        if !merged.exists() {
            std::fs::write(&merged, encode_merged(&batch, 60).expect("valid rows").1.bytes).expect("written");
        }
        if !fills_object.exists() {
            std::fs::create_dir_all(fixture("v3")).expect("a directory");
            std::fs::write(&fills_object, encode_fills(&FILLS).expect("valid rows").bytes).expect("written");
        }
        if !conflicts_object.exists() {
            let mut encoder = encoder(SegmentKind::Conflicts);
            encoder.write(&conflicts()).expect("valid rows");
            std::fs::write(&conflicts_object, encoder.finish().expect("rows").bytes).expect("written");
        }
    }
    let mut entry = encode(std::slice::from_ref(&batch)).entry;
    let bytes = Bytes::from(std::fs::read(segment).expect("the fixture exists"));
    entry.bytes = bytes.len() as u64;
    let metadata = open(&bytes, &entry, &org_key()).expect("it opens");
    assert_eq!(rows(&bytes, &metadata), std::slice::from_ref(&batch));

    let (batch, EncodedSegment { mut entry, .. }) = encode_merged(&batch, 60).expect("valid rows");
    let bytes = Bytes::from(std::fs::read(merged).expect("the fixture exists"));
    entry.bytes = bytes.len() as u64;
    let metadata = open(&bytes, &entry, &org_key()).expect("it opens");
    assert_eq!(rows(&bytes, &metadata), [batch]);

    let mut encoder = encoder(SegmentKind::Conflicts);
    encoder.write(&conflicts()).expect("valid rows");
    let entry = encoder.finish().expect("rows").entry;
    let bytes = Bytes::from(std::fs::read(conflicts_object).expect("the fixture exists"));
    let metadata = open(&bytes, &entry, &org_key()).expect("it opens");
    assert_eq!(rows(&bytes, &metadata), [conflicts()]);

    let entry = encode_fills(&FILLS).expect("valid rows").entry;
    let bytes = Bytes::from(std::fs::read(fills_object).expect("the fixture exists"));
    let metadata = open(&bytes, &entry, &org_key()).expect("it opens");
    assert_eq!(rows(&bytes, &metadata), [fills(&FILLS)]);
}
