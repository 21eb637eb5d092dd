//! State machines of the wire protocol: however a stream is divided, both ends report the same events, buffer little
//! and never panic. Each end decodes what the other encodes.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use ingest::protocol::{
    ClientEvent, ClientSession, Message, MessageReader, ProtocolVersion, Received, ServerEvent, ServerSession, Welcome,
    WelcomeSession, check_frame, frame_head,
};
use ingest::{CONTROL_BYTES_MAX, DETAIL_BYTES_MAX, ProtocolError, RefusalCode, TimePolicy};
use storage_format::{FrameSequence, Millis, SpoolId};

use crate::Script;

/// Limits of the server for a frame, small and large.
const FRAME_BYTES_MAX: [u32; 4] = [256, 1000, 40_000, 1 << 20];
/// Longest stream. Longer streams find nothing new and take more time.
const STREAM_BYTES_MAX: usize = 256 << 10;
const OPEN_TIMEOUT: Duration = Duration::from_secs(5);
const MESSAGE_TIMEOUT: Duration = Duration::from_secs(7);

/// Runs a script: the limit of the server, the division of the stream into pieces, then messages and noise.
pub fn session(data: &[u8]) -> bool {
    let mut script = Script::new(data);
    let frame_bytes_max = FRAME_BYTES_MAX[usize::from(script.below(4))];
    let sent = FrameSequence::new(u64::from(script.u8()));
    let mut pieces = Vec::new();
    for _ in 0..script.below(5) {
        pieces.push(usize::from(script.u16() % 20_000).max(1));
    }
    let (stream, messages) = stream(&mut script);

    let undivided = serve(&stream, &[], frame_bytes_max);
    let divided = serve(&stream, &pieces, frame_bytes_max);
    assert_eq!((&undivided.events, &undivided.end), (&divided.events, &divided.end), "pieces {pieces:?}");
    check_served(&undivided, &stream);
    for served in [&undivided, &divided] {
        let memory_max = frame_bytes_max.max(CONTROL_BYTES_MAX) as usize + ingest::protocol::FRAME_HEAD_BYTES;
        assert!(served.memory_bytes_max <= memory_max, "{} bytes held, {memory_max} allowed", served.memory_bytes_max);
    }
    let received = listen(&stream, &[], sent);
    assert_eq!(received, listen(&stream, &pieces, sent), "pieces {pieces:?}");
    check_received(&received.0, sent);
    let welcome = welcome(&stream, &[]);
    assert_eq!(welcome, self::welcome(&stream, &pieces), "pieces {pieces:?}");

    let read = read(&stream);
    if let Some(messages) = messages {
        assert_eq!(read, messages, "encoded messages decode");
    }
    !undivided.events.is_empty() || !received.0.is_empty() || matches!(welcome, Ok(Some(_)))
}

/// Generates the stream, and returns its messages if it has no noise.
fn stream(script: &mut Script<'_>) -> (Vec<u8>, Option<Vec<Message>>) {
    let mut out = BytesMut::new();
    let mut messages = Some(Vec::new());
    while !script.is_empty() && out.len() < STREAM_BYTES_MAX {
        match message(script) {
            Some(message) => {
                if let Message::Frame { sequence, frame } = &message {
                    out.extend_from_slice(&frame_head(*sequence, frame.len()));
                    out.extend_from_slice(frame);
                } else {
                    message.encode(&mut out);
                }
                messages.iter_mut().for_each(|messages| messages.push(message.clone()));
            }
            None => {
                let length = usize::from(script.u8());
                out.extend_from_slice(script.take(length));
                messages = None;
            }
        }
    }
    (out.to_vec(), messages)
}

/// Generates the next message; `None` for noise.
fn message(script: &mut Script<'_>) -> Option<Message> {
    let kind = script.below(9);
    let sequence = FrameSequence::new(u64::from(script.u8()).max(1));
    Some(match kind {
        0 => Message::Open { spool: SpoolId::new(script.u64().max(1)).expect("not zero") },
        1 => Message::Opened { durable: FrameSequence::new(script.u64()) },
        2 => Message::Ack { up_to: sequence },
        3 => {
            let code = RefusalCode::ALL[usize::from(script.below(7))];
            let length = usize::from(script.u8());
            let mut detail = String::from_utf8_lossy(script.take(length)).into_owned();
            while detail.len() > DETAIL_BYTES_MAX {
                detail.pop();
            }
            Message::Refused { sequence, code, detail }
        }
        4 => Message::Welcome(Welcome {
            version: ProtocolVersion::CURRENT,
            channel_code_max: script.u16(),
            frame_bytes_max: script.u32(),
            streams_max: script.u32(),
            idle_timeout_ms: script.u32(),
            message_timeout_ms: script.u32(),
            server_time: Millis::new(script.i64()).unwrap_or(Millis::EPOCH),
            time_min: Millis::new(script.i64()).unwrap_or(Millis::MIN),
            ahead_ms_max: script.u64(),
        }),
        5 => {
            let length = usize::from(script.u8());
            Message::Frame { sequence, frame: Bytes::copy_from_slice(script.take(length)) }
        }
        6 | 7 => Message::Frame { sequence, frame: vec![script.u8(); usize::from(script.u16())].into() },
        _ => return None,
    })
}

fn divide<'a>(bytes: &'a [u8], pieces: &'a [usize]) -> impl Iterator<Item = &'a [u8]> {
    let mut rest = bytes;
    let mut lengths = pieces.iter().copied().cycle();
    std::iter::from_fn(move || {
        let (piece, after) = rest.split_at(lengths.next().unwrap_or(rest.len()).min(rest.len()));
        rest = after;
        (!piece.is_empty()).then_some(piece)
    })
}

