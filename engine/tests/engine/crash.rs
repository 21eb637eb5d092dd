//! Crashes: a copy of the directory, taken while the engine works, opens and has everything acknowledged, once.

use std::sync::Arc;
use std::time::Duration;

use engine::{Fault, Operation};
use kit::rig::Sender;
use kit::{FirstWins, Reading, Sent, gateway, millis};
use storage_format::OrgId;

use crate::read::{check_flushed, check_rows};
use crate::rig::{MAY, Rig};

fn org() -> OrgId {
    OrgId::new(0xC1).expect("not zero")
}

fn hundred(round: i64) -> Sent {
    let readings = (0..100_i64)
        .map(|i| Reading::new(1 + (i % 10).cast_unsigned(), MAY + round * 100_000 + i * 977, &[(1, i as f64)]));
    Sent { gateway: gateway(1), received: millis(MAY), readings: readings.collect() }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn copies_taken_at_any_time_open_with_all_that_was_acknowledged() {
    let mut rig = Rig::new();
    // Small buffers, so that flushes run all the time.
    rig.config.flush_bytes = 40_000;
    rig.create_org(org()).await;
    let engine = rig.open().await;
    let (mut sender, mut model) = (Sender::new(org(), 1), FirstWins::default());
    for round in 0..12 {
        for part in 0..5 {
            sender.send(&engine, &mut model, hundred(round * 5 + part)).await;
        }
        let copy = rig.crashed();
        let after = copy.open().await;
        check_rows(&after, org(), &model).await;
        let durable = after.durable_sequence(org(), gateway(1), kit::spool(1));
        assert_eq!(durable.get(), sender.next - 1);
        after.flush(None).await.expect("a flush");
        check_flushed(&after, org(), &model).await;
        after.close().await.expect("closed");
    }
    engine.close().await.expect("closed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn counts_are_exact_while_flushes_run_beside_ingest() {
    let mut rig = Rig::new();
    rig.config.flush_bytes = 60_000;
    rig.create_org(org()).await;
    let engine = rig.open().await;
    let sending = {
        let engine = Arc::clone(&engine);
        tokio::spawn(async move {
            let (mut sender, mut model) = (Sender::new(org(), 1), FirstWins::default());
            for round in 0..150 {
                sender.send(&engine, &mut model, hundred(round)).await;
                // What is acknowledged is visible, exactly.
                let snapshot = engine.snapshot(org()).await.expect("a snapshot");
                let flushed: u64 = snapshot.manifest.segments().iter().map(|segment| segment.rows).sum();
                assert_eq!(flushed + snapshot.buffered_rows() as u64, model.rows.len() as u64);
            }
            model
        })
    };
    let looking = {
        let engine = Arc::clone(&engine);
        tokio::spawn(async move {
            let mut last = 0;
            for _ in 0..20 {
                let snapshot = engine.snapshot(org()).await.expect("a snapshot");
                let found = kit::rig::rows(&engine, &snapshot).await.expect("it reads").len();
                assert!(found >= last && found.is_multiple_of(100), "{last} then {found}");
                last = found;
                engine.flush(None).await.expect("a flush");
            }
        })
    };
    looking.await.expect("no panic");
    let model = sending.await.expect("no panic");
    engine.flush(None).await.expect("a flush");
    check_flushed(&engine, org(), &model).await;
    engine.close().await.expect("closed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_commit_that_arrives_after_its_process_has_ended_is_not_forgotten() {
    let rig = Rig::new();
    rig.create_org(org()).await;
    let engine = rig.open().await;
    let (mut sender, mut model) = (Sender::new(org(), 1), FirstWins::default());
    sender.send(&engine, &mut model, of_logger(1, 1.0)).await;
    sender.send(&engine, &mut model, of_logger(2, 2.0)).await;

    // The process after it has a buffer for each of the two, and cannot flush them yet.
    let mut after = rig.crashed();
    after.config.flush_bytes = 1;
    for _ in 0..3 {
        after.store.fail_next(Operation::Put, "manifest/", Fault::Before, 0);
    }
    let next = after.open().await;
    while next.status().flush_troubles.is_empty() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    after.store.clear();
    assert_eq!(next.snapshot(org()).await.expect("a snapshot").buffers.len(), 2);

    // Now what its predecessor had sent arrives: one commit for both, which the flush of the first meets.
    engine.flush(None).await.expect("a flush");
    engine.close().await.expect("closed");
    after.take_store_of(&rig);
    let report = next.flush(None).await.expect("a flush");
    assert_eq!((report.buffers, report.segments), (2, 1), "the first was written in vain, the second not at all");
    check_flushed(&next, org(), &model).await;

    // The second buffer's readings come again, with other values: they are looked for in segments that this process
    // has neither found at its start nor written.
    sender.send(&next, &mut model, of_logger(2, 3.0)).await;
    next.flush(None).await.expect("a flush");
    check_flushed(&next, org(), &model).await;
    next.close().await.expect("closed");
}

fn of_logger(logger: u64, value: f64) -> Sent {
    let readings = (0..10).map(|i| Reading::new(logger, MAY + i * 1000, &[(1, value)]));
    Sent { gateway: gateway(1), received: millis(MAY), readings: readings.collect() }
}
