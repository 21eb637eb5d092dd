//! Tests of rollups: round trips of random rows, what numbers cost, rows that the encoder rejects, golden files.

use std::path::PathBuf;
use std::sync::Arc;

use arrow::array::{ArrayRef, Float64Builder, RecordBatch, TimestampMillisecondBuilder, UInt64Array, UInt64Builder};
use bytes::Bytes;
use parquet::arrow::arrow_reader::{ArrowReaderMetadata, ArrowReaderOptions, ParquetRecordBatchReaderBuilder};
use parquet::file::metadata::ParquetMetaData;
use proptest::prelude::*;

use super::unit::{Run, Unit};
use super::*;
use crate::encryption::SecretKey;
use crate::manifest::{SegmentEntry, SegmentKind};
use crate::segment::{
    EncodedSegment, MetadataDecoder, MetadataPoll, SegmentError, SegmentFooter, SegmentSpec, read_tail,
};
use crate::{ChannelCode, FlushNumber, FormatError, LoggerId, Lsn, Millis, OrgId, SegmentId};

/// 2024-05-01T00:00:00Z.
const MAY: i64 = 1_714_521_600_000;

fn code(code: u16) -> ChannelCode {
    ChannelCode::new(code).expect("not zero")
}

fn org() -> OrgId {
    OrgId::new(0xA1).expect("not zero")
}

fn keys() -> (SecretKey, SecretKey) {
    (SecretKey::from_bytes([7; 32]), SecretKey::from_bytes([8; 32]))
}

fn spec(grain: RollupGrain) -> SegmentSpec {
    SegmentSpec {
        kind: grain.kind(),
        org: org(),
        window: "2024050100-2024060100".parse().expect("a window"),
        id: SegmentId::new(0xABCE).expect("not zero"),
        flush_first: FlushNumber::new(3),
        flush_last: FlushNumber::new(5),
        lsn_min: Lsn::new(10),
        lsn_max: Lsn::new(20),
        key_version: 1,
    }
}

/// A channel's aggregates in one bucket.
#[derive(Debug, Clone, PartialEq)]
struct Values {
    count: u64,
    min: f64,
    max: f64,
    sum: f64,
    sum_squares: f64,
    first: f64,
    last: f64,
    first_time: i64,
    last_time: i64,
    weight_ms: i64,
    weighted_sum: f64,
    weighted_mkt: f64,
}

impl Values {
    /// Aggregates of these values, at these times.
    fn of(values: &[(i64, f64)]) -> Option<Self> {
        let (&(first_time, first), &(last_time, last)) = (values.first()?, values.last()?);
        let all = values.iter().map(|(_, value)| *value);
        Some(Self {
            count: values.len() as u64,
            min: all.clone().fold(f64::INFINITY, f64::min),
            max: all.clone().fold(f64::NEG_INFINITY, f64::max),
            sum: all.clone().sum(),
            sum_squares: all.map(|value| value * value).sum(),
            first,
            last,
            first_time,
            last_time,
            weight_ms: (last_time - first_time) / 2,
            weighted_sum: first * 3.0,
            weighted_mkt: 1.25,
        })
    }
}

/// A logger, a bucket, its readings, and each channel's aggregates.
type Row = (u64, i64, u64, Vec<Option<Values>>);

fn batch(grain: RollupGrain, channels: &[ChannelCode], rows: &[Row]) -> RecordBatch {
    let times = |times: &mut dyn Iterator<Item = Option<i64>>| -> ArrayRef {
        let mut builder = TimestampMillisecondBuilder::new().with_timezone("UTC");
        times.for_each(|time| builder.append_option(time));
        Arc::new(builder.finish())
    };
    let mut columns: Vec<ArrayRef> = vec![
        Arc::new(rows.iter().map(|row| row.0).collect::<UInt64Array>()),
        times(&mut rows.iter().map(|row| Some(row.1))),
        Arc::new(rows.iter().map(|row| row.2).collect::<UInt64Array>()),
    ];
    for (place, code) in channels.iter().enumerate() {
        for &aggregate in Aggregate::of(grain) {
            let doubles = |of: &dyn Fn(&Values) -> f64| -> ArrayRef {
                let mut builder = Float64Builder::new();
                rows.iter().for_each(|row| builder.append_option(row.3[place].as_ref().map(of)));
                Arc::new(builder.finish())
            };
            columns.push(match aggregate {
                Aggregate::Count => {
                    let mut builder = UInt64Builder::new();
                    rows.iter().for_each(|row| builder.append_value(row.3[place].as_ref().map_or(0, |v| v.count)));
                    Arc::new(builder.finish())
                }
                Aggregate::Min => doubles(&|v| v.min),
                Aggregate::Max => doubles(&|v| v.max),
                Aggregate::Sum => doubles(&|v| v.sum),
                Aggregate::SumSquares => doubles(&|v| v.sum_squares),
                Aggregate::First => doubles(&|v| v.first),
                Aggregate::Last => doubles(&|v| v.last),
                Aggregate::FirstTime => times(&mut rows.iter().map(|r| r.3[place].as_ref().map(|v| v.first_time))),
                Aggregate::LastTime => times(&mut rows.iter().map(|r| r.3[place].as_ref().map(|v| v.last_time))),
                Aggregate::Weight => doubles(&|v| v.weight_ms as f64 / 1000.0),
                Aggregate::WeightedSum => doubles(&|v| v.weighted_sum),
                Aggregate::WeightedMkt if code.get() == 1 => doubles(&|v| v.weighted_mkt),
                Aggregate::WeightedMkt => arrow::array::new_null_array(&aggregate.data_type(), rows.len()),
            });
        }
    }
    RecordBatch::try_new(rollup_schema(grain, channels), columns).expect("a batch")
}

