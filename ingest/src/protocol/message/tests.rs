//! Messages survive encoding and decoding, however the bytes are split. Damaged messages never panic, and never
//! allocate more memory than their bytes need.

use super::*;
use proptest::prelude::*;

const FRAME_BYTES_MAX: u32 = 500;

fn sequences() -> impl Strategy<Value = FrameSequence> {
    (1..=u64::MAX).prop_map(FrameSequence::new)
}

fn times() -> impl Strategy<Value = Millis> {
    (Millis::MIN.get()..=Millis::MAX.get()).prop_map(|ms| Millis::new(ms).expect("in range"))
}

fn messages() -> impl Strategy<Value = Message> {
    let welcome = (any::<u16>(), any::<[u32; 4]>(), times(), times(), any::<u64>()).prop_map(
        |(channel_code_max, [a, b, c, d], server_time, time_min, ahead_ms_max)| {
            Message::Welcome(Welcome {
                version: ProtocolVersion::CURRENT,
                channel_code_max,
                frame_bytes_max: a,
                streams_max: b,
                idle_timeout_ms: c,
                message_timeout_ms: d,
                server_time,
                time_min,
                ahead_ms_max,
            })
        },
    );
    prop_oneof![
        welcome,
        (1..=u64::MAX).prop_map(|id| Message::Open { spool: SpoolId::new(id).expect("not zero") }),
        any::<u64>().prop_map(|n| Message::Opened { durable: FrameSequence::new(n) }),
        (sequences(), proptest::collection::vec(any::<u8>(), 0..=FRAME_BYTES_MAX as usize))
            .prop_map(|(sequence, frame)| Message::Frame { sequence, frame: frame.into() }),
        sequences().prop_map(|up_to| Message::Ack { up_to }),
        (sequences(), 0..RefusalCode::ALL.len(), "\\PC{0,60}").prop_map(|(sequence, code, detail)| {
            Message::Refused { sequence, code: RefusalCode::ALL[code], detail }
        }),
    ]
}

/// Reads bytes that arrive in pieces whose lengths repeat those of `pieces`. Returns the items, the error, and the peak
/// memory.
fn read(bytes: &[u8], pieces: &[usize]) -> (Vec<Received>, Option<ProtocolError>, usize) {
    let mut reader = MessageReader::with_frames(FRAME_BYTES_MAX);
    let mut items = Vec::new();
    let mut memory_bytes_max = 0;
    let mut rest = bytes;
    let mut lengths = pieces.iter().copied().cycle();
    while !rest.is_empty() {
        let n = lengths.next().unwrap_or(rest.len()).clamp(1, rest.len());
        let mut piece = &rest[..n];
        rest = &rest[n..];
        loop {
            let result = reader.next(&mut piece);
            memory_bytes_max = memory_bytes_max.max(reader.memory_bytes());
            match result {
                Ok(Some(received)) => items.push(received),
                Ok(None) => break,
                Err(error) => return (items, Some(error), memory_bytes_max),
            }
        }
        assert!(piece.is_empty(), "a reader that needs more has consumed all");
    }
    (items, None, memory_bytes_max)
}

proptest! {
    #[test]
    fn messages_round_trip(
        sent in proptest::collection::vec(messages(), 0..8),
        pieces in proptest::collection::vec(1_usize..700, 1..6),
    ) {
        let mut bytes = BytesMut::new();
        for message in &sent {
            message.encode(&mut bytes);
        }
        let (items, error, _) = read(&bytes, &pieces);
        prop_assert_eq!(error, None);
        prop_assert_eq!(items, sent.into_iter().map(Received::Message).collect::<Vec<_>>());
    }

    #[test]
    fn results_do_not_depend_on_the_pieces(
        bytes in proptest::collection::vec(any::<u8>(), 0..3000),
        pieces in proptest::collection::vec(1_usize..700, 1..6),
    ) {
        let unsplit = read(&bytes, &[]);
        let split = read(&bytes, &pieces);
        prop_assert_eq!((&unsplit.0, &unsplit.1), (&split.0, &split.1));
        prop_assert!(split.2 <= 8 + CONTROL_BYTES_MAX as usize);
    }

    /// Valid messages with a few changed bytes reach code that random bytes do not.
    #[test]
    fn results_for_damaged_messages_do_not_depend_on_the_pieces(
        sent in proptest::collection::vec(messages(), 1..5),
        damage in proptest::collection::vec((any::<proptest::sample::Index>(), any::<u8>()), 1..4),
        pieces in proptest::collection::vec(1_usize..300, 1..6),
    ) {
        let mut bytes = BytesMut::new();
        for message in &sent {
            message.encode(&mut bytes);
        }
        for (index, value) in damage {
            let index = index.index(bytes.len());
            bytes[index] = value;
        }
        let unsplit = read(&bytes, &[]);
        let split = read(&bytes, &pieces);
        prop_assert_eq!((&unsplit.0, &unsplit.1), (&split.0, &split.1));
        prop_assert!(split.2 <= 8 + CONTROL_BYTES_MAX as usize);
    }
}

