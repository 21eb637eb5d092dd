//! Tests of making rollups: the worked example of weights, odd values, batches of any size, what rollups cost.

use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray as _, Float64Array, RecordBatch, TimestampMillisecondArray, UInt64Array};
use arrow::compute::concat_batches;
use arrow::datatypes::{Float64Type, TimestampMillisecondType, UInt64Type};
use kit::SplitMix64;
use storage_format::encryption::SecretKey;
use storage_format::manifest::SegmentKind;
use storage_format::rollup::{RollupEncoder, RollupGrain, rollup_schema};
use storage_format::segment::{ROW_GROUP_ROWS_MAX, SegmentEncoder, SegmentSpec, readings_schema};
use storage_format::{ChannelCode, FlushNumber, Lsn, OrgId, SegmentId};

use super::builder::RollupBuilder;
use super::mkt::mkt_term;
use super::write::INTERVAL_S;

/// 2024-05-01T00:00:00Z.
const MAY: i64 = 1_714_521_600_000;
const MINUTE: i64 = 60_000;
const DAY: i64 = 24 * 60 * MINUTE;

type Row = (u64, i64, Option<f64>, Option<f64>);

fn codes() -> [ChannelCode; 2] {
    [1, 2].map(|code| ChannelCode::new(code).expect("not zero"))
}

fn readings(rows: &[Row]) -> RecordBatch {
    let times = |times: Vec<i64>| -> ArrayRef { Arc::new(TimestampMillisecondArray::from(times).with_timezone("UTC")) };
    let columns: Vec<ArrayRef> = vec![
        Arc::new(rows.iter().map(|row| row.0).collect::<UInt64Array>()),
        times(rows.iter().map(|row| row.1).collect()),
        Arc::new(rows.iter().map(|row| row.2).collect::<Float64Array>()),
        Arc::new(rows.iter().map(|row| row.3).collect::<Float64Array>()),
        Arc::new(UInt64Array::from_value(5, rows.len())),
        times(vec![MAY; rows.len()]),
    ];
    RecordBatch::try_new(readings_schema(&codes()), columns).expect("a batch")
}

/// Builds rollups of rows that come in batches of these sizes, one after the other.
fn build(rows: &[Row], sizes: impl Iterator<Item = usize>) -> [RecordBatch; 2] {
    let mut builder = RollupBuilder::new(&codes(), INTERVAL_S);
    let (mut done, mut found) = (0, Vec::new());
    for size in sizes {
        if done == rows.len() {
            break;
        }
        let end = rows.len().min(done + size);
        builder.push(&readings(&rows[done..end]));
        found.extend(builder.take_ready());
        done = end;
    }
    found.extend(builder.finish());
    RollupGrain::ALL.map(|grain| {
        let batches = found.iter().filter(|(of, _)| *of == grain).map(|(_, batch)| batch);
        concat_batches(&rollup_schema(grain, &codes()), batches).expect("one schema")
    })
}

fn doubles(batch: &RecordBatch, name: &str) -> Vec<Option<f64>> {
    batch.column_by_name(name).expect("a column").as_primitive::<Float64Type>().iter().collect()
}

fn times(batch: &RecordBatch, name: &str) -> Vec<Option<i64>> {
    batch.column_by_name(name).expect("a column").as_primitive::<TimestampMillisecondType>().iter().collect()
}

fn counts(batch: &RecordBatch, name: &str) -> Vec<u64> {
    batch.column_by_name(name).expect("a column").as_primitive::<UInt64Type>().values().to_vec()
}

