//! Rollups beside everything else: made with merges and for single segments, gone with them, and always those of the rows.

use std::sync::Arc;
use std::time::Duration;

use engine::{CompactScope, Engine, Fault, Operation, SegmentFilter};
use futures::TryStreamExt as _;
use kit::rig::{Sender, check_rollups};
use kit::{FirstWins, Reading, Sent, gateway, millis};
use object_store::ObjectStore as _;
use object_store::path::Path;
use storage_format::manifest::SegmentKind;
use storage_format::rollup::RollupGrain;
use storage_format::{LoggerId, Millis, ObjectKey, OrgId, TimeRange};

use crate::read::check_flushed;
use crate::rig::{MAY, Rig};

const MINUTE: i64 = 60_000;
const DAY: i64 = 24 * 60 * MINUTE;
const MONTH: Duration = Duration::from_secs(32 * 86_400);

fn org() -> OrgId {
    OrgId::new(0xC7).expect("not zero")
}

/// Readings of three loggers over two days, of which each round has some: late ones, too.
fn some(round: i64) -> Sent {
    let reading = |i: i64| {
        let value = |step: i64| ((i * step + round) % 500 - 100) as f64 / 100.0 + 0.0;
        let samples: &[(u16, f64)] = if i % 4 == 0 { &[(1, value(7)), (2, value(3))] } else { &[(1, value(7))] };
        Reading::new(1 + (i % 3).cast_unsigned(), MAY + (i / 3) * 40 * MINUTE + round * MINUTE, samples)
    };
    Sent { gateway: gateway(1), received: millis(MAY + round * 1000), readings: (0..200).map(reading).collect() }
}

async fn flushed(rig: &Rig, rounds: i64) -> (Arc<Engine>, Sender, FirstWins) {
    rig.create_org(org()).await;
    let engine = rig.open().await;
    let (mut sender, mut model) = (Sender::new(org(), 1), FirstWins::default());
    for round in 0..rounds {
        sender.send(&engine, &mut model, some(round)).await;
        engine.flush(None).await.expect("a flush");
    }
    (engine, sender, model)
}

fn rig() -> Rig {
    let mut rig = Rig::new();
    rig.config.compaction = false;
    rig.config.garbage_delay = Duration::from_millis(80);
    rig
}

/// Holds rollups against rows; answers how many segments and how many rollups there are.
async fn checked(engine: &Engine) -> (usize, usize) {
    let snapshot = engine.snapshot(org()).await.expect("a snapshot");
    check_rollups(engine, org(), &snapshot.manifest).await.expect("rollups are those of the rows");
    (snapshot.manifest.segments().len(), snapshot.manifest.rollups().len())
}

