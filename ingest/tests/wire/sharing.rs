//! Many clients of one process: one socket for all of them, every answer told as it comes, a bound in frames.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use ingest::RefusalCode;
use ingest::client::{Client, ClientConfig, Endpoint, ResponseObserver};
use storage_format::FrameSequence;

use crate::house::{House, reading_at, readings, sequence, within};
use crate::sink::Mode;

#[derive(Debug, Default)]
struct Told {
    up_to: AtomicU64,
    refused: Mutex<Vec<(FrameSequence, RefusalCode)>>,
}

impl ResponseObserver for Told {
    fn acknowledged(&self, up_to: FrameSequence) {
        assert!(up_to.get() >= self.up_to.swap(up_to.get(), Ordering::Relaxed), "the numbers grow");
    }

    fn refused(&self, sequence: FrameSequence, code: RefusalCode) {
        self.refused.lock().expect("no panic").push((sequence, code));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_socket_serves_many_and_every_answer_is_told() {
    let house = House::new();
    let sink = house.sink(40, Mode::Keeps);
    let server = house.serve(&sink);
    let endpoint = Endpoint::shared(server.addr()).expect("a socket");
    let mut clients = Vec::new();
    for number in 1..=3 {
        let (gateway, told) = (house.enrolled(number), Arc::new(Told::default()));
        let config = ClientConfig {
            endpoint: Some(endpoint.clone()),
            observer: Some(Arc::clone(&told) as Arc<dyn ResponseObserver>),
            ..house.config(server.addr(), &gateway)
        };
        clients.push((within(Client::connect(config)).await.expect("a client"), told));
    }
    for index in 0..20 {
        for (client, _) in &mut clients {
            assert_eq!(client.next_sequence(), Some(sequence(index as u64 + 1)));
            within(client.send(&mut readings(1, 10 * index, 10))).await.expect("sent");
        }
    }
    for (mut client, told) in clients {
        // Before any time that is accepted.
        within(client.send(&mut reading_at(0))).await.expect("sent");
        within(client.send(&mut readings(1, 200, 1))).await.expect("sent");
        let summary = within(client.finish()).await.expect("all answered");
        assert_eq!((summary.acknowledged_frames, summary.refused_frames), (21, 1));
        assert_eq!(told.up_to.load(Ordering::Relaxed), 22);
        assert_eq!(*told.refused.lock().expect("no panic"), [(sequence(21), RefusalCode::TimeOutOfRange)]);
        let wire = summary.wire;
        assert!(wire.sent_bytes > 1_000 && wire.received_bytes > 1_000 && wire.sent_packets > 2, "{wire:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_more_frames_wait_than_are_allowed() {
    let house = House::new();
    let gateway = house.enrolled(1);
    let sink = house.sink(40, Mode::Waits);
    let server = house.serve(&sink);
    let config = ClientConfig { spool_frames_max: 3, ..house.config(server.addr(), &gateway) };
    let mut client = within(Client::connect(config)).await.expect("a client");
    for index in 0..3 {
        within(client.ready()).await.expect("room");
        within(client.send(&mut readings(1, index, 1))).await.expect("sent");
    }
    let room = tokio::time::timeout(Duration::from_millis(200), client.ready()).await;
    assert!(room.is_err(), "a fourth frame has no room");
    sink.set(Mode::Keeps);
    within(client.ready()).await.expect("room again");
    within(client.finish()).await.expect("all answered");
}
