//! Rows as they are in memory to rows as they are stored.

use std::ops::Range;
use std::sync::Arc;

use arrow::array::{
    Array as _, ArrayRef, AsArray as _, Float64Array, Float64Builder, Int64Array, Int64Builder, RecordBatch,
};
use arrow::datatypes::{Float64Type, TimestampMillisecondType, UInt64Type};

use super::schema::{Stored, stored_schema};
use super::unit::{Run, Unit};
use super::{Aggregate, RollupGrain};
use crate::ChannelCode;

/// Largest distance of a stored sum from the sum, relative to the sum of the absolute values.
const SUM_OFF: f64 = 1.0 / (1_u64 << 50) as f64;

/// The columns of one channel of a batch in memory.
pub(super) struct ChannelColumns<'a> {
    pub(super) counts: &'a [u64],
    columns: Vec<(Aggregate, &'a ArrayRef)>,
}

impl<'a> ChannelColumns<'a> {
    /// The columns of the channel at this place of the schema's channels.
    pub(super) fn new(batch: &'a RecordBatch, grain: RollupGrain, place: usize) -> Self {
        let aggregates = Aggregate::of(grain);
        let first = 3 + place * aggregates.len();
        let columns = (first..).zip(aggregates).map(|(index, &aggregate)| (aggregate, batch.column(index))).collect();
        Self { counts: batch.column(first).as_primitive::<UInt64Type>().values(), columns }
    }

    pub(super) fn column(&self, aggregate: Aggregate) -> &'a ArrayRef {
        let found = self.columns.iter().find(|(of, _)| *of == aggregate);
        found.map(|(_, column)| *column).expect("the caller asks for columns of this grain")
    }

    pub(super) fn doubles(&self, aggregate: Aggregate) -> &'a Float64Array {
        self.column(aggregate).as_primitive::<Float64Type>()
    }

    pub(super) fn times(&self, aggregate: Aggregate) -> &'a [i64] {
        self.column(aggregate).as_primitive::<TimestampMillisecondType>().values()
    }

    /// Returns whether all columns but the count are NULL in exactly the rows without values; terms of the mean kinetic
    /// temperature in all rows, if the channel has none.
    pub(super) fn is_null_where_empty(&self, has_mkt: bool) -> bool {
        self.columns.iter().filter(|(aggregate, _)| *aggregate != Aggregate::Count).all(|(aggregate, column)| {
            let wanted = |count: u64| count > 0 && (*aggregate != Aggregate::WeightedMkt || has_mkt);
            self.counts.iter().enumerate().all(|(row, count)| column.is_valid(row) == wanted(*count))
        })
    }
}

/// Returns whether all sums are as near as the format promises.
pub(super) fn sums_agree(given: &ChannelColumns<'_>, found: &ChannelColumns<'_>) -> bool {
    let [min, max, sum] = [Aggregate::Min, Aggregate::Max, Aggregate::Sum].map(|of| given.doubles(of).values());
    let found = found.doubles(Aggregate::Sum).values();
    let mut filled = (0..sum.len()).filter(|row| given.counts[*row] > 0);
    // An infinite sum is as far from itself as from any other: the same bits are near enough.
    let near = |row: usize| (sum[row] - found[row]).abs() <= off_max(min[row], max[row], sum[row]);
    filled.all(|row| sum[row].to_bits() == found[row].to_bits() && !sum[row].is_nan() || near(row))
}

/// Returns how far a stored sum may be off: the sum of the absolute values is at least what is taken for it here.
fn off_max(min: f64, max: f64, sum: f64) -> f64 {
    // Of values with both signs, the smaller side adds twice to the absolute values, compared with the sum.
    let other_side = if min >= 0.0 || max <= 0.0 {
        0.0
    } else if sum >= 0.0 {
        -min
    } else {
        max
    };
    (sum.abs() + 2.0 * other_side) * SUM_OFF
}

/// Returns the half of what a sum is expected to be above `count` times the smallest value.
fn expected(count: u64, range: i64) -> i64 {
    count.cast_signed().wrapping_mul(range) >> 1
}