async fn stored(rig: &Rig) -> usize {
    let prefix = Path::from(ObjectKey::rollups_prefix(org()));
    rig.store.list(Some(&prefix)).map_ok(|meta| meta.location).try_collect::<Vec<_>>().await.expect("a list").len()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_segment_of_a_window_that_is_over_has_rollups_and_late_data_changes_them() {
    let rig = rig();
    let (engine, mut sender, mut model) = flushed(&rig, 2).await;
    assert_eq!(checked(&engine).await, (2, 0));
    // As long as the window lasts, there is nothing to merge of two segments, and no rollups of what may be merged.
    engine.compact(CompactScope::All, &|_| {}).await.expect("compacted");
    assert_eq!(checked(&engine).await, (2, 0));
    rig.clock.turn(MONTH);
    engine.compact(CompactScope::All, &|_| {}).await.expect("compacted");
    assert_eq!(checked(&engine).await, (2, 4), "each has an hourly and a daily one");
    for round in 2..9 {
        sender.send(&engine, &mut model, some(round)).await;
        engine.flush(None).await.expect("a flush");
    }
    // Rows that came later have none: those that are there stay those of their segments.
    assert_eq!(checked(&engine).await, (9, 4));
    let report = engine.compact(CompactScope::All, &|_| {}).await.expect("compacted");
    assert!(report.merges > 0 && report.failed == 0);
    let (segments, rollups) = checked(&engine).await;
    assert!(segments <= 3 && rollups == 2 * segments, "{segments} segments, {rollups} rollups");
    check_flushed(&engine, org(), &model).await;
    let again = engine.compact(CompactScope::All, &|_| {}).await.expect("compacted");
    assert_eq!((again.merges, again.bytes_written), (0, 0), "nothing is left to do");

    engine.close().await.expect("closed");
    let engine = rig.open().await;
    assert_eq!(checked(&engine).await, (segments, rollups));
    let patience = tokio::time::timeout(Duration::from_secs(60), async {
        while stored(&rig).await > rollups {
            tokio::time::sleep(Duration::from_millis(5)).await;
            rig.clock.turn(Duration::from_secs(60));
        }
    });
    patience.await.expect("replaced rollups stay in the store");
    assert_eq!(checked(&engine).await, (segments, rollups));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn asked_for_less_less_is_read() {
    let rig = rig();
    let (engine, _, _) = flushed(&rig, 3).await;
    rig.clock.turn(MONTH);
    engine.compact(CompactScope::All, &|_| {}).await.expect("compacted");
    let snapshot = engine.snapshot(org()).await.expect("a snapshot");
    assert_eq!(snapshot.manifest.rollups().len(), 6);
    let time = |start: i64, end: i64| {
        let millis = |ms| Millis::new(ms).expect("a time");
        Some(TimeRange::new(millis(start), millis(end)).expect("a range"))
    };
    let logger = |id| LoggerId::new(id).expect("not zero");
    let channels = &snapshot.manifest.segments()[0].channels[..1];
    for rollup in snapshot.manifest.rollups() {
        for (filter, some) in [
            (SegmentFilter { time: time(MAY + MINUTE, MAY + 2 * MINUTE), loggers: None }, true),
            (SegmentFilter { time: time(MAY + 9 * DAY, MAY + 10 * DAY), loggers: None }, false),
            (SegmentFilter { time: None, loggers: Some(logger(2)..=logger(2)) }, true),
            (SegmentFilter { time: None, loggers: Some(logger(8)..=logger(9)) }, false),
        ] {
            let rows = engine.segments().read_rollup(org(), rollup, &filter, channels).await.expect("it opens");
            let rows: Vec<_> = rows.try_collect().await.expect("it reads");
            assert_eq!(!rows.is_empty(), some, "{filter:?}");
            let columns = if rollup.kind == SegmentKind::RollupHourly { 3 + 4 } else { 3 + 12 };
            assert!(rows.iter().all(|batch| batch.num_columns() == columns));
            let metadata = engine.segments().metadata(org(), rollup).await.expect("it opens");
            let hourly = RollupGrain::Hourly;
            let fewer = engine.segments().read_rollup_with(org(), rollup, metadata, &filter, hourly, channels);
            let fewer: Vec<_> = fewer.expect("it opens").try_collect().await.expect("it reads");
            let first = rows.iter().map(|batch| batch.project(&[0, 1, 2, 3, 4, 5, 6]).expect("there"));
            assert_eq!(fewer, first.collect::<Vec<_>>());
        }
    }
    let segment = &snapshot.manifest.segments()[0];
    let wrong = engine.segments().read_rollup(org(), segment, &SegmentFilter::default(), channels).await;
    assert!(wrong.is_err(), "a segment is no rollup");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_put_may_fail_before_or_after_it_happened() {
    for fault in [Fault::Before, Fault::Applied] {
        for (place, skipped) in [("rollups/", 0), ("rollups/", 1), ("manifest/", 0)] {
            let rig = rig();
            let (engine, _, model) = flushed(&rig, 1).await;
            rig.clock.turn(MONTH);
            rig.store.fail_next(Operation::Put, place, fault, skipped);
            // What failed is tried again, in the time of the clock, which stands still.
            let compacted = async {
                loop {
                    if engine.compact(CompactScope::All, &|_| {}).await.expect("compacted").failed == 0 {
                        break;
                    }
                }
            };
            let turning = async {
                loop {
                    tokio::time::sleep(Duration::from_millis(1)).await;
                    rig.clock.turn(Duration::from_secs(1));
                }
            };
            tokio::select! {
                () = compacted => {}
                () = turning => {}
                () = tokio::time::sleep(Duration::from_secs(60)) => panic!("{fault:?} of {place}: never made"),
            }
            assert_eq!(checked(&engine).await, (1, 2), "{fault:?} of {place}");
            check_flushed(&engine, org(), &model).await;
        }
    }
}
