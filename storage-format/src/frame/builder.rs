//! Readings into a frame, in any order. Invariant: what a builder has taken encodes within every limit of the format,
//! so encoding cannot fail.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::{HEADER_BYTES, TRAILER_BYTES, encoder};
use crate::limits::{FRAME_BYTES_MAX, FRAME_CELLS_MAX, FRAME_CHANNELS_MAX, FRAME_READINGS_MAX};
use crate::{ChannelCode, FrameSequence, LoggerId, Millis, SpoolId};

/// Why a reading was not taken. The builder is as it was before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FrameBuildError {
    /// The frame has a reading of this logger and time.
    #[error("the frame has a reading of this logger and time already")]
    AlreadyThere,
    /// NaN or an infinity.
    #[error("the value of {0} is not a finite number")]
    NotFinite(ChannelCode),
    /// A reading without values.
    #[error("a reading must have at least one value")]
    NoSamples,
    /// Two values for one channel.
    #[error("the reading has two values for {0}")]
    ChannelTwice(ChannelCode),
    /// Not in the registry.
    #[error("{0} is not in the channel registry")]
    UnknownChannel(ChannelCode),
    /// A limit of the format would be passed: encode, and begin the next frame.
    #[error("the frame is full")]
    Full,
}

/// Upper bounds of what the encoder writes, by which a builder knows when it is full.
const LOGGER_BYTES_MAX: usize = 8 + 3 + 8;
/// A time's delta of deltas spans less than 2^52: eight bytes as a varint.
const TIME_BYTES_MAX: usize = 8;
/// Raw, or a delta of mantissas below 2^51.
const SAMPLE_BYTES_MAX: usize = 8;
/// A tag, an exponent, and what a bitmap rounds up.
const COLUMN_BYTES_MAX: usize = 3;

/// Takes readings in any order, encodes them canonically. The same set of readings always gives the same bytes.
#[derive(Debug, Default)]
pub struct FrameBuilder {
    /// By logger: its readings as (time, row), in ascending time.
    loggers: BTreeMap<LoggerId, Vec<(i64, u32)>>,
    /// By ascending code, each with one value a row, NaN where not measured.
    columns: Vec<(ChannelCode, Vec<f64>)>,
    rows: usize,
    samples: usize,
}

impl FrameBuilder {
    /// An empty builder.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes one reading.
    ///
    /// # Errors
    /// When it cannot be part of this frame; the builder is unchanged.
    pub fn push(
        &mut self,
        logger: LoggerId,
        time: Millis,
        samples: &[(ChannelCode, f64)],
    ) -> Result<(), FrameBuildError> {
        let new_channels = self.check_samples(samples)?;
        let runs = self.loggers.get(&logger);
        let at = match runs {
            None => 0,
            // In order, nearly always.
            Some(run) if run.last().is_some_and(|&(last, _)| last < time.get()) => run.len(),
            Some(run) => match run.binary_search_by_key(&time.get(), |&(time, _)| time) {
                Ok(_) => return Err(FrameBuildError::AlreadyThere),
                Err(at) => at,
            },
        };
        let loggers = self.loggers.len() + usize::from(runs.is_none());
        if !self.fits(loggers, self.columns.len() + new_channels, self.samples + samples.len()) {
            return Err(FrameBuildError::Full);
        }

        let row = u32::try_from(self.rows).expect("rows are bounded by FRAME_READINGS_MAX");
        self.loggers.entry(logger).or_default().insert(at, (time.get(), row));
        for &(code, value) in samples {
            let index = match self.columns.binary_search_by_key(&code, |&(code, _)| code) {
                Ok(index) => index,
                Err(index) => {
                    self.columns.insert(index, (code, vec![f64::NAN; self.rows]));
                    index
                }
            };
            self.columns[index].1.push(value);
        }
        self.rows += 1;
        self.samples += samples.len();
        for (_, column) in &mut self.columns {
            column.resize(self.rows, f64::NAN);
        }
        Ok(())
    }

    /// How many channels are new; an error when a sample cannot be part of any frame.
    fn check_samples(&self, samples: &[(ChannelCode, f64)]) -> Result<usize, FrameBuildError> {
        if samples.is_empty() {
            return Err(FrameBuildError::NoSamples);
        }
        let mut new = 0;
        for (index, &(code, value)) in samples.iter().enumerate() {
            if code.channel().is_none() {
                return Err(FrameBuildError::UnknownChannel(code));
            }
            if !value.is_finite() {
                return Err(FrameBuildError::NotFinite(code));
            }
            if samples[..index].iter().any(|&(other, _)| other == code) {
                return Err(FrameBuildError::ChannelTwice(code));
            }
            new += usize::from(self.columns.binary_search_by_key(&code, |&(code, _)| code).is_err());
        }
        Ok(new)
    }

    /// Would one more reading fit, given these totals with it?
    fn fits(&self, loggers: usize, channels: usize, samples: usize) -> bool {
        let rows = self.rows + 1;
        let bytes_max = HEADER_BYTES
            + channels * 2
            + loggers * (LOGGER_BYTES_MAX + channels * COLUMN_BYTES_MAX)
            + rows * TIME_BYTES_MAX
            + samples * SAMPLE_BYTES_MAX
            + rows * channels / 8
            + TRAILER_BYTES;
        rows <= FRAME_READINGS_MAX
            && channels <= FRAME_CHANNELS_MAX
            && rows * channels <= FRAME_CELLS_MAX
            && bytes_max <= FRAME_BYTES_MAX
    }

    /// How many readings it holds.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.rows
    }

    /// Does it hold none?
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.rows == 0
    }

    /// The frame of all readings taken since the last one; the builder is empty afterwards.
    ///
    /// # Panics
    /// When there is no reading, or the sequence number is zero: neither has a frame.
    #[must_use]
    pub fn encode(&mut self, spool: SpoolId, sequence: FrameSequence) -> Bytes {
        assert!(!self.is_empty(), "a frame has at least one reading");
        assert!(sequence != FrameSequence::ZERO, "sequence numbers start at 1");
        let bytes = encoder::encode(spool, sequence, self.rows, &self.loggers, &self.columns);
        debug_assert!(bytes.len() <= FRAME_BYTES_MAX, "{} bytes", bytes.len());
        *self = Self::default();
        bytes
    }
}
