//! The server's checks of a frame: all of them run once, before any state changes.

use std::time::Duration;

use bytes::Bytes;
use storage_format::{ChannelCode, FormatErrorKind, Frame, FrameHeader, FrameSequence, LoggerRun, Millis, SpoolId};

use crate::error::RefusalCode;

/// Range of times that readings may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TimePolicy {
    /// The earliest time.
    pub time_min: Millis,
    /// Limit of the time by which a reading may be ahead of the server's clock.
    pub ahead_max: Duration,
}

/// 2000-01-01T00:00:00Z. An earlier time means that the logger's clock was never set.
const YEAR_2000_MS: i64 = 946_684_800_000;

impl Default for TimePolicy {
    /// Accepts times from 2000-01-01 to 24 hours ahead of the server's clock.
    fn default() -> Self {
        Self { time_min: Millis::EPOCH.saturating_add(YEAR_2000_MS), ahead_max: Duration::from_secs(24 * 60 * 60) }
    }
}

impl TimePolicy {
    /// Returns the latest time that a reading may have at `now`.
    #[must_use]
    pub fn time_max(&self, now: Millis) -> Millis {
        now.saturating_add(i64::try_from(self.ahead_max.as_millis()).unwrap_or(i64::MAX))
    }
}

/// Refusal of a frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FrameRefusal {
    /// The code.
    pub code: RefusalCode,
    /// Detail for people.
    pub detail: String,
}

/// Returns the memory that these bytes need as a decoded frame, from their header alone. It is exact for a valid frame,
/// and the number of bytes for a frame that the decoder refuses before it allocates anything.
#[must_use]
pub fn decoded_bytes(bytes: &[u8]) -> usize {
    let Ok(header) = FrameHeader::peek(bytes) else { return bytes.len() };
    let (readings, loggers) = (header.readings as usize, header.loggers as usize);
    // A reading takes one byte at least, and a logger 18. The decoder, which is stricter, refuses frames that claim
    // more.
    if readings > bytes.len() || loggers * 18 > bytes.len() {
        return bytes.len();
    }
    let channels = usize::from(header.channels);
    size_of::<Frame>()
        + bytes.len()
        + channels * size_of::<ChannelCode>()
        + loggers * size_of::<LoggerRun>()
        + readings * (1 + channels) * size_of::<f64>()
}

/// Decodes a frame and checks it against the stream and the server's limits.
///
/// # Errors
/// The refusal of the frame.
pub fn check_frame(
    bytes: Bytes,
    spool: SpoolId,
    sequence: FrameSequence,
    policy: &TimePolicy,
    now: Millis,
) -> Result<Frame, FrameRefusal> {
    let refuse = |code, detail: String| Err(FrameRefusal { code, detail });
    let frame = match Frame::decode(bytes) {
        Ok(frame) => frame,
        Err(error) => {
            let code = match error.kind {
                FormatErrorKind::TooLarge => RefusalCode::TooLarge,
                FormatErrorKind::UnknownChannel => RefusalCode::UnknownChannel,
                _ => RefusalCode::Malformed,
            };
            return refuse(code, error.to_string());
        }
    };
    if frame.spool() != spool {
        return refuse(RefusalCode::Malformed, format!("the frame is of spool {}, not {spool}", frame.spool()));
    }
    if frame.sequence() != sequence {
        let detail = format!("the frame's own sequence number is {}, not {sequence}", frame.sequence());
        return refuse(RefusalCode::Malformed, detail);
    }
    if frame.time_min() < policy.time_min {
        let detail = format!("{} is before {}, the earliest accepted", frame.time_min(), policy.time_min);
        return refuse(RefusalCode::TimeOutOfRange, detail);
    }
    let time_max = policy.time_max(now);
    if frame.time_max() > time_max {
        let detail = format!("{} is after {time_max}, the latest accepted", frame.time_max());
        return refuse(RefusalCode::TimeOutOfRange, detail);
    }
    Ok(frame)
}

#[cfg(test)]
mod tests {
    use super::*;
    use storage_format::{ChannelCode, FrameBuilder, LoggerId};

    fn frame(time: i64) -> Bytes {
        let mut builder = FrameBuilder::new();
        let channel = ChannelCode::new(1).expect("temperature");
        let time = Millis::new(time).expect("a time");
        builder.push(LoggerId::new(7).expect("an id"), time, &[(channel, 4.5)]).expect("a reading");
        builder.encode(SpoolId::new(1).expect("an id"), FrameSequence::new(1))
    }

    fn check(bytes: Bytes, spool: u64, sequence: u64) -> Result<Frame, RefusalCode> {
        let now = Millis::new(YEAR_2000_MS + 1_000_000).expect("a time");
        let spool = SpoolId::new(spool).expect("an id");
        check_frame(bytes, spool, FrameSequence::new(sequence), &TimePolicy::default(), now).map_err(|r| r.code)
    }

    #[test]
    fn times_at_the_limits() {
        let day = 24 * 60 * 60 * 1000;
        for (time, accepted) in [
            (YEAR_2000_MS - 1, false),
            (YEAR_2000_MS, true),
            (YEAR_2000_MS + 1_000_000 + day, true),
            (YEAR_2000_MS + 1_000_000 + day + 1, false),
        ] {
            let result = check(frame(time), 1, 1).map(|frame| frame.len());
            assert_eq!(result, if accepted { Ok(1) } else { Err(RefusalCode::TimeOutOfRange) }, "{time}");
        }
    }

    #[test]
    fn memory_of_a_frame_is_known_before_it_is_decoded() {
        let good = frame(YEAR_2000_MS);
        assert_eq!(decoded_bytes(&good), Frame::decode(good.clone()).expect("valid").memory_bytes());
        assert_eq!(decoded_bytes(&good[..20]), 20);
        let mut claims = good.to_vec();
        claims[24..28].copy_from_slice(&65_536_u32.to_le_bytes());
        assert_eq!(decoded_bytes(&claims), good.len(), "more readings than bytes");
    }

    #[test]
    fn a_frame_must_match_its_message() {
        let good = frame(YEAR_2000_MS);
        assert!(check(good.clone(), 1, 1).is_ok());
        assert_eq!(check(good.clone(), 2, 1).map(|f| f.len()), Err(RefusalCode::Malformed));
        assert_eq!(check(good.clone(), 1, 2).map(|f| f.len()), Err(RefusalCode::Malformed));
        for index in 0..good.len() {
            let mut bad = good.to_vec();
            bad[index] ^= 0x10;
            assert!(check(bad.into(), 1, 1).is_err(), "byte {index}");
        }
    }
}
