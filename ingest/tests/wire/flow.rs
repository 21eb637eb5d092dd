//! Frames in, acknowledgements back; many streams; a sink that is full.

use std::time::Duration;

use ingest::protocol::{ALPN, ClientEvent, Message, WelcomeSession};
use storage_format::{FrameSequence, Millis};

use crate::harness::{Harness, LONG, START_MS, readings, sequence, spool, wait_until, within};
use crate::pki::identity;
use crate::raw;
use crate::sink::Mode;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_frame_arrives_once() {
    let harness = Harness::new();
    let gateway = harness.enrolled(1);
    let sink = harness.sink(1000, Mode::Immediate);
    let server = harness.serve(&sink);
    let mut client = harness.client(server.addr(), &gateway).await;
    let mut progress = client.progress();
    let frames = 300;
    for index in 0..frames {
        let sent = within(client.send(&mut readings(1, 20 * index, 20))).await.expect("sent");
        assert_eq!(sent.get(), index as u64 + 1);
    }
    let last = client.send(&mut readings(1, 0, 0)).await.expect("nothing to send");
    assert_eq!(last.get(), frames as u64);
    within(progress.wait_for(|p| p.acknowledged_frames == frames as u64)).await.expect("progress");
    let id = client.spool();
    let summary = within(client.finish()).await.expect("all acknowledged");
    assert_eq!((summary.acknowledged_frames, summary.acknowledged_readings), (frames as u64, 20 * frames as u64));
    assert_eq!((summary.refused_frames, summary.reconnects, summary.spool), (0, 0, id));

    let stored = harness.disk.readings();
    assert_eq!(stored.len(), 20 * frames);
    assert!(stored.iter().all(|((gateway, ..), times)| *gateway == identity(1).gateway.get() && *times == 1));
    assert_eq!(harness.disk.sequences(id), (1..=frames as u64).collect::<Vec<_>>());
    assert_eq!(sink.received(), Some(Millis::new(START_MS).expect("a time").whole_seconds()));
    wait_until("the connection ends", || server.connections() == 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_welcome_contains_the_limits() {
    let harness = Harness::new();
    let gateway = harness.enrolled(1);
    let server = harness.serve(&harness.sink(10, Mode::Immediate));
    let raw = raw::connect_enrolled(server.addr(), &harness.ca, &gateway).await;
    let mut stream = within(raw.connection.accept_uni()).await.expect("the server's stream");
    let bytes = within(stream.read_to_end(1000)).await.expect("a welcome");
    let welcome = WelcomeSession::new().receive(&mut &bytes[..]).expect("valid").expect("complete");
    assert_eq!(welcome.frame_bytes_max, harness.limits.frame_bytes_max);
    assert_eq!(welcome.streams_max, harness.limits.streams_max);
    assert_eq!(welcome.server_time.get(), START_MS);
    assert_eq!(welcome.time_min.to_string(), "2000-01-01T00:00:00.000Z");
    assert_eq!(welcome.ahead_ms_max, 24 * 60 * 60 * 1000);
    assert_eq!(usize::from(welcome.channel_code_max), storage_format::channels().len());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn several_streams_and_one_acknowledgement_for_many_frames() {
    let harness = Harness::new();
    let gateway = harness.enrolled(1);
    let sink = harness.sink(1000, Mode::Manual);
    let server = harness.serve(&sink);
    let raw = raw::connect(server.addr(), &harness.ca, Some(&gateway), ALPN).await.expect("connected");
    let mut streams = Vec::new();
    for number in 1..=4 {
        streams.push(raw.open_stream(spool(number)).await);
    }
    for round in 1..=5_u64 {
        for (index, stream) in streams.iter_mut().enumerate() {
            let frame = readings(index as u64 + 1, usize::try_from(round).expect("small"), 1)
                .encode(spool(index as u64 + 1), sequence(10 * round));
            stream.write(&Message::Frame { sequence: sequence(10 * round), frame }).await;
        }
    }
    wait_until("all are submitted", || sink.waiting() == 20).await;
    sink.commit(20);
    for stream in &mut streams {
        // One acknowledgement for frames that become durable together, or more if the sending half ran in between.
        let mut responses = 0;
        loop {
            responses += 1;
            match stream.next_event().await {
                Some(ClientEvent::Acknowledged { up_to }) if up_to == sequence(50) => break,
                Some(ClientEvent::Acknowledged { .. }) => {}
                other => panic!("{other:?}"),
            }
        }
        assert!(responses <= 5);
        stream.send.finish().expect("not finished yet");
        assert_eq!(stream.next_event().await, None, "a regular end");
    }
    assert_eq!(harness.disk.readings().len(), 20);
    let mut again = raw.stream().await;
    again.write(&Message::Open { spool: spool(3) }).await;
    assert_eq!(again.next_event().await, Some(ClientEvent::Opened { durable: sequence(50) }));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn gateways_are_identified_only_by_their_certificates() {
    let harness = Harness::new();
    let (one, two) = (harness.enrolled(1), harness.enrolled(2));
    let server = harness.serve(&harness.sink(10, Mode::Immediate));
    for gateway in [&one, &two] {
        let raw = raw::connect_enrolled(server.addr(), &harness.ca, gateway).await;
        // The same spool and sequence number, which do not identify the sender.
        let mut stream = raw.stream().await;
        stream.write(&Message::Open { spool: spool(5) }).await;
        assert_eq!(stream.next_event().await, Some(ClientEvent::Opened { durable: FrameSequence::ZERO }));
        let frame = readings(1, 1, 1).encode(spool(5), sequence(1));
        stream.write(&Message::Frame { sequence: sequence(1), frame }).await;
        assert_eq!(stream.next_event().await, Some(ClientEvent::Acknowledged { up_to: sequence(1) }));
    }
    let gateways: Vec<u64> = harness.disk.readings().into_keys().map(|(gateway, ..)| gateway).collect();
    assert_eq!(gateways, [identity(1).gateway.get(), identity(2).gateway.get()]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_sink_blocks_the_client_and_memory_stays_bounded() {
    let mut harness = Harness::new();
    harness.limits.stream_window_bytes = 64 << 10;
    harness.limits.connection_window_bytes = 64 << 10;
    let gateway = harness.enrolled(1);
    let sink = harness.sink(3, Mode::Manual);
    let server = harness.serve(&sink);

    let mut config = harness.config(server.addr(), &gateway);
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
    wait_until("the sink is full", || sink.waiting() == 3).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(!sender.is_finished(), "the client is blocked");
    assert_eq!(progress.borrow().acknowledged_frames, 0);
    // Longer than a message may take: a stream that is blocked is not closed for it.
    tokio::time::sleep(harness.limits.message_timeout + Duration::from_millis(200)).await;

    // Frames become durable one by one, and then at once.
    for done in 1..=20 {
        sink.commit(1);
        wait_until("the next frame is accepted", || harness.disk.frames() >= done && sink.waiting() == 3).await;
        let waiting = progress.borrow().waiting_bytes;
        assert!(waiting <= spool_bytes_max + (32 << 10), "{waiting}");
    }
    sink.set(Mode::Immediate);
    let summary =
        tokio::time::timeout(2 * LONG, sender).await.expect("in time").expect("no panic").expect("all acknowledged");
    assert_eq!((summary.acknowledged_frames, summary.reconnects), (frames as u64, 0));
    assert!(sink.waiting_max() <= 3);
    assert!(harness.disk.readings().values().all(|times| *times == 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_server_receives_one_window_while_the_sink_is_full() {
    let mut harness = Harness::new();
    harness.limits.stream_window_bytes = 64 << 10;
    harness.limits.connection_window_bytes = 64 << 10;
    let gateway = harness.enrolled(1);
    let sink = harness.sink(1, Mode::Manual);
    let server = harness.serve(&sink);
    let raw = raw::connect_enrolled(server.addr(), &harness.ca, &gateway).await;
    let mut stream = raw.open_stream(spool(1)).await;
    let mut written = 0;
    for number in 1.. {
        let frame =
            readings(1, usize::try_from(number).expect("small") * 1000, 1000).encode(spool(1), sequence(number));
        let message = Message::Frame { sequence: sequence(number), frame }.to_bytes();
        match tokio::time::timeout(Duration::from_millis(500), stream.send.write_all(&message)).await {
            Ok(done) => done.expect("a stream"),
            // Blocked for longer than the test waits.
            Err(_) => break,
        }
        written += message.len() as u64;
        assert!(written < 1 << 20, "the server receives without limit");
    }
    // One frame in the sink, one before it, one window on the server, one send window here.
    let written_max = u64::from(harness.limits.connection_window_bytes) * 2 + raw::SEND_WINDOW + 3 * (8 << 10);
    assert!(written <= written_max, "{written} bytes");
}
