//! Rules of both ends, which must not depend on how the bytes are split.

use super::*;
use crate::protocol::{ProtocolVersion, frame_head};
use bytes::BytesMut;
use proptest::prelude::*;
use storage_format::Millis;

const FRAME_BYTES_MAX: u32 = 300;
const OPEN_TIMEOUT: Duration = Duration::from_secs(5);
const MESSAGE_TIMEOUT: Duration = Duration::from_secs(7);

fn server() -> ServerSession {
    ServerSession::new(Duration::ZERO, FRAME_BYTES_MAX, OPEN_TIMEOUT, MESSAGE_TIMEOUT)
}

fn open() -> Message {
    Message::Open { spool: SpoolId::new(9).expect("not zero") }
}

fn frame(sequence: u64, bytes: usize) -> Message {
    Message::Frame { sequence: FrameSequence::new(sequence), frame: vec![7; bytes].into() }
}

fn ack(up_to: u64) -> Message {
    Message::Ack { up_to: FrameSequence::new(up_to) }
}

fn bytes_of(messages: &[Message]) -> BytesMut {
    let mut out = BytesMut::new();
    for message in messages {
        message.encode(&mut out);
    }
    out
}

fn split<'a>(bytes: &'a [u8], pieces: &'a [usize]) -> impl Iterator<Item = &'a [u8]> {
    let mut rest = bytes;
    let mut lengths = pieces.iter().copied().cycle();
    std::iter::from_fn(move || {
        let n = lengths.next().unwrap_or(rest.len()).clamp(1, rest.len().max(1)).min(rest.len());
        let (piece, after) = rest.split_at(n);
        rest = after;
        (n > 0).then_some(piece)
    })
}

fn run_server(bytes: &[u8], pieces: &[usize]) -> (Vec<ServerEvent>, Result<(), ProtocolError>, usize) {
    let mut session = server();
    let (mut events, mut memory_bytes_max) = (Vec::new(), 0);
    for mut piece in split(bytes, pieces) {
        loop {
            let event = session.receive(Duration::ZERO, &mut piece);
            memory_bytes_max = memory_bytes_max.max(session.memory_bytes());
            match event {
                Ok(Some(event)) => events.push(event),
                Ok(None) => break,
                Err(error) => return (events, Err(error), memory_bytes_max),
            }
        }
    }
    (events, session.end(), memory_bytes_max)
}

fn run_client(bytes: &[u8], pieces: &[usize], sent: u64) -> (Vec<ClientEvent>, Result<(), ProtocolError>) {
    let mut session = ClientSession::new();
    let mut events = Vec::new();
    for mut piece in split(bytes, pieces) {
        loop {
            match session.receive(FrameSequence::new(sent), &mut piece) {
                Ok(Some(event)) => events.push(event),
                Ok(None) => break,
                Err(error) => return (events, Err(error)),
            }
        }
    }
    (events, Ok(()))
}

fn scripts() -> impl Strategy<Value = BytesMut> {
    let step = prop_oneof![
        4 => (1_u64..12, 0_usize..400).prop_map(|(sequence, bytes)| frame(sequence, bytes)),
        2 => Just(open()),
        2 => (0_u64..12).prop_map(|n| Message::Opened { durable: FrameSequence::new(n) }),
        3 => (1_u64..12).prop_map(ack),
        1 => (1_u64..12).prop_map(|n| Message::Refused {
            sequence: FrameSequence::new(n),
            code: RefusalCode::Malformed,
            detail: "why".into(),
        }),
    ];
    let damage = proptest::option::of((any::<proptest::sample::Index>(), any::<u8>()));
    (proptest::collection::vec(step, 0..12), any::<bool>(), damage).prop_map(|(mut steps, starts_with_open, damage)| {
        if starts_with_open {
            steps.insert(0, open());
        } else {
            steps.insert(0, Message::Opened { durable: FrameSequence::ZERO });
        }
        let mut bytes = bytes_of(&steps);
        if let Some((index, value)) = damage {
            let index = index.index(bytes.len());
            bytes[index] = value;
        }
        bytes
    })
}

proptest! {
    #[test]
    fn results_do_not_depend_on_the_pieces(
        bytes in scripts(),
        pieces in proptest::collection::vec(1_usize..200, 1..5),
    ) {
        let (unsplit, split) = (run_server(&bytes, &[]), run_server(&bytes, &pieces));
        prop_assert_eq!((&unsplit.0, &unsplit.1), (&split.0, &split.1));
        let control_bytes_max = usize::try_from(crate::CONTROL_BYTES_MAX).expect("a kibibyte");
        prop_assert!(split.2 <= 8 + control_bytes_max);
        prop_assert_eq!(run_client(&bytes, &[], 8), run_client(&bytes, &pieces, 8));

        // The events keep the rules, whatever the other end sent.
        let numbers: Vec<_> = unsplit.0.iter().filter_map(|event| match event {
            ServerEvent::Frame { sequence, .. } | ServerEvent::TooLarge { sequence, .. } => Some(*sequence),
            ServerEvent::Open { .. } => None,
        }).collect();
        prop_assert!(numbers.is_sorted_by(|a, b| a < b));
        let opens: Vec<_> = unsplit.0.iter().map(|event| matches!(event, ServerEvent::Open { .. })).collect();
        prop_assert!(opens.iter().enumerate().all(|(index, opens)| *opens == (index == 0)));
        let (received, _) = run_client(&bytes, &[], 8);
        let acks: Vec<_> = received.iter().filter_map(|event| match event {
            ClientEvent::Acknowledged { up_to } => Some(up_to.get()),
            _ => None,
        }).collect();
        prop_assert!(acks.is_sorted_by(|a, b| a < b) && acks.iter().all(|up_to| *up_to <= 8));
    }

    #[test]
    fn random_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..2000)) {
        let _ = run_server(&bytes, &[7]);
        let _ = run_client(&bytes, &[7], 8);
        let _ = WelcomeSession::new().receive(&mut &bytes[..]);
    }
}

