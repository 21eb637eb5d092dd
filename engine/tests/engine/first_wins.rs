//! First-wins over buffers and segments, against the naive model.

use kit::rig::Sender;
use kit::{FirstWins, Reading, Sent, gateway, millis};
use proptest::prelude::*;
use storage_format::OrgId;

use crate::read::{check_flushed, check_rows};
use crate::rig::{MAY, Rig};

fn org() -> OrgId {
    OrgId::new(0xA1).expect("not zero")
}

const MINUTE: i64 = 60_000;

fn reading(logger: u64, time: i64, samples: &[(u16, f64)]) -> Reading {
    Reading::new(logger, time, samples)
}

fn sent(from: u64, readings: Vec<Reading>) -> Sent {
    Sent { gateway: gateway(from), received: millis(MAY + i64::try_from(from).expect("small") * 1000 + 7), readings }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn conflicts_and_duplicates_count_once_across_buffer_and_segments() {
    let rig = Rig::new();
    rig.create_org(org()).await;
    let engine = rig.open().await;
    let (mut first, mut second) = (Sender::new(org(), 1), Sender::new(org(), 2));
    let mut model = FirstWins::default();
    let day: Vec<_> = (0..100).map(|i| reading(1, MAY + i * MINUTE, &[(1, 20.0 + i as f64)])).collect();
    first.send(&engine, &mut model, sent(1, day.clone())).await;
    check_rows(&engine, org(), &model).await;
    let report = engine.flush(Some(org())).await.expect("a flush");
    assert_eq!((report.readings, report.segments, report.conflicts, report.duplicates), (100, 1, 0, 0));

    // The same again, twice, by two gateways, one of them with ten other values and a new channel.
    first.send(&engine, &mut model, sent(1, day.clone())).await;
    let changed: Vec<_> = (0..100)
        .map(|i| reading(1, MAY + i * MINUTE, &[(1, if i % 10 == 0 { -1.0 } else { 20.0 + i as f64 }), (2, 50.0)]))
        .collect();
    second.send(&engine, &mut model, sent(2, changed.clone())).await;
    check_rows(&engine, org(), &model).await;
    let report = engine.flush(Some(org())).await.expect("a flush");
    assert_eq!((report.readings, report.filled, report.conflicts, report.duplicates), (0, 100, 10, 190));
    check_flushed(&engine, org(), &model).await;
    let snapshot = engine.snapshot(org()).await.expect("a snapshot");
    assert!(snapshot.manifest.segments()[1].shares_keys && !snapshot.manifest.segments()[0].shares_keys);

    // Nothing but duplicates: a commit without objects, so that the WAL may go.
    first.send(&engine, &mut model, sent(1, day)).await;
    let report = engine.flush(None).await.expect("a flush");
    assert_eq!((report.buffers, report.segments, report.duplicates), (1, 0, 100));
    check_flushed(&engine, org(), &model).await;
    engine.close().await.expect("closed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_older_segments_are_merged_in_groups() {
    let mut rig = Rig::new();
    rig.config.merge_runs_max = 2;
    rig.create_org(org()).await;
    let engine = rig.open().await;
    let mut sender = Sender::new(org(), 1);
    let mut model = FirstWins::default();
    for round in 0..7_i64 {
        let some =
            (0..60_i64).map(|i| reading(1 + (i % 3).cast_unsigned(), MAY + (i * 7 + round) * MINUTE, &[(1, i as f64)]));
        sender.send(&engine, &mut model, sent(1, some.collect())).await;
        engine.flush(None).await.expect("a flush");
    }
    assert_eq!(engine.snapshot(org()).await.expect("a snapshot").manifest.segments().len(), 7);
    // Over all of them: fills, conflicts, duplicates and new readings.
    let over = (0..3 * 500_i64).map(|i| {
        let samples: &[(u16, f64)] = if i % 2 == 0 { &[(2, 40.0)] } else { &[(1, 3.0), (2, 41.0)] };
        reading(1 + (i % 3).cast_unsigned(), MAY + i / 3 * MINUTE, samples)
    });
    sender.send(&engine, &mut model, sent(2, over.collect())).await;
    check_rows(&engine, org(), &model).await;
    engine.flush(None).await.expect("a flush");
    check_flushed(&engine, org(), &model).await;
    engine.close().await.expect("closed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_big_flush_is_split_where_loggers_end_and_by_month() {
    let mut rig = Rig::new();
    rig.config.segment_bytes_max = 1;
    rig.create_org(org()).await;
    let engine = rig.open().await;
    let mut sender = Sender::new(org(), 1);
    let mut model = FirstWins::default();
    for part in 0..6 {
        let some = (0..6_000_i64).map(|i| {
            let number = part * 6_000 + i;
            reading(1 + (number % 5).cast_unsigned(), MAY + number * 20 * MINUTE / 10, &[(1, (number % 77) as f64)])
        });
        sender.send(&engine, &mut model, sent(1, some.collect())).await;
    }
    let report = engine.flush(None).await.expect("a flush");
    // More than one a month.
    assert!(report.segments >= 4, "{} segments", report.segments);
    check_flushed(&engine, org(), &model).await;
    let snapshot = engine.snapshot(org()).await.expect("a snapshot");
    let windows: std::collections::BTreeSet<_> = snapshot.manifest.segments().iter().map(|s| s.window).collect();
    assert_eq!(windows.len(), 2, "May and June");
    engine.close().await.expect("closed");
}

/// What a random life of an engine is made of.
#[derive(Debug, Clone)]
enum Step {
    Send { from: u64, readings: Vec<(u64, i64, u8, u8)> },
    Flush,
    Reopen { clean: bool },
}

fn step() -> impl Strategy<Value = Step> {
    // Few keys and few values, so that everything meets everything; two months.
    let reading = (1_u64..4, 0_i64..40, 1_u8..8, 0_u8..3);
    prop_oneof![
        6 => (1_u64..4, prop::collection::vec(reading, 1..30)).prop_map(|(from, readings)| Step::Send { from, readings }),
        2 => Just(Step::Flush),
        1 => any::<bool>().prop_map(|clean| Step::Reopen { clean }),
    ]
}

fn frame_of(from: u64, readings: &[(u64, i64, u8, u8)]) -> Sent {
    let readings = readings.iter().map(|(logger, time, mask, value)| {
        let channels = (0..3_u16).filter(|bit| mask & (1 << bit) != 0);
        let samples: Vec<_> = channels.map(|bit| (bit + 1, f64::from(*value) + 0.5)).collect();
        reading(*logger, MAY + 30 * 24 * 60 * MINUTE + time * 120 * MINUTE, &samples)
    });
    sent(from, readings.collect())
}

async fn live(steps: Vec<Step>) {
    let mut rig = Rig::new();
    rig.config.merge_runs_max = 2;
    rig.create_org(org()).await;
    let mut engine = rig.open().await;
    let mut senders: Vec<Sender> = (0..4).map(|spool| Sender::new(org(), spool + 1)).collect();
    let mut model = FirstWins::default();
    for step in steps {
        match step {
            Step::Send { from, readings } => {
                let sender = &mut senders[usize::try_from(from).expect("small")];
                sender.send(&engine, &mut model, frame_of(from, &readings)).await;
            }
            Step::Flush => drop(engine.flush(None).await.expect("a flush")),
            Step::Reopen { clean } => {
                if clean {
                    engine.close().await.expect("closed");
                    engine = rig.open().await;
                } else {
                    let after = rig.crashed();
                    engine.close().await.expect("closed");
                    rig = after;
                    engine = rig.open().await;
                }
                engine.load(org()).await.expect("loaded");
                for sender in &senders {
                    for from in 1..4 {
                        let durable = engine.durable_sequence(org(), gateway(from), kit::spool(sender.spool));
                        let expected = if from == sender.spool - 1 { sender.next - 1 } else { 0 };
                        assert_eq!(durable.get(), expected, "durable sequence");
                    }
                }
            }
        }
        check_rows(&engine, org(), &model).await;
    }
    engine.flush(None).await.expect("a flush");
    check_flushed(&engine, org(), &model).await;
    engine.close().await.expect("closed");
    let engine = rig.open().await;
    check_flushed(&engine, org(), &model).await;
    assert_eq!(engine.recovery().applied, 0, "nothing is replayed that is flushed");
    engine.close().await.expect("closed");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, max_shrink_iters: 200, ..ProptestConfig::default() })]
    #[test]
    fn any_life_ends_with_what_the_model_says(steps in prop::collection::vec(step(), 1..14)) {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime");
        runtime.block_on(live(steps));
    }
}
