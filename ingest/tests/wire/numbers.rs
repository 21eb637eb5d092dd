//! Sequence numbers at their end, backwards and again; frames and datagrams that are sent a second time by somebody.

use std::net::Ipv4Addr;

use ingest::CloseCode;
use ingest::client::{Client, ClientError};
use ingest::protocol::{ClientEvent, Message};
use quinn::ReadError;
use storage_format::FrameSequence;

use crate::house::{House, readings, sequence, spool, until, within};
use crate::network::Network;
use crate::pki::identity;
use crate::raw;
use crate::sink::Mode;

fn frame(id: u64, number: u64) -> Message {
    let frame = readings(1, usize::try_from(number % 1000).expect("small"), 1).encode(spool(id), sequence(number));
    Message::Frame { sequence: sequence(number), frame }
}

/// The stream ends as one that broke the protocol.
async fn broken(stream: &mut raw::Stream) {
    let expected = u64::from(CloseCode::ProtocolViolation.number());
    loop {
        match within(stream.receive.read_chunk(1000, true)).await {
            Ok(Some(_)) => {}
            Ok(None) => panic!("ended as if all was well"),
            Err(ReadError::Reset(code)) if code.into_inner() == expected => return,
            Err(error) => panic!("{error}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_last_number_is_the_last() {
    let house = House::new();
    let gateway = house.enrolled(1);
    let server = house.serve(&house.sink(10, Mode::Keeps));
    let raw = raw::connect_well(server.addr(), &house.ca, &gateway).await;
    let last = u64::MAX;
    for after in [last, 1, last - 1] {
        let mut stream = raw.opened(spool(after)).await;
        for number in [last - 1, last] {
            stream.say(&frame(after, number)).await;
            assert_eq!(stream.hear().await, Some(ClientEvent::Acknowledged { up_to: sequence(number) }));
        }
        // Nothing comes after it, and nothing starts anew.
        stream.say(&frame(after, after)).await;
        broken(&mut stream).await;
    }
    // Resuming: everything is durable. Sending the last one again is safe, and answered.
    let mut stream = raw.stream().await;
    stream.say(&Message::Open { spool: spool(last) }).await;
    assert_eq!(stream.hear().await, Some(ClientEvent::Opened { durable: sequence(last) }));
    stream.say(&frame(last, last)).await;
    assert_eq!(stream.hear().await, Some(ClientEvent::Acknowledged { up_to: sequence(last) }));
    stream.send.finish().expect("open");
    assert_eq!(stream.hear().await, None);
    assert_eq!(house.disk.sequences(spool(last)), [last - 1, last, last]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_ends_with_the_last_number() {
    let house = House::new();
    let gateway = house.enrolled(1);
    let server = house.serve(&house.sink(10, Mode::Keeps));
    let mut config = house.config(server.addr(), &gateway);
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
async fn numbers_that_do_not_grow_end_the_stream_and_change_nothing() {
    let house = House::new();
    let gateway = house.enrolled(1);
    let server = house.serve(&house.sink(10, Mode::Keeps));
    let raw = raw::connect_well(server.addr(), &house.ca, &gateway).await;
    for (id, wrong) in [(1, 7), (2, 6), (3, 1)] {
        let mut stream = raw.opened(spool(id)).await;
        stream.say(&frame(id, 7)).await;
        assert_eq!(stream.hear().await, Some(ClientEvent::Acknowledged { up_to: sequence(7) }));
        stream.say(&frame(id, wrong)).await;
        broken(&mut stream).await;
        assert_eq!(house.disk.sequences(spool(id)), [7]);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_frame_sent_by_another_gateway_is_that_ones_own() {
    let house = House::new();
    let (one, two) = (house.enrolled(1), house.enrolled(2));
    let server = house.serve(&house.sink(100, Mode::Keeps));
    let (first, second) = (
        raw::connect_well(server.addr(), &house.ca, &one).await,
        raw::connect_well(server.addr(), &house.ca, &two).await,
    );
    let mut stream = first.opened(spool(9)).await;
    stream.say(&frame(9, 3)).await;
    assert_eq!(stream.hear().await, Some(ClientEvent::Acknowledged { up_to: sequence(3) }));
    // The same bytes on another stream, again and again, and by somebody who has read them.
    for raw in [&first, &first, &second, &second] {
        let mut stream = raw.opened(spool(9)).await;
        stream.say(&frame(9, 3)).await;
        assert_eq!(stream.hear().await, Some(ClientEvent::Acknowledged { up_to: sequence(3) }));
    }
    let kept: Vec<_> = house.disk.readings().into_iter().map(|((gateway, ..), times)| (gateway, times)).collect();
    assert_eq!(kept, [(identity(1).gateway.get(), 3), (identity(2).gateway.get(), 2)], "never under another's name");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_recorded_conversation_says_nothing_when_it_is_played_again() {
    let house = House::new();
    let gateway = house.enrolled(1);
    let server = house.serve(&house.sink(100, Mode::Keeps));
    let network = Network::before(server.addr(), 1).await;
    network.record();
    let mut client = house.client(network.addr(), &gateway).await;
    for index in 0..20 {
        within(client.send(&mut readings(1, 10 * index, 10))).await.expect("sent");
    }
    let progress = client.progress();
    until("all is acknowledged", || progress.borrow().acknowledged_frames == 20).await;
    let stranger = tokio::net::UdpSocket::bind((Ipv4Addr::new(127, 0, 3, 1), 0)).await.expect("a socket");
    // While the connection lives, and once it has ended: then its first packets begin a handshake that goes nowhere.
    let recorded = network.recorded();
    assert!(recorded.len() > 10);
    for datagram in &recorded {
        let _ = stranger.send_to(datagram, server.addr()).await;
    }
    let summary = within(client.finish()).await.expect("all acknowledged");
    assert_eq!((summary.acknowledged_frames, summary.reconnects), (20, 0));
    until("the connection has ended", || server.connections() == 0).await;
    for datagram in &recorded {
        let _ = stranger.send_to(datagram, server.addr()).await;
    }
    let honest = house.client(server.addr(), &gateway).await;
    within(honest.finish()).await.expect("nothing to do");
    assert!(house.disk.readings().values().all(|times| *times == 1));
    assert_eq!(house.disk.frames(), 20);
}
