//! The memory for frames is bounded for the whole process, whatever gateways announce, send and leave incomplete, and
//! well-behaved gateways can still send.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use ingest::client::Client;
use ingest::protocol::{ALPN, Message, decoded_bytes, frame_head};
use quinn::Endpoint;
use storage_format::{ChannelCode, Frame, FrameBuilder, LoggerId, Millis, SpoolId};
use tokio::task::JoinSet;

use crate::harness::{Harness, START_MS, readings, sequence, spool, wait_until, within};
use crate::pki::{Issued, identity};
use crate::raw::{self, Raw};
use crate::sink::Mode;

const MIB: usize = 1 << 20;
const FRAME_BYTES: usize = 64 << 10;
/// Bytes that a raw client may have in flight.
const SEND_WINDOW: usize = 16 << 10;

/// Returns a harness with 5.5 MiB for incomplete frames, as much for decoded ones, and small windows.
fn harness() -> Harness {
    let mut harness = Harness::new();
    harness.limits.frame_bytes_max = u32::try_from(FRAME_BYTES).expect("small");
    harness.limits.frame_memory_bytes = 22 * MIB;
    harness.limits.stream_window_bytes = 64 << 10;
    harness.limits.connection_window_bytes = 64 << 10;
    harness.limits.message_timeout = Duration::from_secs(300);
    harness
}

/// Enrolls `count` gateways of an organisation.
fn gateways(harness: &Harness, org: u64, count: u64) -> Vec<Issued> {
    let issue = |number| {
        let issued = harness.ca.gateway();
        harness
            .directory
            .set(&issued, Ok(ingest::GatewayIdentity { org: identity(org).org, ..identity(100 * org + number) }));
        issued
    };
    (1..=count).map(issue).collect()
}

struct Crowd {
    endpoint: Endpoint,
    connections: Vec<Raw>,
    /// The streams, each with the bytes of its frame that it could send.
    streams: JoinSet<(raw::Stream, usize)>,
}

/// Connects each gateway, and sends a frame without its last byte on each of eight streams.
async fn send_incomplete_frames(harness: &Harness, addr: SocketAddr, gateways: &[Issued]) -> Crowd {
    let endpoint = raw::endpoint();
    let (mut connections, mut streams) = (Vec::new(), JoinSet::new());
    for gateway in gateways {
        let config = raw::client_config(&harness.ca, Some(gateway), ALPN);
        let raw = within(raw::connect_over(&endpoint, config, addr)).await.expect("connected");
        let mut gateway_streams = Vec::new();
        for number in 1..=8 {
            gateway_streams.push(raw.open_stream(spool(number)).await);
        }
        for mut stream in gateway_streams {
            streams.spawn(async move {
                let (head, piece) = (frame_head(sequence(1), FRAME_BYTES), [7; 1000]);
                let (mut next, mut written) = (&head[..], 0);
                while written + next.len() < FRAME_BYTES {
                    // A write that takes so long is blocked by flow control.
                    match tokio::time::timeout(Duration::from_secs(2), stream.send.write_all(next)).await {
                        Ok(Ok(())) => written += next.len(),
                        Ok(Err(_)) | Err(_) => break,
                    }
                    next = &piece;
                }
                (stream, written)
            });
        }
        connections.push(raw);
    }
    Crowd { endpoint, connections, streams }
}

/// Returns readings that compress badly.
fn noise(logger: u64) -> FrameBuilder {
    let mut builder = FrameBuilder::new();
    let channel = ChannelCode::new(1).expect("temperature");
    for index in 0..5000_i64 {
        let time = Millis::new(START_MS - 10_000_000 + 1000 * index).expect("a time");
        let value = (index as f64 / 7.0).sin();
        builder.push(LoggerId::new(logger).expect("not zero"), time, &[(channel, value)]).expect("a reading");
    }
    builder
}