/// Returns the sum that a stored one is relative to. Wraps, as decoding does.
pub(super) fn sum_base(count: u64, min: i64, range: i64) -> i64 {
    count.cast_signed().wrapping_mul(min).wrapping_add(expected(count, range))
}

/// A small number of either sign as a small one without: else all bytes of a small number would differ with its sign.
const fn zigzag(number: i64) -> i64 {
    (number << 1) ^ (number >> 63)
}

/// Undoes [`zigzag`].
pub(super) const fn unzigzag(number: i64) -> i64 {
    (number.cast_unsigned() >> 1).cast_signed() ^ -(number & 1)
}

#[derive(Default)]
struct Packed {
    columns: Vec<(Stored, Int64Builder)>,
    doubles: Vec<(Stored, Float64Builder)>,
}

impl Packed {
    fn put(&mut self, stored: Stored, value: Option<i64>) {
        if let Some((_, builder)) = self.columns.iter_mut().find(|(of, _)| *of == stored) {
            builder.append_option(value);
        }
    }

    fn put_double(&mut self, stored: Stored, value: Option<f64>) {
        if let Some((_, builder)) = self.doubles.iter_mut().find(|(of, _)| *of == stored) {
            builder.append_option(value);
        }
    }

    fn finish(&mut self, stored: Stored) -> ArrayRef {
        if let Some((_, builder)) = self.columns.iter_mut().find(|(of, _)| *of == stored) {
            return Arc::new(builder.finish());
        }
        let found = self.doubles.iter_mut().find(|(of, _)| *of == stored);
        Arc::new(found.map(|(_, builder)| builder.finish()).expect("a builder for each stored column"))
    }
}

/// Packs rows of the schema in memory, which must be sorted.
pub(super) fn pack(grain: RollupGrain, channels: &[ChannelCode], batch: &RecordBatch) -> RecordBatch {
    let loggers = batch.column(0).as_primitive::<UInt64Type>().values();
    let buckets = batch.column(1).as_primitive::<TimestampMillisecondType>().values();
    let rows = batch.column(2).as_primitive::<UInt64Type>().values();
    let all: Vec<_> = (0..channels.len()).map(|place| ChannelColumns::new(batch, grain, place)).collect();
    let mut columns: Vec<ArrayRef> = batch.columns()[..3].to_vec();
    let edges = (grain == RollupGrain::Daily).then(|| edges(grain, buckets, &all));
    if let Some((first, last)) = &edges {
        columns.push(Arc::new(Int64Array::from(first.clone())));
        columns.push(Arc::new(Int64Array::from(last.clone())));
    }
    for (&code, channel) in channels.iter().zip(&all) {
        let mut packed = Packed::default();
        for stored in Stored::of(grain, code) {
            if stored.is_double() {
                packed.doubles.push((stored, Float64Builder::with_capacity(rows.len())));
            } else {
                packed.columns.push((stored, Int64Builder::with_capacity(rows.len())));
            }
        }
        let mut start = 0;
        while start < rows.len() {
            let end = start + loggers[start..].iter().take_while(|logger| **logger == loggers[start]).count();
            let unit = unit_of(grain, channel, start..end);
            for row in start..end {
                put_row(&mut packed, unit, channel, row, rows[row]);
                if let Some((first, last)) = &edges {
                    let edges = (first[row], last[row]);
                    put_day(&mut packed, unit, channel, row, (grain.bucket_ms(), buckets[row]), edges);
                }
            }
            start = end;
        }
        columns.extend(Stored::of(grain, code).map(|stored| packed.finish(stored)));
    }
    RecordBatch::try_new(stored_schema(grain, channels), columns).expect("columns of one length and of these types")
}

