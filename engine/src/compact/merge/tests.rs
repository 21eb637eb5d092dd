//! A merge compares what comes out with what went in, whatever made them differ.

use std::time::Duration;

use arrow::array::{Array as _, AsArray as _, Float64Array};
use arrow::datatypes::UInt64Type;
use durable::{CachedStore, FaultyFiles, SystemClock};
use object_store::memory::InMemory;
use object_store::{ObjectStore, ObjectStoreExt as _};
use tokio::sync::watch;

use super::*;
use crate::buffer::Budget;
use crate::compact::pace::Traffic;
use crate::health::Health;
use crate::manifest::tests::org;
use crate::org::Orgs;
use crate::segments::tests::{Rig, rig, rig_on, rows, write};

fn pacer(stop: &watch::Sender<bool>) -> Pacer {
    let clock = Arc::new(SystemClock::new());
    let traffic = Traffic {
        orgs: Orgs::new(Arc::new(Budget::new(1 << 20)), 1 << 20),
        health: Arc::new(Health::new(Arc::clone(&clock) as _)),
        clock,
        stop: stop.subscribe(),
    };
    Pacer::new(traffic, 1, 1, u64::MAX)
}

/// A merge of segments with these rows, each of a flush of its own.
async fn job(rig: &Rig, batches: &[RecordBatch]) -> MergeJob {
    let mut inputs = Vec::new();
    for (flush, batch) in (1..).map(FlushNumber::new).zip(batches) {
        inputs.push(SegmentEntry { flush_first: flush, flush_last: flush, ..write(rig, 1, batch).await });
    }
    MergeJob { segments: Arc::new(rig.segments.clone()), org: org(1), inputs, fills: Vec::new(), rolls_up: true }
}

async fn encode(job: &MergeJob) -> Encoded {
    let stop = watch::Sender::new(false);
    job.encode(&mut pacer(&stop)).await.expect("merged").expect("not stopped")
}

/// Puts all objects that a merge has made, and reads them back.
async fn put(rig: &Rig, job: &MergeJob, encoded: Encoded) -> Vec<SegmentEntry> {
    let mut entries = Vec::new();
    for (object, expected) in encoded.objects {
        let entry = rig.segments.put(org(1), object).await.expect("put");
        job.verify(&entry, &expected).await.expect("the same");
        entries.push(entry);
    }
    entries
}

#[tokio::test]
async fn what_went_in_is_what_is_read_back() {
    let rig = rig().await;
    let job = job(&rig, &[rows(1..4, 2000), rows(6..8, 3000), rows(4..6, 10)]).await;
    let encoded = encode(&job).await;
    assert_eq!(encoded.totals, Totals::default());
    let expected = encoded.objects[0].1;
    let [merged] = &put(&rig, &job, encoded).await[..] else { panic!("nothing was united") };
    assert_eq!((merged.rows, merged.flush_first.get(), merged.flush_last.get()), (12_020, 1, 3));
    // As many rows, of other flushes, or of other loggers.
    for others in
        [[rows(6..8, 3000), rows(1..4, 2000), rows(4..6, 10)], [rows(1..4, 2000), rows(6..8, 3000), rows(8..10, 10)]]
    {
        let other = self::job(&rig, &others).await;
        let [(encoded, _)] = &encode(&other).await.objects[..] else { panic!("nothing was united") };
        let other = rig.segments.put(org(1), encoded.clone()).await.expect("put");
        let error = job.verify(&other, &expected).await.expect_err("other rows");
        assert_eq!(error.kind(), EngineErrorKind::Corrupt, "{error}");
    }
    // Damaged in the store.
    let path = durable::object_path(&merged.object_key(org(1)));
    let mut bytes = rig.store.get(&path).await.expect("there").bytes().await.expect("read").to_vec();
    bytes[100] ^= 1;
    rig.store.put(&path, bytes.into()).await.expect("put");
    job.verify(merged, &expected).await.expect_err("damaged");
}

/// The rows with another channel: of its own, and with these values.
fn with_channel(batch: &RecordBatch, code: u16, value: f64) -> RecordBatch {
    let codes = [ChannelCode::new(code).expect("a code")];
    let mut columns = batch.columns().to_vec();
    columns[2] = Arc::new(Float64Array::from_value(value, batch.num_rows()));
    RecordBatch::try_new(readings_schema(&codes), columns).expect("a batch")
}

async fn read(rig: &Rig, entry: &SegmentEntry) -> RecordBatch {
    let stream = rig.segments.read(org(1), entry, &SegmentFilter::default(), None).await.expect("it opens");
    let batches: Vec<_> = stream.try_collect().await.expect("it reads");
    arrow::compute::concat_batches(batches[0].schema_ref(), &batches).expect("one schema")
}

fn numbers(batch: &RecordBatch, column: &str) -> Vec<u64> {
    batch.column_by_name(column).expect("a column").as_primitive::<UInt64Type>().values().to_vec()
}