#[test]
fn a_frame_head_is_the_start_of_its_message() {
    let (sequence, frame) = (FrameSequence::new(0x0102_0304), Bytes::from_static(b"frame"));
    let message = Message::Frame { sequence, frame: frame.clone() }.to_bytes();
    assert_eq!(message, [&frame_head(sequence, frame.len())[..], &frame[..]].concat());
}

#[test]
fn a_frame_too_large_is_skipped_without_memory() {
    let sequence = FrameSequence::new(7);
    let mut bytes = BytesMut::new();
    let large = vec![0; 1_000_000];
    Message::Frame { sequence, frame: large.into() }.encode(&mut bytes);
    Message::Ack { up_to: sequence }.encode(&mut bytes);
    let (items, error, memory_bytes) = read(&bytes, &[1000]);
    assert_eq!(error, None);
    let after = Received::Message(Message::Ack { up_to: sequence });
    assert_eq!(items, [Received::TooLarge { sequence, bytes: 1_000_000 }, after]);
    assert!(memory_bytes < 100, "{memory_bytes}");

    // A frame at the limit is accepted, one byte more is not.
    for (length, accepted) in [(FRAME_BYTES_MAX, true), (FRAME_BYTES_MAX + 1, false)] {
        let message = Message::Frame { sequence, frame: vec![1; length as usize].into() };
        let (items, ..) = read(&message.to_bytes(), &[3]);
        assert_eq!(items == [Received::Message(message)], accepted);
    }
}

#[test]
fn a_claim_of_gigabytes_reserves_nothing() {
    let mut reader = MessageReader::with_frames(u32::MAX);
    let claim = frame_head(FrameSequence::new(1), 4_000_000_000);
    assert_eq!(reader.next(&mut &claim[..]), Ok(None));
    assert!(reader.memory_bytes() <= UNRESERVED_BYTES_MAX);
}

#[test]
fn invalid_messages_are_errors() {
    let error = |bytes: &[u8]| read(bytes, &[]).1.expect("an error");
    assert_eq!(error(&[0; 5]), ProtocolError::Length { kind: 0, length: 0 }, "zeroed bytes");
    assert_eq!(error(&[1, 0, 0, 0, 0]), ProtocolError::UnknownKind(0));
    assert_eq!(error(&[1, 0, 0, 0, 99]), ProtocolError::UnknownKind(99));
    assert_eq!(error(&[0, 0, 0, 0, OPEN]), ProtocolError::Length { kind: OPEN, length: 0 });
    assert_eq!(error(&[8, 0, 0, 0, FRAME]), ProtocolError::Length { kind: FRAME, length: 8 });
    assert_eq!(error(&[255, 255, 0, 0, ACK]), ProtocolError::Length { kind: ACK, length: 65535 });
    let zero = [9, 0, 0, 0, OPEN, 0, 0, 0, 0, 0, 0, 0, 0];
    assert_eq!(error(&zero), ProtocolError::Field { kind: OPEN, field: "spool" });
    let zero = [9, 0, 0, 0, FRAME, 0, 0, 0, 0, 0, 0, 0, 0];
    assert_eq!(error(&zero), ProtocolError::Field { kind: FRAME, field: "sequence" });
    assert_eq!(
        MessageReader::without_frames().next(&mut &zero[..]),
        Err(ProtocolError::Unexpected(FRAME)),
        "a client accepts no frames"
    );
}

#[test]
fn unknown_fields_at_the_end_are_skipped() {
    let mut longer = Message::Opened { durable: FrameSequence::new(3) }.to_bytes().to_vec();
    longer[0] += 2;
    longer.extend([1, 2]);
    let (items, error, _) = read(&longer, &[]);
    assert_eq!((items, error), (vec![Received::Message(Message::Opened { durable: FrameSequence::new(3) })], None));
}

#[test]
fn a_long_detail_is_truncated_between_characters() {
    let detail = "é".repeat(200);
    let message = Message::Refused { sequence: FrameSequence::new(1), code: RefusalCode::Malformed, detail };
    let (items, error, _) = read(&message.to_bytes(), &[]);
    assert_eq!(error, None);
    match &items[..] {
        [Received::Message(Message::Refused { detail, .. })] => assert_eq!(detail, &"é".repeat(128)),
        other => panic!("{other:?}"),
    }
}
