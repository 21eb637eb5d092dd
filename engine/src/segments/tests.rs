//! Segments through the store: what goes in comes out, pruned and unified; damaged, missing and swapped ones do not.

use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use arrow::array::{ArrayRef, Float64Array, RecordBatch, TimestampMillisecondArray, UInt64Array};
use arrow::compute::concat_batches;
use durable::{FaultStore, Operation, object_path};
use futures::{FutureExt as _, TryStreamExt as _};
use object_store::memory::InMemory;
use object_store::{ObjectStore, ObjectStoreExt as _};
use storage_format::encryption::SecretKey;
use storage_format::manifest::{SegmentEntry, SegmentKind};
use storage_format::segment::{ROW_GROUP_ROWS_MAX, channels_of, readings_schema};
use storage_format::{ChannelCode, FlushNumber, FormatErrorKind, LoggerId, Lsn, Millis, TimeRange};

use super::*;
use crate::manifest::tests::{Counting, keys, org};

/// 2024-05-01T00:00:00Z.
const MAY: i64 = 1_714_521_600_000;

pub(crate) struct Rig {
    pub(crate) store: Arc<dyn ObjectStore>,
    pub(crate) segments: Segments,
}

pub(crate) async fn rig() -> Rig {
    rig_on(Arc::new(InMemory::new())).await
}

pub(crate) async fn rig_on(store: Arc<dyn ObjectStore>) -> Rig {
    let random: Arc<dyn Random> = Arc::new(Counting::default());
    let keys = keys(&store, &random, 7);
    for id in [1, 2] {
        keys.create(org(id)).await.expect("made");
    }
    let segments = Segments::new(Arc::clone(&store), keys, random);
    Rig { store, segments }
}

pub(crate) fn rows(loggers: std::ops::Range<u64>, each: i64) -> RecordBatch {
    let keys: Vec<(u64, i64)> = loggers.flat_map(|logger| (0..each).map(move |at| (logger, MAY + at * 1000))).collect();
    let columns: Vec<ArrayRef> = vec![
        Arc::new(UInt64Array::from_iter_values(keys.iter().map(|key| key.0))),
        Arc::new(TimestampMillisecondArray::from_iter_values(keys.iter().map(|key| key.1)).with_timezone("UTC")),
        Arc::new(Float64Array::from_iter_values(
            keys.iter().map(|key| f64::from(u8::try_from(key.0 % 100).expect("small"))),
        )),
        Arc::new(UInt64Array::from_iter_values(keys.iter().map(|_| 5))),
        Arc::new(TimestampMillisecondArray::from_iter_values(keys.iter().map(|_| MAY)).with_timezone("UTC")),
    ];
    RecordBatch::try_new(readings_schema(&[code(1)]), columns).expect("a batch")
}

fn code(code: u16) -> ChannelCode {
    ChannelCode::new(code).expect("not zero")
}

pub(crate) async fn write(rig: &Rig, of: u64, batch: &RecordBatch) -> SegmentEntry {
    let new = NewSegment {
        kind: SegmentKind::Readings,
        org: org(of),
        window: "2024050100-2024060100".parse().expect("a window"),
        flush_first: FlushNumber::new(1),
        flush_last: FlushNumber::new(1),
        lsn_min: Lsn::new(1),
        lsn_max: Lsn::new(2),
        channels: channels_of(&batch.schema()),
    };
    let mut encoder = rig.segments.encoder(&new).await.expect("an encoder");
    encoder.write(batch).expect("good rows");
    rig.segments.put(org(of), encoder.finish().expect("rows")).await.expect("put")
}

async fn read(rig: &Rig, entry: &SegmentEntry, filter: SegmentFilter) -> Result<Vec<RecordBatch>, SegmentReadError> {
    rig.segments.read(org(1), entry, &filter, None).await?.try_collect().await
}

#[tokio::test]
async fn what_goes_in_comes_out() {
    let rig = rig().await;
    let batch = rows(1..4, 1000);
    let entry = write(&rig, 1, &batch).await;
    let read = read(&rig, &entry, SegmentFilter::default()).await.expect("read");
    assert_eq!(concat_batches(batch.schema_ref(), &read).expect("one schema"), batch);
    let metadata = rig.segments.metadata(org(1), &entry).await.expect("metadata");
    assert!(metadata.offset_index().is_some() && metadata.column_index().is_some());
    // With another schema: what is not asked for is not there, what is not there is null.
    let wide = readings_schema(&[code(1), code(2)]);
    let stream = rig.segments.read(org(1), &entry, &SegmentFilter::default(), Some(wide.clone())).await.expect("read");
    let all: Vec<RecordBatch> = stream.try_collect().await.expect("read");
    assert!(all.iter().all(|batch| batch.schema() == wide && batch.column(3).null_count() == batch.num_rows()));
    let narrow = Arc::new(wide.project(&[0, 1]).expect("columns"));
    let stream = rig.segments.read(org(1), &entry, &SegmentFilter::default(), Some(narrow)).await.expect("read");
    let all: Vec<RecordBatch> = stream.try_collect().await.expect("read");
    assert!(all.iter().all(|batch| batch.num_columns() == 2));
    assert_eq!(all.iter().map(RecordBatch::num_rows).sum::<usize>(), 3000);
}