fn encoder(grain: RollupGrain, channels: &[ChannelCode]) -> RollupEncoder {
    let (org_key, data_key) = keys();
    let rows = crate::segment::ROW_GROUP_ROWS_MAX;
    RollupEncoder::new(spec(grain), 300, channels, (&org_key, &data_key), [2; 12], rows).expect("an encoder")
}

/// The entry of a segment with so many readings.
fn source(rows: u64) -> SegmentEntry {
    let logger = |id| LoggerId::new(id).expect("not zero");
    SegmentEntry {
        id: SegmentId::new(0xABCD).expect("not zero"),
        kind: SegmentKind::Readings,
        of: None,
        window: spec(RollupGrain::Hourly).window,
        flush_first: FlushNumber::new(3),
        flush_last: FlushNumber::new(5),
        rows,
        bytes: 1000,
        time_min: Millis::new(MAY + 17).expect("a time"),
        time_max: Millis::new(MAY + 86_400_000).expect("a time"),
        logger_min: logger(1),
        logger_max: logger(u64::MAX),
        channels: vec![code(1), code(2)],
        shares_keys: false,
        key_version: 1,
        lsn_min: Lsn::new(10),
        lsn_max: Lsn::new(20),
        digest: [3; 32],
    }
}

fn encode(grain: RollupGrain, channels: &[ChannelCode], rows: &[Row]) -> Result<EncodedSegment, SegmentError> {
    let mut encoder = encoder(grain, channels);
    encoder.write(&batch(grain, channels, rows))?;
    encoder.finish(&source(rows.iter().map(|row| row.2).sum()))
}

