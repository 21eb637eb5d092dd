//! Frames in, acknowledgements back; many streams; a sink that is full.

use std::time::Duration;

use ingest::protocol::{ALPN, ClientEvent, Message, WelcomeSession};
use storage_format::{FrameSequence, Millis};

use crate::house::{House, LONG, START_MS, readings, sequence, spool, until, within};
use crate::pki::identity;
use crate::raw;
use crate::sink::Mode;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everything_arrives_once() {
    let house = House::new();
    let gateway = house.enrolled(1);
    let sink = house.sink(1000, Mode::Keeps);
    let server = house.serve(&sink);
    let mut client = house.client(server.addr(), &gateway).await;
    let mut progress = client.progress();
    let frames = 300;
    for index in 0..frames {
        let sent = within(client.send(&mut readings(1, 20 * index, 20))).await.expect("sent");
        assert_eq!(sent.get(), index as u64 + 1);
    }
    let last = client.send(&mut readings(1, 0, 0)).await.expect("nothing to send");
    assert_eq!(last.get(), frames as u64);
    within(progress.wait_for(|p| p.acknowledged_frames == frames as u64)).await.expect("told");
    let id = client.spool();
    let summary = within(client.finish()).await.expect("all acknowledged");
    assert_eq!((summary.acknowledged_frames, summary.acknowledged_readings), (frames as u64, 20 * frames as u64));
    assert_eq!((summary.refused_frames, summary.reconnects, summary.spool), (0, 0, id));

    let kept = house.disk.readings();
    assert_eq!(kept.len(), 20 * frames);
    assert!(kept.iter().all(|((gateway, ..), times)| *gateway == identity(1).gateway.get() && *times == 1));
    assert_eq!(house.disk.sequences(id), (1..=frames as u64).collect::<Vec<_>>());
    assert_eq!(sink.received(), Some(Millis::new(START_MS).expect("a time").whole_seconds()));
    until("the connection ends", || server.connections() == 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_server_tells_its_limits() {
    let house = House::new();
    let gateway = house.enrolled(1);
    let server = house.serve(&house.sink(10, Mode::Keeps));
    let raw = raw::connect_well(server.addr(), &house.ca, &gateway).await;
    let mut stream = within(raw.connection.accept_uni()).await.expect("the server's stream");
    let bytes = within(stream.read_to_end(1000)).await.expect("a welcome");
    let welcome = WelcomeSession::new().receive(&mut &bytes[..]).expect("valid").expect("whole");
    assert_eq!(welcome.frame_bytes_max, house.limits.frame_bytes_max);
    assert_eq!(welcome.streams_max, house.limits.streams_max);
    assert_eq!(welcome.server_time.get(), START_MS);
    assert_eq!(welcome.time_min.to_string(), "2000-01-01T00:00:00.000Z");
    assert_eq!(welcome.ahead_ms_max, 24 * 60 * 60 * 1000);
    assert_eq!(usize::from(welcome.channel_code_max), storage_format::channels().len());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn several_streams_and_one_answer_for_many_frames() {
    let house = House::new();
    let gateway = house.enrolled(1);
    let sink = house.sink(1000, Mode::Waits);
    let server = house.serve(&sink);
    let raw = raw::connect(server.addr(), &house.ca, Some(&gateway), ALPN).await.expect("connected");
    let mut streams = Vec::new();
    for number in 1..=4 {
        streams.push(raw.opened(spool(number)).await);
    }
    for round in 1..=5_u64 {
        for (index, stream) in streams.iter_mut().enumerate() {
            let frame = readings(index as u64 + 1, usize::try_from(round).expect("small"), 1)
                .encode(spool(index as u64 + 1), sequence(10 * round));
            stream.say(&Message::Frame { sequence: sequence(10 * round), frame }).await;
        }
    }
    until("all are submitted", || sink.waiting() == 20).await;
    sink.commit(20);
    for stream in &mut streams {
        // One number for what became durable at once; a second one only if the sending half looked in between.
        let mut answers = 0;
        loop {
            answers += 1;
            match stream.hear().await {
                Some(ClientEvent::Acknowledged { up_to }) if up_to == sequence(50) => break,
                Some(ClientEvent::Acknowledged { .. }) => {}
                other => panic!("{other:?}"),
            }
        }
        assert!(answers <= 5);
        stream.send.finish().expect("not finished yet");
        assert_eq!(stream.hear().await, None, "an end in order");
    }
    assert_eq!(house.disk.readings().len(), 20);
    let mut again = raw.stream().await;
    again.say(&Message::Open { spool: spool(3) }).await;
    assert_eq!(again.hear().await, Some(ClientEvent::Opened { durable: sequence(50) }));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_gateways_are_told_apart_by_their_certificates_alone() {
    let house = House::new();
    let (one, two) = (house.enrolled(1), house.enrolled(2));
    let server = house.serve(&house.sink(10, Mode::Keeps));
    for gateway in [&one, &two] {
        let raw = raw::connect_well(server.addr(), &house.ca, gateway).await;
        // The same spool and number, which say nothing about who sends.
        let mut stream = raw.stream().await;
        stream.say(&Message::Open { spool: spool(5) }).await;
        assert_eq!(stream.hear().await, Some(ClientEvent::Opened { durable: FrameSequence::ZERO }));
        let frame = readings(1, 1, 1).encode(spool(5), sequence(1));
        stream.say(&Message::Frame { sequence: sequence(1), frame }).await;
        assert_eq!(stream.hear().await, Some(ClientEvent::Acknowledged { up_to: sequence(1) }));
    }
    let gateways: Vec<u64> = house.disk.readings().into_keys().map(|(gateway, ..)| gateway).collect();
    assert_eq!(gateways, [identity(1).gateway.get(), identity(2).gateway.get()]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_sink_holds_the_client_back_and_memory_stays_bounded() {
    let mut house = House::new();
    house.limits.stream_window_bytes = 64 << 10;
    house.limits.connection_window_bytes = 64 << 10;
    let gateway = house.enrolled(1);
    let sink = house.sink(3, Mode::Waits);
    let server = house.serve(&sink);

    let mut config = house.config(server.addr(), &gateway);
    config.spool_bytes_max = 200 << 10;
    let spool_bytes_max = config.spool_bytes_max as u64;
    let mut client = within(ingest::client::Client::connect(config)).await.expect("a client");
    let progress = client.progress();
    let frames = 200;
    let sender = tokio::spawn(async move {
        for index in 0..frames {
            client.send(&mut readings(1, 3000 * index, 3000)).await.expect("sent");
        }
        client.finish().await
    });
    until("the sink is full", || sink.waiting() == 3).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(!sender.is_finished(), "the client is held back");
    let held = progress.borrow().clone();
    assert_eq!(held.acknowledged_frames, 0);
    // Longer than a message may take: nobody is cut for being held back.
    tokio::time::sleep(house.limits.message_timeout + Duration::from_millis(200)).await;

    // It trickles, then flows.
    for done in 1..=20 {
        sink.commit(1);
        until("the next is taken", || house.disk.frames() >= done && sink.waiting() == 3).await;
        let waiting = progress.borrow().waiting_bytes;
        assert!(waiting <= spool_bytes_max + (32 << 10), "{waiting}");
    }
    sink.set(Mode::Keeps);
    let summary = tokio::time::timeout(2 * LONG, sender).await.expect("in time").expect("no panic").expect("all");
    assert_eq!((summary.acknowledged_frames, summary.reconnects), (frames as u64, 0));
    assert!(sink.waiting_max() <= 3);
    assert!(house.disk.readings().values().all(|times| *times == 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_server_takes_in_while_the_sink_is_full_is_one_window() {
    let mut house = House::new();
    house.limits.stream_window_bytes = 64 << 10;
    house.limits.connection_window_bytes = 64 << 10;
    let gateway = house.enrolled(1);
    let sink = house.sink(1, Mode::Waits);
    let server = house.serve(&sink);
    let raw = raw::connect_well(server.addr(), &house.ca, &gateway).await;
    let mut stream = raw.opened(spool(1)).await;
    let mut written = 0;
    for number in 1.. {
        let frame =
            readings(1, usize::try_from(number).expect("small") * 1000, 1000).encode(spool(1), sequence(number));
        let message = Message::Frame { sequence: sequence(number), frame }.to_bytes();
        match tokio::time::timeout(Duration::from_millis(500), stream.send.write_all(&message)).await {
            Ok(done) => done.expect("a stream"),
            // Held back, for as long as we care to wait.
            Err(_) => break,
        }
        written += message.len() as u64;
        assert!(written < 1 << 20, "the server takes without end");
    }
    // One frame in the sink, one before it, one window on the server, one send window here.
    let most = u64::from(house.limits.connection_window_bytes) * 2 + raw::SEND_WINDOW + 3 * (8 << 10);
    assert!(written <= most, "{written} bytes");
}