/// Checks that a gateway can send a frame without reconnecting.
async fn check_gateway_can_send(harness: &Harness, addr: SocketAddr, gateway: &Issued, frame: FrameBuilder) {
    let mut frame = frame;
    let mut client = within(Client::connect(harness.config(addr, gateway))).await.expect("a client");
    within(client.send(&mut frame)).await.expect("sent");
    let summary = within(client.finish()).await.expect("all acknowledged");
    assert_eq!((summary.acknowledged_frames, summary.reconnects), (1, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn incomplete_frames_of_one_organisation_take_half_and_no_more() {
    let harness = harness();
    let server = harness.serve(&harness.sink(100, Mode::Immediate));
    let quarter = harness.limits.frame_memory_bytes / 4;
    let crowd = send_incomplete_frames(&harness, server.addr(), &gateways(&harness, 1, 12)).await;
    wait_until("the organisation holds its half", || server.frame_memory()[1] > quarter / 2 - FRAME_BYTES - 8).await;
    // Large frames of others get memory at once, and no stream of the crowd is closed for it.
    for other in gateways(&harness, 2, 3) {
        check_gateway_can_send(&harness, server.addr(), &other, noise(1)).await;
    }
    let written: Vec<usize> = within(crowd.streams.join_all()).await.into_iter().map(|(_, written)| written).collect();
    let held = server.frame_memory()[1];
    assert!(held <= quarter / 2, "{held}");
    // The bytes that they sent are those that the server holds, and a window at each end of each connection.
    let sent_max = held + crowd.connections.len() * ((64 << 10) + SEND_WINDOW + (8 << 10));
    let sum: usize = written.iter().sum();
    assert!(sum <= sent_max, "{sum} bytes sent, {held} held");
    assert!(written.len() == 96 && sum > quarter / 4, "{sum}");
    crowd.endpoint.close(0_u32.into(), b"");
    drop(crowd.connections);
    wait_until("all memory is released", || server.frame_memory() == [0; 3]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn when_memory_is_used_up_slow_streams_are_closed_and_others_can_send() {
    let mut harness = harness();
    harness.limits.message_timeout = Duration::from_secs(3);
    let server = harness.serve(&harness.sink(100, Mode::Immediate));
    let quarter = harness.limits.frame_memory_bytes / 4;
    let mut crowds = Vec::new();
    for org in 1..=3 {
        crowds.push(send_incomplete_frames(&harness, server.addr(), &gateways(&harness, org, 9)).await);
    }
    let well_behaved = gateways(&harness, 4, 1);
    // A frame that fits a datagram or two needs no reserved memory.
    check_gateway_can_send(&harness, server.addr(), &well_behaved[0], readings(1, 0, 3)).await;
    for _ in 0..3 {
        check_gateway_can_send(&harness, server.addr(), &well_behaved[0], noise(2)).await;
        assert!(server.frame_memory()[1] <= quarter);
    }
    assert_eq!(harness.disk.frames(), 4);
    drop(crowds);
}

/// Returns a frame that is small on the wire and large in memory: eight channels, of which all but one have only one
/// value.
fn bomb(id: SpoolId, number: u64) -> Bytes {
    let mut builder = FrameBuilder::new();
    let channels: Vec<ChannelCode> = storage_format::channels().iter().map(|channel| channel.code).take(8).collect();
    let all: Vec<(ChannelCode, f64)> = channels.iter().map(|code| (*code, 1.0)).collect();
    let time = |index: i64| Millis::new(START_MS - 100_000_000 + 1000 * index).expect("a time");
    builder.push(LoggerId::new(1).expect("not zero"), time(0), &all).expect("a reading");
    for index in 0..i64::try_from(262_144 / channels.len() - 1).expect("small") {
        builder.push(LoggerId::new(2).expect("not zero"), time(index), &all[..1]).expect("a reading");
    }
    builder.encode(id, sequence(number))
}

#[test]
fn memory_of_a_decoded_frame_is_known_before_it_is_decoded() {
    let frame = bomb(spool(1), 1);
    let decoded = Frame::decode(frame.clone()).expect("valid");
    let times = decoded.memory_bytes() / frame.len();
    println!("{} bytes decode to {}, {times} times as many", frame.len(), decoded.memory_bytes());
    assert!((20..=40).contains(&times), "{times}");
    assert_eq!(decoded_bytes(&frame), decoded.memory_bytes());
    let tiny = readings(1, 0, 1).encode(spool(1), sequence(1));
    println!("{} bytes decode to {}", tiny.len(), Frame::decode(tiny.clone()).expect("valid").memory_bytes());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn frames_that_grow_when_decoded_wait_for_memory() {
    let mut harness = harness();
    harness.limits.frame_bytes_max = 128 << 10;
    harness.limits.frame_memory_bytes = 24 * MIB;
    harness.limits.stream_window_bytes = 128 << 10;
    harness.limits.connection_window_bytes = 128 << 10;
    let sink = harness.sink(1, Mode::Manual);
    let server = harness.serve(&sink);
    let endpoint = raw::endpoint();
    let large = decoded_bytes(&bomb(spool(1), 1));
    let (mut connections, mut senders) = (Vec::new(), JoinSet::new());
    for org in 1..=10 {
        for gateway in gateways(&harness, org, 1) {
            let config = raw::client_config(&harness.ca, Some(&gateway), ALPN);
            let raw = within(raw::connect_over(&endpoint, config, server.addr())).await.expect("connected");
            for number in 1..=2 {
                let mut stream = raw.open_stream(spool(number)).await;
                senders.spawn(async move {
                    let frame = bomb(spool(number), 1);
                    stream.write(&Message::Frame { sequence: sequence(1), frame }).await;
                    stream
                });
            }
            connections.push(raw);
        }
    }
    let quarter = harness.limits.frame_memory_bytes / 4;
    wait_until("decoded frames wait", || server.frame_memory()[2] + large > quarter).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(server.frame_memory()[2] <= quarter);
    // The sink was offered the frame that it accepted, and those that fit the memory: never all twenty.
    assert_eq!(sink.waiting(), 1);
    let offered = sink.offered();
    assert!(offered <= 1 + quarter / large, "{offered} decoded frames at once");
    sink.set(Mode::Immediate);
    let mut streams = within(senders.join_all()).await;
    for stream in &mut streams {
        assert!(stream.next_event().await.is_some(), "acknowledged");
    }
    assert_eq!(harness.disk.frames(), 20);
    wait_until("no memory is held", || server.frame_memory()[1..] == [0; 2]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn windows_are_widened_while_there_is_memory() {
    let mut harness = harness();
    harness.limits.stream_window_bytes = 512 << 10;
    harness.limits.connection_window_bytes = 512 << 10;
    let sink = harness.sink(1, Mode::Manual);
    let server = harness.serve(&sink);
    let (endpoint, beyond) = (raw::endpoint(), (512 - 64) << 10);
    let connect = async |gateway: &Issued| {
        let config = raw::client_config(&harness.ca, Some(gateway), ALPN);
        within(raw::connect_over(&endpoint, config, server.addr())).await.expect("connected")
    };
    let half = harness.limits.frame_memory_bytes / 2;
    let mut crowd = Vec::new();
    for gateway in gateways(&harness, 1, 16) {
        let raw = connect(&gateway).await;
        assert_eq!(server.frame_memory()[0] % beyond, 0);
        let stream = raw.open_stream(spool(1)).await;
        crowd.push((raw, stream));
    }
    // The organisation's half of the half, and no byte for later connections.
    let first = (half / 2) / beyond;
    assert_eq!(server.frame_memory()[0], first * beyond);
    // Two connections of a gateway use the same permits.
    let other = gateways(&harness, 2, 1);
    for expected in [first + 1, first + 1] {
        let raw = connect(&other[0]).await;
        let stream = raw.open_stream(spool(1)).await;
        assert_eq!(server.frame_memory()[0], expected * beyond);
        crowd.push((raw, stream));
    }
    // The sink is full, and a connection with a wide window can send more.
    let mut written = Vec::new();
    for index in [0, 15] {
        let stream = &mut crowd[index].1;
        let mut sum = 0;
        for number in 1..40 {
            let frame = noise(number).encode(spool(1), sequence(number));
            let message = Message::Frame { sequence: sequence(number), frame }.to_bytes();
            let Ok(done) = tokio::time::timeout(Duration::from_secs(1), stream.send.write_all(&message)).await else {
                break;
            };
            done.expect("a stream");
            sum += message.len();
        }
        written.push(sum);
    }
    assert!(written[0] > 300 << 10, "{written:?}");
    assert!(written[1] < 300 << 10, "{written:?}");
    crowd.clear();
    endpoint.close(0_u32.into(), b"");
    wait_until("the windows are released", || server.frame_memory() == [0; 3]).await;
}
