//! A template for frames that differ only in spool, sequence number and a shift of all times.
//!
//! Load generators use it. The offsets of the changing fields are found once; a copy costs a memcpy and a checksum.
//! Invariant: [`FrameTemplate::stamp`] always creates a valid frame, because times within a run are stored as
//! differences and only the first time of each run is shifted.

use bytes::{Bytes, BytesMut};

use super::{Frame, HEADER_BYTES, TAG_ABSENT, TAG_RAW, TAG_RAW_SOME, TAG_SCALED, TAG_SCALED_SOME, TRAILER_BYTES};
use crate::checksum::crc32c;
use crate::coding::Cursor;
use crate::{FileKind, FormatError, FormatErrorKind, FrameSequence, Millis, SpoolId, TimeError};

const SPOOL_OFFSET: usize = 8;
const SEQUENCE_OFFSET: usize = 16;

/// Valid frame and the offsets of the fields that change.
#[derive(Debug, Clone)]
pub struct FrameTemplate {
    bytes: Bytes,
    /// Offset of the first time of each run.
    time_offsets: Box<[u32]>,
    time_min: Millis,
    time_max: Millis,
    readings: u32,
}

impl FrameTemplate {
    /// Validates a frame and finds the offsets of its changing fields.
    ///
    /// # Errors
    /// When the bytes are not exactly one valid frame.
    pub fn new(bytes: Bytes) -> Result<Self, FormatError> {
        let frame = Frame::decode(bytes)?;
        let time_offsets = first_time_offsets(&frame)?;
        let readings = u32::try_from(frame.len()).unwrap_or(u32::MAX);
        let (time_min, time_max) = (frame.time_min(), frame.time_max());
        Ok(Self { bytes: frame.bytes, time_offsets, time_min, time_max, readings })
    }

    /// Creates a frame with this spool and sequence number, whose times are shifted by `shift_ms` (negative: earlier).
    ///
    /// # Errors
    /// [`TimeError::OutOfRange`] when a time would leave the years 1 to 9998.
    ///
    /// # Panics
    /// When the sequence number is zero, which no frame may have.
    pub fn stamp(&self, spool: SpoolId, sequence: FrameSequence, shift_ms: i64) -> Result<Bytes, TimeError> {
        assert!(sequence != FrameSequence::ZERO, "sequence numbers start at 1");
        // All other times are between these two.
        for edge in [self.time_min, self.time_max] {
            Millis::new(edge.get().saturating_add(shift_ms))?;
        }
        let mut out = BytesMut::from(&self.bytes[..]);
        out[SPOOL_OFFSET..][..8].copy_from_slice(&spool.get().to_le_bytes());
        out[SEQUENCE_OFFSET..][..8].copy_from_slice(&sequence.get().to_le_bytes());
        for &at in &self.time_offsets {
            let Some(field) = out[at as usize..].first_chunk_mut::<8>() else { continue };
            *field = i64::from_le_bytes(*field).wrapping_add(shift_ms).to_le_bytes();
        }
        let end = out.len() - TRAILER_BYTES;
        let checksum = crc32c(&out[..end]);
        out[end..].copy_from_slice(&checksum.to_le_bytes());
        Ok(out.freeze())
    }

    /// Returns the number of readings, at least one.
    #[must_use]
    #[allow(clippy::len_without_is_empty, reason = "a frame is never empty")]
    pub const fn len(&self) -> usize {
        self.readings as usize
    }

    /// Returns the size of every copy, in bytes.
    #[must_use]
    pub const fn bytes_len(&self) -> usize {
        self.bytes.len()
    }

    /// Returns the latest time, before any shift.
    #[must_use]
    pub const fn time_max(&self) -> Millis {
        self.time_max
    }
}

/// Returns the offset of the first time of each run. The frame has been decoded, so none of the errors can occur.
fn first_time_offsets(frame: &Frame) -> Result<Box<[u32]>, FormatError> {
    let channels = frame.channels.len();
    let mut cursor = Cursor::new(FileKind::Frame, &frame.bytes);
    cursor.take(HEADER_BYTES + 2 * channels)?;
    let mut offsets = Vec::with_capacity(frame.runs.len());
    for run in &frame.runs {
        let len = run.len as usize;
        cursor.u64()?;
        cursor.varint()?;
        offsets.push(u32::try_from(cursor.position()).unwrap_or(u32::MAX));
        cursor.i64()?;
        cursor.varints(len - 1, |_| {})?;
        for _ in 0..channels {
            skip_column(&mut cursor, len)?;
        }
    }
    Ok(offsets.into())
}

