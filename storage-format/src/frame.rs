//! The frame: the canonical batch of readings from one gateway, the same bytes on the wire and in the WAL.
//!
//! `docs/frame.md` describes the bytes. A [`FrameBuilder`] takes readings in any order and encodes them canonically. A
//! [`Frame`] is decoded and fully validated, so its users need not check again: loggers strictly ascending, times
//! strictly ascending within a logger, at least one sample per reading, all values finite, all channels known.

mod builder;
mod columns;
mod decoder;
mod encoder;
mod template;

pub use builder::{FrameBuildError, FrameBuilder};
pub use columns::FrameColumns;
pub use template::FrameTemplate;

use bytes::Bytes;

use crate::{ChannelCode, FormatError, FrameSequence, LoggerId, Millis, SpoolId};

/// "ICEF"
const MAGIC: [u8; 4] = *b"ICEF";
/// The only version that is written.
const VERSION: u16 = 1;
/// Size of everything before the channel table.
const HEADER_BYTES: usize = 36;
/// Size of the CRC32C at the end.
const TRAILER_BYTES: usize = 4;

/// Column tag: the logger did not measure this channel.
const TAG_ABSENT: u8 = 1;
/// Column tag: scaled decimals, a value for every reading.
const TAG_SCALED: u8 = 2;
/// Column tag: scaled decimals for the readings that a bitmap marks.
const TAG_SCALED_SOME: u8 = 3;
/// Column tag: unscaled `f64`, a value for every reading.
const TAG_RAW: u8 = 4;
/// Column tag: unscaled `f64` for the readings that a bitmap marks.
const TAG_RAW_SOME: u8 = 5;

/// Largest absolute value of a mantissa: every integer up to it is exact in an `f64`.
const MANTISSA_MAX: i64 = 1 << 53;

/// Powers of ten by exponent, all exact in an `f64`.
const POWERS_OF_TEN: [f64; 16] = [1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14, 1e15];

const _: () = assert!(POWERS_OF_TEN.len() == crate::limits::FRAME_EXPONENT_MAX as usize + 1);

/// Fields of a frame before its readings. [`FrameHeader::peek`] does not verify the checksum.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FrameHeader {
    /// Sender's store of numbered frames.
    pub spool: SpoolId,
    /// Number of the frame within the spool.
    pub sequence: FrameSequence,
    /// Number of readings, at least one.
    pub readings: u32,
    /// Number of loggers, at least one.
    pub loggers: u32,
    /// Number of channels, at least one.
    pub channels: u16,
}

impl FrameHeader {
    /// Reads the header of a frame whose body may be invalid or missing, so that a refusal can state its number.
    ///
    /// # Errors
    /// When the bytes are not the header of a frame of a known version, or exceed a limit.
    pub fn peek(bytes: &[u8]) -> Result<Self, FormatError> {
        decoder::header(bytes)
    }
}

/// Readings of one logger within a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LoggerRun {
    /// The logger.
    pub logger: LoggerId,
    /// Index of the run's first reading in times and columns.
    pub start: u32,
    /// Number of readings, at least one.
    pub len: u32,
}

impl LoggerRun {
    /// Returns the run's indices into times and columns.
    #[must_use]
    pub const fn range(&self) -> std::ops::Range<usize> {
        self.start as usize..self.start as usize + self.len as usize
    }
}

/// Decoded and fully validated frame, with the bytes that it came from. NaN in a column means "not measured".
#[derive(Debug, Clone)]
pub struct Frame {
    bytes: Bytes,
    header: FrameHeader,
    channels: Vec<ChannelCode>,
    runs: Vec<LoggerRun>,
    times: Vec<i64>,
    /// Columns one after the other, each as long as `times`.
    values: Vec<f64>,
    time_min: Millis,
    time_max: Millis,
}

impl Frame {
    /// Decodes and validates a frame. Allocates once per column set and never more than the limits allow. A count
    /// causes no allocation unless enough bytes for it are present.
    ///
    /// # Errors
    /// When the bytes are not exactly one valid frame.
    pub fn decode(bytes: Bytes) -> Result<Self, FormatError> {
        decoder::decode(bytes)
    }

    /// Returns the sender's store of numbered frames.
    #[must_use]
    pub const fn spool(&self) -> SpoolId {
        self.header.spool
    }

    /// Returns the frame's number within its spool.
    #[must_use]
    pub const fn sequence(&self) -> FrameSequence {
        self.header.sequence
    }

    /// Returns the frame as it was received.
    #[must_use]
    pub const fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// Returns the number of readings, at least one.
    #[must_use]
    #[allow(clippy::len_without_is_empty, reason = "a frame is never empty")]
    pub const fn len(&self) -> usize {
        self.times.len()
    }

    /// Returns the channels, by ascending code. Each has at least one sample.
    #[must_use]
    pub fn channels(&self) -> &[ChannelCode] {
        &self.channels
    }

    /// Returns the loggers, by ascending id, each with its readings.
    #[must_use]
    pub fn runs(&self) -> &[LoggerRun] {
        &self.runs
    }

    /// Returns the times of the readings in milliseconds since 1970, strictly ascending within a run, all valid
    /// [`Millis`].
    #[must_use]
    pub fn times(&self) -> &[i64] {
        &self.times
    }

    /// Returns the values of the channel at `index` of [`Frame::channels`], one per reading, NaN where not measured.
    ///
    /// # Panics
    /// When there is no channel at this index.
    #[must_use]
    pub fn column(&self, index: usize) -> &[f64] {
        assert!(index < self.channels.len(), "column {index} of {}", self.channels.len());
        &self.values[index * self.times.len()..][..self.times.len()]
    }

    /// Returns the earliest time.
    #[must_use]
    pub const fn time_min(&self) -> Millis {
        self.time_min
    }

    /// Returns the latest time.
    #[must_use]
    pub const fn time_max(&self) -> Millis {
        self.time_max
    }

    /// Returns the number of samples: values that are present.
    #[must_use]
    pub fn samples(&self) -> usize {
        self.values.iter().filter(|value| !value.is_nan()).count()
    }

    /// Returns the memory that the frame occupies, in bytes.
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
