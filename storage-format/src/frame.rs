//! The frame: the canonical batch of readings from one gateway, the same bytes on the wire and in the WAL.
//!
//! `docs/frame.md` holds the bytes. A [`FrameBuilder`] takes readings in any order and encodes them canonically; a
//! [`Frame`] is decoded and wholly validated, so what follows it need not check again: loggers strictly ascending,
//! times strictly ascending within a logger, at least one sample a reading, all values finite, all channels known.

mod builder;
mod decoder;
mod encoder;
mod template;

pub use builder::{FrameBuildError, FrameBuilder};
pub use template::FrameTemplate;

use bytes::Bytes;

use crate::{ChannelCode, FormatError, FrameSequence, LoggerId, Millis, SpoolId};

/// "ICEF"
const MAGIC: [u8; 4] = *b"ICEF";
/// The one version that is written.
const VERSION: u16 = 1;
/// Everything before the channel table.
const HEADER_BYTES: usize = 36;
/// The CRC32C at the end.
const TRAILER_BYTES: usize = 4;

/// A logger's channel, encoded: nothing measured.
const TAG_ABSENT: u8 = 1;
/// Scaled decimals, a value for every reading.
const TAG_SCALED: u8 = 2;
/// Scaled decimals for the readings that a bitmap names.
const TAG_SCALED_SOME: u8 = 3;
/// `f64` as they are, a value for every reading.
const TAG_RAW: u8 = 4;
/// `f64` as they are for the readings that a bitmap names.
const TAG_RAW_SOME: u8 = 5;

/// A mantissa is at most this far from zero: every whole number up to there is exact in an `f64`.
const MANTISSA_MAX: i64 = 1 << 53;

/// Ten to the power of the index: exact in an `f64`.
const POWERS_OF_TEN: [f64; 16] = [1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14, 1e15];

const _: () = assert!(POWERS_OF_TEN.len() == crate::limits::FRAME_EXPONENT_MAX as usize + 1);

/// What a frame says about itself before its readings. Not covered by a check of the checksum when only peeked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FrameHeader {
    /// The sender's store of numbered frames.
    pub spool: SpoolId,
    /// The frame's number within it.
    pub sequence: FrameSequence,
    /// How many readings, at least one.
    pub readings: u32,
    /// How many loggers, at least one.
    pub loggers: u32,
    /// How many channels, at least one.
    pub channels: u16,
}

impl FrameHeader {
    /// Reads the head of a frame whose body may be bad or missing, so that a refusal can name its number.
    ///
    /// # Errors
    /// When it is not the head of a frame of a known version, or breaks a limit.
    pub fn peek(bytes: &[u8]) -> Result<Self, FormatError> {
        decoder::header(bytes)
    }
}

/// One logger's readings within a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LoggerRun {
    /// The logger.
    pub logger: LoggerId,
    /// Its first reading: an index into times and columns.
    pub start: u32,
    /// How many readings, at least one.
    pub len: u32,
}

impl LoggerRun {
    /// The run's indices into times and columns.
    #[must_use]
    pub const fn range(&self) -> std::ops::Range<usize> {
        self.start as usize..self.start as usize + self.len as usize
    }
}

/// A decoded, wholly validated frame, with the bytes that it came from. NaN in a column means "not measured".
#[derive(Debug, Clone)]
pub struct Frame {
    bytes: Bytes,
    header: FrameHeader,
    channels: Vec<ChannelCode>,
    runs: Vec<LoggerRun>,
    times: Vec<i64>,
    /// Column after column, each as long as `times`.
    values: Vec<f64>,
    time_min: Millis,
    time_max: Millis,
}

impl Frame {
    /// Decodes and validates. Allocates once per column set, never more than the limits allow, and nothing because of
    /// a count whose bytes are not there.
    ///
    /// # Errors
    /// When the bytes are not exactly one valid frame.
    pub fn decode(bytes: Bytes) -> Result<Self, FormatError> {
        decoder::decode(bytes)
    }

    /// The sender's store of numbered frames.
    #[must_use]
    pub const fn spool(&self) -> SpoolId {
        self.header.spool
    }

    /// The frame's number within its spool.
    #[must_use]
    pub const fn sequence(&self) -> FrameSequence {
        self.header.sequence
    }

    /// The frame as it was received.
    #[must_use]
    pub const fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// How many readings, at least one.
    #[must_use]
    #[allow(clippy::len_without_is_empty, reason = "a frame is never empty")]
    pub const fn len(&self) -> usize {
        self.times.len()
    }

    /// The channels, by ascending code; each has at least one sample.
    #[must_use]
    pub fn channels(&self) -> &[ChannelCode] {
        &self.channels
    }

    /// The loggers, by ascending id, each with its readings.
    #[must_use]
    pub fn runs(&self) -> &[LoggerRun] {
        &self.runs
    }

    /// The readings' times in milliseconds since 1970, strictly ascending within a run, all valid [`Millis`].
    #[must_use]
    pub fn times(&self) -> &[i64] {
        &self.times
    }

    /// The values of the channel at this index of [`Frame::channels`], one a reading; NaN where not measured.
    ///
    /// # Panics
    /// When there is no channel at this index.
    #[must_use]
    pub fn column(&self, index: usize) -> &[f64] {
        assert!(index < self.channels.len(), "column {index} of {}", self.channels.len());
        &self.values[index * self.times.len()..][..self.times.len()]
    }

    /// The earliest time.
    #[must_use]
    pub const fn time_min(&self) -> Millis {
        self.time_min
    }

    /// The latest time.
    #[must_use]
    pub const fn time_max(&self) -> Millis {
        self.time_max
    }

    /// How many samples: values that are there.
    #[must_use]
    pub fn samples(&self) -> usize {
        self.values.iter().filter(|value| !value.is_nan()).count()
    }

    /// What it occupies in memory.
    #[must_use]
    pub fn memory_bytes(&self) -> usize {
        size_of::<Self>()
            + self.bytes.len()
            + self.channels.capacity() * size_of::<ChannelCode>()
            + self.runs.capacity() * size_of::<LoggerRun>()
            + self.times.capacity() * size_of::<i64>()
            + self.values.capacity() * size_of::<f64>()
    }
}

#[cfg(test)]
mod tests;