#[tokio::test]
async fn row_groups_that_can_not_match_are_not_read() {
    let rig = rig().await;
    let each = i64::try_from(ROW_GROUP_ROWS_MAX.get() / 2).expect("small");
    let high = 1 << 63;
    let batch = rows(high..high + 4, each);
    let entry = write(&rig, 1, &batch).await;
    let metadata = rig.segments.metadata(org(1), &entry).await.expect("metadata");
    assert_eq!(metadata.num_row_groups(), 2);
    let logger = |id: u64| LoggerId::new(id).expect("not zero");
    let groups = |first: u64, last: u64| {
        SegmentFilter { loggers: Some(logger(first)..=logger(last)), time: None }.row_groups(&metadata)
    };
    assert_eq!(groups(high, high + 1), [0]);
    assert_eq!(groups(high + 2, u64::MAX), [1]);
    assert_eq!(groups(1, high - 1), [0_usize; 0]);
    assert_eq!(groups(1, u64::MAX), [0, 1]);
    let time = |start: i64, end: i64| {
        let at = |ms| Millis::new(MAY + ms).expect("in range");
        SegmentFilter { loggers: None, time: Some(TimeRange::new(at(start), at(end)).expect("a range")) }
            .row_groups(&metadata)
    };
    assert_eq!(time(-1000, 0), [0_usize; 0]);
    assert_eq!(time(-1000, 1), [0, 1]);
    let filter = SegmentFilter { loggers: Some(logger(high + 3)..=logger(high + 3)), time: None };
    let read = read(&rig, &entry, filter).await.expect("read");
    assert_eq!(read.iter().map(RecordBatch::num_rows).sum::<usize>(), ROW_GROUP_ROWS_MAX.get());
}

#[tokio::test]
async fn a_swapped_segment_does_not_open() {
    let rig = rig().await;
    let batch = rows(1..2, 10);
    let (one, two) = (write(&rig, 1, &batch).await, write(&rig, 1, &batch).await);
    let foreign = write(&rig, 2, &batch).await;
    let name = |of: u64, entry: &SegmentEntry| object_path(&entry.object_key(org(of)));
    for (of, from) in [(1, &two), (2, &foreign)] {
        let good = rig.store.get(&name(1, &one)).await.expect("there").bytes().await.expect("read");
        let other = rig.store.get(&name(of, from)).await.expect("there").bytes().await.expect("read");
        rig.store.put(&name(1, &one), other.into()).await.expect("put");
        // The same length, rows and digest: only the key knows.
        let mut entry = one.clone();
        entry.bytes = from.bytes;
        let error = read(&rig, &entry, SegmentFilter::default()).await.expect_err("swapped");
        let SegmentReadError::Object { source, .. } = &error else { panic!("{error:?}") };
        assert_eq!(source.kind, FormatErrorKind::WrongKey);
        assert!(rig.segments.data_key(org(1), &entry).await.is_err());
        rig.store.put(&name(1, &one), good.into()).await.expect("put");
    }
    read(&rig, &one, SegmentFilter::default()).await.expect("its own");
    assert!(rig.segments.read(org(2), &one, &SegmentFilter::default(), None).await.is_err());
}

#[tokio::test]
async fn damage_is_an_error_with_name_and_offset_never_a_panic() {
    let rig = rig().await;
    let entry = write(&rig, 1, &rows(1..4, 500)).await;
    let name = object_path(&entry.object_key(org(1)));
    let good = rig.store.get(&name).await.expect("there").bytes().await.expect("read");
    for at in (4..good.len()).step_by(7) {
        let mut bad = good.to_vec();
        bad[at] ^= 0x40;
        rig.store.put(&name, bad.into()).await.expect("put");
        let error = read(&rig, &entry, SegmentFilter::default()).await.expect_err("one bit");
        assert!(error.to_string().contains(name.as_ref()), "{error}");
    }
    let mut zeroed = good.to_vec();
    zeroed[4..].fill(0);
    for bad in [zeroed, good[..good.len() - 1].to_vec(), vec![], [&good[..], b"more"].concat()] {
        rig.store.put(&name, bad.into()).await.expect("put");
        let error = read(&rig, &entry, SegmentFilter::default()).await.expect_err("damaged");
        assert_eq!(EngineError::from(error).kind(), EngineErrorKind::Corrupt);
    }
    rig.store.delete(&name).await.expect("deleted");
    let error = read(&rig, &entry, SegmentFilter::default()).await.expect_err("gone");
    assert!(matches!(error, SegmentReadError::Missing { .. }), "{error:?}");
}

