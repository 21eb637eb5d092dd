//! Crashes: a copy of the directory, taken while the engine works, opens and has everything acknowledged, once.

use std::sync::Arc;

use storage_format::OrgId;

use crate::model::{Model, Reading, Sent, gateway, millis};
use crate::read::{check_flushed, check_rows, rows};
use crate::rig::{MAY, Rig, Sender};

fn org() -> OrgId {
    OrgId::new(0xC1).expect("not zero")
}

fn hundred(round: i64) -> Sent {
    let readings = (0..100_i64).map(|i| Reading {
        logger: 1 + (i % 10).cast_unsigned(),
        time: MAY + round * 100_000 + i * 977,
        samples: vec![(1, i as f64)],
    });
    Sent { gateway: gateway(1), received: millis(MAY), readings: readings.collect() }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn copies_taken_at_any_time_open_with_all_that_was_acknowledged() {
    let mut rig = Rig::new();
    // Small buffers, so that flushes run all the time.
    rig.config.flush_bytes = 40_000;
    rig.create_org(org()).await;
    let engine = rig.open().await;
    let (mut sender, mut model) = (Sender::new(org(), 1), Model::default());
    for round in 0..12 {
        for part in 0..5 {
            sender.send(&engine, &mut model, hundred(round * 5 + part)).await;
        }
        let copy = rig.crashed();
        let after = copy.open().await;
        check_rows(&after, org(), &model).await;
        let durable = after.durable_sequence(org(), gateway(1), crate::model::spool(1));
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
            let (mut sender, mut model) = (Sender::new(org(), 1), Model::default());
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
                let found = rows(&engine, &snapshot).await.len();
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
