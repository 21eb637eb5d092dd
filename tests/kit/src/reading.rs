//! Readings and frames as a test writes them down, before they are encoded.

use bytes::Bytes;
use storage_format::{ChannelCode, FrameBuilder, FrameSequence, GatewayId, LoggerId, Millis, SpoolId};

use crate::ids::{channel, logger, millis};

/// One reading: a logger, a time, and a value for each channel that was measured.
#[derive(Debug, Clone, PartialEq)]
pub struct Reading {
    /// The logger.
    pub logger: LoggerId,
    /// The time of the measurement.
    pub time: Millis,
    /// The values by channel, in any order.
    pub samples: Vec<(ChannelCode, f64)>,
}

impl Reading {
    /// Creates a reading from plain numbers.
    ///
    /// # Panics
    /// When an id is zero or the time out of range.
    #[must_use]
    pub fn new(logger_id: u64, time_ms: i64, samples: &[(u16, f64)]) -> Self {
        let samples = samples.iter().map(|(code, value)| (channel(*code), *value)).collect();
        Self { logger: logger(logger_id), time: millis(time_ms), samples }
    }
}

/// A frame before it is encoded.
#[derive(Debug, Clone, PartialEq)]
pub struct Sent {
    /// The gateway that sends it.
    pub gateway: GatewayId,
    /// The time at which the server receives it.
    pub received: Millis,
    /// Its readings.
    pub readings: Vec<Reading>,
}

impl Sent {
    /// Encodes the frame. Readings that a frame cannot hold, such as a second one under the same key, are removed from
    /// `self` too, so that the model is given what the engine is given.
    pub fn encode(&mut self, spool: SpoolId, sequence: u64) -> Bytes {
        let mut builder = FrameBuilder::new();
        self.readings.retain(|reading| builder.push(reading.logger, reading.time, &reading.samples).is_ok());
        builder.encode(spool, FrameSequence::new(sequence))
    }
}
