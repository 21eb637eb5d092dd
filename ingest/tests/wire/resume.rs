//! Servers that vanish, come back, shut down, or cannot keep anything: nothing acknowledged is lost, nothing is lost.

use std::net::{Ipv4Addr, UdpSocket};
use std::time::{Duration, Instant};

use ingest::client::{Client, ClientError};

use crate::house::{House, LONG, readings, until, within};
use crate::sink::Mode;

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_killed_server_is_noticed_and_what_it_lost_is_sent_again() {
    let house = House::new();
    let gateway = house.enrolled(1);
    let mut sink = house.sink(40, Mode::Waits);
    let mut server = house.serve(&sink);
    let mut config = house.config(server.addr(), &gateway);
    config.idle_timeout = Duration::from_secs(20);
    let mut client = within(Client::connect(config)).await.expect("a client");
    let frames = 400;
    let sender = tokio::spawn(async move {
        for index in 0..frames {
            client.send(&mut readings(1, 10 * index, 10)).await.expect("sent");
        }
        client.finish().await
    });
    for _ in 0..3 {
        until("frames wait", || sink.waiting() >= 30).await;
        // Some of them durable, some of those acknowledged; the rest dies with the server.
        sink.commit(20);
        let addr = server.kill();
        sink = house.sink(40, Mode::Waits);
        server = house.serve_at(addr, &sink);
        let back = Instant::now();
        until("the client is back", || sink.waiting() > 0).await;
        let away = back.elapsed();
        // Told by a stateless reset, not by the idle timeout.
        assert!(away < Duration::from_secs(10), "{away:?}");
    }
    sink.set(Mode::Keeps);
    let summary = within(sender).await.expect("no panic").expect("all acknowledged");
    assert_eq!(summary.acknowledged_readings, 10 * frames as u64);
    assert_eq!(summary.reconnects, 3);
    let kept = house.disk.readings();
    assert_eq!(kept.len(), 10 * frames, "every reading is there");
    // The server told what it had: nothing of it was sent again.
    assert!(kept.values().all(|times| *times == 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_is_away_for_a_while() {
    let house = House::new();
    let gateway = house.enrolled(1);
    let server = house.serve(&house.sink(40, Mode::Keeps));
    let mut client = house.client(server.addr(), &gateway).await;
    let mut progress = client.progress();
    within(client.send(&mut readings(1, 0, 5))).await.expect("sent");
    within(progress.wait_for(|p| p.acknowledged_frames == 1)).await.expect("told");
    let addr = server.kill();
    within(client.send(&mut readings(1, 5, 5))).await.expect("into the spool");
    within(progress.wait_for(|p| !p.connected)).await.expect("told");
    assert!(progress.borrow().trouble.is_some());
    tokio::time::sleep(Duration::from_millis(500)).await;
    let _server = house.serve_at(addr, &house.sink(40, Mode::Keeps));
    let summary = within(client.finish()).await.expect("all acknowledged");
    assert_eq!((summary.acknowledged_frames, summary.reconnects), (2, 1));
    assert_eq!(house.disk.readings().len(), 10);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_shuts_down_in_order_answers_what_it_took() {
    let house = House::new();
    let gateway = house.enrolled(1);
    let sink = house.sink(10, Mode::Waits);
    let server = house.serve(&sink);
    let mut client = house.client(server.addr(), &gateway).await;
    for index in 0..10 {
        within(client.send(&mut readings(1, index, 1))).await.expect("sent");
    }
    until("all are submitted", || sink.waiting() == 10).await;
    let progress = client.progress();
    let ending = tokio::spawn(server.shutdown(LONG));
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert!(!ending.is_finished(), "it waits for what it took");
    sink.set(Mode::Keeps);
    let addr = within(ending).await.expect("no panic");
    until("the answers arrive", || progress.borrow().acknowledged_frames == 10).await;
    within(client.send(&mut readings(1, 10, 1))).await.expect("into the spool");
    let sink = house.sink(10, Mode::Keeps);
    let _server = house.serve_at(addr, &sink);
    let summary = within(client.finish()).await.expect("all acknowledged");
    assert_eq!(summary.acknowledged_frames, 11);
    assert!(house.disk.readings().values().all(|times| *times == 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sink_that_cannot_keep_is_asked_again_later() {
    let house = House::new();
    let gateway = house.enrolled(1);
    let sink = house.sink(10, Mode::Waits);
    let server = house.serve(&sink);
    let mut client = house.client(server.addr(), &gateway).await;
    let mut progress = client.progress();
    for index in 0..3 {
        within(client.send(&mut readings(1, index, 1))).await.expect("sent");
    }
    until("all are submitted", || sink.waiting() == 3).await;
    // One is durable, the others fail after they were taken.
    sink.commit(1);
    sink.set(Mode::Unavailable);
    sink.fail(None);
    let told = within(progress.wait_for(|p| p.trouble.is_some())).await.expect("told").clone();
    assert_eq!(told.refused_frames, 0);
    assert!(told.trouble.as_deref().is_some_and(|t| t.contains("cannot store")), "{told:?}");
    tokio::time::sleep(Duration::from_millis(200)).await;
    sink.set(Mode::Keeps);
    let summary = within(client.finish()).await.expect("all acknowledged");
    assert_eq!((summary.acknowledged_frames, summary.refused_frames), (3, 0));
    assert_eq!(house.disk.readings().into_values().collect::<Vec<_>>(), [1, 1, 1]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn patience_ends() {
    let house = House::new();
    let gateway = house.enrolled(1);
    let patience = Duration::from_millis(700);
    let short = |addr| {
        let mut config = house.config(addr, &gateway);
        config.patience = patience;
        config.connect_timeout = Duration::from_millis(300);
        config
    };
    // Nobody listens there, or at least nobody answers.
    let silent = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("a socket");
    let addr = silent.local_addr().expect("an address");
    let error = within(Client::connect(short(addr))).await.expect_err("nobody there");
    assert!(matches!(error, ClientError::GaveUp { .. }), "{error}");

    // A server that is there and acknowledges nothing.
    let server = house.serve(&house.sink(10, Mode::Waits));
    let mut client = within(Client::connect(ingest::client::ClientConfig {
        connect_timeout: LONG,
        patience: 4 * patience,
        ..short(server.addr())
    }))
    .await
    .expect("a client");
    within(client.send(&mut readings(1, 0, 5))).await.expect("into the spool");
    let failure = within(client.finish()).await.expect_err("no acknowledgement");
    assert!(matches!(failure.error, ClientError::GaveUp { .. }), "{failure}");
    assert_eq!((failure.waiting.len(), failure.summary.acknowledged_frames), (1, 0));

    let mut config = short(addr);
    config.server = "no-port".into();
    assert!(matches!(within(Client::connect(config)).await, Err(ClientError::Config(_))));
}
