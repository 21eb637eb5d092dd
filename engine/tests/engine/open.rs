//! Opening: empty, filled, locked; organisations that are there and that are not.

use std::sync::Arc;

use engine::{AckSink, EngineConfig, EngineErrorKind, SubmitFailure};
use kit::rig::Sender;
use kit::{FirstWins, Reading, Sent, gateway, millis};
use storage_format::OrgId;

use crate::read::check_rows;
use crate::rig::{MAY, Rig};

fn org(id: u64) -> OrgId {
    OrgId::new(id).expect("not zero")
}

fn one(time: i64) -> Sent {
    let readings = vec![Reading::new(5, MAY + time, &[(1, 4.5)])];
    Sent { gateway: gateway(3), received: millis(MAY), readings }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_empty_directory_is_made_and_a_second_process_is_told_who_has_it() {
    let rig = Rig::new();
    let engine = rig.open().await;
    assert_eq!(engine.recovery().files, 0);
    let error = rig.try_open().await.expect_err("locked");
    assert_eq!(error.kind(), EngineErrorKind::Retry);
    let text = error.to_string();
    assert!(text.contains(&std::process::id().to_string()) && text.contains("Stop that process"), "{text}");
    engine.close().await.expect("closed");
    engine.close().await.expect("closed twice");
    // The lock went with it.
    rig.open().await.close().await.expect("closed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dropped_engine_gives_the_lock_back() {
    let rig = Rig::new();
    rig.create_org(org(1)).await;
    let engine = rig.open().await;
    let (mut sender, mut model) = (Sender::new(org(1), 1), FirstWins::default());
    sender.send(&engine, &mut model, one(1)).await;
    drop(engine);
    for attempt in 0.. {
        match rig.try_open().await {
            Ok(engine) => {
                check_rows(&engine, org(1), &model).await;
                return engine.close().await.expect("closed");
            }
            Err(error) => assert!(attempt < 200 && error.kind() == EngineErrorKind::Retry, "{error}"),
        }
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn organisations_are_loaded_when_they_are_needed() {
    let rig = Rig::new();
    for id in 1..=5 {
        rig.create_org(org(id)).await;
    }
    let engine = rig.open().await;
    assert_eq!(engine.status().orgs_loaded, 0);
    let mut model = FirstWins::default();
    let mut sender = Sender::new(org(2), 1);
    sender.send(&engine, &mut model, one(1)).await;
    assert_eq!(engine.status().orgs_loaded, 1);
    assert_eq!(engine.snapshot(org(3)).await.expect("a snapshot").buffered_rows(), 0);
    assert_eq!(engine.status().orgs_loaded, 2);
    engine.close().await.expect("closed");

    // Only what the WAL has records of is read at the start.
    let engine = rig.open().await;
    assert_eq!(engine.status().orgs_loaded, 1);
    assert_eq!((engine.recovery().applied, engine.recovery().clean), (1, true));
    check_rows(&engine, org(2), &model).await;
    engine.close().await.expect("closed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_organisation_that_is_not_there_is_an_error_and_its_frames_fail() {
    let rig = Rig::new();
    let engine = rig.open().await;
    let error = engine.snapshot(org(9)).await.expect_err("not there");
    assert_eq!(error.kind(), EngineErrorKind::Invalid);
    assert!(error.to_string().contains("icecore org list"), "{error}");
    assert_eq!(engine.flush(Some(org(9))).await.expect_err("not there").kind(), EngineErrorKind::Invalid);
    let mut sender = Sender::new(org(9), 1);
    let sequence = sender.submit(&engine, &mut one(1)).await;
    assert!(!sender.acks.answered(sequence).await);
    assert_eq!(sender.acks.failures(), [SubmitFailure::UnknownOrg]);
    // Made meanwhile, by another process: from now on it is there.
    rig.create_org(org(9)).await;
    let mut model = FirstWins::default();
    // Of a sink that had a refusal, nothing later is taken.
    Sender::new(org(9), 1).send(&engine, &mut model, one(2)).await;
    check_rows(&engine, org(9), &model).await;
    engine.close().await.expect("closed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_closed_engine_refuses() {
    let rig = Rig::new();
    rig.create_org(org(1)).await;
    let engine = rig.open().await;
    engine.close().await.expect("closed");
    assert_eq!(engine.flush(None).await.expect_err("closed").kind(), EngineErrorKind::Closed);
    let acks: Arc<dyn AckSink> = Arc::<kit::rig::Acks>::default();
    let frame = storage_format::Frame::decode(one(1).encode(kit::spool(1), 1)).expect("a frame");
    let submission = engine::Submission { org: org(1), gateway: gateway(3), received: millis(MAY), frame, acks };
    assert!(matches!(engine.submit(submission).await, Err(engine::SubmitError::Closed)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn closing_flushes_when_it_should() {
    let mut rig = Rig::new();
    rig.config = EngineConfig { flush_at_close: true, ..rig.config.clone() };
    rig.create_org(org(1)).await;
    let engine = rig.open().await;
    let (mut sender, mut model) = (Sender::new(org(1), 1), FirstWins::default());
    for time in 0..50 {
        sender.send(&engine, &mut model, one(time)).await;
    }
    engine.close().await.expect("closed");
    let engine = rig.open().await;
    assert_eq!(engine.recovery().applied, 0);
    crate::read::check_flushed(&engine, org(1), &model).await;
    engine.close().await.expect("closed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_manifest_beyond_the_log_is_not_served() {
    let rig = Rig::new();
    for id in 1..=2 {
        rig.create_org(org(id)).await;
    }
    let engine = rig.open().await;
    let mut model = FirstWins::default();
    Sender::new(org(1), 1).send(&engine, &mut model, one(1)).await;
    // A copy of the log as it is now, beside the store as it will be: what a careless restore leaves.
    let mixed = rig.crashed();
    let (mut sender, mut ignored) = (Sender::new(org(2), 2), FirstWins::default());
    for time in 1..=3 {
        sender.send(&engine, &mut ignored, one(time)).await;
    }
    engine.flush(Some(org(2))).await.expect("flushed");
    engine.close().await.expect("closed");
    mixed.take_store_of(&rig);

    let engine = mixed.open().await;
    check_rows(&engine, org(1), &model).await;
    let error = engine.snapshot(org(2)).await.expect_err("its next records would be taken for flushed ones");
    assert_eq!(error.kind(), EngineErrorKind::Corrupt);
    assert!(error.to_string().contains("covers LSN 4, the WAL ended at LSN 1"), "{error}");
    engine.close().await.expect("closed");
}
