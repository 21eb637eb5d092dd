//! The schedule at work: size, age, memory and WAL, and recovery within its memory.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use engine::{Engine, Fault, Operation};
use kit::rig::Sender;
use kit::{FirstWins, Reading, Sent, gateway, millis};
use storage_format::OrgId;

use crate::read::check_flushed;
use crate::rig::{MAY, Rig, noisy};

fn org(id: u64) -> OrgId {
    OrgId::new(id).expect("not zero")
}

fn many(round: i64, count: i64) -> Sent {
    let readings = (0..count).map(|i| {
        Reading::new(1 + (i % 7).cast_unsigned(), MAY + (round * count + i) * 100, &[(1, (i % 50) as f64), (2, 1.0)])
    });
    Sent { gateway: gateway(1), received: millis(MAY), readings: readings.collect() }
}

async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    for _ in 0..2_000 {
        if holds() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("{what} did not come");
}

/// Every reading is there once; what they are, smaller tests compare.
async fn check_count(engine: &Engine, org: OrgId, model: &FirstWins) {
    let snapshot = engine.snapshot(org).await.expect("a snapshot");
    let rows = snapshot.manifest.totals().readings + snapshot.buffered_rows() as u64;
    assert_eq!(rows, model.rows.len() as u64);
}

async fn flushes(engine: &Engine, org: OrgId) -> u64 {
    engine.snapshot(org).await.expect("a snapshot").manifest.flush().get()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_buffer_s_memory_is_free_once_it_is_flushed() {
    let mut rig = Rig::new();
    rig.config.flush_bytes = 64 << 10;
    rig.create_org(org(1)).await;
    let engine = rig.open().await;
    let (mut sender, mut model) = (Sender::new(org(1), 1), FirstWins::default());
    // While the store fails, buffers pile up.
    for _ in 0..3 {
        rig.store.fail_next(Operation::Put, "segments/", Fault::Before, 0);
    }
    for round in 0..20 {
        sender.send(&engine, &mut model, many(round, 1000)).await;
    }
    until("a failed flush", || !engine.status().flush_troubles.is_empty()).await;
    let used = Arc::new(Mutex::new(Vec::new()));
    let (seen, weak) = (Arc::clone(&used), Arc::downgrade(&engine));
    rig.store.watch(move |operation, name| {
        if let Some(engine) = weak.upgrade()
            && operation == Operation::Put
            && name.contains("manifest/")
        {
            seen.lock().expect("no panic").push(engine.status().buffer_bytes);
        }
    });
    rig.clock.turn(Duration::from_secs(2));
    until("a flush of all", || engine.status().flush_troubles.is_empty()).await;
    let used = used.lock().expect("no panic").clone();
    assert!(used.len() > 3, "{used:?}");
    assert!(used.is_sorted_by(|before, after| before > after), "at each commit less: {used:?}");
    rig.store.watch(|_, _| {});
    check_count(&engine, org(1), &model).await;
    engine.close().await.expect("closed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn small_buffers_wait_for_hours_and_not_longer() {
    let rig = Rig::new();
    rig.create_org(org(1)).await;
    let engine = rig.open().await;
    let (mut sender, mut model) = (Sender::new(org(1), 1), FirstWins::default());
    sender.send(&engine, &mut model, many(0, 10)).await;
    rig.clock.turn(Duration::from_secs(12 * 3600 - 60));
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(flushes(&engine, org(1)).await, 0);
    rig.clock.turn(Duration::from_secs(120));
    until("the flush", || engine.status().buffer_bytes == 0).await;
    assert_eq!(flushes(&engine, org(1)).await, 1);
    check_flushed(&engine, org(1), &model).await;
    engine.close().await.expect("closed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn memory_is_bounded_and_nothing_is_refused_for_good() {
    let mut rig = Rig::new();
    rig.config.buffer_bytes_max = 32 << 20;
    for id in 1..=3 {
        rig.create_org(org(id)).await;
    }
    let engine = rig.open().await;
    let mut models = [FirstWins::default(), FirstWins::default(), FirstWins::default()];
    let mut senders = [1, 2, 3].map(|id| Sender::new(org(id), 1));
    let mut most = 0;
    for round in 0..18 {
        for (sender, model) in senders.iter_mut().zip(&mut models) {
            sender.send(&engine, model, many(round, 20_000)).await;
            most = most.max(engine.status().buffer_bytes);
        }
    }
    assert!(most < 40 << 20, "{most} bytes");
    let flushed = flushes(&engine, org(1)).await + flushes(&engine, org(2)).await + flushes(&engine, org(3)).await;
    assert!(flushed > 0, "memory made it flush");
    for (sender, model) in senders.iter().zip(&models) {
        check_count(&engine, sender.org, model).await;
    }
    // The same readings again from the WAL, with less memory than they need at once.
    let copy = rig.crashed();
    engine.close().await.expect("closed");
    let engine = copy.open().await;
    assert!(engine.status().buffer_bytes < 40 << 20);
    for (sender, model) in senders.iter().zip(&models) {
        check_count(&engine, sender.org, model).await;
    }
    engine.close().await.expect("closed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_quiet_organisation_does_not_hold_the_wal() {
    let mut rig = Rig::new();
    rig.config.group_bytes_max = 2 << 20;
    rig.config.wal_file_bytes = 3 << 20;
    rig.config.wal_bytes_max = 12 << 20;
    rig.create_org(org(1)).await;
    rig.create_org(org(2)).await;
    let engine = rig.open().await;
    let (mut quiet, mut quiet_model) = (Sender::new(org(1), 1), FirstWins::default());
    quiet.send(&engine, &mut quiet_model, many(0, 5)).await;
    let (mut loud, mut loud_model) = (Sender::new(org(2), 1), FirstWins::default());
    // Several times what the WAL may hold: it must go on by itself.
    let mut most = 0;
    for round in 0..36 {
        loud.send(&engine, &mut loud_model, noisy(round)).await;
        most = most.max(engine.status().wal_bytes);
    }
    assert!(most <= 12 << 20, "{most} bytes");
    assert_eq!(flushes(&engine, org(1)).await, 1, "the quiet one was the oldest");
    engine.flush(None).await.expect("a flush");
    check_flushed(&engine, org(1), &quiet_model).await;
    check_count(&engine, org(2), &loud_model).await;
    engine.close().await.expect("closed");
}