fn skip_column(cursor: &mut Cursor<'_>, len: usize) -> Result<(), FormatError> {
    let tag = cursor.u8()?;
    let values = match tag {
        TAG_ABSENT => return Ok(()),
        TAG_SCALED | TAG_RAW => len,
        TAG_SCALED_SOME | TAG_RAW_SOME => {
            let bitmap = cursor.take(len.div_ceil(8))?;
            bitmap.iter().map(|byte| byte.count_ones() as usize).sum()
        }
        _ => return Err(cursor.error(FormatErrorKind::Invalid, format!("unknown tag {tag} before a column"))),
    };
    if matches!(tag, TAG_SCALED | TAG_SCALED_SOME) {
        cursor.u8()?;
        cursor.varints(values, |_| {})
    } else {
        cursor.take(values * 8).map(drop)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{ChannelCode, FrameBuilder, LoggerId};

    fn spool(id: u64) -> SpoolId {
        SpoolId::new(id).expect("an id")
    }

    /// Encodes a frame of loggers with every kind of column: absent, scaled, raw, complete and partial.
    fn frame(readings: &[(u64, i64, Option<f64>, Option<f64>)]) -> Bytes {
        let mut builder = FrameBuilder::new();
        let code = |code| ChannelCode::new(code).expect("a channel");
        for &(logger, time, first, second) in readings {
            let samples: Vec<_> = [(code(1), first), (code(2), second)]
                .into_iter()
                .filter_map(|(code, value)| value.map(|value| (code, value)))
                .collect();
            let time = Millis::new(time).expect("a time");
            // A repeated key or a reading without values is left out.
            let _ = builder.push(LoggerId::new(logger).expect("an id"), time, &samples);
        }
        if builder.is_empty() {
            let samples = [(code(1), 4.5)];
            builder.push(LoggerId::new(1).expect("an id"), Millis::EPOCH, &samples).expect("a reading");
        }
        builder.encode(spool(1), FrameSequence::new(1))
    }

    fn check(bytes: Bytes, shift: i64) {
        let before = Frame::decode(bytes.clone()).expect("valid");
        let template = FrameTemplate::new(bytes).expect("valid");
        assert_eq!(template.len(), before.len());
        assert_eq!(template.time_max(), before.time_max());
        let stamped = template.stamp(spool(99), FrameSequence::new(7), shift).expect("in range");
        assert_eq!(stamped.len(), template.bytes_len());
        let after = Frame::decode(stamped).expect("valid");
        assert_eq!((after.spool(), after.sequence()), (spool(99), FrameSequence::new(7)));
        assert_eq!(after.channels(), before.channels());
        assert_eq!(after.runs(), before.runs());
        let shifted: Vec<_> = before.times().iter().map(|time| time + shift).collect();
        assert_eq!(after.times(), shifted);
        let bits = |frame: &Frame| frame.values.iter().map(|value| value.to_bits()).collect::<Vec<_>>();
        assert_eq!(bits(&after), bits(&before));
    }

    #[test]
    fn shifts_out_of_range_are_rejected() {
        let template =
            FrameTemplate::new(frame(&[(1, 0, Some(1.0), None), (2, 1_000, None, Some(2.5))])).expect("valid");
        let stamp = |shift| template.stamp(spool(1), FrameSequence::new(1), shift);
        assert!(stamp(Millis::MIN.get()).is_ok());
        assert!(stamp(Millis::MAX.get() - 1_000).is_ok());
        for shift in [Millis::MIN.get() - 1, Millis::MAX.get() - 999, i64::MAX, i64::MIN] {
            assert!(stamp(shift).is_err(), "{shift}");
        }
    }

    #[test]
    fn invalid_frames_are_rejected() {
        let valid = frame(&[(1, 0, Some(1.0), None)]);
        for index in 0..valid.len() {
            let mut bad = valid.to_vec();
            bad[index] ^= 0x10;
            assert!(FrameTemplate::new(bad.into()).is_err(), "byte {index}");
        }
        assert!(FrameTemplate::new(Bytes::new()).is_err());
    }

    proptest! {
        #[test]
        fn copies_keep_readings_and_shift_times(
            readings in prop::collection::vec(
                (
                    1_u64..6,
                    -1_000_000_000_i64..1_000_000_000,
                    prop::option::of(prop_oneof![any::<i16>().prop_map(|v| f64::from(v) / 100.0), -1e300..1e300]),
                    prop::option::of(prop_oneof![any::<i16>().prop_map(|v| f64::from(v) / 10.0), -1e300..1e300]),
                ),
                1..80,
            ),
            shift in -1_000_000_000_000_i64..1_000_000_000_000,
        ) {
            check(frame(&readings), shift);
        }
    }
}
