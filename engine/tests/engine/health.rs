//! What is told of an engine that cannot take or flush readings: while it lasts, and not longer.

use std::collections::BTreeMap;
use std::pin::pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use engine::{AckSink, Engine, EngineError, EngineErrorKind, Fault, FaultyFiles, Operation, Stepped, Submission};
use futures::TryStreamExt as _;
use metrics::{
    Counter, Gauge, GaugeFn, Histogram, Key, KeyName, Metadata, Recorder, SharedString, Unit, with_local_recorder,
};
use object_store::path::Path;
use object_store::{ObjectStore as _, ObjectStoreExt as _};
use storage_format::{Frame, ObjectKey, OrgId};

use kit::rig::{Acks, Sender};
use kit::{FirstWins, Reading, Sent, gateway, millis, spool};

use crate::rig::{MAY, Rig, noisy};

fn org(id: u64) -> OrgId {
    OrgId::new(id).expect("not zero")
}

fn some() -> Sent {
    let readings = (0..50).map(|i| Reading::new(1, MAY + i * 1000, &[(1, i as f64)]));
    Sent { gateway: gateway(1), received: millis(MAY), readings: readings.collect() }
}

async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    for _ in 0..6_000 {
        if holds() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("{what} did not come");
}

/// No segment is written until the store is cleared.
fn break_store(rig: &Rig) {
    for _ in 0..1_000 {
        rig.store.fail_next(Operation::Put, "segments/", Fault::Before, 0);
    }
}