#[test]
fn values_stand_until_the_next_or_for_two_and_a_half_intervals() {
    let values = [(0, 5.0), (5, 5.2), (10, 5.4), (40, 9.0), (45, 6.0), (50, 5.5)];
    let rows: Vec<Row> = values.iter().map(|(minute, value)| (1, MAY + minute * MINUTE, Some(*value), None)).collect();
    let [hourly, daily] = build(&rows, std::iter::repeat(100));
    assert_eq!(counts(&hourly, "temperature_count"), [6]);
    assert_eq!(counts(&hourly, "humidity_count"), [0]);
    assert_eq!(doubles(&hourly, "humidity_sum"), [None]);
    // The last value stands for nothing yet: what comes after it is not of this day or segment.
    let weights = [300.0, 300.0, 750.0, 300.0, 300.0];
    assert_eq!(doubles(&daily, "temperature_weight"), [Some(1950.0)]);
    let near = |name: &str, wanted: f64| {
        let found = doubles(&daily, name)[0].expect("a value");
        assert!((found - wanted).abs() <= wanted.abs() * 1e-15, "{name} is {found}, not {wanted}");
    };
    near("temperature_weighted_sum", values.iter().zip(weights).map(|((_, value), weight)| value * weight).sum());
    near("temperature_weighted_mkt", values.iter().zip(weights).map(|((_, v), weight)| mkt_term(*v) * weight).sum());
    near("temperature_sum_squares", values.iter().map(|(_, value)| value * value).sum());
    assert_eq!(doubles(&daily, "humidity_weighted_mkt"), [None]);
    assert_eq!(doubles(&daily, "temperature_first"), [Some(5.0)]);
    assert_eq!(doubles(&daily, "temperature_last"), [Some(5.5)]);
    assert_eq!(times(&daily, "temperature_last_time"), [Some(MAY + 50 * MINUTE)]);
}

#[test]
fn buckets_end_with_the_hour_the_day_and_the_logger() {
    let late = MAY + DAY - 1;
    let rows = [
        (1, MAY, Some(1.0), Some(-0.0)),
        (1, MAY + 60 * MINUTE - 1, Some(2.0), None),
        (1, MAY + 60 * MINUTE, None, Some(3.0)),
        (1, late, Some(4.0), None),
        (1, MAY + DAY, Some(5.0), None),
        (2, MAY + DAY, Some(6.0), None),
    ];
    let [hourly, daily] = build(&rows, std::iter::repeat(4));
    let hours = [MAY, MAY + 60 * MINUTE, MAY + DAY - 60 * MINUTE, MAY + DAY, MAY + DAY].map(Some);
    assert_eq!(times(&hourly, "bucket"), hours);
    assert_eq!(counts(&hourly, "logger"), [1, 1, 1, 1, 2]);
    assert_eq!(counts(&hourly, "rows"), [2, 1, 1, 1, 1]);
    assert_eq!(doubles(&hourly, "temperature_sum"), [Some(3.0), None, Some(4.0), Some(5.0), Some(6.0)]);
    assert_eq!(counts(&hourly, "humidity_count"), [1, 1, 0, 0, 0]);
    assert_eq!(doubles(&hourly, "humidity_min")[0].map(f64::to_bits), Some(0), "a zero is positive");
    assert_eq!(times(&daily, "bucket"), [MAY, MAY + DAY, MAY + DAY].map(Some));
    assert_eq!(counts(&daily, "rows"), [4, 1, 1]);
    assert_eq!(doubles(&daily, "temperature_max"), [4.0, 5.0, 6.0].map(Some));
    assert_eq!(doubles(&daily, "temperature_sum"), [7.0, 5.0, 6.0].map(Some));
    assert_eq!(doubles(&daily, "humidity_sum"), [Some(3.0), None, None]);
    assert_eq!(doubles(&daily, "temperature_weight"), [Some(1500.0), Some(0.0), Some(0.0)]);
}

