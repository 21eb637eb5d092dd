//! Frames: a frame that decodes is fully valid, survives re-encoding, and takes no more memory than its bytes allow.

use bytes::Bytes;
use storage_format::limits::{FRAME_BYTES_MAX, FRAME_CELLS_MAX, FRAME_READINGS_MAX};
use storage_format::{Frame, FrameBuilder, FrameHeader, Millis};

/// Decodes a frame, also with its checksum corrected, because a fuzzer would hardly ever produce a matching one.
pub fn frame(data: &[u8]) -> bool {
    let _ = FrameHeader::peek(data);
    let valid = check_frame(data);
    if let Some(body) = data.len().checked_sub(4) {
        let mut corrected = data.to_vec();
        let checksum = crc32c::crc32c(&data[..body]);
        corrected[body..].copy_from_slice(&checksum.to_le_bytes());
        check_frame(&corrected);
    }
    valid
}

/// Returns the most memory that a frame of `bytes` may take. A reading takes at least two bytes of the frame (a time
/// and a value), so the worst expansion is `bytes / 2` readings, each with a time and a value for every channel.
fn memory_bytes_max(bytes: usize, channels: usize) -> usize {
    let own = 512 + bytes;
    // A logger takes 17 bytes of the frame and 16 of memory; a reading 8 of memory for its time and for each channel.
    let expanded = bytes + bytes / 2 * 8 * (1 + channels);
    let limits = (FRAME_READINGS_MAX * (16 + 8)) + FRAME_CELLS_MAX * 8;
    own + expanded.min(limits)
}

fn check_frame(data: &[u8]) -> bool {
    let Ok(frame) = Frame::decode(Bytes::copy_from_slice(data)) else { return false };
    assert_eq!(frame.bytes(), data, "a frame keeps the bytes that it was decoded from");
    assert!(data.len() <= FRAME_BYTES_MAX && frame.len() <= FRAME_READINGS_MAX);
    assert!(frame.len() * frame.channels().len() <= FRAME_CELLS_MAX);
    assert_eq!(frame.runs().iter().map(|run| run.len as usize).sum::<usize>(), frame.len());
    let memory_max = memory_bytes_max(data.len(), frame.channels().len());
    assert!(frame.memory_bytes() <= memory_max, "{} bytes expand to {}", data.len(), frame.memory_bytes());
    assert!(frame.runs().is_sorted_by(|a, b| a.logger < b.logger));
    let mut builder = FrameBuilder::new();
    let mut samples = Vec::new();
    for run in frame.runs() {
        assert!(frame.times()[run.range()].is_sorted_by(|a, b| a < b), "times ascend");
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
            // A frame of another encoder may hold more readings than our builder accepts.
            if builder.push(run.logger, time, &samples).is_err() {
                return true;
            }
        }
    }
    let again = Frame::decode(builder.encode(frame.spool(), frame.sequence())).expect("an encoded frame decodes");
    assert_eq!((again.spool(), again.sequence()), (frame.spool(), frame.sequence()));
    assert_eq!(again.channels(), frame.channels());
    assert_eq!(again.times(), frame.times());
    assert_eq!(again.runs(), frame.runs());
    for index in 0..frame.channels().len() {
        let bits = |frame: &Frame| frame.column(index).iter().map(|v| v.to_bits()).collect::<Vec<_>>();
        assert_eq!(bits(&again), bits(&frame), "values are identical to the bit");
    }
    true
}
