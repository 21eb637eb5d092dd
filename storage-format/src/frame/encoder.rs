//! Encodes sorted readings as a frame. Allocates per frame, never per reading.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::{
    HEADER_BYTES, MAGIC, POWERS_OF_TEN, TAG_ABSENT, TAG_RAW, TAG_RAW_SOME, TAG_SCALED, TAG_SCALED_SOME, TRAILER_BYTES,
    VERSION,
};
use crate::checksum::crc32c;
use crate::coding::{put_varint, zigzag};
use crate::{ChannelCode, FrameSequence, LoggerId, SpoolId};

/// Upper limit of the mantissas that are written. A mantissa is found by multiplication, whose error is a few units in
/// the last place; below this limit the result still rounds to the nearest integer.
const WRITTEN_MANTISSA_MAX: f64 = (1_u64 << 50) as f64;

/// Encodes a frame. The builder has checked everything: at least one reading, limits kept, one value per row in each
/// column.
pub(super) fn encode(
    spool: SpoolId,
    sequence: FrameSequence,
    readings: usize,
    loggers: &BTreeMap<LoggerId, Vec<(i64, u32)>>,
    columns: &[(ChannelCode, Vec<f64>)],
) -> Bytes {
    let mut out = begin(spool, sequence, readings, loggers.len(), columns.iter().map(|(code, _)| *code));
    let mut run = Vec::new();
    let mut present = Vec::new();
    let mut mantissas = Vec::new();
    for (logger, rows) in loggers {
        put_run_head(&mut out, *logger, rows.len());
        put_times(&mut out, rows.iter().map(|&(time, _)| time));
        for (_, column) in columns {
            run.clear();
            run.extend(rows.iter().map(|&(_, row)| column[row as usize]));
            put_values(&mut out, &run, &mut present, &mut mantissas);
        }
    }
    finish(out)
}

/// Begins a frame: its header and its channels.
pub(super) fn begin(
    spool: SpoolId,
    sequence: FrameSequence,
    readings: usize,
    loggers: usize,
    channels: impl ExactSizeIterator<Item = ChannelCode>,
) -> Vec<u8> {
    let count = |value: usize| u32::try_from(value).expect("bounded by whoever has the readings");
    let mut out = Vec::with_capacity(HEADER_BYTES + loggers * 24 + readings * (2 + 2 * channels.len()) + 64);
    out.extend_from_slice(&MAGIC);
    out.extend_from_slice(&VERSION.to_le_bytes());
    out.extend_from_slice(&[0; 2]);
    out.extend_from_slice(&spool.get().to_le_bytes());
    out.extend_from_slice(&sequence.get().to_le_bytes());
    out.extend_from_slice(&count(readings).to_le_bytes());
    out.extend_from_slice(&count(loggers).to_le_bytes());
    out.extend_from_slice(&u16::try_from(channels.len()).expect("a registry's number of channels").to_le_bytes());
    out.extend_from_slice(&[0; 2]);
    debug_assert_eq!(out.len(), HEADER_BYTES);
    for code in channels {
        out.extend_from_slice(&code.get().to_le_bytes());
    }
    out
}

/// Begins the run of a logger with this number of readings.
pub(super) fn put_run_head(out: &mut Vec<u8>, logger: LoggerId, readings: usize) {
    out.extend_from_slice(&logger.get().to_le_bytes());
    put_varint(out, readings as u64);
}

/// Ends a frame.
pub(super) fn finish(mut out: Vec<u8>) -> Bytes {
    let checksum = crc32c(&out);
    out.extend_from_slice(&checksum.to_le_bytes());
    debug_assert!(out.len() >= HEADER_BYTES + TRAILER_BYTES);
    Bytes::from(out)
}

pub(super) fn put_times(out: &mut Vec<u8>, mut times: impl Iterator<Item = i64>) {
    let Some(first) = times.next() else { return };
    out.extend_from_slice(&first.to_le_bytes());
    let (mut previous, mut previous_delta) = (first, 0);
    for time in times {
        // What is no time of a reading is refused by whoever decodes the frame.
        let delta = time.wrapping_sub(previous);
        put_varint(out, zigzag(delta.wrapping_sub(previous_delta)));
        previous = time;
        previous_delta = delta;
    }
}

/// Appends one logger's values of one channel, NaN where not measured. `present` and `mantissas` are scratch buffers.
pub(super) fn put_values(out: &mut Vec<u8>, run: &[f64], present: &mut Vec<f64>, mantissas: &mut Vec<i64>) {
    present.clear();
    present.extend(run.iter().copied().filter(|value| !value.is_nan()));
    if present.is_empty() {
        out.push(TAG_ABSENT);
        return;
    }
    let all = present.len() == run.len();
    let exponent = scaled(present, mantissas);
    out.push(match (exponent.is_some(), all) {
        (true, true) => TAG_SCALED,
        (true, false) => TAG_SCALED_SOME,
        (false, true) => TAG_RAW,
        (false, false) => TAG_RAW_SOME,
    });
    if !all {
        put_bitmap(out, run);
    }
    match exponent {
        Some(exponent) => {
            out.push(exponent);
            let mut previous = 0;
            for &mantissa in &*mantissas {
                put_varint(out, zigzag(mantissa - previous));
                previous = mantissa;
            }
        }
        None => present.iter().for_each(|value| out.extend_from_slice(&value.to_le_bytes())),
    }
}

fn put_bitmap(out: &mut Vec<u8>, run: &[f64]) {
    for eight in run.chunks(8) {
        out.push(eight.iter().enumerate().fold(0, |byte, (bit, value)| byte | u8::from(!value.is_nan()) << bit));
    }
}

/// Finds the smallest exponent at which every value is an integer mantissa, and fills in `mantissas`. Returns `None`
/// when there is no such exponent: the values must then be written raw.
fn scaled(values: &[f64], mantissas: &mut Vec<i64>) -> Option<u8> {
    let mut exponent = 0_u8;
    // A value that is exact with some exponent is exact with every larger one as long as its mantissa stays small.
    // Therefore the largest of the values' smallest exponents serves all of them; the second pass verifies that.
    for &value in values {
        while mantissa(value, exponent).is_none() {
            exponent += 1;
            POWERS_OF_TEN.get(usize::from(exponent))?;
        }
    }
    mantissas.clear();
    for &value in values {
        mantissas.push(mantissa(value, exponent)?);
    }
    Some(exponent)
}

/// Returns the integer that, divided by the power of ten, gives exactly the bits of `value`. Minus zero has none.
fn mantissa(value: f64, exponent: u8) -> Option<i64> {
    let power = POWERS_OF_TEN[usize::from(exponent)];
    let rounded = (value * power).round();
    (rounded.abs() <= WRITTEN_MANTISSA_MAX && ((rounded + 0.0) / power).to_bits() == value.to_bits())
        .then(|| to_integer(rounded))
}

#[allow(clippy::cast_possible_truncation, reason = "an integer below 2^50 is converted exactly")]
const fn to_integer(rounded: f64) -> i64 {
    rounded as i64
}
