//! Compares `PROTOCOL.md` with the code: the worked example byte by byte, and every number in its tables.

use bytes::{Bytes, BytesMut};
use ingest::protocol::{ALPN, ClientEvent, ClientSession, Message, ProtocolVersion, ServerEvent, ServerSession};
use ingest::protocol::{Welcome, WelcomeSession};
use ingest::{CONTROL_BYTES_MAX, CloseCode, DETAIL_BYTES_MAX, IngestLimits, RefusalCode, TimePolicy};
use std::time::Duration;
use storage_format::{ChannelCode, Frame, FrameBuilder, FrameSequence, LoggerId, Millis, SpoolId};

const PAGE: &str = include_str!("../PROTOCOL.md");

/// Returns the bytes of the example whose lines start with this letter, which stands for a stream and a direction.
fn example(letter: &str) -> Vec<u8> {
    let block = PAGE.split("```hex\n").nth(1).expect("an example").split("```").next().expect("an end");
    let mut bytes = Vec::new();
    for line in block.lines() {
        let mut words = line.split('#').next().unwrap_or_default().split_whitespace();
        if words.next() == Some(letter) {
            for word in words {
                assert!(word.len().is_multiple_of(2), "{line}");
                for at in (0..word.len()).step_by(2) {
                    bytes.push(u8::from_str_radix(&word[at..at + 2], 16).expect("hexadecimal digits"));
                }
            }
        }
    }
    bytes
}

fn welcome() -> Welcome {
    let (limits, times) = (IngestLimits::default(), TimePolicy::default());
    let ms = |time: Duration| u32::try_from(time.as_millis()).expect("fits");
    Welcome {
        version: ProtocolVersion::CURRENT,
        channel_code_max: 8,
        frame_bytes_max: limits.frame_bytes_max,
        streams_max: limits.streams_max,
        idle_timeout_ms: ms(limits.idle_timeout),
        message_timeout_ms: ms(limits.message_timeout),
        server_time: "2024-05-01T12:00:00.250Z".parse().expect("a time"),
        time_min: times.time_min,
        ahead_ms_max: u64::from(ms(times.ahead_max)),
    }
}

fn spool() -> SpoolId {
    "1122334455667788".parse().expect("an id")
}

fn frame() -> Bytes {
    let logger: LoggerId = "00124B000A6E0001".parse().expect("an id");
    let channel = |code| ChannelCode::new(code).expect("not zero");
    let mut builder = FrameBuilder::new();
    for (time, temperature, humidity) in [("2024-05-01T11:50:00Z", 4.5, 61.0), ("2024-05-01T11:55:00Z", 4.56, 61.5)] {
        let time: Millis = time.parse().expect("a time");
        builder.push(logger, time, &[(channel(1), temperature), (channel(2), humidity)]).expect("a reading");
    }
    builder.encode(spool(), FrameSequence::new(1))
}

fn bytes_of(messages: &[Message]) -> Vec<u8> {
    let mut out = BytesMut::new();
    for message in messages {
        message.encode(&mut out);
    }
    out.to_vec()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn the_worked_example_matches_the_code() {
    let one = FrameSequence::new(1);
    let (code, detail) = (RefusalCode::TooLarge, String::from("2000000 bytes, where 1048576 are accepted"));
    let refused = Message::Refused { sequence: FrameSequence::new(2), code, detail };
    for (letter, messages) in [
        ("W", vec![Message::Welcome(welcome())]),
        ("C", vec![Message::Open { spool: spool() }, Message::Frame { sequence: one, frame: frame() }]),
        ("S", vec![Message::Opened { durable: FrameSequence::ZERO }, Message::Ack { up_to: one }, refused]),
    ] {
        // Compared as text, so that a failure shows what the page should contain.
        assert_eq!(hex(&example(letter)), hex(&bytes_of(&messages)), "{letter}");
    }

    // Both ends read the example as expected.
    let read = WelcomeSession::new().receive(&mut &example("W")[..]);
    assert_eq!(read, Ok(Some(welcome())));
    let mut server = ServerSession::new(Duration::ZERO, 1 << 20, Duration::MAX, Duration::MAX);
    let bytes = example("C");
    let mut input = &bytes[..];
    assert_eq!(server.receive(Duration::ZERO, &mut input), Ok(Some(ServerEvent::Open { spool: spool() })));
    match server.receive(Duration::ZERO, &mut input) {
        Ok(Some(ServerEvent::Frame { sequence, frame })) => {
            let frame = Frame::decode(frame).expect("a frame");
            assert_eq!((sequence, frame.sequence(), frame.len()), (one, one, 2));
        }
        other => panic!("{other:?}"),
    }
    let bytes = example("S");
    let mut input = &bytes[..];
    let mut client = ClientSession::new();
    let mut events = Vec::new();
    while let Some(event) = client.receive(FrameSequence::new(2), &mut input).expect("valid") {
        events.push(event);
    }
    assert!(matches!(
        events[..],
        [
            ClientEvent::Opened { .. },
            ClientEvent::Acknowledged { .. },
            ClientEvent::Refused { code: RefusalCode::TooLarge, .. }
        ]
    ));
}

#[test]
fn every_number_is_on_the_page() {
    let has = |text: String| assert!(PAGE.contains(&text), "PROTOCOL.md lacks {text:?}");
    for code in RefusalCode::ALL {
        has(format!("| {} | {} |", code.number(), code));
    }
    for code in CloseCode::ALL {
        has(format!("| {} | {} |", code.number(), code));
    }
    has(format!("`{}`", String::from_utf8_lossy(ALPN)));
    has(format!("{CONTROL_BYTES_MAX} bytes"));
    has(format!("{DETAIL_BYTES_MAX} bytes"));
    let limits = IngestLimits::default();
    for (name, value) in [
        ("frame size", format!("{} bytes", limits.frame_bytes_max)),
        ("concurrent streams", limits.streams_max.to_string()),
        ("idle timeout", format!("{} s", limits.idle_timeout.as_secs())),
        ("handshake", format!("{} s", limits.handshake_timeout.as_secs())),
        ("`open`", format!("{} s", limits.open_timeout.as_secs())),
        ("a message", format!("{} s", limits.message_timeout.as_secs())),
        ("unread responses", format!("{} s", limits.answer_timeout.as_secs())),
        ("connections of one gateway", limits.connections_per_gateway_max.to_string()),
        ("stream window", format!("{} bytes", limits.stream_window_bytes)),
        ("connection window", format!("{} bytes", limits.connection_window_bytes)),
    ] {
        has(format!("| {name} | {value} |"));
    }
}
