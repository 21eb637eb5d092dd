//! Rows as they are stored to rows as they are in memory.

use std::sync::Arc;

use arrow::array::{
    ArrayRef, AsArray as _, Float64Array, Int64Array, RecordBatch, TimestampMillisecondArray, UInt64Array,
    new_null_array,
};
use arrow::buffer::NullBuffer;
use arrow::datatypes::{Float64Type, Int64Type, TimestampMillisecondType, UInt64Type};

use super::pack::{sum_base, unzigzag};
use super::schema::{EDGES, Stored};
use super::unit::{Scale, Unit};
use super::{Aggregate, RollupGrain, rollup_schema};
use crate::{ChannelCode, FileKind, FormatError, FormatErrorKind};

fn damaged(detail: impl Into<String>) -> FormatError {
    FormatError::new(FileKind::Segment, FormatErrorKind::Invalid, 0, detail)
}

fn numbers<'a>(batch: &'a RecordBatch, name: &str) -> Result<&'a Int64Array, FormatError> {
    let column = batch.column_by_name(name).and_then(|column| column.as_primitive_opt::<Int64Type>());
    column.ok_or_else(|| damaged(format!("the rollup has no column {name} of whole numbers")))
}

/// Milliseconds of a day as seconds.
fn seconds(ms: i64) -> f64 {
    ms as f64 / 1000.0
}

/// One channel's columns at rest, with the units of its rows looked up.
struct Channel<'a> {
    batch: &'a RecordBatch,
    code: ChannelCode,
    counts: Vec<u64>,
    /// NULL where there are no values.
    nulls: Option<NullBuffer>,
    /// The unit from each of these rows on.
    scales: Vec<(usize, Scale, Unit)>,
}

impl<'a> Channel<'a> {
    fn new(batch: &'a RecordBatch, code: ChannelCode, rows: &[u64]) -> Result<Self, FormatError> {
        let missing = numbers(batch, &Stored::Missing.column(code))?.values();
        let units = numbers(batch, &Stored::Unit.column(code))?.values();
        let count = |(row, missing): (usize, &i64)| {
            let count = u64::try_from(*missing).ok().and_then(|missing| rows[row].checked_sub(missing));
            count.ok_or_else(|| damaged(format!("{missing} of {} rows have no {code}", rows[row])))
        };
        let counts = missing.iter().enumerate().map(count).collect::<Result<Vec<u64>, _>>()?;
        let empty = counts.contains(&0);
        let nulls = empty.then(|| counts.iter().map(|count| *count > 0).collect::<NullBuffer>());
        let (mut scales, mut row) = (Vec::new(), 0);
        while row < units.len() {
            let unit = Unit::from_code(units[row]);
            let unit = unit.ok_or_else(|| damaged(format!("{} is no unit of {code}", units[row])))?;
            scales.push((row, unit.scale(), unit));
            row += units[row..].iter().take_while(|code| **code == units[row]).count();
        }
        Ok(Self { batch, code, counts, nulls, scales })
    }

    fn numbers(&self, stored: Stored) -> Result<&'a [i64], FormatError> {
        Ok(numbers(self.batch, &stored.column(self.code))?.values())
    }

    /// The values of all rows, from the function that is told the unit's and the row.
    fn doubles(&self, value: impl Fn(Scale, Unit, usize) -> f64) -> ArrayRef {
        let mut values = Vec::with_capacity(self.counts.len());
        for (place, &(start, scale, unit)) in self.scales.iter().enumerate() {
            let end = self.scales.get(place + 1).map_or(self.counts.len(), |(next, _, _)| *next);
            values.extend((start..end).map(|row| value(scale, unit, row)));
        }
        Arc::new(Float64Array::new(values.into(), self.nulls.clone()))
    }

    fn stored_doubles(&self, stored: Stored) -> Result<ArrayRef, FormatError> {
        let name = stored.column(self.code);
        let column = self.batch.column_by_name(&name).and_then(|column| column.as_primitive_opt::<Float64Type>());
        let column = column.ok_or_else(|| damaged(format!("the rollup has no column {name} of doubles")))?;
        Ok(Arc::new(Float64Array::new(column.values().clone(), self.nulls.clone())))
    }

    fn times(&self, time: impl Fn(usize) -> i64) -> ArrayRef {
        let times: Vec<i64> = (0..self.counts.len()).map(time).collect();
        Arc::new(TimestampMillisecondArray::new(times.into(), self.nulls.clone()).with_timezone("UTC"))
    }
}