#[test]
fn a_server_rejects_violations() {
    let cases: [(&[Message], ProtocolError); 5] = [
        (&[frame(1, 10)], ProtocolError::Unexpected(4)),
        (&[open(), open()], ProtocolError::Unexpected(2)),
        (&[open(), ack(1)], ProtocolError::Unexpected(5)),
        (&[open(), frame(2, 10), frame(2, 10)], ProtocolError::Sequence { last: 2, found: 2 }),
        (&[open(), frame(2, 1000), frame(1, 10)], ProtocolError::Sequence { last: 2, found: 1 }),
    ];
    for (messages, expected) in cases {
        assert_eq!(run_server(&bytes_of(messages), &[]).1, Err(expected), "{messages:?}");
    }
    assert_eq!(run_server(&[], &[]).1, Err(ProtocolError::Truncated), "a stream without `open`");
    let bytes = bytes_of(&[open(), frame(1, 10)]);
    assert_eq!(run_server(&bytes, &[]).1, Ok(()));
    assert_eq!(run_server(&bytes[..bytes.len() - 1], &[]).1, Err(ProtocolError::Truncated));
}

#[test]
fn a_client_rejects_violations() {
    let opened = Message::Opened { durable: FrameSequence::new(3) };
    let cases: [(&[Message], ProtocolError); 5] = [
        (&[ack(1)], ProtocolError::Unexpected(5)),
        (&[opened.clone(), opened.clone()], ProtocolError::Unexpected(3)),
        (&[opened.clone(), frame(1, 10)], ProtocolError::Unexpected(4)),
        (&[opened.clone(), ack(9)], ProtocolError::NotSent { sent: 8, found: 9 }),
        (&[opened, ack(2), ack(2)], ProtocolError::Sequence { last: 2, found: 2 }),
    ];
    for (messages, expected) in cases {
        assert_eq!(run_client(&bytes_of(messages), &[], 8).1, Err(expected), "{messages:?}");
    }
}

#[test]
fn deadlines_of_open_and_of_messages() {
    let at = Duration::from_secs;
    let mut session = server();
    assert_eq!(session.deadline(), Some(at(5)), "for `open`");
    let opening = open().to_bytes();
    assert_eq!(session.receive(at(1), &mut &opening[..6]), Ok(None));
    assert_eq!(session.deadline(), Some(at(5)), "however slowly it arrives");
    assert!(session.receive(at(2), &mut &opening[6..]).expect("fine").is_some());
    assert_eq!(session.deadline(), None, "between messages");

    let first = frame(1, 50).to_bytes();
    assert_eq!(session.receive(at(10), &mut &first[..1]), Ok(None));
    assert_eq!(session.deadline(), Some(at(17)), "from the first byte");
    assert_eq!(session.receive(at(12), &mut &first[1..20]), Ok(None));
    assert_eq!(session.deadline(), Some(at(17)), "further bytes do not extend it");
    assert!(session.receive(at(13), &mut &first[20..]).expect("fine").is_some());
    assert_eq!(session.deadline(), None);

    // A piece with the end of one message and the start of the next: the next has a deadline of its own.
    let (second, third) = (frame(2, 50).to_bytes(), frame(3, 50).to_bytes());
    assert_eq!(session.receive(at(20), &mut &second[..30]), Ok(None));
    let joined = [&second[30..], &third[..9]].concat();
    let mut input = &joined[..];
    assert!(session.receive(at(26), &mut input).expect("fine").is_some());
    assert_eq!(session.receive(at(26), &mut input), Ok(None));
    assert_eq!(session.deadline(), Some(at(33)));

    // A frame that is skipped has no more time than another.
    let mut session = server();
    let mut start = bytes_of(&[open()]).to_vec();
    start.extend(frame_head(FrameSequence::new(1), 1_000_000));
    let mut input = &start[..];
    while session.receive(at(1), &mut input).expect("fine").is_some() {}
    assert_eq!(session.deadline(), Some(at(8)));
    assert_eq!(session.receive(at(7), &mut &[0; 1000][..]), Ok(None));
    assert_eq!(session.deadline(), Some(at(8)));
}

#[test]
fn a_welcome_session_accepts_only_a_welcome() {
    let welcome = Welcome {
        version: ProtocolVersion::CURRENT,
        channel_code_max: 8,
        frame_bytes_max: 1,
        streams_max: 2,
        idle_timeout_ms: 3,
        message_timeout_ms: 4,
        server_time: Millis::EPOCH,
        time_min: Millis::EPOCH,
        ahead_ms_max: 5,
    };
    let mut bytes = Message::Welcome(welcome.clone()).to_bytes().to_vec();
    assert_eq!(WelcomeSession::new().receive(&mut &bytes[..]), Ok(Some(welcome)));
    bytes[5] = 2;
    assert_eq!(WelcomeSession::new().receive(&mut &bytes[..]), Err(ProtocolError::Version(2)));
    assert_eq!(WelcomeSession::new().receive(&mut &ack(1).to_bytes()[..]), Err(ProtocolError::Unexpected(5)));
}
