//! A merge compares what comes out with what went in, whatever made them differ.

use std::time::Duration;

use durable::SystemClock;
use object_store::ObjectStoreExt as _;
use tokio::sync::watch;

use super::*;
use crate::buffer::Budget;
use crate::compact::pace::Traffic;
use crate::health::Health;
use crate::manifest::tests::org;
use crate::org::Orgs;
use crate::segments::tests::{Rig, rig, rows, write};

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
    MergeJob { segments: Arc::new(rig.segments.clone()), org: org(1), inputs }
}

#[tokio::test]
async fn what_went_in_is_what_is_read_back() {
    let (rig, stop) = (rig().await, watch::Sender::new(false));
    let job = job(&rig, &[rows(1..4, 2000), rows(6..8, 3000), rows(4..6, 10)]).await;
    let (encoded, content) = job.encode(&mut pacer(&stop)).await.expect("merged").expect("not stopped");
    let merged = rig.segments.put(org(1), encoded).await.expect("put");
    assert_eq!((merged.rows, merged.flush_first.get(), merged.flush_last.get()), (12_020, 1, 3));
    job.verify(&merged, content).await.expect("the same");
    // As many rows, of other flushes, or of other loggers.
    for others in
        [[rows(6..8, 3000), rows(1..4, 2000), rows(4..6, 10)], [rows(1..4, 2000), rows(6..8, 3000), rows(8..10, 10)]]
    {
        let other = self::job(&rig, &others).await;
        let (encoded, _) = other.encode(&mut pacer(&stop)).await.expect("merged").expect("not stopped");
        let other = rig.segments.put(org(1), encoded).await.expect("put");
        let error = job.verify(&other, content).await.expect_err("other rows");
        assert_eq!(error.kind(), EngineErrorKind::Corrupt, "{error}");
    }
    // Damaged in the store.
    let path = durable::object_path(&merged.object_key(org(1)));
    let mut bytes = rig.store.get(&path).await.expect("there").bytes().await.expect("read").to_vec();
    bytes[100] ^= 1;
    rig.store.put(&path, bytes.into()).await.expect("put");
    job.verify(&merged, content).await.expect_err("damaged");
}

#[tokio::test]
async fn segments_that_share_keys_are_refused() {
    let (rig, stop) = (rig().await, watch::Sender::new(false));
    let job = job(&rig, &[rows(1..4, 100), rows(3..6, 100)]).await;
    let error = job.encode(&mut pacer(&stop)).await.expect_err("a logger is in both");
    assert_eq!(error.kind(), EngineErrorKind::Corrupt, "{error}");
    assert!(error.to_string().contains("600 rows in the manifest, 600 read, 500 merged"), "{error}");
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