/// Sends so many times half a megabyte in the background; not all of it is taken at once.
fn flood(engine: &Arc<Engine>, rounds: u64) -> tokio::task::JoinHandle<()> {
    let engine = Arc::clone(engine);
    tokio::spawn(async move {
        let mut sender = Sender::new(org(1), 1);
        for round in 0..rounds {
            sender.submit(&engine, &mut noisy(round)).await;
        }
        assert!(sender.acks.answered(rounds).await, "all of it is taken in the end");
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_wal_is_told_until_a_flush() {
    let mut rig = Rig::new();
    rig.config.group_bytes_max = 2 << 20;
    rig.config.wal_file_bytes = 3 << 20;
    rig.config.wal_bytes_max = 12 << 20;
    rig.create_org(org(1)).await;
    let engine = rig.open().await;
    assert!(engine.health().is_well());
    break_store(&rig);
    let flood = flood(&engine, 30);
    until("a full WAL", || engine.health().wal_full.is_some()).await;
    let health = engine.health();
    assert!(!health.takes_frames() && health.wal_without_file.is_none() && health.failed.is_none());
    let trouble = health.wal_full.expect("it is full");
    assert_eq!((trouble.since, trouble.error), (millis(MAY), None));
    until("the reason", || engine.health().store_unavailable.is_some()).await;
    rig.store.clear();
    rig.clock.turn(Duration::from_secs(120));
    until("room", || engine.health().is_well()).await;
    flood.await.expect("no panic");
    engine.close().await.expect("closed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wal_without_a_file_is_told_until_there_is_space() {
    let mut rig = Rig::new();
    let files = FaultyFiles::new();
    rig.files = Arc::new(files.clone());
    rig.create_org(org(1)).await;
    let engine = rig.open().await;
    // Three files of the log.
    files.set_space(Some(16 << 20));
    let flood = flood(&engine, 60);
    until("a full disk", || engine.health().wal_without_file.is_some()).await;
    let health = engine.health();
    assert!(!health.takes_frames() && health.wal_full.is_none());
    let trouble = health.wal_without_file.expect("no file");
    assert!(trouble.error.is_some() && trouble.advice.contains("Free space"), "{trouble}");
    files.set_space(None);
    until("a file", || {
        rig.clock.turn(Duration::from_secs(1));
        engine.health().takes_frames()
    })
    .await;
    flood.await.expect("no panic");
    engine.close().await.expect("closed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn full_write_buffers_are_told_until_a_flush() {
    let mut rig = Rig::new();
    rig.config.buffer_bytes_max = 32 << 20;
    rig.config.wal_bytes_max = 512 << 20;
    rig.create_org(org(1)).await;
    let engine = rig.open().await;
    break_store(&rig);
    let flood = flood(&engine, 60);
    until("full buffers", || engine.health().write_buffers_full.is_some()).await;
    let health = engine.health();
    assert!(!health.takes_frames() && health.wal_full.is_none());
    rig.store.clear();
    until("room", || {
        rig.clock.turn(Duration::from_secs(1));
        engine.health().is_well()
    })
    .await;
    flood.await.expect("no panic");
    engine.close().await.expect("closed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_takes_nothing_is_told_until_it_does() {
    for place in ["segments/", "manifest/"] {
        let rig = Rig::new();
        rig.create_org(org(1)).await;
        let engine = rig.open().await;
        Sender::new(org(1), 1).send(&engine, &mut FirstWins::default(), some()).await;
        for _ in 0..3 {
            rig.store.fail_next(Operation::Put, place, Fault::Before, 0);
        }
        engine.flush(None).await.expect_err("the store refused");
        let health = engine.health();
        assert!(health.takes_frames(), "there is room for more");
        let trouble = health.store_unavailable.expect("it failed");
        assert!(trouble.error.is_some_and(|error| error.contains("injected")));
        assert_eq!(health.orgs_not_flushing.len(), 1);
        assert_eq!((health.orgs_not_flushing[0].org, health.orgs_not_flushing[0].since), (org(1), millis(MAY)));
        engine.flush(None).await.expect("it is well again");
        assert!(engine.health().is_well());
        engine.close().await.expect("closed");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_organisation_in_trouble_is_named_and_the_store_is_not_to_blame() {
    let rig = Rig::new();
    rig.create_org(org(1)).await;
    rig.create_org(org(2)).await;
    let engine = rig.open().await;
    let mut senders = [1, 2].map(|id| Sender::new(org(id), 1));
    senders[0].send(&engine, &mut FirstWins::default(), some()).await;
    engine.flush(None).await.expect("a flush");
    // Its segment is damaged, and the next readings overlap it.
    let prefix = Path::from(ObjectKey::segments_prefix(org(1)));
    for segment in rig.store.list(Some(&prefix)).try_collect::<Vec<_>>().await.expect("a list") {
        let bytes = vec![0xAB; usize::try_from(segment.size).expect("small")];
        rig.store.put(&segment.location, bytes.into()).await.expect("put");
    }
    rig.clock.turn(Duration::from_secs(7));
    for sender in &mut senders {
        sender.send(&engine, &mut FirstWins::default(), some()).await;
    }
    engine.flush(None).await.expect_err("one of them cannot");
    let health = engine.health();
    assert!(health.store_unavailable.is_none() && health.takes_frames() && !health.is_well());
    let [trouble] = &health.orgs_in_trouble[..] else { panic!("{:?}", health.orgs_in_trouble) };
    assert_eq!((trouble.org, trouble.since, trouble.readable), (org(1), millis(MAY + 7000), true));
    assert_eq!(trouble.error.as_ref().map(EngineError::kind), Some(EngineErrorKind::Corrupt));
    // Another failure later: since then as before.
    rig.clock.turn(Duration::from_secs(1));
    engine.flush(Some(org(1))).await.expect_err("it still cannot");
    assert_eq!(engine.health().orgs_in_trouble[0].since, trouble.since);
    engine.close().await.expect("closed");
}

/// Keeps what gauges were set to.
#[derive(Debug, Default, Clone)]
struct Gauges(Arc<Mutex<BTreeMap<String, f64>>>);

struct One(String, Gauges);

impl GaugeFn for One {
    fn increment(&self, _: f64) {}

    fn decrement(&self, _: f64) {}

    fn set(&self, value: f64) {
        self.1.0.lock().expect("no panic").insert(self.0.clone(), value);
    }
}

impl Recorder for Gauges {
    fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn register_counter(&self, _: &Key, _: &Metadata<'_>) -> Counter {
        Counter::noop()
    }

    fn register_gauge(&self, key: &Key, _: &Metadata<'_>) -> Gauge {
        Gauge::from_arc(Arc::new(One(key.name().to_owned(), self.clone())))
    }

    fn register_histogram(&self, _: &Key, _: &Metadata<'_>) -> Histogram {
        Histogram::noop()
    }
}

async fn flush(stepped: &mut Stepped) -> Result<(), EngineError> {
    let engine = Arc::clone(stepped.engine());
    let mut flushed = pin!(engine.flush(None));
    loop {
        tokio::select! {
            flushed = &mut flushed => return flushed.map(drop),
            () = tokio::time::sleep(Duration::from_millis(1)) => { stepped.append().expect("it goes on"); }
        }
    }
}

#[test]
fn gauges_tell_it_by_time_and_not_by_flushes() {
    let gauges = Gauges::default();
    let told = |name: &str| gauges.0.lock().expect("no panic").get(name).copied();
    let test = async {
        let rig = Rig::new();
        rig.create_org(org(1)).await;
        let spawn = Arc::new(tokio::runtime::Handle::current());
        let mut stepped = Stepped::open(rig.config.clone(), rig.parts(), spawn).await.expect("it opens");
        stepped.engine().load(org(1)).await.expect("it is there");
        let (stop, stopped) = tokio::sync::watch::channel(false);
        let maintenance = stepped.maintenance(stopped);
        let steps = async {
            until("the first look", || told("icecore_store_unavailable") == Some(0.0)).await;
            for name in ["wal_full", "wal_without_file", "write_buffers_full", "orgs_not_flushing", "orgs_in_trouble"] {
                assert_eq!(told(&format!("icecore_{name}")), Some(0.0), "{name}");
            }
            let mut sent = some();
            let frame = Frame::decode(sent.encode(spool(1), 1)).expect("a frame");
            let acks = Arc::new(Acks::default()) as Arc<dyn AckSink>;
            let submission = Submission { org: org(1), gateway: sent.gateway, received: sent.received, frame, acks };
            stepped.engine().try_submit(submission).expect("room");
            break_store(&rig);
            flush(&mut stepped).await.expect_err("the store refused");
            until("a gauge of the store", || told("icecore_store_unavailable") == Some(1.0)).await;
            until("a gauge of organisations", || told("icecore_orgs_not_flushing") == Some(1.0)).await;
            // Nothing is flushed from here on, and the sizes are told all the same.
            gauges.0.lock().expect("no panic").remove("icecore_write_buffer_bytes");
            until("a size", || told("icecore_write_buffer_bytes").is_some_and(|bytes| bytes > 0.0)).await;
            rig.store.clear();
            flush(&mut stepped).await.expect("it is well again");
            until("no gauge of the store", || told("icecore_store_unavailable") == Some(0.0)).await;
            until("no gauge of organisations", || told("icecore_orgs_not_flushing") == Some(0.0)).await;
            stop.send_replace(true);
        };
        futures::future::join(maintenance, steps).await;
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
    with_local_recorder(&gauges, || runtime.block_on(test));
}
