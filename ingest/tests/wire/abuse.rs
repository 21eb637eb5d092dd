//! Misbehaving clients: too slow, too many, out of order, or all at once.

use std::time::{Duration, Instant};

use ingest::CloseCode;
use ingest::client::{Client, ClientError};
use ingest::protocol::{ClientEvent, Message, frame_head};
use quinn::{ReadError, WriteError};

use crate::harness::{Harness, readings, sequence, spool, wait_until, within};
use crate::raw;
use crate::sink::Mode;

fn code(code: CloseCode) -> u64 {
    u64::from(code.number())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slow_streams_are_closed_and_others_continue() {
    let harness = Harness::new();
    let gateway = harness.enrolled(1);
    let server = harness.serve(&harness.sink(10, Mode::Immediate));
    let raw = raw::connect_enrolled(server.addr(), &harness.ca, &gateway).await;
    let mut good = raw.open_stream(spool(1)).await;

    // An `open` that never ends, and a frame that arrives byte by byte: neither is slow enough for the idle timeout.
    let mut opening = raw.stream().await;
    within(opening.send.write_all(&Message::Open { spool: spool(2) }.to_bytes()[..5])).await.expect("written");
    let mut slow = raw.open_stream(spool(3)).await;
    let frame = readings(1, 0, 100).encode(spool(3), sequence(1));
    let message = Message::Frame { sequence: sequence(1), frame }.to_bytes();
    let started = Instant::now();
    let mut closed = None;
    for byte in message.chunks(1) {
        match within(slow.send.write_all(byte)).await {
            Ok(()) => tokio::time::sleep(Duration::from_millis(40)).await,
            Err(error) => {
                closed = Some(error);
                break;
            }
        }
    }
    assert!(
        matches!(closed, Some(WriteError::Stopped(why)) if why.into_inner() == code(CloseCode::TooSlow)),
        "{closed:?}"
    );
    assert!(started.elapsed() >= harness.limits.message_timeout);
    let stopped = within(opening.send.stopped()).await.expect("a stream");
    assert_eq!(stopped.map(quinn::VarInt::into_inner), Some(code(CloseCode::TooSlow)));

    let frame = readings(1, 0, 1).encode(spool(1), sequence(1));
    good.write(&Message::Frame { sequence: sequence(1), frame }).await;
    assert_eq!(good.next_event().await, Some(ClientEvent::Acknowledged { up_to: sequence(1) }));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_announced_frame_of_gigabytes_is_refused_before_it_arrives() {
    let harness = Harness::new();
    let gateway = harness.enrolled(1);
    let server = harness.serve(&harness.sink(10, Mode::Immediate));
    let raw = raw::connect_enrolled(server.addr(), &harness.ca, &gateway).await;
    let mut stream = raw.open_stream(spool(1)).await;
    within(stream.send.write_all(&frame_head(sequence(1), 4_000_000_000))).await.expect("written");
    stream.sent = sequence(1);
    match stream.next_event().await {
        Some(ClientEvent::Refused { code: ingest::RefusalCode::TooLarge, .. }) => {}
        other => panic!("{other:?}"),
    }
    // The client does not have the time to send them all.
    let stopped = within(stream.send.stopped()).await.expect("a stream");
    assert_eq!(stopped.map(quinn::VarInt::into_inner), Some(code(CloseCode::TooSlow)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_protocol_violation_ends_only_the_stream() {
    let harness = Harness::new();
    let gateway = harness.enrolled(1);
    let server = harness.serve(&harness.sink(10, Mode::Immediate));
    let raw = raw::connect_enrolled(server.addr(), &harness.ca, &gateway).await;
    let frame = |number| {
        let frame = readings(1, 0, 1).encode(spool(1), sequence(number));
        Message::Frame { sequence: sequence(number), frame }.to_bytes()
    };
    let open = Message::Open { spool: spool(1) }.to_bytes();
    let scripts: [Vec<u8>; 4] = [
        frame(1).to_vec(),
        [&open[..], &open[..]].concat(),
        [&open[..], &frame(2)[..], &frame(2)[..]].concat(),
        vec![0; 100],
    ];
    for script in scripts {
        let mut stream = raw.stream().await;
        within(stream.send.write_all(&script)).await.expect("written");
        let error = loop {
            match within(stream.receive.read_chunk(1000, true)).await {
                Ok(Some(_)) => {}
                Ok(None) => panic!("ended without an error"),
                Err(error) => break error,
            }
        };
        let expected = code(CloseCode::ProtocolViolation);
        assert!(matches!(&error, ReadError::Reset(why) if why.into_inner() == expected), "{error}");
    }
    let mut stream = raw.open_stream(spool(1)).await;
    stream.send.finish().expect("open");
    assert_eq!(stream.next_event().await, None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn more_streams_than_allowed_have_to_wait() {
    let mut harness = Harness::new();
    harness.limits.streams_max = 2;
    let gateway = harness.enrolled(1);
    let server = harness.serve(&harness.sink(10, Mode::Immediate));
    let raw = raw::connect_enrolled(server.addr(), &harness.ca, &gateway).await;
    let mut first = raw.open_stream(spool(1)).await;
    let _second = raw.open_stream(spool(2)).await;
    let third = tokio::time::timeout(Duration::from_millis(200), raw.connection.open_bi()).await;
    assert!(third.is_err(), "a third stream");
    first.send.finish().expect("open");
    assert_eq!(first.next_event().await, None);
    let _third = raw.open_stream(spool(3)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_are_limited_in_total_and_per_gateway() {
    let mut harness = Harness::new();
    harness.limits.connections_max = 3;
    harness.limits.connections_per_gateway_max = 2;
    let (one, two) = (harness.enrolled(1), harness.enrolled(2));
    let server = harness.serve(&harness.sink(10, Mode::Immediate));
    let impatient = |issued| {
        let mut config = harness.config(server.addr(), issued);
        config.patience = Duration::from_millis(300);
        config
    };
    let first = harness.client(server.addr(), &one).await;
    let _second = harness.client(server.addr(), &one).await;
    // The third connection of one gateway, then the fourth in total.
    let error = within(Client::connect(impatient(&one))).await.expect_err("too many");
    assert!(matches!(&error, ClientError::GaveUp { last, .. } if last.contains("too many")), "{error}");
    wait_until("it has disconnected", || server.connections() == 2).await;
    let _third = harness.client(server.addr(), &two).await;
    let error = within(Client::connect(impatient(&two))).await.expect_err("too many");
    assert!(matches!(&error, ClientError::GaveUp { .. }), "{error}");
    assert!(server.connections() <= 3);

    // A client that retries long enough gets the permit of one that disconnects.
    let patient = tokio::spawn(Client::connect(harness.config(server.addr(), &two)));
    tokio::time::sleep(Duration::from_millis(100)).await;
    within(first.finish()).await.expect("nothing to do");
    within(patient).await.expect("no panic").expect("a client");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_connections_at_once_are_all_served() {
    let mut harness = Harness::new();
    harness.limits.handshakes_max = 4;
    harness.limits.connections_per_gateway_max = 100;
    let gateway = harness.enrolled(1);
    let server = harness.serve(&harness.sink(100, Mode::Immediate));
    let mut clients = tokio::task::JoinSet::new();
    for number in 0..40 {
        let config = harness.config(server.addr(), &gateway);
        clients.spawn(async move {
            let mut client = Client::connect(config).await.expect("a client");
            client.send(&mut readings(number + 1, 0, 3)).await.expect("sent");
            client.finish().await.expect("acknowledged")
        });
    }
    while let Some(summary) = within(clients.join_next()).await {
        assert_eq!(summary.expect("no panic").acknowledged_readings, 3);
    }
    assert_eq!(harness.disk.readings().len(), 120);
}
