//! A plain model of rollups, and what is stored held against it.
//!
//! The model makes one pass per bucket over a list of values, in words of the format's page; it shares nothing with the
//! builder but the names of columns.

use std::collections::BTreeMap;

use arrow::array::{Array as _, AsArray as _, RecordBatch};
use arrow::datatypes::{Float64Type, TimestampMillisecondType, UInt64Type};
use engine::{Engine, SegmentFilter};
use futures::TryStreamExt as _;
use storage_format::manifest::{Manifest, SegmentEntry};
use storage_format::rollup::RollupGrain;
use storage_format::{Channel, OrgId};

use super::Unread;

/// What a value stands for at most, in milliseconds: 2.5 times five minutes.
const CAP_MS: i64 = 750_000;
/// Error that sums may have, relative to the sum of the absolute values.
const OFF: f64 = 1e-13;

/// A logger and the start of a bucket.
type Bucket = (u64, i64);
/// A channel's values in a bucket with their times.
type Values = Vec<(i64, f64)>;

fn failed(error: impl std::fmt::Display) -> Unread {
    Unread::Failed(error.to_string())
}

/// Holds all rollups that a manifest names against the rows of their segments. Answers how many rollups there are.
///
/// # Errors
/// [`Unread`].
pub async fn check_rollups(engine: &Engine, org: OrgId, manifest: &Manifest) -> Result<u64, Unread> {
    for rollup in manifest.rollups() {
        let source = manifest.segments().iter().find(|entry| Some(entry.id) == rollup.of);
        let source = source.ok_or_else(|| Unread::Wrong(format!("rollup {} is of no live segment", rollup.id)))?;
        if source.shares_keys {
            return Err(Unread::Wrong(format!("segment {} shares keys and has a rollup", source.id)));
        }
        check_rollup(engine, org, source, rollup).await?;
    }
    Ok(manifest.rollups().len() as u64)
}

async fn check_rollup(engine: &Engine, org: OrgId, source: &SegmentEntry, rollup: &SegmentEntry) -> Result<(), Unread> {
    let wrong = |what: String| Unread::Wrong(format!("WRONG ROLLUP {} of segment {}: {what}", rollup.id, source.id));
    let grain = RollupGrain::of_kind(rollup.kind).ok_or_else(|| wrong("it is of another kind".to_owned()))?;
    let all = SegmentFilter::default();
    let rows = engine.segments().read(org, source, &all, None).await.map_err(failed)?;
    let rows: Vec<RecordBatch> = rows.try_collect().await.map_err(failed)?;
    let found = engine.segments().read_rollup(org, rollup, &all, &source.channels).await.map_err(failed)?;
    let found: Vec<RecordBatch> = found.try_collect().await.map_err(failed)?;
    compare(grain, source, &rows, &found).map_err(wrong)
}

/// Compares a rollup's rows with the rows of the segment.
fn compare(
    grain: RollupGrain,
    source: &SegmentEntry,
    rows: &[RecordBatch],
    found: &[RecordBatch],
) -> Result<(), String> {
    let channels: Vec<&'static Channel> = source.channels.iter().filter_map(|code| code.channel()).collect();
    let mut truth: BTreeMap<Bucket, (u64, Vec<Values>)> = BTreeMap::new();
    for batch in rows {
        let loggers = batch.column(0).as_primitive::<UInt64Type>().values();
        let times = batch.column(1).as_primitive::<TimestampMillisecondType>().values();
        let columns: Vec<_> = channels
            .iter()
            .map(|channel| batch.column_by_name(channel.name))
            .collect::<Option<_>>()
            .ok_or("a column")?;
        for row in 0..batch.num_rows() {
            let bucket = (loggers[row], times[row].div_euclid(grain.bucket_ms()) * grain.bucket_ms());
            let (count, values) = truth.entry(bucket).or_insert_with(|| (0, vec![Vec::new(); channels.len()]));
            *count += 1;
            for (column, values) in columns.iter().zip(values) {
                if column.is_valid(row) {
                    values.push((times[row], column.as_primitive::<Float64Type>().value(row) + 0.0));
                }
            }
        }
    }
    let mut wanted = truth.iter();
    for batch in found {
        let loggers = batch.column(0).as_primitive::<UInt64Type>().values();
        let buckets = batch.column(1).as_primitive::<TimestampMillisecondType>().values();
        let counts = batch.column(2).as_primitive::<UInt64Type>().values();
        for row in 0..batch.num_rows() {
            let key = (loggers[row], buckets[row]);
            let Some((bucket, (count, values))) = wanted.next() else { return Err(format!("{key:?} is too much")) };
            if (*bucket, *count) != (key, counts[row]) {
                return Err(format!("{key:?} with {} rows, true is {bucket:?} with {count}", counts[row]));
            }
            for (channel, values) in channels.iter().zip(values) {
                compare_values(batch, row, channel, values)
                    .map_err(|what| format!("{} of {key:?}, values {values:?}: {what}", channel.name))?;
            }
        }
    }
    wanted.next().map_or(Ok(()), |(bucket, _)| Err(format!("{bucket:?} is missing")))
}

