//! The highest sequence numbers, and numbers that repeat or decrease; frames and datagrams that somebody sends again.

use std::net::Ipv4Addr;

use ingest::CloseCode;
use ingest::client::{Client, ClientError};
use ingest::protocol::{ClientEvent, Message};
use quinn::ReadError;
use storage_format::FrameSequence;

use crate::harness::{Harness, readings, sequence, spool, wait_until, within};
use crate::network::Network;
use crate::pki::identity;
use crate::raw;
use crate::sink::Mode;

fn frame(id: u64, number: u64) -> Message {
    let frame = readings(1, usize::try_from(number % 1000).expect("small"), 1).encode(spool(id), sequence(number));
    Message::Frame { sequence: sequence(number), frame }
}

/// Expects that the server ends the stream because of a protocol violation.
async fn expect_violation(stream: &mut raw::Stream) {
    let expected = u64::from(CloseCode::ProtocolViolation.number());
    loop {
        match within(stream.receive.read_chunk(1000, true)).await {
            Ok(Some(_)) => {}
            Ok(None) => panic!("ended without an error"),
            Err(ReadError::Reset(code)) if code.into_inner() == expected => return,
            Err(error) => panic!("{error}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_number_follows_the_highest() {
    let harness = Harness::new();
    let gateway = harness.enrolled(1);
    let server = harness.serve(&harness.sink(10, Mode::Immediate));
    let raw = raw::connect_enrolled(server.addr(), &harness.ca, &gateway).await;
    let last = u64::MAX;
    for after in [last, 1, last - 1] {
        let mut stream = raw.open_stream(spool(after)).await;
        for number in [last - 1, last] {
            stream.write(&frame(after, number)).await;
            assert_eq!(stream.next_event().await, Some(ClientEvent::Acknowledged { up_to: sequence(number) }));
        }
        // No number may follow it, and numbering does not restart.
        stream.write(&frame(after, after)).await;
        expect_violation(&mut stream).await;
    }
    // Resuming: all frames are durable. Sending the last one again is safe, and it gets a response.
    let mut stream = raw.stream().await;
    stream.write(&Message::Open { spool: spool(last) }).await;
    assert_eq!(stream.next_event().await, Some(ClientEvent::Opened { durable: sequence(last) }));
    stream.write(&frame(last, last)).await;
    assert_eq!(stream.next_event().await, Some(ClientEvent::Acknowledged { up_to: sequence(last) }));
    stream.send.finish().expect("open");
    assert_eq!(stream.next_event().await, None);
    assert_eq!(harness.disk.sequences(spool(last)), [last - 1, last, last]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_sends_up_to_the_highest_number() {
    let harness = Harness::new();
    let gateway = harness.enrolled(1);
    let server = harness.serve(&harness.sink(10, Mode::Immediate));
    let mut config = harness.config(server.addr(), &gateway);
    config.first_sequence = FrameSequence::new(u64::MAX - 1);
    let mut client = within(Client::connect(config)).await.expect("a client");
    for number in [u64::MAX - 1, u64::MAX] {
        let sent = within(client.send(&mut readings(1, 0, 1))).await.expect("sent");
        assert_eq!(sent, sequence(number));
    }
    let error = within(client.send(&mut readings(1, 5, 1))).await.expect_err("no number is left");
    assert!(matches!(&error, ClientError::Frame(text) if text.contains("used up")), "{error}");
    let summary = within(client.finish()).await.expect("all acknowledged");
    assert_eq!(summary.acknowledged_frames, 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn numbers_that_do_not_grow_end_the_stream_and_store_nothing() {
    let harness = Harness::new();
    let gateway = harness.enrolled(1);
    let server = harness.serve(&harness.sink(10, Mode::Immediate));
    let raw = raw::connect_enrolled(server.addr(), &harness.ca, &gateway).await;
    for (id, wrong) in [(1, 7), (2, 6), (3, 1)] {
        let mut stream = raw.open_stream(spool(id)).await;
        stream.write(&frame(id, 7)).await;
        assert_eq!(stream.next_event().await, Some(ClientEvent::Acknowledged { up_to: sequence(7) }));
        stream.write(&frame(id, wrong)).await;
        expect_violation(&mut stream).await;
        assert_eq!(harness.disk.sequences(spool(id)), [7]);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_frame_sent_again_by_another_gateway_is_stored_for_that_gateway() {
    let harness = Harness::new();
    let (one, two) = (harness.enrolled(1), harness.enrolled(2));
    let server = harness.serve(&harness.sink(100, Mode::Immediate));
    let (first, second) = (
        raw::connect_enrolled(server.addr(), &harness.ca, &one).await,
        raw::connect_enrolled(server.addr(), &harness.ca, &two).await,
    );
    let mut stream = first.open_stream(spool(9)).await;
    stream.write(&frame(9, 3)).await;
    assert_eq!(stream.next_event().await, Some(ClientEvent::Acknowledged { up_to: sequence(3) }));
    // The same bytes on other streams, also by another gateway that has read them.
    for raw in [&first, &first, &second, &second] {
        let mut stream = raw.open_stream(spool(9)).await;
        stream.write(&frame(9, 3)).await;
        assert_eq!(stream.next_event().await, Some(ClientEvent::Acknowledged { up_to: sequence(3) }));
    }
    let stored: Vec<_> = harness.disk.readings().into_iter().map(|((gateway, ..), times)| (gateway, times)).collect();
    assert_eq!(stored, [(identity(1).gateway.get(), 3), (identity(2).gateway.get(), 2)], "each for its own sender");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replayed_datagrams_have_no_effect() {
    let harness = Harness::new();
    let gateway = harness.enrolled(1);
    let server = harness.serve(&harness.sink(100, Mode::Immediate));
    let network = Network::in_front_of(server.addr(), 1).await;
    network.record();
    let mut client = harness.client(network.addr(), &gateway).await;
    for index in 0..20 {
        within(client.send(&mut readings(1, 10 * index, 10))).await.expect("sent");
    }
    let progress = client.progress();
    wait_until("all is acknowledged", || progress.borrow().acknowledged_frames == 20).await;
    let stranger = tokio::net::UdpSocket::bind((Ipv4Addr::new(127, 0, 3, 1), 0)).await.expect("a socket");
    // During the connection, and after its end, when its first packets start a handshake that never completes.
    let recorded = network.recorded();
    assert!(recorded.len() > 10);
    for datagram in &recorded {
        let _ = stranger.send_to(datagram, server.addr()).await;
    }
    let summary = within(client.finish()).await.expect("all acknowledged");
    assert_eq!((summary.acknowledged_frames, summary.reconnects), (20, 0));
    wait_until("the connection has ended", || server.connections() == 0).await;
    for datagram in &recorded {
        let _ = stranger.send_to(datagram, server.addr()).await;
    }
    let client = harness.client(server.addr(), &gateway).await;
    within(client.finish()).await.expect("nothing to do");
    assert!(harness.disk.readings().values().all(|times| *times == 1));
    assert_eq!(harness.disk.frames(), 20);
}