/// Opens a complete object the way a reader of a store does.
fn open(bytes: &Bytes, entry: &SegmentEntry) -> Result<Arc<ParquetMetaData>, FormatError> {
    let length = bytes.len() as u64;
    let tail = read_tail(length, bytes)?;
    let data_key = tail.key_metadata.unwrap_for(org(), entry, &keys().0)?;
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

fn stored(bytes: &Bytes, metadata: &Arc<ParquetMetaData>) -> Vec<RecordBatch> {
    let options = ArrowReaderOptions::new().with_skip_arrow_metadata(true);
    let metadata = ArrowReaderMetadata::try_new(Arc::clone(metadata), options).expect("metadata");
    let reader = ParquetRecordBatchReaderBuilder::new_with_metadata(bytes.clone(), metadata);
    reader.build().expect("a reader").collect::<Result<_, _>>().expect("rows")
}

fn decoded(grain: RollupGrain, channels: &[ChannelCode], encoded: &EncodedSegment) -> RecordBatch {
    let metadata = open(&encoded.bytes, &encoded.entry).expect("it opens");
    let batches: Vec<_> = stored(&encoded.bytes, &metadata)
        .iter()
        .map(|batch| decode_rollup(grain, channels, batch).expect("it decodes"))
        .collect();
    arrow::compute::concat_batches(&rollup_schema(grain, channels), &batches).expect("one schema")
}

/// Buckets of some loggers whose values are multiples of a step.
fn fleet(grain: RollupGrain, loggers: u64, buckets: i64, decimals: u32, step: i64) -> Vec<Row> {
    let mut rows = Vec::new();
    for logger in 1..=loggers {
        for bucket in 0..buckets {
            let start = MAY + bucket * grain.bucket_ms();
            let value = |at: i64| (((at * 7 + bucket * 3 + logger.cast_signed()) % 40 - 9) * step) as f64;
            let value = |at: i64| value(at) / 10_f64.powi(decimals.cast_signed()) + 0.0;
            let both: Vec<(i64, f64)> = (0..12).map(|at| (start + at * 300_000 + 17, value(at))).collect();
            let second = if bucket % 5 == 3 { &both[..0] } else { &both[2..9] };
            rows.push((logger + (1 << 63), start, 12, vec![Values::of(&both), Values::of(second)]));
        }
    }
    rows
}

#[test]
fn rows_come_back() {
    for grain in RollupGrain::ALL {
        for (decimals, step) in [(0, 1), (1, 1), (2, 1), (4, 625), (15, 7)] {
            let channels = [code(1), code(2)];
            let rows = fleet(grain, 3, 30, decimals, step);
            let encoded = encode(grain, &channels, &rows).expect("valid rows");
            let (entry, given) = (&encoded.entry, batch(grain, &channels, &rows));
            assert_eq!((entry.rows, entry.bytes, entry.kind), (90, encoded.bytes.len() as u64, grain.kind()));
            assert_eq!((entry.of, entry.time_min, entry.time_max), {
                let source = source(1);
                (Some(source.id), source.time_min, source.time_max)
            });
            assert_eq!((entry.logger_min.get(), entry.logger_max.get()), ((1 << 63) + 1, (1 << 63) + 3));
            let found = decoded(grain, &channels, &encoded);
            let sum = Aggregate::Sum.column(code(1).channel().expect("registered"));
            for (name, column) in given.schema().fields().iter().map(|f| f.name()).zip(given.columns()) {
                if *name != sum && !name.ends_with("_sum") {
                    assert_eq!(column, found.column_by_name(name).expect("it is there"), "{name}");
                }
            }
            let mut digest = RollupDigest::new(grain);
            digest.update(&found.slice(0, 7));
            digest.update(&found.slice(7, found.num_rows() - 7));
            assert_eq!(digest.finish(), entry.digest);
            let metadata = open(&encoded.bytes, entry).expect("it opens");
            let footer = RollupFooter::read(grain, &metadata).expect("a footer");
            let interval_s = (grain == RollupGrain::Daily).then_some(300);
            assert_eq!(footer, RollupFooter { of: source(1).id, interval_s });
            // One channel alone, and one that the object has not.
            let asked = [code(2), code(3)];
            let part = decoded(grain, &asked, &encoded);
            assert_eq!(part.column_by_name("humidity_max"), found.column_by_name("humidity_max"));
            assert_eq!(part.column_by_name("humidity_sum"), found.column_by_name("humidity_sum"));
            let battery = part.column_by_name("battery_min").expect("it is there");
            assert_eq!(arrow::array::Array::null_count(battery), 90);
        }
    }
}

#[test]
fn decimals_cost_little() {
    let rows = fleet(RollupGrain::Hourly, 100, 300, 2, 1);
    let encoded = encode(RollupGrain::Hourly, &[code(1), code(2)], &rows).expect("valid rows");
    let per_row = encoded.bytes.len() / rows.len();
    assert!(per_row <= 5, "{} bytes for {} rows", encoded.bytes.len(), rows.len());
}

#[test]
fn units_are_the_coarsest_that_give_values_back() {
    let of = |values: &[f64]| Unit::of(&Run { values, sums: &[] });
    let steps = |decimals, step| Unit::Steps { decimals, step, sum_raw: false };
    assert_eq!(of(&[]), steps(0, 1));
    assert_eq!(of(&[0.0, 0.0]), steps(0, 1));
    assert_eq!(of(&[5.0, -15.0]), steps(0, 5));
    assert_eq!(of(&[0.1, 21.7, -0.3]), steps(1, 1));
    assert_eq!(of(&[0.0625, 21.125]), steps(4, 625));
    assert_eq!(of(&[21.79, 21.75]), steps(2, 1));
    assert_eq!(of(&[0.1 + 0.2]), Unit::Raw, "17 digits");
    assert_eq!(of(&[-0.0]), Unit::Raw, "its sign would be lost");
    assert_eq!(of(&[1e300]), Unit::Raw);
    assert_eq!(of(&[f64::MIN_POSITIVE]), Unit::Raw);
    // A sum that no decimal is near to leaves the values as they are.
    let run = Run { values: &[1.5, 2.5], sums: &[(0.1 + 0.2, 0.0)] };
    assert_eq!(Unit::of(&run), Unit::Steps { decimals: 1, step: 5, sum_raw: true });
    // A sum of values between the extremes may need a finer step, or more decimals.
    let run = Run { values: &[1.5, 2.5], sums: &[(5.87, 1e-15)] };
    assert_eq!(Unit::of(&run), steps(2, 1));
    for unit in [Unit::Raw, steps(0, 1), steps(15, 7), Unit::Steps { decimals: 3, step: (1 << 47) - 1, sum_raw: true }]
    {
        assert_eq!(Unit::from_code(unit.code()), Some(unit));
    }
    for wrong in [-1, 1, 0x1_0000, 0x1_0011, 0x1_0201, i64::MIN, i64::MAX] {
        assert_eq!(Unit::from_code(wrong), None, "{wrong:#x}");
    }
}

#[test]
fn wrong_rows_are_rejected() {
    type Change = fn(&mut Vec<Row>);
    let grain = RollupGrain::Daily;
    let value = |change: fn(&mut Values)| move |rows: &mut Vec<Row>| change(rows[1].3[0].as_mut().expect("values"));
    type Named<'a> = (&'a str, Box<dyn Fn(&mut Vec<Row>)>);
    let changes: Vec<Named<'_>> = vec![
        ("order", Box::new((|rows| rows.swap(0, 1)) as Change)),
        ("twice", Box::new((|rows| rows[1] = rows[0].clone()) as Change)),
        ("no bucket", Box::new((|rows| rows[1].1 += 1) as Change)),
        ("before the window", Box::new((|rows| rows[0].1 -= 86_400_000) as Change)),
        ("after the window", Box::new((|rows| rows[2].1 = MAY + 31 * 86_400_000) as Change)),
        ("logger zero", Box::new((|rows| rows[0].0 = 0) as Change)),
        ("no value", Box::new((|rows| rows[1].3 = vec![None, None]) as Change)),
        ("more values than readings", Box::new((|rows| rows[1].2 = 5) as Change)),
        ("not finite", Box::new(value(|values| values.max = f64::INFINITY))),
        ("not a number", Box::new(value(|values| values.first = f64::NAN))),
        ("a term that is not a number", Box::new(value(|values| values.weighted_mkt = f64::NAN))),
        ("a sum that is not a number", Box::new(value(|values| values.sum = f64::NAN))),
    ];
    let good = fleet(grain, 1, 3, 2, 1);
    encode(grain, &[code(1), code(2)], &good).expect("valid rows");
    for (what, change) in changes {
        let mut rows = good.clone();
        change(&mut rows);
        assert!(encode(grain, &[code(1), code(2)], &rows).is_err(), "{what}");
    }
    let mut encoder = encoder(grain, &[code(1), code(2)]);
    encoder.write(&batch(grain, &[code(1), code(2)], &good)).expect("valid rows");
    assert!(encoder.finish(&source(35)).is_err(), "of 36 readings");
}