struct ServerOutcome {
    events: Vec<ServerEvent>,
    end: Result<(), ProtocolError>,
    memory_bytes_max: usize,
}

fn serve(stream: &[u8], pieces: &[usize], frame_bytes_max: u32) -> ServerOutcome {
    let mut session = ServerSession::new(Duration::ZERO, frame_bytes_max, OPEN_TIMEOUT, MESSAGE_TIMEOUT);
    let (mut events, mut memory_bytes_max, mut now) = (Vec::new(), 0, Duration::ZERO);
    for mut piece in divide(stream, pieces) {
        now += Duration::from_millis(1);
        loop {
            let received = session.receive(now, &mut piece);
            memory_bytes_max = memory_bytes_max.max(session.memory_bytes());
            let late = session.deadline().is_some_and(|at| at > now + OPEN_TIMEOUT.max(MESSAGE_TIMEOUT));
            assert!(!late, "the deadline exceeds the timeouts");
            match received {
                Ok(Some(event)) => events.push(event),
                Ok(None) => break,
                Err(error) => return ServerOutcome { events, end: Err(error), memory_bytes_max },
            }
        }
        assert!(piece.is_empty(), "the session consumes all bytes");
    }
    ServerOutcome { events, end: session.end(), memory_bytes_max }
}

fn check_served(served: &ServerOutcome, stream: &[u8]) {
    let events = &served.events;
    assert!(events.len() <= stream.len() / 5, "each event needs the head of a message");
    let opens: Vec<_> = events.iter().map(|event| matches!(event, ServerEvent::Open { .. })).collect();
    assert!(
        opens.iter().enumerate().all(|(index, opens)| *opens == (index == 0)),
        "`open` must be first and occur once"
    );
    let numbers: Vec<_> = events
        .iter()
        .filter_map(|event| match event {
            ServerEvent::Frame { sequence, .. } | ServerEvent::TooLarge { sequence, .. } => Some(*sequence),
            ServerEvent::Open { .. } => None,
        })
        .collect();
    assert!(numbers.is_sorted_by(|a, b| a < b), "sequence numbers ascend");
    let Some(ServerEvent::Open { spool }) = events.first() else { return };
    for event in events {
        if let ServerEvent::Frame { sequence, frame } = event {
            let checked = check_frame(frame.clone(), *spool, *sequence, &TimePolicy::default(), Millis::EPOCH);
            if let Ok(checked) = checked {
                assert_eq!((checked.spool(), checked.sequence()), (*spool, *sequence));
            }
        }
    }
}

type ClientOutcome = (Vec<ClientEvent>, Result<(), ProtocolError>);

fn listen(stream: &[u8], pieces: &[usize], sent: FrameSequence) -> ClientOutcome {
    let mut session = ClientSession::new();
    let mut events = Vec::new();
    for mut piece in divide(stream, pieces) {
        loop {
            match session.receive(sent, &mut piece) {
                Ok(Some(event)) => events.push(event),
                Ok(None) => break,
                Err(error) => return (events, Err(error)),
            }
        }
    }
    (events, Ok(()))
}

fn check_received(events: &[ClientEvent], sent: FrameSequence) {
    let mut acknowledged = FrameSequence::ZERO;
    for (index, event) in events.iter().enumerate() {
        match event {
            ClientEvent::Opened { .. } => assert_eq!(index, 0, "`opened` must be first and occur once"),
            ClientEvent::Acknowledged { up_to } => {
                assert!(index > 0 && acknowledged < *up_to && *up_to <= sent);
                acknowledged = *up_to;
            }
            ClientEvent::Refused { sequence, detail, .. } => {
                assert!(index > 0 && *sequence <= sent && detail.len() <= 3 * CONTROL_BYTES_MAX as usize);
            }
        }
    }
}

fn welcome(stream: &[u8], pieces: &[usize]) -> Result<Option<Welcome>, ProtocolError> {
    let mut session = WelcomeSession::new();
    for mut piece in divide(stream, pieces) {
        if let Some(welcome) = session.receive(&mut piece)? {
            return Ok(Some(welcome));
        }
    }
    Ok(None)
}

/// Reads all messages up to the first invalid one, and checks that each survives re-encoding.
fn read(stream: &[u8]) -> Vec<Message> {
    let mut reader = MessageReader::with_frames(1 << 20);
    let mut input = stream;
    let mut messages = Vec::new();
    while let Ok(Some(received)) = reader.next(&mut input) {
        let Received::Message(message) = received else { continue };
        check_round_trip(&message);
        messages.push(message);
    }
    messages
}

fn check_round_trip(message: &Message) {
    let bytes = message.to_bytes();
    let again = MessageReader::with_frames(1 << 20).next(&mut &bytes[..]).expect("encoded messages decode");
    let Some(Received::Message(again)) = again else { panic!("{message:?} was decoded as {again:?}") };
    match (message, &again) {
        // The encoder truncates a text that exceeds its limit.
        (
            Message::Refused { sequence, code, detail },
            Message::Refused { sequence: same_sequence, code: same_code, detail: part },
        ) => {
            assert_eq!((sequence, code), (same_sequence, same_code));
            assert!(detail.starts_with(part.as_str()));
            assert!(part.len() == detail.len() || part.len() + 4 > DETAIL_BYTES_MAX);
        }
        _ => assert_eq!(*message, again),
    }
}
