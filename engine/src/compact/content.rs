//! What rows hold, as sums that do not depend on their order: so that what went into a merge can be compared with what
//! came out of it, without going through the merge.
//!
//! The values and the provenance are summed apart, because a merge may unite rows: then each value stays, in the merged
//! row or in a list beside it, and one provenance goes to that list. Each sum is two sums of hashes; if they agree, the
//! contents agree for every logger, but for a chance of one in 2^128. It is not made to withstand somebody who wants it
//! to fail; the bytes are authenticated.

use arrow::array::{Array as _, AsArray as _, Float64Array, RecordBatch};
use arrow::datatypes::{DataType, Float64Type, TimestampMillisecondType, UInt64Type};
use storage_format::segment::{FLUSH_COLUMN, channels_of};
use storage_format::{Channel, ChannelCode};

/// A sum of hashes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Sum([u64; 2]);

type Hash = [u64; 2];

/// Odd numbers without any structure.
const FACTORS: Hash = [0x9E37_79B9_7F4A_7C15, 0xC2B2_AE3D_27D4_EB4F];

fn mix(hash: u64, value: u64, factor: u64) -> u64 {
    let mixed = (hash.rotate_left(17) ^ value).wrapping_mul(factor);
    (mixed ^ (mixed >> 32)).wrapping_mul(factor.rotate_left(31) | 1)
}

fn with(hash: Hash, value: u64) -> Hash {
    [mix(hash[0], value, FACTORS[0]), mix(hash[1], value, FACTORS[1])]
}

fn all(values: &[u64]) -> Hash {
    values.iter().fold(FACTORS, |hash, value| with(hash, *value))
}

impl Sum {
    fn add(&mut self, hash: Hash) {
        for (sum, hash) in self.0.iter_mut().zip(hash) {
            *sum = sum.wrapping_add(hash);
        }
    }

    /// Both together.
    fn and(mut self, other: Self) -> Self {
        self.add(other.0);
        self
    }

    /// Returns this one without what was added to the other.
    fn without(self, other: Self) -> Self {
        Self([self.0[0].wrapping_sub(other.0[0]), self.0[1].wrapping_sub(other.0[1])])
    }
}

/// The readings that were added, in any order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Content {
    pub(super) rows: u64,
    /// Of (logger, time, channel, value).
    values: Sum,
    /// Of (logger, time, gateway, received, flush).
    origins: Sum,
}

/// The columns of a batch of readings.
struct Readings<'a> {
    loggers: &'a [u64],
    times: &'a [i64],
    channels: Vec<(u64, &'a Float64Array)>,
    gateways: &'a [u64],
    received: &'a [i64],
    flushes: Option<&'a [u64]>,
}

impl<'a> Readings<'a> {
    /// `batch` is of a schema of readings, with the column `flush` or without.
    fn of(batch: &'a RecordBatch) -> Self {
        let codes = channels_of(&batch.schema());
        let numbers = |index: usize| &batch.column(index).as_primitive::<UInt64Type>().values()[..];
        let times = |index: usize| &batch.column(index).as_primitive::<TimestampMillisecondType>().values()[..];
        let values = |(index, code): (usize, &ChannelCode)| {
            (u64::from(code.get()), batch.column(2 + index).as_primitive::<Float64Type>())
        };
        Self {
            loggers: numbers(0),
            times: times(1),
            channels: codes.iter().enumerate().map(values).collect(),
            gateways: numbers(2 + codes.len()),
            received: times(3 + codes.len()),
            flushes: batch.schema().index_of(FLUSH_COLUMN).ok().map(numbers),
        }
    }
}

impl Content {
    /// Adds readings; those of a batch without the column `flush` are of this one.
    pub(super) fn add(&mut self, batch: &RecordBatch, flush: u64) {
        let readings = Readings::of(batch);
        // The same logger has many rows in a row, and many of them came together.
        let (mut logger, mut of_logger) = (0, FACTORS);
        let (mut origin, mut of_origin) = ((0, 0, 0), FACTORS);
        for row in 0..batch.num_rows() {
            if logger != readings.loggers[row] {
                logger = readings.loggers[row];
                of_logger = all(&[logger]);
            }
            let flush = readings.flushes.map_or(flush, |flushes| flushes[row]);
            let here = (readings.gateways[row], readings.received[row], flush);
            if origin != here {
                origin = here;
                of_origin = all(&[here.0, here.1.cast_unsigned(), here.2]);
            }
            let key = with(of_logger, readings.times[row].cast_unsigned());
            self.origins.add([mix(key[0], of_origin[0], FACTORS[0]), mix(key[1], of_origin[1], FACTORS[1])]);
            for (code, values) in &readings.channels {
                if values.is_valid(row) {
                    self.values.add(with(with(key, *code), values.value(row).to_bits()));
                }
            }
        }
        self.rows += batch.num_rows() as u64;
    }