/// A part of a fleet: values move slowly, in steps of each sensor; some channels are missing at times.
fn fleet(loggers: u64, days: i64, complete: bool) -> Vec<Row> {
    let mut random = SplitMix64::new(7);
    let mut rows = Vec::new();
    for logger in 1..=loggers {
        let (resolution, mean) = [(100.0, 5.0), (16.0, -20.0), (10.0, 21.0)][usize::try_from(logger % 3).unwrap_or(0)];
        let (mut drift, mut warmth) = (0.0, 0.0);
        for at in 0..days * 288 {
            let mut unit = || (random.any() >> 40) as f64 / (1_u64 << 24) as f64;
            drift = drift * 0.9 + 0.1 * (unit() - 0.5);
            warmth = warmth * 0.6 + if unit() < 0.02 { 4.0 * unit() } else { 0.0 };
            let cycle = ((at % 288) as f64 / 288.0 * std::f64::consts::TAU).cos();
            let temperature: f64 = mean + 0.8 * cycle + drift + warmth;
            let humidity: f64 = 50.0 - cycle - 2.0 * drift + 1.5 * warmth + 0.6 * (unit() - 0.5);
            #[allow(clippy::cast_possible_truncation, reason = "less than a second")]
            let jitter = (unit() * 700.0) as i64;
            let there = complete || unit() < 0.9;
            let value = |value: f64, resolution: f64| (value * resolution).round() / resolution + 0.0;
            let humidity = there.then(|| value(humidity, if resolution > 50.0 { 25.0 } else { 10.0 }));
            rows.push((logger, MAY + at * 5 * MINUTE + jitter, Some(value(temperature, resolution)), humidity));
        }
    }
    rows
}

#[test]
fn batches_make_no_difference() {
    let rows = fleet(12, 31, false);
    let whole = build(&rows, std::iter::repeat(usize::MAX / 2));
    assert!(whole[0].num_rows() > 8192, "rows are handed out in between");
    let mut random = SplitMix64::new(1);
    let sizes = std::iter::from_fn(|| usize::try_from(1 + random.any() % 3000).ok());
    assert_eq!(build(&rows, sizes), whole);
}

fn spec(kind: SegmentKind) -> SegmentSpec {
    SegmentSpec {
        kind,
        org: OrgId::new(0xA1).expect("not zero"),
        window: "2024050100-2024060100".parse().expect("a window"),
        id: SegmentId::new(u128::from(kind.code())).expect("not zero"),
        flush_first: FlushNumber::new(3),
        flush_last: FlushNumber::new(3),
        lsn_min: Lsn::new(10),
        lsn_max: Lsn::new(20),
        key_version: 1,
    }
}

/// What rollups take beside their readings: a fleet at five minutes, a month.
#[test]
fn rollups_take_a_fifth_of_the_readings_at_most() {
    let rows = fleet(60, 30, true);
    let key = SecretKey::from_bytes([1; 32]);
    let mut segment =
        SegmentEncoder::new(spec(SegmentKind::Readings), &codes(), &key, &key, [1; 12], ROW_GROUP_ROWS_MAX)
            .expect("one");
    let mut encoders = RollupGrain::ALL.map(|grain| {
        let encoder = RollupEncoder::new(spec(grain.kind()), 300, &codes(), (&key, &key), [1; 12], ROW_GROUP_ROWS_MAX);
        encoder.expect("an encoder")
    });
    for part in rows.chunks(8192) {
        segment.write(&readings(part)).expect("valid rows");
    }
    let segment = segment.finish().expect("rows");
    for (encoder, batch) in encoders.iter_mut().zip(build(&rows, std::iter::repeat(8192))) {
        encoder.write(&batch).expect("valid rows");
    }
    let [hourly, daily] = encoders.map(|encoder| encoder.finish(&segment.entry).expect("rows").entry);
    let per = |bytes: u64, rows: u64| u32::try_from(bytes * 100 / rows).map_or(f64::NAN, f64::from) / 100.0;
    let share = per((hourly.bytes + daily.bytes) * 100, segment.entry.bytes);
    println!(
        "{} B a reading, {} B a row of an hour, {} B a row of a day: {share} % of the readings",
        per(segment.entry.bytes, segment.entry.rows),
        per(hourly.bytes, hourly.rows),
        per(daily.bytes, daily.rows),
    );
    assert!(share <= 20.0, "{share} %");
}