/// Sums that are beyond all doubles, and negative ones of values that nearly cancel.
#[test]
fn odd_sums_come_back() {
    let times = [MAY, MAY + 1000, MAY + 2000];
    for values in [[1e308, 1e308, 1.0], [0.1, 0.2, -0.3], [1e-300, -1e300, 1e300], [5e-324, 0.0, 0.0]] {
        let timed: Vec<(i64, f64)> = times.into_iter().zip(values).collect();
        let mut aggregates = Values::of(&timed).expect("values");
        // Sums of squares and weighted ones are as finite as the values are.
        (aggregates.weighted_sum, aggregates.weighted_mkt) = (1.0, 1.0);
        let rows = vec![(1, MAY, 3, vec![Some(aggregates.clone())])];
        let encoded = encode(RollupGrain::Daily, &[code(1)], &rows).expect("valid rows");
        let found = decoded(RollupGrain::Daily, &[code(1)], &encoded);
        let given = batch(RollupGrain::Daily, &[code(1)], &rows);
        assert_eq!(found.column_by_name("temperature_min"), given.column_by_name("temperature_min"));
        let sum = found.column_by_name("temperature_sum").expect("it is there");
        let sum = arrow::array::AsArray::as_primitive::<arrow::datatypes::Float64Type>(sum).value(0);
        let absolute: f64 = values.iter().map(|value| value.abs()).sum();
        assert!(
            sum == aggregates.sum || (sum - aggregates.sum).abs() <= absolute * 2_f64.powi(-50),
            "{values:?}: {sum}"
        );
    }
}

fn any_value() -> impl Strategy<Value = f64> {
    prop_oneof![
        6 => (-4000_i64..9000).prop_map(|v| v as f64 / 100.0 + 0.0),
        2 => (-400_i64..900).prop_map(|v| v as f64 * 0.0625 + 0.0),
        1 => any::<f64>().prop_filter("finite", |v| v.is_finite()).prop_map(|v| v + 0.0),
    ]
}

