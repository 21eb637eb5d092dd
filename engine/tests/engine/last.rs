//! The last reading of each logger, whatever comes late, is flushed, merged or forgotten, against the naive model.

use std::time::Duration;

use engine::Operation;
use kit::rig::Sender;
use kit::{FirstWins, Reading, Sent, gateway, millis};
use proptest::prelude::*;
use storage_format::OrgId;

use crate::read::check_last;
use crate::rig::{MAY, Rig};

const HOUR: i64 = 3_600_000;

fn org() -> OrgId {
    OrgId::new(0xA5).expect("not zero")
}

fn sent(from: u64, round: i64, readings: Vec<Reading>) -> Sent {
    Sent { gateway: gateway(from), received: millis(MAY + round * 1000), readings }
}

/// Every rule once, in buffers and across a flush.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn late_readings_fill_and_never_replace() {
    let rig = Rig::new();
    rig.create_org(org()).await;
    let engine = rig.open().await;
    let (mut sender, mut model) = (Sender::new(org(), 1), FirstWins::default());
    let reading = |hour: i64, samples: &[(u16, f64)]| Reading::new(7, MAY + hour * HOUR, samples);
    check_last(&engine, org(), &model).await;
    for (round, readings) in [
        vec![reading(5, &[(1, 4.0)]), reading(4, &[(1, 3.0), (2, 50.0)])],
        // Late, and in conflict: nothing changes.
        vec![reading(3, &[(1, 2.0)]), reading(5, &[(1, 9.0)])],
        // The newest reading gets another channel.
        vec![reading(5, &[(2, 60.0)])],
        // Newer, without the channel that the last one had.
        vec![reading(6, &[(2, 61.0)])],
    ]
    .into_iter()
    .enumerate()
    {
        sender.send(&engine, &mut model, sent(1, i64::try_from(round).expect("small"), readings)).await;
        check_last(&engine, org(), &model).await;
        engine.flush(None).await.expect("a flush");
        check_last(&engine, org(), &model).await;
    }
    let snapshot = engine.snapshot(org()).await.expect("a snapshot");
    let last = engine.last_readings(&snapshot).await.expect("the last readings");
    assert_eq!((last.num_rows(), last.column(2).null_count()), (1, 1), "no temperature at the newest time");
    engine.close().await.expect("closed");
}

/// A snapshot from before a flush still has its own last readings.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_older_snapshot_has_its_own() {
    let rig = Rig::new();
    rig.create_org(org()).await;
    let engine = rig.open().await;
    let (mut sender, mut model) = (Sender::new(org(), 1), FirstWins::default());
    let mut send = async |engine: &engine::Engine, model: &mut FirstWins, hour: i64| {
        let reading = Reading::new(1, MAY + hour * HOUR, &[(1, hour as f64)]);
        sender.send(engine, model, sent(1, hour, vec![reading])).await;
    };
    send(&engine, &mut model, 1).await;
    engine.flush(None).await.expect("a flush");
    let (old, old_model) = (engine.snapshot(org()).await.expect("a snapshot"), model.clone());
    check_last(&engine, org(), &model).await;
    send(&engine, &mut model, 2).await;
    engine.flush(None).await.expect("a flush");
    check_last(&engine, org(), &model).await;
    rig.store.take_log();
    let found = kit::rig::last_readings(&engine, &old).await.expect("they are read");
    let is_read = |(operation, name): &(Operation, String)| *operation == Operation::Get && name.contains("/segments/");
    assert!(!rig.store.take_log().iter().any(is_read), "they were computed before the flush");
    assert_eq!(found, old_model.last());
    check_last(&engine, org(), &model).await;
    engine.close().await.expect("closed");
}

/// Past the limit the least recently used go, and are there again when they are asked for.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn memory_has_a_limit() {
    let mut rig = Rig::new();
    rig.config.last_readings_bytes_max = 8 << 10;
    let orgs: Vec<OrgId> = (1..=20).map(|org| OrgId::new(org).expect("not zero")).collect();
    for org in &orgs {
        rig.create_org(*org).await;
    }
    let engine = rig.open().await;
    let mut models = vec![FirstWins::default(); orgs.len()];
    for (org, model) in orgs.iter().zip(&mut models) {
        let readings = (1..4).map(|logger| Reading::new(logger, MAY, &[(1, org.get() as f64)])).collect();
        Sender::new(*org, 1).send(&engine, model, sent(1, 0, readings)).await;
    }
    engine.flush(None).await.expect("a flush");
    for _ in 0..2 {
        for (org, model) in orgs.iter().zip(&models) {
            check_last(&engine, *org, model).await;
            let bytes = engine.last_readings_bytes();
            assert!(bytes > 0 && bytes <= 8 << 10, "{bytes} bytes");
        }
    }
    engine.close().await.expect("closed");
}

#[derive(Debug, Clone)]
enum Step {
    Send { from: u64, readings: Vec<(u64, i64, u8, u8)> },
    Flush,
    Ask,
    Reopen,
}

fn step() -> impl Strategy<Value = Step> {
    // Few keys and few values, so that everything meets everything; three months.
    let reading = (1_u64..5, 0_i64..24, 1_u8..8, 0_u8..3);
    prop_oneof![
        6 => (1_u64..4, prop::collection::vec(reading, 1..10)).prop_map(|(from, readings)| Step::Send { from, readings }),
        3 => Just(Step::Flush),
        3 => Just(Step::Ask),
        1 => Just(Step::Reopen),
    ]
}

async fn live(steps: Vec<Step>, bytes_max: usize, compaction: bool) {
    let mut rig = Rig::new();
    rig.config.last_readings_bytes_max = bytes_max;
    rig.config.compaction = compaction;
    rig.config.compaction_interval = Duration::from_millis(2);
    rig.create_org(org()).await;
    let mut engine = rig.open().await;
    let (mut sender, mut model) = (Sender::new(org(), 1), FirstWins::default());
    for (round, step) in (0..).zip(steps) {
        match step {
            Step::Send { from, readings } => {
                let readings = readings.into_iter().map(|(logger, time, mask, value)| {
                    let channels = (0..3_u16).filter(|bit| mask & (1 << bit) != 0);
                    let samples: Vec<_> = channels.map(|bit| (bit + 1, f64::from(value) + 0.5)).collect();
                    Reading::new(logger, MAY + time * 80 * HOUR, &samples)
                });
                sender.send(&engine, &mut model, sent(from, round, readings.collect())).await;
            }
            Step::Flush => drop(engine.flush(None).await.expect("a flush")),
            Step::Ask => check_last(&engine, org(), &model).await,
            Step::Reopen => {
                engine.close().await.expect("closed");
                engine = rig.open().await;
            }
        }
    }
    check_last(&engine, org(), &model).await;
    engine.flush(None).await.expect("a flush");
    check_last(&engine, org(), &model).await;
    engine.close().await.expect("closed");
    let engine = rig.open().await;
    check_last(&engine, org(), &model).await;
    engine.close().await.expect("closed");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, max_shrink_iters: 200, ..ProptestConfig::default() })]
    #[test]
    fn they_are_the_models_at_any_time(
        steps in prop::collection::vec(step(), 1..24),
        bytes_max in prop::sample::select(vec![0, 1 << 20]),
        compaction in any::<bool>(),
    ) {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime");
        runtime.block_on(live(steps, bytes_max, compaction));
    }
}
