//! Decodes a frame into columns and validates it fully. Work that is fixed per frame or per run is done outside the
//! loops over readings; those loops allocate nothing and accumulate error flags instead of branching on them.

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

/// Smallest size of a run before its columns: an id, a count and a first time.
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
        return Err(error(TooLarge, 24, format!("{readings} readings of {channels} channels exceed the limits")));
    }
    Ok(FrameHeader { spool, sequence, readings, loggers, channels })
}

pub(super) fn decode(bytes: Bytes) -> Result<Frame, FormatError> {
    if bytes.len() > FRAME_BYTES_MAX {
        return Err(error(TooLarge, 0, format!("{} bytes, the limit is {FRAME_BYTES_MAX}", bytes.len())));
    }
    let header = header(&bytes)?;
    let Some((body, checksum)) = bytes.split_last_chunk::<TRAILER_BYTES>() else {
        return Err(error(Truncated, bytes.len(), "the frame ends before its checksum"));
    };
    if crc32c(body) != u32::from_le_bytes(*checksum) {
        return Err(error(Damaged, body.len(), "the checksum does not match"));
    }
    let mut cursor = Cursor::new(FileKind::Frame, body);
    cursor.take(HEADER_BYTES)?;
    let channels = channel_table(&mut cursor, header.channels)?;

    let readings = header.readings as usize;
    let loggers = header.loggers as usize;
    // The counts must be plausible for the number of bytes: each logger needs its head and a tag per channel, each
    // reading after a logger's first needs a byte for its time.
    let bytes_min = loggers * (LOGGER_BYTES_MIN + channels.len()) + (readings - loggers);
    if cursor.remaining() < bytes_min {
        let detail = format!("{readings} readings of {loggers} loggers need at least {bytes_min} bytes");
        return Err(cursor.error(Truncated, detail));
    }

    let mut columns = Columns {
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
        let start = columns.times.len();
        let len = usize::try_from(cursor.varint()?).unwrap_or(usize::MAX);
        if len == 0 || len > readings - start {
            return Err(cursor.error(Invalid, "a logger's count of readings is zero or exceeds the frame's"));
        }
        columns.run_times(&mut cursor, len)?;
        columns.run_values(&mut cursor, start, len)?;
        let index = |value: usize| u32::try_from(value).unwrap_or(u32::MAX);
        runs.push(LoggerRun { logger, start: index(start), len: index(len) });
    }
    if columns.times.len() != readings {
        return Err(cursor.error(Invalid, "the loggers have fewer readings than the frame header states"));
    }
    if cursor.remaining() != 0 {
        return Err(cursor.error(Invalid, "unexpected bytes after the last logger"));
    }
    if columns.used.count_ones() as usize != channels.len() {
        return Err(cursor.error(Invalid, "a channel of the table has no value"));
    }
    let time = |ms| Millis::new(ms).map_err(|e| error(Invalid, HEADER_BYTES, e.to_string()));
    let (time_min, time_max) = (time(columns.time_min)?, time(columns.time_max)?);
    let Columns { times, values, .. } = columns;
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

/// Columns decoded so far.
struct Columns {
    times: Vec<i64>,
    values: Vec<f64>,
    /// Bit set of the channels that have a value so far.
    used: u32,
    readings: usize,
    channels: usize,
    /// Bitmap of the readings of a run that have a value; used only where no channel has all of them.
    measured: Vec<u8>,
    time_min: i64,
    time_max: i64,
}

impl Columns {
    fn run_times(&mut self, cursor: &mut Cursor<'_>, len: usize) -> Result<(), FormatError> {
        let first = cursor.i64()?;
        if Millis::new(first).is_err() {
            return Err(cursor.error(Invalid, format!("{first} is not a time")));
        }
        let (mut time, mut delta, mut bad) = (first, 0_i64, false);
        let times = &mut self.times;
        times.push(first);
        // The capacity is reserved for all readings, and `len` was checked against the remaining ones.
        cursor.varints(len - 1, |coded| {
            delta = delta.wrapping_add(unzigzag(coded));
            let next = time.wrapping_add(delta);
            // A sum that wraps is smaller than what it was added to.
            bad |= delta <= 0 || next <= time || next > Millis::MAX.get();
            time = next;
            times.push(next);
        })?;
        if bad {
            return Err(cursor.error(Invalid, "a logger's times are not strictly ascending, or out of range"));
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
                    let present = count_present(cursor, bitmap, len)?;
                    // Decode the values to the front of the column, then move each to its row, from the last one back.
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
                return Err(cursor.error(Invalid, "a reading has no value"));
            }
        }
        Ok(())
    }
}

/// Returns the number of readings that the bitmap marks: at least one, not all, and none beyond the last.
fn count_present(cursor: &Cursor<'_>, bitmap: &[u8], len: usize) -> Result<usize, FormatError> {
    let beyond = match (len % 8, bitmap.last()) {
        (0, _) | (_, None) => false,
        (used, Some(last)) => last >> used != 0,
    };
    let present: usize = bitmap.iter().map(|byte| byte.count_ones() as usize).sum();
    if beyond || present == 0 || present == len {
        return Err(cursor.error(Invalid, "a bitmap marks no reading, all readings, or readings past the last"));
    }
    Ok(present)
}

/// Moves the first `present` values of a column to the rows that the bitmap marks; the other rows become NaN.
fn spread(column: &mut [f64], present: usize, bitmap: &[u8]) {
    let mut from = present;
    for row in (0..column.len()).rev() {
        column[row] = if bitmap[row / 8] >> (row % 8) & 1 == 1 {
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
    let mut rows = out.iter_mut();
    cursor.varints(rows.len(), |coded| {
        mantissa = mantissa.wrapping_add(unzigzag(coded));
        bad |= !(-MANTISSA_MAX..=MANTISSA_MAX).contains(&mantissa);
        if let Some(row) = rows.next() {
            *row = exact(mantissa);
        }
    })?;
    if bad {
        return Err(cursor.error(Invalid, "the mantissa of a scaled value exceeds 2^53"));
    }
    // A separate loop, so that it can be vectorised.
    if exponent != 0 {
        out.iter_mut().for_each(|value| *value /= power);
    }
    Ok(())
}

/// A mantissa as a double: every integer up to 2^53 is exact, and others are rejected.
const fn exact(mantissa: i64) -> f64 {
    mantissa as f64
}

fn raw(cursor: &mut Cursor<'_>, out: &mut [f64]) -> Result<(), FormatError> {
    let bytes = cursor.take(out.len() * 8)?;
    let mut finite = true;
    for (row, bytes) in out.iter_mut().zip(bytes.as_chunks::<8>().0) {
        *row = f64::from_le_bytes(*bytes);
        finite &= row.is_finite();
    }
    if finite { Ok(()) } else { Err(cursor.error(Invalid, "a value is not a finite number")) }
}
