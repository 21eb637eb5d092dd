//! The memory of frames is bounded for the whole process, whatever gateways claim, send and leave unfinished; and who
//! behaves gets through.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use ingest::client::Client;
use ingest::protocol::{ALPN, Message, decoded_bytes, frame_head};
use quinn::Endpoint;
use storage_format::{ChannelCode, Frame, FrameBuilder, LoggerId, Millis, SpoolId};
use tokio::task::JoinSet;

use crate::house::{House, START_MS, readings, sequence, spool, until, within};
use crate::pki::{Issued, identity};
use crate::raw::{self, Raw};
use crate::sink::Mode;

const MIB: usize = 1 << 20;
const FRAME_BYTES: usize = 64 << 10;
/// What a raw client may have on its way, unanswered.
const SEND_WINDOW: usize = 16 << 10;

/// 5.5 MiB for incomplete frames, as much for decoded ones, and no windows to speak of.
fn house() -> House {
    let mut house = House::new();
    house.limits.frame_bytes_max = u32::try_from(FRAME_BYTES).expect("small");
    house.limits.frame_memory_bytes = 22 * MIB;
    house.limits.stream_window_bytes = 64 << 10;
    house.limits.connection_window_bytes = 64 << 10;
    house.limits.message_timeout = Duration::from_secs(300);
    house
}

/// So many gateways of this organisation.
fn gateways(house: &House, org: u64, count: u64) -> Vec<Issued> {
    let issue = |number| {
        let issued = house.ca.gateway();
        house
            .directory
            .set(&issued, Ok(ingest::GatewayIdentity { org: identity(org).org, ..identity(100 * org + number) }));
        issued
    };
    (1..=count).map(issue).collect()
}

struct Crowd {
    endpoint: Endpoint,
    connections: Vec<Raw>,
    /// The streams, and how much of its frame each got rid of, once it could not go on.
    streams: JoinSet<(raw::Stream, usize)>,
}

