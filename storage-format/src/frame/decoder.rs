//! A frame's bytes into columns, wholly validated. Fixed work per frame and per run is done outside the loops over
//! readings; those allocate nothing and collect their errors instead of branching on them.

use bytes::Bytes;

use super::{
    Frame, FrameHeader, HEADER_BYTES, LoggerRun, MAGIC, MANTISSA_MAX, POWERS_OF_TEN, TAG_ABSENT, TAG_RAW, TAG_RAW_SOME,
    TAG_SCALED, TAG_SCALED_SOME, TRAILER_BYTES, VERSION,
};
use crate::checksum::crc32c;
use crate::coding::{Cursor, unzigzag};
use crate::limits::{FRAME_BYTES_MAX, FRAME_CELLS_MAX, FRAME_CHANNELS_MAX, FRAME_EXPONENT_MAX, FRAME_READINGS_MAX};
use crate::{ChannelCode, FileKind, FormatError, FormatErrorKind, FrameSequence, LoggerId, Millis, SpoolId};

use FormatErrorKind::{Damaged, Invalid, TooLarge, Truncated, UnknownChannel, UnknownVersion};

/// A logger is at least an id, a count and a first time, then a tag for each channel and something measured.
const LOGGER_BYTES_MIN: usize = 8 + 1 + 8;

fn error(kind: FormatErrorKind, offset: usize, detail: impl Into<String>) -> FormatError {
    FormatError::new(FileKind::Frame, kind, offset as u64, detail)
}

pub(super) fn header(bytes: &[u8]) -> Result<FrameHeader, FormatError> {
    let mut cursor = Cursor::new(FileKind::Frame, bytes);
    if cursor.array()? != MAGIC {
        return Err(error(Invalid, 0, "not a frame: the first four bytes are not ICEF"));
    }
    let version = cursor.u16()?;
    if version != VERSION {
        return Err(error(UnknownVersion, 4, format!("frame version {version}, this program reads {VERSION}")));
    }
    if cursor.u16()? != 0 {
        return Err(error(Invalid, 6, "reserved bytes are not zero"));
    }
    let spool = SpoolId::new(cursor.u64()?).map_err(|e| error(Invalid, 8, e.to_string()))?;
    let sequence = FrameSequence::new(cursor.u64()?);
    if sequence == FrameSequence::ZERO {
        return Err(error(Invalid, 16, "sequence number zero"));
    }
    let (readings, loggers, channels) = (cursor.u32()?, cursor.u32()?, cursor.u16()?);
    if cursor.u16()? != 0 {
        return Err(error(Invalid, 34, "reserved bytes are not zero"));
    }
    if readings == 0 || loggers == 0 || channels == 0 || loggers > readings {
        let detail = format!("{readings} readings, {loggers} loggers, {channels} channels");
        return Err(error(Invalid, 24, detail));
    }
    if readings as usize > FRAME_READINGS_MAX
        || usize::from(channels) > FRAME_CHANNELS_MAX
        || readings as usize * usize::from(channels) > FRAME_CELLS_MAX
    {
        return Err(error(TooLarge, 24, format!("{readings} readings of {channels} channels are past the limits")));
    }
    Ok(FrameHeader { spool, sequence, readings, loggers, channels })
}

