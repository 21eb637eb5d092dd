//! From sorted readings to rows per logger and UTC hour, and per logger and UTC day, in one pass.
//!
//! Owns the bucket that is open of each kind, and the rows of closed buckets that were not taken yet: those of a logger
//! together. Does not own readings, nor how rows are stored.
//!
//! A zero is positive in all that comes out: in SQL there is only that one.

use std::sync::Arc;

use arrow::array::{
    Array as _, ArrayRef, AsArray as _, Float64Array, RecordBatch, TimestampMillisecondArray, UInt64Array,
};
use arrow::buffer::NullBuffer;
use arrow::datatypes::{DataType, Float64Type, TimestampMillisecondType, UInt64Type};
use storage_format::ChannelCode;
use storage_format::rollup::{Aggregate, RollupGrain, rollup_schema};

use super::mkt::MktTerms;
use super::sum::Sum;

/// Closed buckets after which rows are handed out, once a logger ends.
const BATCH_ROWS: usize = 8192;
const HOUR: i64 = RollupGrain::Hourly.bucket_ms();

/// What is known of a channel's values in a bucket. The last fields are of days only.
#[derive(Debug, Clone, Copy)]
struct Bucket {
    count: u64,
    min: f64,
    max: f64,
    sum: Sum,
    sum_squares: Sum,
    first: (i64, f64),
    last: (i64, f64),
    weight_ms: i64,
    weighted_sum: Sum,
    weighted_mkt: Sum,
}

const EMPTY: Bucket = Bucket {
    count: 0,
    min: f64::INFINITY,
    max: f64::NEG_INFINITY,
    sum: Sum::ZERO,
    sum_squares: Sum::ZERO,
    first: (0, 0.0),
    last: (0, 0.0),
    weight_ms: 0,
    weighted_sum: Sum::ZERO,
    weighted_mkt: Sum::ZERO,
};

/// One channel's open hour and day.
#[derive(Debug, Clone)]
struct Channel {
    name: &'static str,
    hour: Bucket,
    day: Bucket,
    /// Terms of the mean kinetic temperature, for temperatures.
    mkt: Option<MktTerms>,
}

impl Channel {
    #[inline]
    fn add(&mut self, time: i64, value: f64, cap_ms: i64) {
        // Adding zero turns -0.0 into 0.0.
        let value = value + 0.0;
        let (hour, day) = (&mut self.hour, &mut self.day);
        hour.count += 1;
        hour.min = hour.min.min(value);
        hour.max = hour.max.max(value);
        hour.sum.add(value);
        day.sum_squares.add_square(value);
        if day.count + hour.count == 1 {
            day.first = (time, value);
        } else {
            let (before, stood) = day.last;
            let weight_ms = (time - before).min(cap_ms);
            let seconds = weight_ms as f64 / 1000.0;
            day.weight_ms += weight_ms;
            day.weighted_sum.add_times(stood, seconds);
            if let Some(mkt) = &mut self.mkt {
                day.weighted_mkt.add_times(mkt.term(stood), seconds);
            }
        }
        day.last = (time, value);
    }

    fn close_hour(&mut self) -> Bucket {
        let (hour, day) = (std::mem::replace(&mut self.hour, EMPTY), &mut self.day);
        day.count += hour.count;
        day.min = day.min.min(hour.min);
        day.max = day.max.max(hour.max);
        day.sum.merge(&hour.sum);
        hour
    }
}

/// Rows of closed buckets, column by column.
#[derive(Debug)]
struct Rows {
    grain: RollupGrain,
    loggers: Vec<u64>,
    buckets: Vec<i64>,
    rows: Vec<u64>,
    /// Of each channel, the buckets.
    channels: Vec<Vec<Bucket>>,
}

impl Rows {
    fn new(grain: RollupGrain, channels: usize) -> Self {
        let (loggers, buckets, rows) = (Vec::new(), Vec::new(), Vec::new());
        Self { grain, loggers, buckets, rows, channels: vec![Vec::new(); channels] }
    }