/// Time of the first reading after the bucket's start, and of the last one before its end.
fn edges(grain: RollupGrain, buckets: &[i64], all: &[ChannelColumns<'_>]) -> (Vec<i64>, Vec<i64>) {
    let (mut first_after, mut last_before) = (vec![i64::MAX; buckets.len()], vec![i64::MAX; buckets.len()]);
    for channel in all {
        let (firsts, lasts) = (channel.times(Aggregate::FirstTime), channel.times(Aggregate::LastTime));
        for (row, bucket) in buckets.iter().enumerate().filter(|(row, _)| channel.counts[*row] > 0) {
            first_after[row] = first_after[row].min(firsts[row] - bucket);
            last_before[row] = last_before[row].min(bucket + grain.bucket_ms() - lasts[row]);
        }
    }
    (first_after, last_before)
}

fn unit_of(grain: RollupGrain, channel: &ChannelColumns<'_>, run: Range<usize>) -> Unit {
    let of: &[Aggregate] = match grain {
        RollupGrain::Hourly => &[Aggregate::Min, Aggregate::Max],
        RollupGrain::Daily => &[Aggregate::Min, Aggregate::Max, Aggregate::First, Aggregate::Last],
    };
    let filled = || run.clone().filter(|row| channel.counts[*row] > 0);
    let values: Vec<f64> = of
        .iter()
        .flat_map(|&aggregate| {
            let column = channel.doubles(aggregate).values();
            filled().map(move |row| column[row])
        })
        .collect();
    let [min, max, sum] = [Aggregate::Min, Aggregate::Max, Aggregate::Sum].map(|of| channel.doubles(of).values());
    let sums: Vec<(f64, f64)> = filled().map(|row| (sum[row], off_max(min[row], max[row], sum[row]))).collect();
    Unit::of(&Run { values: &values, sums: &sums })
}

fn put_row(packed: &mut Packed, unit: Unit, channel: &ChannelColumns<'_>, row: usize, rows: u64) {
    let count = channel.counts[row];
    packed.put(Stored::Missing, Some(rows.cast_signed().wrapping_sub(count.cast_signed())));
    packed.put(Stored::Unit, Some(unit.code()));
    let double = |aggregate| channel.doubles(aggregate).value(row);
    let numbers = (count > 0).then(|| {
        let (min, max) = (unit.number(double(Aggregate::Min)), unit.number(double(Aggregate::Max)));
        let range = if unit.has_steps() { max - min } else { max };
        let sum = unit.sum_number(double(Aggregate::Sum));
        let steps = unit.has_sum_steps();
        (min, range, if steps { zigzag(sum.wrapping_sub(sum_base(count, min, range))) } else { sum })
    });
    packed.put(Stored::Min, numbers.map(|(min, _, _)| min));
    packed.put(Stored::Range, numbers.map(|(_, range, _)| range));
    packed.put(Stored::Sum, numbers.map(|(_, _, sum)| sum));
}

fn put_day(
    packed: &mut Packed,
    unit: Unit,
    channel: &ChannelColumns<'_>,
    row: usize,
    (bucket_ms, bucket): (i64, i64),
    (first_after, last_before): (i64, i64),
) {
    let filled = channel.counts[row] > 0;
    let double = |aggregate| filled.then(|| channel.doubles(aggregate).value(row));
    let min = if unit.has_steps() { double(Aggregate::Min).map_or(0, |min| unit.number(min)) } else { 0 };
    packed.put(Stored::First, double(Aggregate::First).map(|first| unit.number(first) - min));
    packed.put(Stored::Last, double(Aggregate::Last).map(|last| unit.number(last) - min));
    let times = filled.then(|| (channel.times(Aggregate::FirstTime)[row], channel.times(Aggregate::LastTime)[row]));
    packed.put(Stored::FirstAfter, times.map(|(first, _)| first - bucket - first_after));
    packed.put(Stored::LastBefore, times.map(|(_, last)| bucket + bucket_ms - last - last_before));
    #[allow(clippy::cast_possible_truncation, reason = "milliseconds of one day")]
    let weight = double(Aggregate::Weight).map(|seconds| (seconds * 1000.0).round() as i64);
    packed.put(Stored::WeightLess, times.zip(weight).map(|((first, last), weight)| last - first - weight));
    packed.put_double(Stored::SumSquares, double(Aggregate::SumSquares));
    packed.put_double(Stored::WeightedSum, double(Aggregate::WeightedSum));
    packed.put_double(Stored::WeightedMkt, double(Aggregate::WeightedMkt));
}
