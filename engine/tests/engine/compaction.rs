//! Compaction beside everything else: the same readings in fewer segments, whatever fails.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use arrow::array::AsArray as _;
use arrow::datatypes::{TimestampMillisecondType, UInt64Type};
use engine::{CompactScope, Engine, EngineErrorKind, Fault, Operation, SegmentFilter};
use futures::TryStreamExt as _;
use kit::rig::Sender;
use kit::{FirstWins, Reading, Sent, gateway, millis};
use object_store::path::Path;
use object_store::{ObjectStore as _, ObjectStoreExt as _};
use storage_format::{ObjectKey, OrgId};

use crate::read::{check_flushed, check_rows};
use crate::rig::{MAY, Rig};

const MINUTE: i64 = 60_000;
const MONTH: Duration = Duration::from_secs(32 * 86_400);

fn org() -> OrgId {
    OrgId::new(0xC1).expect("not zero")
}

fn rig() -> Rig {
    let mut rig = Rig::new();
    rig.config.compaction = true;
    rig.config.compaction_interval = Duration::from_millis(10);
    rig.config.compaction_inputs_min = 4;
    rig.config.compaction_settle = Duration::ZERO;
    rig.config.garbage_delay = Duration::from_millis(80);
    rig
}

/// Readings of three loggers that no other round has.
fn some(round: i64) -> Sent {
    let reading = |i: i64| {
        let samples: &[(u16, f64)] = if i % 4 == 0 { &[(1, i as f64), (2, 40.0)] } else { &[(1, i as f64)] };
        Reading::new(1 + (i % 3).cast_unsigned(), MAY + (round * 100 + i / 3) * MINUTE, samples)
    };
    let from = 1 + (round % 2).cast_unsigned();
    Sent { gateway: gateway(from), received: millis(MAY + round * 1000), readings: (0..60).map(reading).collect() }
}

/// An engine in which `rounds` flushes were made.
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

async fn live(engine: &Engine) -> usize {
    engine.snapshot(org()).await.expect("a snapshot").manifest.segments().len()
}