fn any_rows(grain: RollupGrain) -> impl Strategy<Value = Vec<Row>> {
    let values = || proptest::collection::vec(any_value(), 0..6);
    proptest::collection::vec((1_u64..4, 0_i64..20, values(), values()), 1..30).prop_map(move |drawn| {
        let mut rows: Vec<Row> = Vec::new();
        for (logger, bucket, first, second) in drawn {
            let start = MAY + bucket * grain.bucket_ms();
            let of = |values: &[f64]| {
                let timed: Vec<(i64, f64)> = (0..).map(|at| start + at * 7001).zip(values.iter().copied()).collect();
                let mut of = Values::of(&timed)?;
                of.sum_squares = of.sum_squares.min(f64::MAX);
                of.weighted_sum = of.weighted_sum.clamp(f64::MIN, f64::MAX);
                Some(of)
            };
            let both = vec![of(&first), of(&second)];
            if both.iter().any(Option::is_some) {
                rows.push((logger, start, 6, both));
            }
        }
        rows.sort_by_key(|row| (row.0, row.1));
        rows.dedup_by_key(|row| (row.0, row.1));
        rows
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn random_rows_come_back(hourly in any_rows(RollupGrain::Hourly), daily in any_rows(RollupGrain::Daily)) {
        for (grain, rows) in [(RollupGrain::Hourly, hourly), (RollupGrain::Daily, daily)] {
            if rows.is_empty() {
                continue;
            }
            // The encoder compares what it has packed with what it was given; here, what was stored with the digest.
            let encoded = encode(grain, &[code(1), code(2)], &rows).expect("valid rows");
            let found = decoded(grain, &[code(1), code(2)], &encoded);
            let mut digest = RollupDigest::new(grain);
            digest.update(&found);
            prop_assert_eq!(digest.finish(), encoded.entry.digest);
            let given = batch(grain, &[code(1), code(2)], &rows);
            for (place, field) in given.schema().fields().iter().enumerate() {
                if !field.name().ends_with("_sum") {
                    prop_assert_eq!(given.column(place), found.column(place), "{}", field.name());
                }
            }
        }
    }

    #[test]
    fn rows_of_other_makes_decode_or_are_refused(
        numbers in proptest::collection::vec((any::<i64>(), 0_i64..3, any::<i64>(), any::<i64>(), any::<i64>()), 1..20),
        unit in prop_oneof![Just(0_i64), any::<i64>(), (1_i64..20).prop_map(|decimals| (7 << 16) | decimals)],
    ) {
        let schema = stored_schema(RollupGrain::Hourly, &[code(1)]);
        type Numbers = (i64, i64, i64, i64, i64);
        let int = |of: &dyn Fn(&Numbers) -> i64| -> ArrayRef {
            Arc::new(numbers.iter().map(of).collect::<arrow::array::Int64Array>())
        };
        let rows: ArrayRef = Arc::new(numbers.iter().map(|n| n.0.cast_unsigned()).collect::<UInt64Array>());
        let times = arrow::array::TimestampMillisecondArray::from_iter_values(numbers.iter().map(|n| n.2));
        let columns = vec![
            Arc::clone(&rows), Arc::new(times.with_timezone("UTC")), rows,
            int(&|n| n.1), int(&|_| unit), int(&|n| n.2), int(&|n| n.3), int(&|n| n.4),
        ];
        let batch = RecordBatch::try_new(schema, columns).expect("a batch");
        let _ = decode_rollup(RollupGrain::Hourly, &[code(1)], &batch);
    }
}

fn fixture(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("fixtures").join("v1").join(name)
}

/// Checks that the files written by version 0.1.0 still open. `UPDATE_FIXTURES=1 cargo test` creates missing files.
#[test]
fn golden_files_still_open() {
    for grain in RollupGrain::ALL {
        let channels = [code(1), code(2)];
        let fresh = encode(grain, &channels, &fleet(grain, 2, 10, 2, 1)).expect("valid rows");
        let path = fixture(&format!("{}.parquet", grain.kind().name()));
        if std::env::var_os("UPDATE_FIXTURES").is_some() && !path.exists() {
            std::fs::write(&path, &fresh.bytes).expect("the folder exists");
        }
        let bytes = Bytes::from(std::fs::read(&path).expect("the fixture exists"));
        let entry = SegmentEntry { bytes: bytes.len() as u64, ..fresh.entry.clone() };
        let found = decoded(grain, &channels, &EncodedSegment { bytes, entry });
        assert_eq!(found, decoded(grain, &channels, &fresh));
    }
}