    fn add(&mut self, (logger, bucket): (u64, i64), rows: u64) {
        self.loggers.push(logger);
        self.buckets.push(bucket);
        self.rows.push(rows);
    }

    fn take(&mut self, codes: &[ChannelCode], with_mkt: &[bool]) -> Option<RecordBatch> {
        if self.rows.is_empty() {
            return None;
        }
        let mut columns: Vec<ArrayRef> = vec![
            Arc::new(UInt64Array::from(std::mem::take(&mut self.loggers))),
            Arc::new(TimestampMillisecondArray::from(std::mem::take(&mut self.buckets)).with_timezone("UTC")),
            Arc::new(UInt64Array::from(std::mem::take(&mut self.rows))),
        ];
        for (channel, with_mkt) in self.channels.iter_mut().zip(with_mkt) {
            let buckets = std::mem::take(channel);
            let nulls = buckets.iter().any(|bucket| bucket.count == 0);
            let nulls = nulls.then(|| buckets.iter().map(|bucket| bucket.count > 0).collect::<NullBuffer>());
            columns.extend(Aggregate::of(self.grain).iter().map(|of| column(*of, &buckets, nulls.as_ref(), *with_mkt)));
        }
        let schema = rollup_schema(self.grain, codes);
        Some(RecordBatch::try_new(schema, columns).expect("columns of one length, with the types of the schema"))
    }
}

fn column(of: Aggregate, buckets: &[Bucket], nulls: Option<&NullBuffer>, with_mkt: bool) -> ArrayRef {
    let doubles = |value: fn(&Bucket) -> f64| -> ArrayRef {
        let values: Vec<f64> = buckets.iter().map(value).collect();
        Arc::new(Float64Array::new(values.into(), nulls.cloned()))
    };
    let times = |time: fn(&Bucket) -> i64| -> ArrayRef {
        let times: Vec<i64> = buckets.iter().map(time).collect();
        Arc::new(TimestampMillisecondArray::new(times.into(), nulls.cloned()).with_timezone("UTC"))
    };
    match of {
        Aggregate::Count => Arc::new(buckets.iter().map(|bucket| bucket.count).collect::<UInt64Array>()),
        Aggregate::Min => doubles(|bucket| bucket.min),
        Aggregate::Max => doubles(|bucket| bucket.max),
        Aggregate::Sum => doubles(|bucket| bucket.sum.value()),
        Aggregate::SumSquares => doubles(|bucket| bucket.sum_squares.value()),
        Aggregate::First => doubles(|bucket| bucket.first.1),
        Aggregate::Last => doubles(|bucket| bucket.last.1),
        Aggregate::FirstTime => times(|bucket| bucket.first.0),
        Aggregate::LastTime => times(|bucket| bucket.last.0),
        Aggregate::Weight => doubles(|bucket| bucket.weight_ms as f64 / 1000.0),
        Aggregate::WeightedSum => doubles(|bucket| bucket.weighted_sum.value()),
        Aggregate::WeightedMkt if !with_mkt => arrow::array::new_null_array(&DataType::Float64, buckets.len()),
        Aggregate::WeightedMkt => doubles(|bucket| bucket.weighted_mkt.value()),
    }
}

/// Builder of the rollups of one segment.
#[derive(Debug)]
pub(crate) struct RollupBuilder {
    codes: Vec<ChannelCode>,
    channels: Vec<Channel>,
    cap_ms: i64,
    /// Logger and start of the open hour, and its readings so far.
    hour: Option<(u64, i64)>,
    hour_rows: u64,
    day_rows: u64,
    hours: Rows,
    days: Rows,
    ready: Vec<(RollupGrain, RecordBatch)>,
}

impl RollupBuilder {
    /// A builder for readings with these channels, which a value stands for at most 2.5 times the interval.
    pub(crate) fn new(codes: &[ChannelCode], interval_s: u32) -> Self {
        let channel = |code: &ChannelCode| {
            let channel = code.channel().expect("the decoders reject unknown channels");
            let mkt = (channel.unit == "Cel").then(MktTerms::new);
            Channel { name: channel.name, hour: EMPTY, day: EMPTY, mkt }
        };
        Self {
            codes: codes.to_vec(),
            channels: codes.iter().map(channel).collect(),
            cap_ms: i64::from(interval_s) * 2500,
            hour: None,
            hour_rows: 0,
            day_rows: 0,
            hours: Rows::new(RollupGrain::Hourly, codes.len()),
            days: Rows::new(RollupGrain::Daily, codes.len()),
            ready: Vec::new(),
        }
    }