pub(super) fn decode(bytes: Bytes) -> Result<Frame, FormatError> {
    if bytes.len() > FRAME_BYTES_MAX {
        return Err(error(TooLarge, 0, format!("{} bytes, the limit is {FRAME_BYTES_MAX}", bytes.len())));
    }
    let header = header(&bytes)?;
    let Some((body, checksum)) = bytes.split_last_chunk::<TRAILER_BYTES>() else {
        return Err(error(Truncated, bytes.len(), "no room for a checksum"));
    };
    if crc32c(body) != u32::from_le_bytes(*checksum) {
        return Err(error(Damaged, body.len(), "the checksum does not fit"));
    }
    let mut cursor = Cursor::new(FileKind::Frame, body);
    cursor.take(HEADER_BYTES)?;
    let channels = channel_table(&mut cursor, header.channels)?;

    let readings = header.readings as usize;
    let loggers = header.loggers as usize;
    // The counts are believed no further than the bytes reach: each logger needs its head and a tag a channel, each
    // reading after a logger's first a byte for its time.
    let bytes_min = loggers * (LOGGER_BYTES_MIN + channels.len()) + (readings - loggers);
    if cursor.remaining() < bytes_min {
        let detail = format!("{readings} readings of {loggers} loggers need {bytes_min} bytes or more");
        return Err(cursor.error(Truncated, detail));
    }

    let mut body = Body {
        times: Vec::with_capacity(readings),
        values: vec![f64::NAN; readings * channels.len()],
        used: 0,
        readings,
        channels: channels.len(),
        measured: Vec::new(),
        time_min: i64::MAX,
        time_max: i64::MIN,
    };
    let mut runs: Vec<LoggerRun> = Vec::with_capacity(loggers);
    for _ in 0..loggers {
        let logger = LoggerId::new(cursor.u64()?).map_err(|e| cursor.error(Invalid, e.to_string()))?;
        if runs.last().is_some_and(|last| last.logger >= logger) {
            return Err(cursor.error(Invalid, "loggers are not in ascending order"));
        }
        let start = body.times.len();
        let len = usize::try_from(cursor.varint()?).unwrap_or(usize::MAX);
        if len == 0 || len > readings - start {
            return Err(cursor.error(Invalid, "a logger's count of readings does not fit the frame's"));
        }
        body.run_times(&mut cursor, len)?;
        body.run_values(&mut cursor, start, len)?;
        let short = |value: usize| u32::try_from(value).unwrap_or(u32::MAX);
        runs.push(LoggerRun { logger, start: short(start), len: short(len) });
    }
    if body.times.len() != readings {
        return Err(cursor.error(Invalid, "the loggers have fewer readings than the frame says"));
    }
    if cursor.remaining() != 0 {
        return Err(cursor.error(Invalid, "bytes after the last logger"));
    }
    if body.used.count_ones() as usize != channels.len() {
        return Err(cursor.error(Invalid, "a channel without any value"));
    }
    let time = |ms| Millis::new(ms).map_err(|e| error(Invalid, HEADER_BYTES, e.to_string()));
    let (time_min, time_max) = (time(body.time_min)?, time(body.time_max)?);
    let Body { times, values, .. } = body;
    Ok(Frame { bytes, header, channels, runs, times, values, time_min, time_max })
}

fn channel_table(cursor: &mut Cursor<'_>, count: u16) -> Result<Vec<ChannelCode>, FormatError> {
    let table = cursor.take(usize::from(count) * 2)?;
    let mut channels = Vec::with_capacity(usize::from(count));
    for pair in table.chunks_exact(2) {
        let code = ChannelCode::new(u16::from_le_bytes([pair[0], pair[1]]))
            .ok_or_else(|| cursor.error(Invalid, "channel code zero"))?;
        if code.channel().is_none() {
            return Err(cursor.error(UnknownChannel, format!("{code} is not in the registry")));
        }
        if channels.last().is_some_and(|&last| last >= code) {
            return Err(cursor.error(Invalid, "channels are not in ascending order"));
        }
        channels.push(code);
    }
    Ok(channels)
}

/// What is decoded so far.
struct Body {
    times: Vec<i64>,
    values: Vec<f64>,
    /// One bit for each channel that has had a value.
    used: u32,
    readings: usize,
    channels: usize,
    /// A bit for each reading of a run that has a value; used only where no channel has them all.
    measured: Vec<u8>,
    time_min: i64,
    time_max: i64,
}

impl Body {
    fn run_times(&mut self, cursor: &mut Cursor<'_>, len: usize) -> Result<(), FormatError> {
        let first = cursor.i64()?;
        if Millis::new(first).is_err() {
            return Err(cursor.error(Invalid, format!("{first} is not a time")));
        }
        let (mut time, mut delta, mut bad) = (first, 0_i64, false);
        let times = &mut self.times;
        times.push(first);
        // Within the capacity reserved for all readings: `len` was checked against what is left of them.
        cursor.varints(len - 1, |coded| {
            delta = delta.wrapping_add(unzigzag(coded));
            let next = time.wrapping_add(delta);
            // A sum that wraps is smaller than what it was added to.
            bad |= delta <= 0 || next <= time || next > Millis::MAX.get();
            time = next;
            times.push(next);
        })?;
        if bad {
            return Err(cursor.error(Invalid, "a logger's times are not in strictly ascending order, or out of range"));
        }
        self.time_min = self.time_min.min(first);
        self.time_max = self.time_max.max(time);
        Ok(())
    }