#[tokio::test]
async fn values_that_fill_older_readings_are_listed_once() {
    let rig = rig().await;
    let base = rows(1..3, 100);
    let (humidity, co2) = (with_channel(&base, 2, 50.0), with_channel(&base.slice(50, 100), 3, 400.0));
    let mut job = job(&rig, &[base, humidity, co2]).await;
    // The two later ones first: the last fills rows of the one before it.
    let all = job.inputs.clone();
    job.inputs.remove(0);
    let [later, fills] = &put(&rig, &job, encode(&job).await).await[..] else { panic!("rows were united") };
    assert_eq!((later.rows, fills.rows, fills.kind), (200, 100, SegmentKind::Fills));
    assert!(numbers(&read(&rig, later).await, "flush").iter().all(|flush| *flush == 2));
    assert!(numbers(&read(&rig, fills).await, "flush").iter().all(|flush| *flush == 3));

    job.inputs = vec![all[0].clone(), later.clone()];
    job.fills = vec![fills.clone()];
    let [merged, more] = &put(&rig, &job, encode(&job).await).await[..] else { panic!("rows were united") };
    assert_eq!((merged.rows, more.rows), (200, 200));
    let (merged, more) = (read(&rig, merged).await, read(&rig, more).await);
    assert!(numbers(&merged, "flush").iter().all(|flush| *flush == 1));
    assert_eq!(merged.num_columns(), 8);
    assert_eq!(merged.column(4).null_count(), 100);
    // What was listed before is not listed again.
    assert!(numbers(&more, "flush").iter().all(|flush| *flush == 2));
    assert!(more.column(2).as_string::<i32>().iter().all(|name| name == Some("humidity")));

    // All fills objects into one: in order, and each once.
    job.inputs = vec![fills.clone(), SegmentEntry { ..put(&rig, &job, encode(&job).await).await[1].clone() }];
    let [all_fills] = &put(&rig, &job, encode(&job).await).await[..] else { panic!("one object") };
    assert_eq!((all_fills.rows, all_fills.kind), (300, SegmentKind::Fills));
}

#[tokio::test]
async fn values_that_are_there_twice_are_conflicts_or_duplicates() {
    let rig = rig().await;
    let job = job(&rig, &[rows(1..4, 100), rows(3..6, 100)]).await;
    let encoded = encode(&job).await;
    assert_eq!(encoded.totals, Totals { duplicates: 100, ..Totals::default() });
    let [merged] = &put(&rig, &job, encoded).await[..] else { panic!("no conflict") };
    assert_eq!(merged.rows, 500);

    let other = with_channel(&rows(3..6, 100), 1, 7.0);
    let job = self::job(&rig, &[rows(1..4, 100), other]).await;
    let encoded = encode(&job).await;
    assert_eq!(encoded.totals, Totals { conflicts: 100, ..Totals::default() });
    let [merged, conflicts] = &put(&rig, &job, encoded).await[..] else { panic!("conflicts") };
    assert_eq!((merged.rows, conflicts.rows, conflicts.kind), (500, 100, SegmentKind::Conflicts));
    // Twice, as two merges would make them: of one key the rows stay beside each other.
    let lists = MergeJob { inputs: vec![conflicts.clone(), conflicts.clone()], ..job };
    let [both] = &put(&rig, &lists, encode(&lists).await).await[..] else { panic!("one object") };
    assert_eq!((both.rows, both.kind), (200, SegmentKind::Conflicts));

    // Within one flush, that is damage.
    let mut job = self::job(&rig, &[rows(1..4, 100), rows(3..6, 100)]).await;
    job.inputs[1] =
        SegmentEntry { flush_first: FlushNumber::new(1), flush_last: FlushNumber::new(1), ..job.inputs[1].clone() };
    let stop = watch::Sender::new(false);
    let error = job.encode(&mut pacer(&stop)).await.expect_err("a key twice");
    assert_eq!(error.kind(), EngineErrorKind::Corrupt, "{error}");
}

#[tokio::test]
async fn what_is_read_back_is_what_the_store_holds_and_not_what_a_cache_does() {
    let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    let files = Arc::new(FaultyFiles::new());
    let cached = CachedStore::open(Arc::clone(&store), "memory", files, "/cache".into(), 64 << 20).expect("a cache");
    let rig = rig_on(Arc::new(cached)).await;
    let job = job(&rig, &[rows(1..4, 2000), rows(4..6, 10)]).await;
    let encoded = encode(&job).await;
    let expected = encoded.objects[0].1;
    let [merged] = &put(&rig, &job, encoded).await[..] else { panic!("nothing was united") };
    let path = durable::object_path(&merged.object_key(org(1)));
    let mut bytes = store.get(&path).await.expect("there").bytes().await.expect("read").to_vec();
    bytes[100] ^= 1;
    store.put(&path, bytes.into()).await.expect("put");
    // It is put anew as well, as it was written.
    job.verify(merged, &expected).await.expect_err("the store holds something else");
}

#[tokio::test]
async fn a_merge_that_lacks_rows_is_an_error() {
    let rig = rig().await;
    let mut job = job(&rig, &[rows(1..4, 100), rows(4..6, 100)]).await;
    job.inputs[0].rows += 1;
    let stop = watch::Sender::new(false);
    job.encode(&mut pacer(&stop)).await.expect_err("the footer says otherwise");
}

#[tokio::test]
async fn a_merge_ends_when_the_engine_does() {
    let (rig, stop) = (rig().await, watch::Sender::new(false));
    let job = job(&rig, &[rows(1..4, 100), rows(4..6, 100)]).await;
    let mut pacer = pacer(&stop);
    stop.send_replace(true);
    let ended = tokio::time::timeout(Duration::from_secs(60), job.encode(&mut pacer)).await.expect("at once");
    assert!(ended.expect("no error").is_none());
}