/// Flips a bit in the middle of an object during some of its reads, counted from zero, and counts them.
fn flip_during(
    store: &FaultStore,
    inner: &Arc<InMemory>,
    bytes: &Bytes,
    reads: std::ops::Range<usize>,
) -> Arc<AtomicUsize> {
    let count = Arc::new(AtomicUsize::new(0));
    let (inner, bytes, counted) = (Arc::clone(inner), bytes.clone(), Arc::clone(&count));
    store.watch(move |operation, name| {
        if operation != Operation::Get || !name.contains("/segments/") {
            return;
        }
        let mut now = bytes.to_vec();
        if reads.contains(&counted.fetch_add(1, Ordering::Relaxed)) {
            // Each read of rows is of one row group: a bit in every few bytes hits all of them.
            now.iter_mut().skip(4).step_by(16).for_each(|byte| *byte ^= 0x20);
        }
        inner.put(&Path::from(name), now.into()).now_or_never().expect("no wait").expect("put");
    });
    count
}

#[tokio::test]
async fn a_read_that_went_wrong_on_the_way_is_repeated_from_where_it_was() {
    let inner = Arc::new(InMemory::new());
    let store = Arc::new(FaultStore::new(Arc::clone(&inner) as _));
    let mut rig = rig_on(Arc::clone(&store) as _).await;
    rig.segments = rig.segments.with_row_group_rows(NonZeroUsize::new(7).expect("not zero")).in_parts();
    let batch = rows(1..4, 10);
    let entry = write(&rig, 1, &batch).await;
    let name = object_path(&entry.object_key(org(1)));
    let good = inner.get(&name).await.expect("there").bytes().await.expect("read");
    let read_all = async || read(&rig, &entry, SegmentFilter::default()).await;

    let reads = flip_during(&store, &inner, &good, 0..0);
    assert_eq!(concat_batches(batch.schema_ref(), &read_all().await.expect("whole")).expect("one schema"), batch);
    let needed = reads.load(Ordering::Relaxed);
    assert!(needed > 5, "{needed} reads: the metadata, and five row groups");
    let attempts = usize::try_from(READ_ATTEMPTS).expect("small");
    for first in 0..needed {
        let reads = flip_during(&store, &inner, &good, first..first + attempts - 1);
        let found = read_all().await.expect("the last attempt reads well");
        assert_eq!(concat_batches(batch.schema_ref(), &found).expect("one schema"), batch, "from read {first} on");
        assert_eq!(reads.load(Ordering::Relaxed), needed + attempts - 1, "only what was damaged is read again");
        flip_during(&store, &inner, &good, first..first + attempts);
        let error = read_all().await.expect_err("every attempt finds damage");
        assert_eq!(EngineError::from(error).kind(), EngineErrorKind::Corrupt);
    }
}

#[tokio::test]
async fn a_data_key_opens_its_segment_and_no_other() {
    let rig = rig().await;
    let batch = rows(1..2, 10);
    let (one, two) = (write(&rig, 1, &batch).await, write(&rig, 1, &batch).await);
    let key = |entry: SegmentEntry| {
        let segments = rig.segments.clone();
        async move { segments.data_key(org(1), &entry).await.expect("a key") }
    };
    let (of_one, of_two): (SecretKey, SecretKey) = (key(one.clone()).await, key(two).await);
    assert_ne!(of_one.expose(), of_two.expose());
    let bytes = rig.store.get(&object_path(&one.object_key(org(1)))).await.expect("there").bytes().await.expect("read");
    let open = |key: &SecretKey| {
        let options = parquet::arrow::arrow_reader::ArrowReaderOptions::new()
            .with_file_decryption_properties(decryption_properties(key).expect("32 bytes"));
        parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder::try_new_with_options(bytes.clone(), options)
            .is_ok()
    };
    assert!(open(&of_one) && !open(&of_two));
}

#[tokio::test]
async fn verifying_tells_the_page_that_is_damaged() {
    let rig = rig().await;
    let entry = write(&rig, 1, &rows(1..40, 1000)).await;
    rig.segments.verify(org(1), &entry).await.expect("whole");
    let metadata = rig.segments.metadata(org(1), &entry).await.expect("metadata");
    // The second page of the times: no dictionary, so the pages before it are whole.
    let pages = metadata.offset_index().expect("an index")[0][1].page_locations().clone();
    let page = &pages[1];
    let path = object_path(&entry.object_key(org(1)));
    let mut bytes = rig.store.get(&path).await.expect("there").bytes().await.expect("read").to_vec();
    let middle = page.offset + i64::from(page.compressed_page_size) / 2;
    bytes[usize::try_from(middle).expect("small")] ^= 4;
    rig.store.put(&path, bytes.into()).await.expect("put");

    let wanted = u64::try_from(page.offset).expect("not negative");
    let told = |error: SegmentReadError| match error {
        SegmentReadError::Object { name, source } => {
            assert_eq!(name, entry.object_key(org(1)));
            (source.kind, source.offset)
        }
        other => panic!("no place: {other}"),
    };
    let verified = rig.segments.verify(org(1), &entry).await.expect_err("damaged");
    assert_eq!(told(verified), (FormatErrorKind::Damaged, wanted));
    let read = read(&rig, &entry, SegmentFilter::default()).await.expect_err("damaged");
    assert_eq!(told(read), (FormatErrorKind::Damaged, wanted));
}
