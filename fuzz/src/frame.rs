//! Frames: what decodes is wholly valid, comes back when encoded again, and takes no more memory than its bytes allow.

use bytes::Bytes;
use storage_format::limits::{FRAME_BYTES_MAX, FRAME_CELLS_MAX, FRAME_READINGS_MAX};
use storage_format::{Frame, FrameBuilder, FrameHeader, Millis};

/// A frame, as it is and with its checksum mended, or none but the seeds would ever come past that.
pub fn frame(data: &[u8]) -> bool {
    let _ = FrameHeader::peek(data);
    let good = check_frame(data);
    if let Some(body) = data.len().checked_sub(4) {
        let mut mended = data.to_vec();
        let checksum = crc32c::crc32c(&data[..body]);
        mended[body..].copy_from_slice(&checksum.to_le_bytes());
        check_frame(&mended);
    }
    good
}

/// The most that a frame of these bytes may take: a reading costs its sender two bytes (a time and a value), so that
/// half as many readings, each of a time and a value for every channel, are the worst that bytes can unfold to.
fn memory_bytes_max(bytes: usize, channels: usize) -> usize {
    let own = 512 + bytes;
    // A logger takes 17 bytes of the frame and 16 of memory; a reading 8 of memory for its time and for each channel.
    let unfolded = bytes + bytes / 2 * 8 * (1 + channels);
    let limits = (FRAME_READINGS_MAX * (16 + 8)) + FRAME_CELLS_MAX * 8;
    own + unfolded.min(limits)
}

fn check_frame(data: &[u8]) -> bool {
    let Ok(frame) = Frame::decode(Bytes::copy_from_slice(data)) else { return false };
    assert_eq!(frame.bytes(), data, "a frame keeps the bytes that it came from");
    assert!(data.len() <= FRAME_BYTES_MAX && frame.len() <= FRAME_READINGS_MAX);
    assert!(frame.len() * frame.channels().len() <= FRAME_CELLS_MAX);
    assert_eq!(frame.runs().iter().map(|run| run.len as usize).sum::<usize>(), frame.len());
    let most = memory_bytes_max(data.len(), frame.channels().len());
    assert!(frame.memory_bytes() <= most, "{} bytes unfold to {}", data.len(), frame.memory_bytes());
    assert!(frame.runs().is_sorted_by(|a, b| a.logger < b.logger));
    let mut builder = FrameBuilder::new();
    let mut samples = Vec::new();
    for run in frame.runs() {
        assert!(frame.times()[run.range()].is_sorted_by(|a, b| a < b), "times grow");
        for row in run.range() {
            samples.clear();
            for (index, &channel) in frame.channels().iter().enumerate() {
                let value = frame.column(index)[row];
                assert!(!value.is_infinite());
                if !value.is_nan() {
                    samples.push((channel, value));
                }
            }
            assert!(!samples.is_empty(), "a reading has a value");
            let time = Millis::new(frame.times()[row]).expect("a decoded time is a time");
            assert!(frame.time_min() <= time && time <= frame.time_max());
            // Encoded otherwise than ours, a frame may hold more than ours takes.
            if builder.push(run.logger, time, &samples).is_err() {
                return true;
            }
        }
    }
    let again = Frame::decode(builder.encode(frame.spool(), frame.sequence())).expect("what we encode, we decode");
    assert_eq!((again.spool(), again.sequence()), (frame.spool(), frame.sequence()));
    assert_eq!(again.channels(), frame.channels());
    assert_eq!(again.times(), frame.times());
    assert_eq!(again.runs(), frame.runs());
    for index in 0..frame.channels().len() {
        let bits = |frame: &Frame| frame.column(index).iter().map(|v| v.to_bits()).collect::<Vec<_>>();
        assert_eq!(bits(&again), bits(&frame), "values survive to the bit");
    }
    true
}
