//! Servers that are killed, restart, shut down, or cannot store anything: no frame is lost, and no acknowledged frame.

use std::net::{Ipv4Addr, UdpSocket};
use std::time::{Duration, Instant};

use ingest::client::{Client, ClientError};

use crate::harness::{Harness, LONG, readings, wait_until, within};
use crate::sink::Mode;

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn frames_that_a_killed_server_lost_are_sent_again() {
    let harness = Harness::new();
    let gateway = harness.enrolled(1);
    let mut sink = harness.sink(40, Mode::Manual);
    let mut server = harness.serve(&sink);
    let mut config = harness.config(server.addr(), &gateway);
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
        wait_until("frames wait", || sink.waiting() >= 30).await;
        // Some frames are durable, some of these acknowledged; the rest is lost with the server.
        sink.commit(20);
        let addr = server.kill();
        sink = harness.sink(40, Mode::Manual);
        server = harness.serve_at(addr, &sink);
        let restarted = Instant::now();
        wait_until("the client has reconnected", || sink.waiting() > 0).await;
        let reconnect_time = restarted.elapsed();
        // The client notices by a stateless reset, not by the idle timeout.
        assert!(reconnect_time < Duration::from_secs(10), "{reconnect_time:?}");
    }
    sink.set(Mode::Immediate);
    let summary = within(sender).await.expect("no panic").expect("all acknowledged");
    assert_eq!(summary.acknowledged_readings, 10 * frames as u64);
    assert_eq!(summary.reconnects, 3);
    let stored = harness.disk.readings();
    assert_eq!(stored.len(), 10 * frames, "every reading is stored");
    // The server reported its durable frames, so none of them was sent again.
    assert!(stored.values().all(|times| *times == 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_reconnects_after_an_outage() {
    let harness = Harness::new();
    let gateway = harness.enrolled(1);
    let server = harness.serve(&harness.sink(40, Mode::Immediate));
    let mut client = harness.client(server.addr(), &gateway).await;
    let mut progress = client.progress();
    within(client.send(&mut readings(1, 0, 5))).await.expect("sent");
    within(progress.wait_for(|p| p.acknowledged_frames == 1)).await.expect("progress");
    let addr = server.kill();
    within(client.send(&mut readings(1, 5, 5))).await.expect("into the spool");
    within(progress.wait_for(|p| !p.connected)).await.expect("progress");
    assert!(progress.borrow().trouble.is_some());
    tokio::time::sleep(Duration::from_millis(500)).await;
    let _server = harness.serve_at(addr, &harness.sink(40, Mode::Immediate));
    let summary = within(client.finish()).await.expect("all acknowledged");
    assert_eq!((summary.acknowledged_frames, summary.reconnects), (2, 1));
    assert_eq!(harness.disk.readings().len(), 10);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_orderly_shutdown_responds_to_all_accepted_frames() {
    let harness = Harness::new();
    let gateway = harness.enrolled(1);
    let sink = harness.sink(10, Mode::Manual);
    let server = harness.serve(&sink);
    let mut client = harness.client(server.addr(), &gateway).await;
    for index in 0..10 {
        within(client.send(&mut readings(1, index, 1))).await.expect("sent");
    }
    wait_until("all are submitted", || sink.waiting() == 10).await;
    let progress = client.progress();
    let ending = tokio::spawn(server.shutdown(LONG));
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert!(!ending.is_finished(), "it waits for the accepted frames");
    sink.set(Mode::Immediate);
    let addr = within(ending).await.expect("no panic");
    wait_until("the responses arrive", || progress.borrow().acknowledged_frames == 10).await;
    within(client.send(&mut readings(1, 10, 1))).await.expect("into the spool");
    let sink = harness.sink(10, Mode::Immediate);
    let _server = harness.serve_at(addr, &sink);
    let summary = within(client.finish()).await.expect("all acknowledged");
    assert_eq!(summary.acknowledged_frames, 11);
    assert!(harness.disk.readings().values().all(|times| *times == 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn frames_are_sent_again_after_the_sink_was_unavailable() {
    let harness = Harness::new();
    let gateway = harness.enrolled(1);
    let sink = harness.sink(10, Mode::Manual);
    let server = harness.serve(&sink);
    let mut client = harness.client(server.addr(), &gateway).await;
    let mut progress = client.progress();
    for index in 0..3 {
        within(client.send(&mut readings(1, index, 1))).await.expect("sent");
    }
    wait_until("all are submitted", || sink.waiting() == 3).await;
    // One frame is durable, the others fail after they were accepted.
    sink.commit(1);
    sink.set(Mode::Unavailable);
    sink.fail(None);
    let failed = within(progress.wait_for(|p| p.trouble.is_some())).await.expect("progress").clone();
    assert_eq!(failed.refused_frames, 0);
    assert!(failed.trouble.as_deref().is_some_and(|t| t.contains("cannot store")), "{failed:?}");
    tokio::time::sleep(Duration::from_millis(200)).await;
    sink.set(Mode::Immediate);
    let summary = within(client.finish()).await.expect("all acknowledged");
    assert_eq!((summary.acknowledged_frames, summary.refused_frames), (3, 0));
    assert_eq!(harness.disk.readings().into_values().collect::<Vec<_>>(), [1, 1, 1]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_gives_up_after_its_patience() {
    let harness = Harness::new();
    let gateway = harness.enrolled(1);
    let patience = Duration::from_millis(700);
    let short = |addr| {
        let mut config = harness.config(addr, &gateway);
        config.patience = patience;
        config.connect_timeout = Duration::from_millis(300);
        config
    };
    // A socket that sends no response.
    let silent = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("a socket");
    let addr = silent.local_addr().expect("an address");
    let error = within(Client::connect(short(addr))).await.expect_err("no server there");
    assert!(matches!(error, ClientError::GaveUp { .. }), "{error}");

    // A server that accepts connections and acknowledges nothing.
    let server = harness.serve(&harness.sink(10, Mode::Manual));
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