/// Connects each gateway, and has it send a frame that lacks its last byte on each of eight streams.
async fn unfinished(house: &House, addr: SocketAddr, gateways: &[Issued]) -> Crowd {
    let endpoint = raw::endpoint();
    let (mut connections, mut streams) = (Vec::new(), JoinSet::new());
    for gateway in gateways {
        let config = raw::client_config(&house.ca, Some(gateway), ALPN);
        let raw = within(raw::connect_over(&endpoint, config, addr)).await.expect("connected");
        let mut opened = Vec::new();
        for number in 1..=8 {
            opened.push(raw.opened(spool(number)).await);
        }
        for mut stream in opened {
            streams.spawn(async move {
                let (head, piece) = (frame_head(sequence(1), FRAME_BYTES), [7; 1000]);
                let (mut next, mut written) = (&head[..], 0);
                while written + next.len() < FRAME_BYTES {
                    // Nothing moves for so long: held back.
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

async fn sends(house: &House, addr: SocketAddr, gateway: &Issued, frame: FrameBuilder) {
    let mut frame = frame;
    let mut client = within(Client::connect(house.config(addr, gateway))).await.expect("a client");
    within(client.send(&mut frame)).await.expect("sent");
    let summary = within(client.finish()).await.expect("all acknowledged");
    assert_eq!((summary.acknowledged_frames, summary.reconnects), (1, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_organisations_unfinished_frames_take_half_and_no_more() {
    let house = house();
    let server = house.serve(&house.sink(100, Mode::Keeps));
    let quarter = house.limits.frame_memory_bytes / 4;
    let crowd = unfinished(&house, server.addr(), &gateways(&house, 1, 12)).await;
    until("the organisation has its half", || server.frame_memory()[1] > quarter / 2 - FRAME_BYTES - 8).await;
    // Large frames of others find room at once: nothing of the crowd is cut for it, and nothing ends.
    for other in gateways(&house, 2, 3) {
        sends(&house, server.addr(), &other, noise(1)).await;
    }
    let written: Vec<usize> = within(crowd.streams.join_all()).await.into_iter().map(|(_, written)| written).collect();
    let held = server.frame_memory()[1];
    assert!(held <= quarter / 2, "{held}");
    // What they got rid of is what is held, and on each connection a window here and one there.
    let most = held + crowd.connections.len() * ((64 << 10) + SEND_WINDOW + (8 << 10));
    let sum: usize = written.iter().sum();
    assert!(sum <= most, "{sum} bytes went off, {held} are held");
    assert!(written.len() == 96 && sum > quarter / 4, "{sum}");
    crowd.endpoint.close(0_u32.into(), b"");
    drop(crowd.connections);
    until("all of it is given back", || server.frame_memory() == [0; 3]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn when_all_memory_is_taken_the_slow_are_cut_and_the_others_get_through() {
    let mut house = house();
    house.limits.message_timeout = Duration::from_secs(3);
    let server = house.serve(&house.sink(100, Mode::Keeps));
    let quarter = house.limits.frame_memory_bytes / 4;
    let mut crowds = Vec::new();
    for org in 1..=3 {
        crowds.push(unfinished(&house, server.addr(), &gateways(&house, org, 9)).await);
    }
    let honest = gateways(&house, 4, 1);
    // What fits a datagram or two needs no memory to be collected in.
    sends(&house, server.addr(), &honest[0], readings(1, 0, 3)).await;
    for _ in 0..3 {
        sends(&house, server.addr(), &honest[0], noise(2)).await;
        assert!(server.frame_memory()[1] <= quarter);
    }
    assert_eq!(house.disk.frames(), 4);
    drop(crowds);
}

/// What is small on the wire and large in memory: eight channels, measured once, and one of them ever after.
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
fn a_small_frame_may_decode_to_much_and_it_is_known_before() {
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
async fn frames_that_grow_when_decoded_wait_until_there_is_room() {
    let mut house = house();
    house.limits.frame_bytes_max = 128 << 10;
    house.limits.frame_memory_bytes = 24 * MIB;
    house.limits.stream_window_bytes = 128 << 10;
    house.limits.connection_window_bytes = 128 << 10;
    let sink = house.sink(1, Mode::Waits);
    let server = house.serve(&sink);
    let endpoint = raw::endpoint();
    let large = decoded_bytes(&bomb(spool(1), 1));
    let (mut connections, mut senders) = (Vec::new(), JoinSet::new());
    for org in 1..=10 {
        for gateway in gateways(&house, org, 1) {
            let config = raw::client_config(&house.ca, Some(&gateway), ALPN);
            let raw = within(raw::connect_over(&endpoint, config, server.addr())).await.expect("connected");
            for number in 1..=2 {
                let mut stream = raw.opened(spool(number)).await;
                senders.spawn(async move {
                    let frame = bomb(spool(number), 1);
                    stream.say(&Message::Frame { sequence: sequence(1), frame }).await;
                    stream
                });
            }
            connections.push(raw);
        }
    }
    let quarter = house.limits.frame_memory_bytes / 4;
    until("decoded frames wait", || server.frame_memory()[2] + large > quarter).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(server.frame_memory()[2] <= quarter);
    // The sink was shown one that it took, and those that fit the memory: never all twenty.
    assert_eq!(sink.waiting(), 1);
    let shown = sink.shown();
    assert!(shown <= 1 + quarter / large, "{shown} decoded frames at once");
    sink.set(Mode::Keeps);
    let mut streams = within(senders.join_all()).await;
    for stream in &mut streams {
        assert!(stream.hear().await.is_some(), "acknowledged");
    }
    assert_eq!(house.disk.frames(), 20);
    until("nothing is held", || server.frame_memory()[1..] == [0; 2]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wide_windows_are_given_while_there_is_memory_for_them() {
    let mut house = house();
    house.limits.stream_window_bytes = 512 << 10;
    house.limits.connection_window_bytes = 512 << 10;
    let sink = house.sink(1, Mode::Waits);
    let server = house.serve(&sink);
    let (endpoint, beyond) = (raw::endpoint(), (512 - 64) << 10);
    let connect = async |gateway: &Issued| {
        let config = raw::client_config(&house.ca, Some(gateway), ALPN);
        within(raw::connect_over(&endpoint, config, server.addr())).await.expect("connected")
    };
    let half = house.limits.frame_memory_bytes / 2;
    let mut crowd = Vec::new();
    for gateway in gateways(&house, 1, 16) {
        let raw = connect(&gateway).await;
        assert_eq!(server.frame_memory()[0] % beyond, 0);
        let stream = raw.opened(spool(1)).await;
        crowd.push((raw, stream));
    }
    // Half of the half, and not a byte for those who came after.
    let first = (half / 2) / beyond;
    assert_eq!(server.frame_memory()[0], first * beyond);
    // Two connections of a gateway have one share.
    let other = gateways(&house, 2, 1);
    for expected in [first + 1, first + 1] {
        let raw = connect(&other[0]).await;
        let stream = raw.opened(spool(1)).await;
        assert_eq!(server.frame_memory()[0], expected * beyond);
        crowd.push((raw, stream));
    }
    // The sink is full. Who has a wide window gets rid of more.
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
    until("the windows are given back", || server.frame_memory() == [0; 3]).await;
}