/// Waits until this many segments are live, at most.
async fn until_live(engine: &Engine, most: usize) {
    let patience = tokio::time::timeout(Duration::from_secs(60), async {
        while live(engine).await > most {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
    if patience.await.is_err() {
        panic!("{} segments are live, and not {most}", live(engine).await);
    }
}

/// The flush that each reading is of, by what segments say.
async fn flushes(engine: &Engine) -> BTreeMap<(u64, i64), u64> {
    let snapshot = engine.snapshot(org()).await.expect("a snapshot");
    let mut flushes = BTreeMap::new();
    for entry in snapshot.manifest.segments() {
        let stream = engine.segments().read(org(), entry, &SegmentFilter::default(), None).await.expect("it opens");
        for batch in stream.try_collect::<Vec<_>>().await.expect("it reads") {
            let loggers = batch.column(0).as_primitive::<UInt64Type>().values();
            let times = batch.column(1).as_primitive::<TimestampMillisecondType>().values();
            let flush = batch.column_by_name("flush").map(|column| column.as_primitive::<UInt64Type>().values());
            assert_eq!(flush.is_some(), entry.flush_first < entry.flush_last);
            for row in 0..batch.num_rows() {
                let of = flush.map_or(entry.flush_first.get(), |flush| flush[row]);
                assert_eq!(flushes.insert((loggers[row], times[row]), of), None, "twice");
            }
        }
    }
    flushes
}

async fn stored(rig: &Rig) -> BTreeSet<Path> {
    let prefix = Path::from(ObjectKey::segments_prefix(org()));
    rig.store.list(Some(&prefix)).map_ok(|meta| meta.location).try_collect().await.expect("a list")
}

/// Lets time pass until the store has the segments that are live and no others.
async fn until_collected(rig: &Rig, engine: &Engine) {
    let patience = tokio::time::timeout(Duration::from_secs(60), async {
        loop {
            let snapshot = engine.snapshot(org()).await.expect("a snapshot");
            let named: BTreeSet<Path> =
                snapshot.manifest.segments().iter().map(|entry| entry.object_key(org()).to_string().into()).collect();
            if stored(rig).await == named {
                return;
            }
            drop(snapshot);
            tokio::time::sleep(Duration::from_millis(5)).await;
            rig.clock.turn(Duration::from_secs(60));
        }
    });
    patience.await.expect("the store has segments that nobody names");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_flushes_become_few_segments_with_the_same_readings() {
    let rig = rig();
    let (engine, mut sender, mut model) = flushed(&rig, 30).await;
    // While the month lasts, by size.
    until_live(&engine, 12).await;
    check_flushed(&engine, org(), &model).await;
    rig.clock.turn(MONTH);
    until_live(&engine, 3).await;
    check_flushed(&engine, org(), &model).await;

    // Each reading still knows its flush.
    let flushes = flushes(&engine).await;
    assert_eq!(flushes.len(), model.rows.len());
    for ((_, time), flush) in &flushes {
        assert_eq!(*flush, 1 + u64::try_from((time - MAY) / MINUTE / 100).expect("in order"), "at {time}");
    }

    // What comes late is merged, too, and settled against what was merged: conflicts, duplicates, new readings.
    let before = engine.snapshot(org()).await.expect("a snapshot").manifest.totals();
    for round in [3, 17] {
        let mut again = Sent { gateway: gateway(9), ..some(round) };
        again.readings.truncate(40);
        again.readings.extend((10..15).map(|i| Reading::new(1, MAY + (round * 100 + i) * MINUTE, &[(1, 0.25)])));
        again.readings.extend((60..70).map(|i| Reading::new(1, MAY + (round * 100 + i) * MINUTE, &[(1, 0.5)])));
        sender.send(&engine, &mut model, again).await;
        engine.flush(None).await.expect("a flush");
    }
    for round in 30..34 {
        sender.send(&engine, &mut model, some(round)).await;
        engine.flush(None).await.expect("a flush");
    }
    until_live(&engine, 3).await;
    check_flushed(&engine, org(), &model).await;
    let after = engine.snapshot(org()).await.expect("a snapshot").manifest.totals();
    assert!(after.duplicates > before.duplicates && after.conflicts > before.conflicts);

    until_collected(&rig, &engine).await;
    check_flushed(&engine, org(), &model).await;
    engine.close().await.expect("closed");
    let again = rig.open().await;
    again.load(org()).await.expect("loaded");
    check_flushed(&again, org(), &model).await;
    again.close().await.expect("closed");
}

/// The values that fills objects list, and the flush that brought each.
async fn fills(engine: &Engine) -> BTreeMap<(u64, i64, String), u64> {
    let snapshot = engine.snapshot(org()).await.expect("a snapshot");
    let mut fills = BTreeMap::new();
    for entry in snapshot.manifest.fills() {
        let stream = engine.segments().read(org(), entry, &SegmentFilter::default(), None).await.expect("it opens");
        for batch in stream.try_collect::<Vec<_>>().await.expect("it reads") {
            let loggers = batch.column(0).as_primitive::<UInt64Type>().values();
            let times = batch.column(1).as_primitive::<TimestampMillisecondType>().values();
            let names = batch.column(2).as_string::<i32>();
            let flushes = batch.column(4).as_primitive::<UInt64Type>().values();
            for row in 0..batch.num_rows() {
                let key = (loggers[row], times[row], names.value(row).to_owned());
                assert_eq!(fills.insert(key, flushes[row]), None, "twice");
            }
        }
    }
    fills
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn values_that_fill_older_readings_are_merged_with_them_and_keep_their_flush() {
    let rig = rig();
    rig.clock.turn(MONTH);
    let (engine, mut sender, mut model) = flushed(&rig, 0).await;
    for round in 0..40 {
        let mut sent = some(round);
        if round % 10 == 9 {
            // Fills channels of readings of older rounds, in part those that others have filled, and brings new ones.
            let from = round / 20 * 100;
            let fills = (0..20)
                .map(|i| Reading::new(1, MAY + (from + i) * MINUTE, &[(if i % 2 == 0 { 3 } else { 4 }, round as f64)]));
            let again = (10..30).map(|i| Reading::new(1, MAY + (from + i) * MINUTE, &[(4, 1.5)]));
            sent.readings.extend(fills.chain(again));
        }
        sender.send(&engine, &mut model, sent).await;
        engine.flush(None).await.expect("a flush");
    }
    until_live(&engine, 3).await;
    let united = || async {
        let snapshot = engine.snapshot(org()).await.expect("a snapshot");
        let objects = (snapshot.manifest.fills().len(), snapshot.manifest.conflicts().len());
        !snapshot.manifest.segments().iter().any(|entry| entry.shares_keys) && objects.0.max(objects.1) <= 3
    };
    let patience = tokio::time::timeout(Duration::from_secs(60), async {
        while !united().await {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
    patience.await.expect("what fills is merged with what it fills");
    check_flushed(&engine, org(), &model).await;
    let rows = flushes(&engine).await;
    assert_eq!(rows.len(), model.rows.len());
    for ((_, time), flush) in &rows {
        let minute = u64::try_from((time - MAY) / MINUTE).expect("in order");
        // What has filled channels brought readings past those of its round, too.
        assert!(minute % 100 >= 20 || *flush == 1 + minute / 100, "{flush} at {minute}");
    }
    let fills = fills(&engine).await;
    assert_eq!(fills.len() as u64, model.filled);
    assert!(fills.values().all(|flush| flush % 10 == 0), "{:?}", fills.values());
    // Of the first round that both filled, what the first of them brought has its number.
    assert_eq!(fills.get(&(1, MAY, "co2".to_owned())).or(fills.values().next()), Some(&10));
    until_collected(&rig, &engine).await;
    engine.close().await.expect("closed");
    let again = rig.open().await;
    again.load(org()).await.expect("loaded");
    check_flushed(&again, org(), &model).await;
    again.close().await.expect("closed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_merge_survives_every_put_that_fails_before_or_after_it_happened() {
    for fault in [Fault::Before, Fault::Applied] {
        for place in ["segments/", "manifest/"] {
            let mut rig = rig();
            rig.config.compaction = false;
            let (engine, mut sender, mut model) = flushed(&rig, 8).await;
            engine.close().await.expect("closed");
            rig.config.compaction = true;
            rig.clock.turn(MONTH);
            for _ in 0..2 {
                rig.store.fail_next(Operation::Put, place, fault, 0);
            }
            // What became of it is not known, either.
            rig.store.fail_next(Operation::Get, "manifest/", Fault::Before, 40);
            let engine = rig.open().await;
            engine.load(org()).await.expect("loaded");
            let patience = tokio::time::timeout(Duration::from_secs(60), async {
                while live(&engine).await > 3 {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                    rig.clock.turn(Duration::from_secs(30));
                    check_rows(&engine, org(), &model).await;
                }
            });
            patience.await.unwrap_or_else(|_| panic!("{fault:?} of {place}: never merged"));
            rig.store.clear();
            sender.send(&engine, &mut model, some(9)).await;
            engine.flush(None).await.expect("a flush");
            check_flushed(&engine, org(), &model).await;
            until_collected(&rig, &engine).await;
            check_flushed(&engine, org(), &model).await;
            engine.close().await.expect("closed");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_replaced_stays_while_somebody_reads_it() {
    let mut rig = rig();
    rig.config.compaction = false;
    let (engine, mut sender, mut model) = flushed(&rig, 8).await;
    engine.close().await.expect("closed");
    rig.config.compaction = true;
    let engine = rig.open().await;
    let snapshot = engine.snapshot(org()).await.expect("a snapshot");
    assert_eq!(snapshot.manifest.segments().len(), 8);
    rig.clock.turn(MONTH);
    until_live(&engine, 3).await;
    // The collection looks through the objects after a flush that failed, and removes nothing that the snapshot has.
    let seen = model.rows.clone();
    for _ in 0..3 {
        rig.store.fail_next(Operation::Put, "manifest/", Fault::Before, 0);
    }
    sender.send(&engine, &mut model, some(8)).await;
    // This one fails, or one in the background before it.
    let _failed = engine.flush(None).await;
    rig.store.clear();
    let orphan: Path = format!("{}/2024050100-2024060100/{:032x}.parquet", ObjectKey::segments_prefix(org()), 7).into();
    rig.store.put(&orphan, vec![1].into()).await.expect("put");
    let patience = tokio::time::timeout(Duration::from_secs(60), async {
        while rig.store.head(&orphan).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(5)).await;
            rig.clock.turn(Duration::from_secs(60));
        }
    });
    patience.await.expect("it looks");
    assert_eq!(kit::rig::rows(&engine, &snapshot).await.expect("it reads"), seen);
    drop(snapshot);
    engine.flush(None).await.expect("a flush");
    until_collected(&rig, &engine).await;
    check_flushed(&engine, org(), &model).await;
    engine.close().await.expect("closed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_segment_is_not_merged_and_holds_up_nobody_else() {
    let mut rig = rig();
    rig.config.compaction = false;
    let (engine, _, model) = flushed(&rig, 8).await;
    let snapshot = engine.snapshot(org()).await.expect("a snapshot");
    let damaged = snapshot.manifest.segments()[3].object_key(org()).to_string().into();
    let good = rig.store.get(&damaged).await.expect("there").bytes().await.expect("read");
    let mut bad = good.to_vec();
    let middle = bad.len() / 3;
    bad[middle] ^= 1;
    rig.store.put(&damaged, bad.into()).await.expect("put");
    engine.close().await.expect("closed");

    let other = OrgId::new(0xC2).expect("not zero");
    rig.create_org(other).await;
    rig.config.compaction = true;
    let engine = rig.open().await;
    engine.load(org()).await.expect("loaded");
    let (mut sender, mut others) = (Sender::new(other, 7), FirstWins::default());
    for round in 0..8 {
        sender.send(&engine, &mut others, some(round)).await;
        engine.flush(Some(other)).await.expect("a flush");
    }
    rig.clock.turn(MONTH);
    let of_other = || async { engine.snapshot(other).await.expect("a snapshot").manifest.segments().len() };
    let patience = tokio::time::timeout(Duration::from_secs(60), async {
        while of_other().await > 3 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
    patience.await.expect("the other is merged");
    check_flushed(&engine, other, &others).await;
    assert_eq!(live(&engine).await, 8, "nothing was changed");

    rig.store.put(&damaged, good.into()).await.expect("restored");
    // A try that was under way may have read the damage and fail only now: then the next pause has to pass, too.
    let patience = tokio::time::timeout(Duration::from_secs(60), async {
        while live(&engine).await > 3 {
            rig.clock.turn(Duration::from_secs(3600));
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    });
    patience.await.expect("merged once it is restored");
    check_flushed(&engine, org(), &model).await;
    engine.close().await.expect("closed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn by_hand_everything_is_merged_that_can_be_and_what_cannot_be_is_reported() {
    let mut rig = rig();
    rig.config.compaction = false;
    let (engine, _, model) = flushed(&rig, 40).await;
    let other = OrgId::new(0xC2).expect("not zero");
    rig.create_org(other).await;
    let (mut sender, mut others) = (Sender::new(other, 7), FirstWins::default());
    for round in 0..8 {
        sender.send(&engine, &mut others, some(round)).await;
        engine.flush(Some(other)).await.expect("a flush");
    }
    // As long as the month lasts, by size.
    let report = engine.compact(CompactScope::Org(org()), &|_| {}).await.expect("compacted");
    assert!((1..30).contains(&live(&engine).await) && report.merges > 0 && report.failed == 0);
    check_flushed(&engine, org(), &model).await;
    rig.clock.turn(MONTH);
    engine.close().await.expect("closed");
    let engine = rig.open().await;

    let damaged = {
        let snapshot = engine.snapshot(other).await.expect("a snapshot");
        Path::from(snapshot.manifest.segments()[3].object_key(other).to_string())
    };
    let good = rig.store.get(&damaged).await.expect("there").bytes().await.expect("read");
    rig.store.put(&damaged, good.slice(..good.len() / 2).into()).await.expect("put");
    let told = Mutex::new(Vec::new());
    let report = engine.compact(CompactScope::All, &|progress| told.lock().expect("no panic").push(progress)).await;
    let report = report.expect("compacted");
    assert!(live(&engine).await <= 3);
    check_flushed(&engine, org(), &model).await;
    assert_eq!((report.orgs, report.failed, report.failures.len()), (2, 1, 1));
    assert_eq!(report.failures[0].org, other);
    let told = told.into_inner().expect("no panic");
    let last = told.last().expect("told");
    assert_eq!((last.orgs_done, last.orgs), (2, 2));

    rig.store.put(&damaged, good.into()).await.expect("restored");
    let report = engine.compact(CompactScope::All, &|_| {}).await.expect("compacted");
    assert!(report.failed == 0 && report.bytes_read > 0 && report.segments > report.merges);
    check_flushed(&engine, other, &others).await;
    let again = engine.compact(CompactScope::All, &|_| {}).await.expect("compacted");
    assert_eq!((again.merges, again.orgs), (0, 2));
    let nobody = OrgId::new(0xC9).expect("not zero");
    let error = engine.compact(CompactScope::Org(nobody), &|_| {}).await.expect_err("nobody is there");
    assert_eq!(error.kind(), EngineErrorKind::Invalid);
    engine.close().await.expect("closed");
    engine.compact(CompactScope::All, &|_| {}).await.expect_err("closed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn organisations_that_nobody_uses_are_merged_and_others_are_not_loaded() {
    let mut rig = rig();
    rig.config.compaction = false;
    // More than are looked at in one interval, of which one has something to merge.
    let others: Vec<OrgId> = (1..30).map(|id| OrgId::new(id).expect("not zero")).collect();
    for other in &others {
        rig.create_org(*other).await;
    }
    let (engine, _, model) = flushed(&rig, 20).await;
    engine.close().await.expect("closed");
    rig.clock.turn(MONTH);
    rig.config.compaction = true;
    let engine = rig.open().await;
    let patience = tokio::time::timeout(Duration::from_secs(60), async {
        while engine.manifests().load(org()).await.expect("whole").segments().len() > 3 {
            tokio::time::sleep(Duration::from_millis(5)).await;
            rig.clock.turn(Duration::from_millis(5));
        }
    });
    patience.await.expect("it is merged although nobody uses it");
    assert_eq!(engine.status().orgs_loaded, 1, "the others were only looked at");
    check_flushed(&engine, org(), &model).await;
    engine.close().await.expect("closed");
}