    fn run_values(&mut self, cursor: &mut Cursor<'_>, start: usize, len: usize) -> Result<(), FormatError> {
        let bitmap_bytes = len.div_ceil(8);
        let mut complete = false;
        self.measured.clear();
        for channel in 0..self.channels {
            let column = &mut self.values[channel * self.readings + start..][..len];
            let tag = cursor.u8()?;
            match tag {
                TAG_ABSENT => continue,
                TAG_SCALED => {
                    scaled(cursor, column)?;
                    complete = true;
                }
                TAG_RAW => {
                    raw(cursor, column)?;
                    complete = true;
                }
                TAG_SCALED_SOME | TAG_RAW_SOME => {
                    let bitmap = cursor.take(bitmap_bytes)?;
                    let present = present(cursor, bitmap, len)?;
                    // The values go to the front first, then each to its place, from the last on.
                    let packed = &mut column[..present];
                    if tag == TAG_SCALED_SOME {
                        scaled(cursor, packed)?
                    } else {
                        raw(cursor, packed)?
                    }
                    spread(column, present, bitmap);
                    self.measured.resize(bitmap_bytes, 0);
                    self.measured.iter_mut().zip(bitmap).for_each(|(all, byte)| *all |= byte);
                }
                _ => return Err(cursor.error(Invalid, format!("unknown tag {tag} before a column"))),
            }
            self.used |= 1 << channel;
        }
        if !complete {
            let measured: usize = self.measured.iter().map(|byte| byte.count_ones() as usize).sum();
            if measured != len {
                return Err(cursor.error(Invalid, "a reading without any value"));
            }
        }
        Ok(())
    }
}

/// How many readings the bitmap names: at least one, not all, and none beyond the last.
fn present(cursor: &Cursor<'_>, bitmap: &[u8], len: usize) -> Result<usize, FormatError> {
    let beyond = match (len % 8, bitmap.last()) {
        (0, _) | (_, None) => false,
        (used, Some(last)) => last >> used != 0,
    };
    let present: usize = bitmap.iter().map(|byte| byte.count_ones() as usize).sum();
    if beyond || present == 0 || present == len {
        return Err(cursor.error(Invalid, "a bitmap that names none, all, or more readings than there are"));
    }
    Ok(present)
}

/// Moves the first `present` values of a column to the places that the bitmap names; the others become NaN.
fn spread(column: &mut [f64], present: usize, bitmap: &[u8]) {
    let mut from = present;
    for place in (0..column.len()).rev() {
        column[place] = if bitmap[place / 8] >> (place % 8) & 1 == 1 {
            from -= 1;
            column[from]
        } else {
            f64::NAN
        };
    }
}

fn scaled(cursor: &mut Cursor<'_>, out: &mut [f64]) -> Result<(), FormatError> {
    let exponent = cursor.u8()?;
    if exponent > FRAME_EXPONENT_MAX {
        return Err(cursor.error(Invalid, format!("exponent {exponent}, the limit is {FRAME_EXPONENT_MAX}")));
    }
    let power = POWERS_OF_TEN[usize::from(exponent)];
    let (mut mantissa, mut bad) = (0_i64, false);
    let mut places = out.iter_mut();
    cursor.varints(places.len(), |coded| {
        mantissa = mantissa.wrapping_add(unzigzag(coded));
        bad |= !(-MANTISSA_MAX..=MANTISSA_MAX).contains(&mantissa);
        if let Some(place) = places.next() {
            *place = exact(mantissa);
        }
    })?;
    if bad {
        return Err(cursor.error(Invalid, "a scaled value past 2^53"));
    }
    // Apart from the loop above so that it can be done several at a time.
    if exponent != 0 {
        out.iter_mut().for_each(|value| *value /= power);
    }
    Ok(())
}

#[allow(clippy::cast_precision_loss, reason = "every whole number up to 2^53 is exact, others are refused")]
const fn exact(mantissa: i64) -> f64 {
    mantissa as f64
}

fn raw(cursor: &mut Cursor<'_>, out: &mut [f64]) -> Result<(), FormatError> {
    let bytes = cursor.take(out.len() * 8)?;
    let mut finite = true;
    for (place, bytes) in out.iter_mut().zip(bytes.as_chunks::<8>().0) {
        *place = f64::from_le_bytes(*bytes);
        finite &= place.is_finite();
    }
    if finite { Ok(()) } else { Err(cursor.error(Invalid, "a value that is not a finite number")) }
}
