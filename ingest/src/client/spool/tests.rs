//! No frame leaves the spool without a response.

use super::*;
use crate::protocol::ProtocolVersion;
use proptest::prelude::*;
use storage_format::{ChannelCode, FrameBuilder, LoggerId};

const NOW_MS: i64 = 1_700_000_000_000;

fn id() -> SpoolId {
    SpoolId::new(5).expect("not zero")
}

fn welcome() -> Welcome {
    Welcome {
        version: ProtocolVersion::CURRENT,
        channel_code_max: 8,
        frame_bytes_max: 1000,
        streams_max: 1,
        idle_timeout_ms: 1,
        message_timeout_ms: 1,
        server_time: Millis::new(NOW_MS).expect("a time"),
        time_min: Millis::EPOCH,
        ahead_ms_max: 1000,
    }
}

fn sequence(number: u64) -> FrameSequence {
    FrameSequence::new(number)
}

fn frame(number: u64, time: i64) -> Bytes {
    let mut builder = FrameBuilder::new();
    let (time, channel) = (Millis::new(time).expect("a time"), ChannelCode::new(1).expect("temperature"));
    builder.push(LoggerId::new(1).expect("an id"), time, &[(channel, 2.5)]).expect("a reading");
    builder.encode(id(), sequence(number))
}

fn spool(frames: &[(u64, i64)]) -> Spool {
    let mut spool = Spool::new(id(), 1 << 20);
    for (number, time) in frames {
        spool.push(sequence(*number), frame(*number, *time), 1);
    }
    spool
}

fn send_all(spool: &mut Spool) -> Vec<u64> {
    std::iter::from_fn(|| spool.next_to_send()).map(|(sequence, _)| sequence.get()).collect()
}

#[test]
fn each_frame_is_sent_once_per_stream_until_it_has_a_response() {
    let mut spool = spool(&[(1, NOW_MS), (2, NOW_MS), (3, NOW_MS), (4, NOW_MS)]);
    assert!(!spool.resume(sequence(0), &welcome()));
    assert_eq!(send_all(&mut spool), [1, 2, 3, 4]);
    spool.acknowledge(sequence(1));
    spool.refuse(sequence(3), RefusalCode::Malformed, "why".into());
    spool.refuse(sequence(3), RefusalCode::Malformed, "again".into());
    assert_eq!(send_all(&mut spool), [0; 0]);
    spool.push(sequence(9), frame(9, NOW_MS), 1);
    assert_eq!(send_all(&mut spool), [9]);
    // The connection is lost; the server has made 2 durable.
    assert!(spool.resume(sequence(2), &welcome()));
    assert_eq!(send_all(&mut spool), [4, 9]);
    spool.acknowledge(sequence(9));
    assert!(spool.is_empty());
    assert_eq!(spool.waiting_bytes(), 0);
    assert_eq!((spool.fate.acknowledged_frames, spool.fate.refused_frames), (4, 1));
    assert_eq!(spool.fate.refused[0].detail, "why");
}

#[test]
fn a_frame_that_may_have_been_refused_is_not_treated_as_durable() {
    // Frame 2 is too far ahead for the server that it was sent to, whatever the limits of the next one.
    let mut late = spool(&[(1, NOW_MS), (2, NOW_MS + 5000), (3, NOW_MS)]);
    late.resume(sequence(0), &welcome());
    assert_eq!(send_all(&mut late), [1, 2, 3]);
    let wider = Welcome { ahead_ms_max: 1_000_000, ..welcome() };
    assert!(late.resume(sequence(3), &wider));
    assert_eq!(send_all(&mut late), [2]);
    assert_eq!(late.fate.acknowledged_frames, 2);
    // The frame may still have been refused, for as long as it has no response.
    assert!(!late.resume(sequence(3), &wider));
    assert_eq!(send_all(&mut late), [2]);

    // A frame that is damaged here is certainly refused by the server.
    let mut damaged = Spool::new(id(), 1 << 20);
    let mut bytes = frame(1, NOW_MS).to_vec();
    if let Some(last) = bytes.last_mut() {
        *last ^= 1;
    }
    damaged.push(sequence(1), bytes.into(), 1);
    damaged.resume(sequence(0), &welcome());
    assert_eq!(send_all(&mut damaged), [1]);
    damaged.resume(sequence(1), &welcome());
    assert_eq!(send_all(&mut damaged), [1]);

    // A frame that this process never sent: the limits that it was checked against are not known.
    let mut unsent = spool(&[(1, NOW_MS)]);
    unsent.resume(sequence(1), &welcome());
    assert_eq!(send_all(&mut unsent), [1]);
}

proptest! {
    /// Compares the spool with a model, the set of frames without a response.
    #[test]
    fn the_spool_keeps_frames_without_a_response(steps in proptest::collection::vec((0_u8..5, 0_u64..40), 0..60)) {
        let mut spool = Spool::new(id(), 1 << 20);
        let mut model = std::collections::BTreeSet::new();
        let (mut last, mut sent_up_to) = (0, 0);
        spool.resume(sequence(0), &welcome());
        for (kind, number) in steps {
            match kind {
                0 => {
                    last += 1 + number % 3;
                    spool.push(sequence(last), frame(last, NOW_MS), 1);
                    model.insert(last);
                }
                1 => {
                    if let Some((next, _)) = spool.next_to_send() {
                        let expected = model.range(sent_up_to + 1..).next().copied();
                        prop_assert_eq!(Some(next.get()), expected);
                        sent_up_to = next.get();
                    }
                }
                2 => {
                    let up_to = number.min(sent_up_to);
                    spool.acknowledge(sequence(up_to));
                    model.retain(|n| *n > up_to);
                }
                3 => {
                    let refused = number.min(sent_up_to);
                    spool.refuse(sequence(refused), RefusalCode::Malformed, String::new());
                    model.remove(&refused);
                }
                _ => {
                    let durable = number.min(sent_up_to);
                    spool.resume(sequence(durable), &welcome());
                    model.retain(|n| *n > durable);
                    sent_up_to = 0;
                }
            }
            prop_assert_eq!(spool.len(), model.len());
            prop_assert_eq!(spool.waiting_bytes() == 0, model.is_empty());
        }
        spool.resume(sequence(0), &welcome());
        prop_assert_eq!(send_all(&mut spool), model.into_iter().collect::<Vec<_>>());
    }
}
