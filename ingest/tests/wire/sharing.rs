//! Many clients of one process: one socket for all of them, an observer of every response, a limit of frames.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use ingest::RefusalCode;
use ingest::client::{Client, ClientConfig, Endpoint, ResponseObserver};
use storage_format::FrameSequence;

use crate::harness::{Harness, reading_at, readings, sequence, within};
use crate::sink::Mode;

#[derive(Debug, Default)]
struct RecordedResponses {
    up_to: AtomicU64,
    refused: Mutex<Vec<(FrameSequence, RefusalCode)>>,
}

impl ResponseObserver for RecordedResponses {
    fn acknowledged(&self, up_to: FrameSequence) {
        assert!(up_to.get() >= self.up_to.swap(up_to.get(), Ordering::Relaxed), "the numbers grow");
    }

    fn refused(&self, sequence: FrameSequence, code: RefusalCode) {
        self.refused.lock().expect("no panic").push((sequence, code));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_socket_serves_many_clients_and_every_response_is_observed() {
    let harness = Harness::new();
    let sink = harness.sink(40, Mode::Immediate);
    let server = harness.serve(&sink);
    let endpoint = Endpoint::shared(server.addr()).expect("a socket");
    let mut clients = Vec::new();
    for number in 1..=3 {
        let (gateway, recorded) = (harness.enrolled(number), Arc::new(RecordedResponses::default()));
        let config = ClientConfig {
            endpoint: Some(endpoint.clone()),
            observer: Some(Arc::clone(&recorded) as Arc<dyn ResponseObserver>),
            ..harness.config(server.addr(), &gateway)
        };
        clients.push((within(Client::connect(config)).await.expect("a client"), recorded));
    }
    for index in 0..20 {
        for (client, _) in &mut clients {
            assert_eq!(client.next_sequence(), Some(sequence(index as u64 + 1)));
            within(client.send(&mut readings(1, 10 * index, 10))).await.expect("sent");
        }
    }
    for (mut client, recorded) in clients {
        // A time earlier than any that is accepted.
        within(client.send(&mut reading_at(0))).await.expect("sent");
        within(client.send(&mut readings(1, 200, 1))).await.expect("sent");
        let summary = within(client.finish()).await.expect("all frames have a response");
        assert_eq!((summary.acknowledged_frames, summary.refused_frames), (21, 1));
        assert_eq!(recorded.up_to.load(Ordering::Relaxed), 22);
        assert_eq!(*recorded.refused.lock().expect("no panic"), [(sequence(21), RefusalCode::TimeOutOfRange)]);
        let wire = summary.wire;
        assert!(wire.sent_bytes > 1_000 && wire.received_bytes > 1_000 && wire.sent_packets > 2, "{wire:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_limit_of_waiting_frames_is_kept() {
    let harness = Harness::new();
    let gateway = harness.enrolled(1);
    let sink = harness.sink(40, Mode::Manual);
    let server = harness.serve(&sink);
    let config = ClientConfig { spool_frames_max: 3, ..harness.config(server.addr(), &gateway) };
    let mut client = within(Client::connect(config)).await.expect("a client");
    for index in 0..3 {
        within(client.ready()).await.expect("room");
        within(client.send(&mut readings(1, index, 1))).await.expect("sent");
    }
    let room = tokio::time::timeout(Duration::from_millis(200), client.ready()).await;
    assert!(room.is_err(), "a fourth frame has no room");
    sink.set(Mode::Immediate);
    within(client.ready()).await.expect("room again");
    within(client.finish()).await.expect("all frames have a response");
}