fn compare_values(batch: &RecordBatch, row: usize, channel: &Channel, values: &Values) -> Result<(), String> {
    let column = |name: &str| batch.column_by_name(&format!("{}_{name}", channel.name));
    let number =
        |name: &str| column(name).filter(|c| c.is_valid(row)).map(|c| c.as_primitive::<Float64Type>().value(row));
    let time = |name: &str| {
        let column = column(name).filter(|c| c.is_valid(row));
        column.map(|c| c.as_primitive::<TimestampMillisecondType>().value(row))
    };
    let count = column("count").map(|c| c.as_primitive::<UInt64Type>().value(row));
    if count != Some(values.len() as u64) {
        return Err(format!("count is {count:?}"));
    }
    let exact = |name: &str, wanted: Option<f64>| match number(name) {
        found if found.map(f64::to_bits) == wanted.map(f64::to_bits) => Ok(()),
        found => Err(format!("{name} is {found:?}, true is {wanted:?}")),
    };
    let near = |name: &str, terms: &[f64]| {
        let wanted = (!values.is_empty()).then(|| terms.iter().sum::<f64>());
        let off = terms.iter().map(|term| term.abs()).sum::<f64>() * OFF;
        match (number(name), wanted) {
            (None, None) => Ok(()),
            (Some(found), Some(wanted)) if (found - wanted).abs() <= off || found == wanted => Ok(()),
            (found, wanted) => Err(format!("{name} is {found:?}, true is {wanted:?}")),
        }
    };
    let all: Vec<f64> = values.iter().map(|(_, value)| *value).collect();
    exact("min", all.iter().copied().reduce(f64::min))?;
    exact("max", all.iter().copied().reduce(f64::max))?;
    near("sum", &all)?;
    if column("first").is_none() {
        return Ok(());
    }
    near("sum_squares", &all.iter().map(|value| value * value).collect::<Vec<_>>())?;
    exact("first", all.first().copied())?;
    exact("last", all.last().copied())?;
    let times = (values.first().map(|(time, _)| *time), values.last().map(|(time, _)| *time));
    if (time("first_time"), time("last_time")) != times {
        return Err(format!("times are {:?} and {:?}", time("first_time"), time("last_time")));
    }
    let weights: Vec<f64> = values.windows(2).map(|pair| (pair[1].0 - pair[0].0).min(CAP_MS) as f64 / 1000.0).collect();
    let weighted = |term: fn(f64) -> f64| -> Vec<f64> {
        values.iter().zip(&weights).map(|((_, value), weight)| term(*value) * weight).collect()
    };
    near("weight", &weights)?;
    near("weighted_sum", &weighted(|value| value))?;
    if channel.unit == "Cel" {
        return near("weighted_mkt", &weighted(term));
    }
    number("weighted_mkt").map_or(Ok(()), |found| Err(format!("weighted_mkt is {found}")))
}

/// The term of the mean kinetic temperature.
fn term(celsius: f64) -> f64 {
    let kelvin = celsius + 273.15;
    if kelvin <= 0.0 { 0.0 } else { (10_000.0 / 273.15 - 10_000.0 / kelvin).exp() }
}
