//! A store that fails while a flush writes: nothing is lost, nothing twice, and the WAL stays until the commit.

use std::sync::Arc;
use std::time::Duration;

use engine::{Engine, EngineErrorKind, Fault, FaultyFiles, Operation};
use kit::rig::Sender;
use kit::{FirstWins, Reading, Sent, gateway, millis};
use storage_format::OrgId;

use crate::read::{check_flushed, check_rows};
use crate::rig::{MAY, Rig, noisy};

fn org() -> OrgId {
    OrgId::new(0xF1).expect("not zero")
}

fn some(round: i64) -> Sent {
    let readings = (0..50).map(|i| Reading::new(1, MAY + (round * 40 + i) * 1000, &[(1, i as f64)]));
    Sent { gateway: gateway(1), received: millis(MAY), readings: readings.collect() }
}

async fn filled(rig: &Rig) -> (Arc<Engine>, Sender, FirstWins) {
    rig.create_org(org()).await;
    let engine = rig.open().await;
    let (mut sender, mut model) = (Sender::new(org(), 1), FirstWins::default());
    sender.send(&engine, &mut model, some(0)).await;
    sender.send(&engine, &mut model, some(1)).await;
    (engine, sender, model)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_put_of_a_flush_may_fail_before_or_after_it_happened() {
    for name in ["segments/", "conflicts/", "manifest/"] {
        for fault in [Fault::Before, Fault::Applied] {
            let rig = Rig::new();
            let (engine, mut sender, mut model) = filled(&rig).await;
            engine.flush(None).await.expect("a flush");
            // The second flush has fresh readings and conflicts.
            let mut other = some(1);
            for reading in &mut other.readings {
                reading.samples[0].1 += 0.25;
            }
            sender.send(&engine, &mut model, other).await;
            sender.send(&engine, &mut model, some(9)).await;
            // As often as one put is tried, and then some.
            for _ in 0..4 {
                rig.store.fail_next(Operation::Put, name, fault, 0);
            }
            let result = engine.flush(None).await;
            if fault == Fault::Before {
                let error = result.expect_err("the store refused");
                assert_eq!(error.kind(), EngineErrorKind::Retry, "{error}");
                let status = engine.status();
                assert_eq!(status.flush_troubles.len(), 1);
                assert!(status.lsn_first_unflushed <= status.lsn_applied);
                assert!(status.failed.is_none());
            }
            check_rows(&engine, org(), &model).await;
            rig.store.clear();
            engine.flush(None).await.expect("it is well again");
            check_flushed(&engine, org(), &model).await;
            assert!(engine.status().flush_troubles.is_empty());
            // And a restart sees the same.
            let copy = rig.crashed();
            let after = copy.open().await;
            check_flushed(&after, org(), &model).await;
            after.close().await.expect("closed");
            engine.close().await.expect("closed");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failed_flush_is_tried_again_by_itself_after_a_pause() {
    let rig = Rig::new();
    let (engine, _sender, model) = filled(&rig).await;
    for _ in 0..3 {
        rig.store.fail_next(Operation::Put, "segments/", Fault::Before, 0);
    }
    engine.flush(None).await.expect_err("the store refused");
    assert_eq!(engine.status().flush_troubles[0].failures, 1);
    rig.store.clear();
    // The clock stands still: it is not time yet.
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(engine.status().flush_troubles.len(), 1);
    rig.clock.turn(Duration::from_secs(2));
    while !engine.status().flush_troubles.is_empty() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    check_flushed(&engine, org(), &model).await;
    engine.close().await.expect("closed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_writer_is_fatal_to_the_first() {
    let rig = Rig::new();
    let (engine, mut sender, mut model) = filled(&rig).await;
    engine.flush(None).await.expect("a flush");
    sender.send(&engine, &mut model, some(3)).await;
    // Another process, as if the lock had not held: it goes on from the same store.
    let mut second = Rig::new();
    second.store = Arc::clone(&rig.store);
    let taker = second.open().await;
    let (mut other, mut other_model) = (Sender::new(org(), 2), model.clone());
    other.send(&taker, &mut other_model, some(77)).await;
    taker.flush(None).await.expect("it takes over");
    let error = engine.flush(None).await.expect_err("fenced");
    assert_eq!(error.kind(), EngineErrorKind::Fenced, "{error}");
    let mut failed = engine.failed();
    let fatal = failed.wait_for(Option::is_some).await.expect("it fails").clone().expect("an error");
    assert_eq!(fatal.kind(), EngineErrorKind::Fenced);
    assert_eq!(engine.close().await.expect_err("fenced").kind(), EngineErrorKind::Fenced);
    taker.close().await.expect("closed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_writer_never_takes_the_firsts_commit_for_its_own() {
    let rig = Rig::new();
    let (engine, mut sender, mut model) = filled(&rig).await;
    engine.flush(None).await.expect("a flush");
    let mut second = Rig::new();
    second.store = Arc::clone(&rig.store);
    let other = second.open().await;
    // Both go on under the same numbers, with other readings; the first is first.
    let (mut other_sender, mut other_model) = (Sender::new(org(), 2), model.clone());
    other_sender.send(&other, &mut other_model, some(77)).await;
    sender.send(&engine, &mut model, some(3)).await;
    engine.flush(None).await.expect("a flush");
    let error = other.flush(None).await.expect_err("what the other covers is not this one's");
    assert_eq!(error.kind(), EngineErrorKind::Fenced, "{error}");
    assert_eq!(other.close().await.expect_err("fenced").kind(), EngineErrorKind::Fenced);
    check_flushed(&engine, org(), &model).await;
    engine.close().await.expect("closed");
    // What the second had acknowledged is still in its log.
    let wal = std::fs::read_dir(second.root.join("wal")).expect("a directory");
    assert!(wal.count() > 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_wal_goes_only_after_the_commit() {
    let mut rig = Rig::new();
    // One group of some frames fills a file: files change often.
    rig.config.group_bytes_max = 2 << 20;
    rig.config.wal_file_bytes = 3 << 20;
    rig.config.wal_bytes_max = 90 << 20;
    rig.create_org(org()).await;
    let engine = rig.open().await;
    let (mut sender, mut model) = (Sender::new(org(), 1), FirstWins::default());
    let mut round = 0;
    while engine.status().wal_bytes < 10 << 20 {
        sender.send(&engine, &mut model, noisy(round)).await;
        round += 1;
    }
    for _ in 0..3 {
        rig.store.fail_next(Operation::Put, "manifest/", Fault::Before, 0);
    }
    let before = engine.status().wal_bytes;
    engine.flush(None).await.expect_err("no commit");
    assert_eq!(engine.status().wal_bytes, before, "nothing goes without a commit");
    rig.store.clear();
    engine.flush(None).await.expect("a flush");
    let status = engine.status();
    assert!(status.wal_bytes <= 2 * (3 << 20), "{} of {before} bytes are left", status.wal_bytes);
    assert_eq!(status.lsn_first_unflushed, status.lsn_applied.next().expect("there is a next"));
    check_flushed(&engine, org(), &model).await;
    engine.close().await.expect("closed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_acknowledges_nothing_and_closing_does_not_wait_for_it() {
    let mut rig = Rig::new();
    let files = FaultyFiles::new();
    rig.files = Arc::new(files.clone());
    rig.create_org(org()).await;
    let engine = rig.open().await;
    let (mut sender, mut model) = (Sender::new(org(), 1), FirstWins::default());
    sender.send(&engine, &mut model, some(0)).await;
    // What is left of the file made ahead is used up, then there is no other.
    files.set_space(Some(0));
    let mut rounds = 0;
    let refused = loop {
        let mut next = noisy(rounds);
        rounds += 1;
        let sequence = sender.submit(&engine, &mut next).await;
        match tokio::time::timeout(Duration::from_secs(3), sender.acks.answered(sequence)).await {
            Ok(durable) => {
                assert!(durable, "nothing is refused while the engine is open");
                model.apply(&next);
            }
            Err(_) => break sequence,
        }
    };
    assert!(engine.status().failed.is_none(), "a full disk is no reason to stop");
    check_rows(&engine, org(), &model).await;
    // Room again: it goes on by itself.
    files.set_space(None);
    rig.clock.turn(Duration::from_secs(5));
    assert!(sender.acks.answered(refused).await);
    model.apply(&noisy(rounds - 1));
    check_rows(&engine, org(), &model).await;
    // Full again, and the end: what is not acknowledged is answered, what is acknowledged is there at the next start.
    files.set_space(Some(0));
    let waiting = loop {
        let mut next = noisy(rounds);
        rounds += 1;
        let sequence = sender.submit(&engine, &mut next).await;
        match tokio::time::timeout(Duration::from_secs(3), sender.acks.answered(sequence)).await {
            Ok(_) => model.apply(&next),
            Err(_) => break sequence,
        }
    };
    engine.close().await.expect("closed");
    assert!(!sender.acks.answered(waiting).await);
    files.set_space(None);
    let engine = rig.open().await;
    check_rows(&engine, org(), &model).await;
    engine.close().await.expect("closed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failed_sync_stops_the_engine_and_keeps_what_was_acknowledged() {
    let mut rig = Rig::new();
    let files = FaultyFiles::new();
    rig.files = Arc::new(files.clone());
    rig.create_org(org()).await;
    let engine = rig.open().await;
    let (mut sender, mut model) = (Sender::new(org(), 1), FirstWins::default());
    sender.send(&engine, &mut model, some(0)).await;
    // The file made ahead in the background syncs, too: let it be done.
    tokio::time::sleep(Duration::from_millis(200)).await;
    files.fail_syncs(1);
    let sequence = sender.submit(&engine, &mut some(1)).await;
    assert!(!sender.acks.answered(sequence).await, "not acknowledged");
    let mut failed = engine.failed();
    let error = failed.wait_for(Option::is_some).await.expect("it fails").clone().expect("an error");
    assert_eq!(error.kind(), EngineErrorKind::Failed, "{error}");
    assert!(engine.status().failed.is_some());
    assert_eq!(engine.flush(None).await.expect_err("stopped").kind(), EngineErrorKind::Failed);
    assert!(engine.close().await.is_err());
    // The next start: what was acknowledged is there; the frame in between may be.
    let engine = rig.open().await;
    let snapshot = engine.snapshot(org()).await.expect("a snapshot");
    assert!([50, 100].contains(&snapshot.buffered_rows()), "{} rows", snapshot.buffered_rows());
    engine.close().await.expect("closed");
}
