//! Builds frames from readings in any order. Invariant: the readings that a builder has accepted encode within every
//! limit of the format, so encoding cannot fail.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::{HEADER_BYTES, TRAILER_BYTES, encoder};
use crate::limits::{FRAME_BYTES_MAX, FRAME_CELLS_MAX, FRAME_CHANNELS_MAX, FRAME_READINGS_MAX};
use crate::{ChannelCode, FrameSequence, LoggerId, Millis, SpoolId};

/// Reason why a reading was not accepted. The builder is unchanged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FrameBuildError {
    /// The frame already has a reading of this logger and time.
    #[error("the frame already has a reading of this logger and time")]
    AlreadyThere,
    /// The value is NaN or infinite.
    #[error("the value of {0} is not a finite number")]
    NotFinite(ChannelCode),
    /// The reading has no values.
    #[error("a reading must have at least one value")]
    NoSamples,
    /// The reading has two values for one channel.
    #[error("the reading has two values for {0}")]
    DuplicateChannel(ChannelCode),
    /// The channel is not in the registry.
    #[error("{0} is not in the channel registry")]
    UnknownChannel(ChannelCode),
    /// The reading would exceed a limit of the format: encode this frame and start the next one.
    #[error("the frame is full")]
    Full,
}

/// Upper limit of the bytes of a logger. The builder uses these limits to determine when it is full.
const LOGGER_BYTES_MAX: usize = 8 + 3 + 8;
/// Upper limit of the bytes of a time: its delta of deltas spans less than 2^52, eight bytes as a varint.
const TIME_BYTES_MAX: usize = 8;
/// Upper limit of the bytes of a sample: raw, or a delta of mantissas below 2^51.
const SAMPLE_BYTES_MAX: usize = 8;
/// Upper limit of the bytes of a column beside its samples: a tag, an exponent and the rounding up of a bitmap.
const COLUMN_BYTES_MAX: usize = 3;

/// Collects readings in any order and encodes them canonically. The same set of readings always gives the same bytes.
#[derive(Debug, Default)]
pub struct FrameBuilder {
    /// Readings of each logger as (time, row), by ascending time.
    loggers: BTreeMap<LoggerId, Vec<(i64, u32)>>,
    /// Columns by ascending code, each with one value per row, NaN where not measured.
    columns: Vec<(ChannelCode, Vec<f64>)>,
    rows: usize,
    samples: usize,
}

impl FrameBuilder {
    /// Creates an empty builder.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds one reading.
    ///
    /// # Errors
    /// When the reading cannot be part of this frame; the builder is unchanged.
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
            // Readings nearly always arrive in order.
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

    /// Returns the number of new channels, or an error when a sample cannot be part of any frame.
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
                return Err(FrameBuildError::DuplicateChannel(code));
            }
            new += usize::from(self.columns.binary_search_by_key(&code, |&(code, _)| code).is_err());
        }
        Ok(new)
    }

    /// Returns whether one more reading fits, given the totals that include it.
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

    /// Returns the number of readings.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.rows
    }

    /// Returns whether there are no readings.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.rows == 0
    }

    /// Encodes a frame of all readings added since the last one, and empties the builder.
    ///
    /// # Panics
    /// When there is no reading, or the sequence number is zero: no frame may have either.
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