/// Decodes rows at rest: a batch that has at least the columns of [`stored_schema`](super::stored_schema) of these
/// channels, but for channels that the object has not at all. Of such a channel there are no values.
///
/// # Errors
/// [`FormatError`] when the rows cannot have been written by the encoder.
pub fn decode_rollup(
    grain: RollupGrain,
    channels: &[ChannelCode],
    batch: &RecordBatch,
) -> Result<RecordBatch, FormatError> {
    let schema = rollup_schema(grain, channels);
    let keys = ["logger", "bucket", "rows"].map(|name| batch.column_by_name(name).cloned());
    let [Some(logger), Some(bucket), Some(rows)] = keys else { return Err(damaged("the rollup has no keys")) };
    let (Some(row_counts), Some(buckets)) =
        (rows.as_primitive_opt::<UInt64Type>(), bucket.as_primitive_opt::<TimestampMillisecondType>())
    else {
        return Err(damaged("the rollup's keys have other types"));
    };
    let (row_counts, buckets) = (row_counts.values().clone(), buckets.values().clone());
    let mut columns = vec![logger, bucket, rows];
    for &code in channels {
        if batch.column_by_name(&Stored::Missing.column(code)).is_none() {
            let empty: ArrayRef = Arc::new(UInt64Array::from_value(0, batch.num_rows()));
            let nulls = Aggregate::of(grain).iter().skip(1);
            let nulls = nulls.map(|aggregate| new_null_array(&aggregate.data_type(), batch.num_rows()));
            columns.push(empty);
            columns.extend(nulls);
            continue;
        }
        let channel = Channel::new(batch, code, &row_counts)?;
        columns.extend(common(&channel)?);
        if grain == RollupGrain::Daily {
            columns.extend(daily(&channel, &buckets)?);
        }
    }
    RecordBatch::try_new(schema, columns).map_err(|error| damaged(error.to_string()))
}

fn common(channel: &Channel<'_>) -> Result<[ArrayRef; 4], FormatError> {
    let [min, range, sum] = [Stored::Min, Stored::Range, Stored::Sum].map(|stored| channel.numbers(stored));
    let (min, range, sum, counts) = (min?, range?, sum?, &channel.counts);
    let max = |unit: Unit, row: usize| if unit.has_steps() { min[row].wrapping_add(range[row]) } else { range[row] };
    Ok([
        Arc::new(UInt64Array::from(counts.clone())),
        channel.doubles(|scale, _, row| scale.value(min[row])),
        channel.doubles(|scale, unit, row| scale.value(max(unit, row))),
        channel.doubles(|scale, unit, row| match unit.has_sum_steps() {
            true => scale.sum(unzigzag(sum[row]).wrapping_add(sum_base(counts[row], min[row], range[row]))),
            false => scale.sum(sum[row]),
        }),
    ])
}

fn daily(channel: &Channel<'_>, buckets: &[i64]) -> Result<Vec<ArrayRef>, FormatError> {
    let day = RollupGrain::Daily.bucket_ms();
    let [first_after, last_before] = EDGES.map(|name| numbers(channel.batch, name));
    let (first_after, last_before) = (first_after?.values(), last_before?.values());
    let min = channel.numbers(Stored::Min)?;
    let (first, last) = (channel.numbers(Stored::First)?, channel.numbers(Stored::Last)?);
    let (after, before) = (channel.numbers(Stored::FirstAfter)?, channel.numbers(Stored::LastBefore)?);
    let less = channel.numbers(Stored::WeightLess)?;
    let base = |unit: Unit, row: usize| if unit.has_steps() { min[row] } else { 0 };
    let first_time = |row: usize| buckets[row].wrapping_add(first_after[row]).wrapping_add(after[row]);
    let last_time =
        |row: usize| buckets[row].wrapping_add(day).wrapping_sub(last_before[row]).wrapping_sub(before[row]);
    let weight = |row: usize| last_time(row).wrapping_sub(first_time(row)).wrapping_sub(less[row]);
    let mkt = match Stored::of(RollupGrain::Daily, channel.code).any(|stored| stored == Stored::WeightedMkt) {
        true => channel.stored_doubles(Stored::WeightedMkt)?,
        false => new_null_array(&Aggregate::WeightedMkt.data_type(), buckets.len()),
    };
    Ok(vec![
        channel.stored_doubles(Stored::SumSquares)?,
        channel.doubles(|scale, unit, row| scale.value(first[row].wrapping_add(base(unit, row)))),
        channel.doubles(|scale, unit, row| scale.value(last[row].wrapping_add(base(unit, row)))),
        channel.times(first_time),
        channel.times(last_time),
        channel.doubles(|_, _, row| seconds(weight(row))),
        channel.stored_doubles(Stored::WeightedSum)?,
        mkt,
    ])
}