    /// What is left when these rows are united with others, and these samples of them dropped.
    pub(super) fn without(self, united: &Self, dropped: &Samples) -> Self {
        Self {
            rows: self.rows.wrapping_sub(united.rows),
            values: self.values.without(dropped.values),
            origins: self.origins.without(united.origins),
        }
    }
}

/// Samples with their flush and provenance, that were added in any order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Samples {
    pub(super) count: u64,
    /// Of (logger, time, channel, value), as in [`Content::values`].
    values: Sum,
    /// Of all that is known of each.
    whole: Sum,
}

impl Samples {
    fn sample(&mut self, (logger, time): (u64, i64), (code, value): (u64, f64), origin: (u64, u64, i64)) {
        let key = with(all(&[logger]), time.cast_unsigned());
        let sample = with(with(key, code), value.to_bits());
        let (flush, gateway, received) = origin;
        self.values.add(sample);
        self.whole.add(with(with(with(sample, gateway), received.cast_unsigned()), flush));
        self.count += 1;
    }

    /// Adds the samples of a batch of fills.
    pub(super) fn add(&mut self, fills: &RecordBatch) {
        let numbers = |index: usize| fills.column(index).as_primitive::<UInt64Type>().values();
        let times = |index: usize| fills.column(index).as_primitive::<TimestampMillisecondType>().values();
        let (loggers, flushes, gateways) = (numbers(0), numbers(4), numbers(5));
        let (keys, received) = (times(1), times(6));
        let (names, values) =
            (fills.column(2).as_string::<i32>(), fills.column(3).as_primitive::<Float64Type>().values());
        for row in 0..fills.num_rows() {
            let code = Channel::by_name(names.value(row)).map_or(0, |channel| u64::from(channel.code.get()));
            let origin = (flushes[row], gateways[row], received[row]);
            self.sample((loggers[row], keys[row]), (code, values[row]), origin);
        }
    }

    /// Adds every sample of readings; those of a batch without the column `flush` are of flush 0.
    pub(super) fn add_readings(&mut self, batch: &RecordBatch) {
        let readings = Readings::of(batch);
        for row in 0..batch.num_rows() {
            let flush = readings.flushes.map_or(0, |flushes| flushes[row]);
            let origin = (flush, readings.gateways[row], readings.received[row]);
            for (code, values) in readings.channels.iter().filter(|(_, values)| values.is_valid(row)) {
                self.sample((readings.loggers[row], readings.times[row]), (*code, values.value(row)), origin);
            }
        }
    }

    /// Both together.
    pub(super) fn and(self, other: Self) -> Self {
        Self {
            count: self.count + other.count,
            values: self.values.and(other.values),
            whole: self.whole.and(other.whole),
        }
    }
}

/// Rows of any columns of numbers, times and names, whole, that were added in any order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Rows {
    pub(super) rows: u64,
    sum: Sum,
}

impl Rows {
    /// Adds rows. Columns count by their place.
    pub(super) fn add(&mut self, batch: &RecordBatch) {
        let mut hashes = vec![FACTORS; batch.num_rows()];
        for column in batch.columns() {
            let mut each = |value: &dyn Fn(usize) -> u64| {
                hashes.iter_mut().enumerate().for_each(|(row, hash)| *hash = with(*hash, value(row)));
            };
            match column.data_type() {
                DataType::UInt64 => {
                    let values = column.as_primitive::<UInt64Type>().values();
                    each(&|row| values[row]);
                }
                DataType::Float64 => {
                    let values = column.as_primitive::<Float64Type>().values();
                    each(&|row| values[row].to_bits());
                }
                DataType::Utf8 => {
                    let names = column.as_string::<i32>();
                    each(&|row| names.value(row).bytes().fold(0, |hash, byte| mix(hash, byte.into(), FACTORS[0])));
                }
                _ => {
                    let values = column.as_primitive::<TimestampMillisecondType>().values();
                    each(&|row| values[row].cast_unsigned());
                }
            }
        }
        hashes.into_iter().for_each(|hash| self.sum.add(hash));
        self.rows += batch.num_rows() as u64;
    }
}

#[cfg(test)]
mod tests;