    /// Adds readings, which follow those before in the order of (logger, time). Columns of channels may be missing.
    pub(crate) fn push(&mut self, batch: &RecordBatch) {
        let loggers = batch.column(0).as_primitive::<UInt64Type>().values();
        let times = batch.column(1).as_primitive::<TimestampMillisecondType>().values();
        let column = |channel: &Channel| batch.column_by_name(channel.name).map(|c| c.as_primitive::<Float64Type>());
        let columns: Vec<Option<&Float64Array>> = self.channels.iter().map(column).collect();
        let mut start = 0;
        while start < times.len() {
            let bucket = (loggers[start], RollupGrain::Hourly.floor(times[start]));
            if self.hour != Some(bucket) {
                self.move_to(bucket);
            }
            let rows = loggers[start..].iter().zip(&times[start..]);
            let end =
                start + rows.take_while(|(logger, time)| **logger == bucket.0 && **time < bucket.1 + HOUR).count();
            self.hour_rows += (end - start) as u64;
            for (channel, column) in self.channels.iter_mut().zip(&columns) {
                let Some(column) = column else { continue };
                let rows = times[start..end].iter().zip(&column.values()[start..end]);
                if column.null_count() == 0 {
                    rows.for_each(|(time, value)| channel.add(*time, *value, self.cap_ms));
                } else {
                    for (_, (time, value)) in (start..end).zip(rows).filter(|(row, _)| column.is_valid(*row)) {
                        channel.add(*time, *value, self.cap_ms);
                    }
                }
            }
            start = end;
        }
    }

    /// Returns rows of closed buckets, with all of a logger's together. Call it after each [`push`](Self::push).
    pub(crate) fn take_ready(&mut self) -> Vec<(RollupGrain, RecordBatch)> {
        std::mem::take(&mut self.ready)
    }

    /// Closes the open buckets and returns all rows that are left.
    pub(crate) fn finish(mut self) -> Vec<(RollupGrain, RecordBatch)> {
        self.close_day();
        self.hand_out();
        self.ready
    }

    fn move_to(&mut self, (logger, hour): (u64, i64)) {
        if let Some((old_logger, old_hour)) = self.hour {
            if old_logger != logger || RollupGrain::Daily.floor(old_hour) != RollupGrain::Daily.floor(hour) {
                self.close_day();
            } else {
                self.close_hour();
            }
            if old_logger != logger && self.hours.rows.len() >= BATCH_ROWS {
                self.hand_out();
            }
        }
        self.hour = Some((logger, hour));
    }

    fn close_hour(&mut self) {
        let Some((logger, hour)) = self.hour else { return };
        let rows = std::mem::take(&mut self.hour_rows);
        self.day_rows += rows;
        self.hours.add((logger, hour), rows);
        for (channel, closed) in self.channels.iter_mut().zip(&mut self.hours.channels) {
            closed.push(channel.close_hour());
        }
    }

    fn close_day(&mut self) {
        self.close_hour();
        let Some((logger, hour)) = self.hour else { return };
        self.days.add((logger, RollupGrain::Daily.floor(hour)), std::mem::take(&mut self.day_rows));
        for (channel, closed) in self.channels.iter_mut().zip(&mut self.days.channels) {
            closed.push(std::mem::replace(&mut channel.day, EMPTY));
        }
    }

    fn hand_out(&mut self) {
        let with_mkt: Vec<bool> = self.channels.iter().map(|channel| channel.mkt.is_some()).collect();
        for rows in [&mut self.hours, &mut self.days] {
            let grain = rows.grain;
            self.ready.extend(rows.take(&self.codes, &with_mkt).map(|batch| (grain, batch)));
        }
    }
}
