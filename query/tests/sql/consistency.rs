//! A query sees one instant: counts are exact at every moment while readings arrive, flushes run and segments are merged
//! and removed.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use storage_format::Millis;

use crate::support::{House, answer, climate, one, org, reading, time};
use kit::Reading;

fn frame(number: u64) -> Vec<Reading> {
    let start = time("2024-01-31T00:00:00Z").get() + i64::try_from(number).expect("small") * 600_000;
    (1..=5).map(|id| reading(id, Millis::new(start).expect("in range"), climate(number as f64, 1.0))).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn counts_are_exact_at_every_instant() {
    let _house = count_at_every_instant(House::open(&[org(1)]).await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn counts_are_exact_while_segments_are_merged_and_removed() {
    let house = House::open_with(&[org(1)], |config| {
        config.compaction = true;
        config.compaction_interval = Duration::from_millis(1);
        config.garbage_delay = Duration::from_millis(8);
    })
    .await;
    let house = count_at_every_instant(house).await;
    let merged = house.engine.snapshot(org(1)).await.expect("a snapshot");
    let merged = merged.manifest.segments().iter().filter(|entry| entry.flush_first < entry.flush_last).count();
    assert!(merged > 0, "nothing was merged");
}

/// Counts while a writer and a flusher are at work; answers the house, which has the same readings afterwards.
async fn count_at_every_instant(house: House) -> Arc<House> {
    let house = Arc::new(house);
    let acknowledged = Arc::new(AtomicU64::new(0));
    let started = Arc::new(AtomicU64::new(0));
    let enough = Arc::new(AtomicBool::new(false));
    let writer = tokio::spawn({
        let (house, acknowledged, started) = (Arc::clone(&house), Arc::clone(&acknowledged), Arc::clone(&started));
        let enough = Arc::clone(&enough);
        async move {
            for number in 0.. {
                if enough.load(Ordering::SeqCst) {
                    break;
                }
                started.store(number + 1, Ordering::SeqCst);
                house.send(org(1), 1, "2024-03-01T00:00:00Z", &frame(number)).await;
                acknowledged.store(number + 1, Ordering::SeqCst);
                // Again, what may be in a segment by now: duplicates must never be seen.
                house.send(org(1), 2, "2024-03-01T00:00:00Z", &frame(number / 2)).await;
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        }
    });
    let flusher = tokio::spawn({
        let house = Arc::clone(&house);
        async move {
            loop {
                house.flush(org(1)).await;
                tokio::time::sleep(Duration::from_millis(15)).await;
            }
        }
    });
    let session = house.session(org(1));
    for _ in 0..15 {
        let before = acknowledged.load(Ordering::SeqCst);
        let found = one(
            &session,
            "SELECT (SELECT count(*) FROM readings) AS a, (SELECT count(DISTINCT time) FROM readings) AS b, \
             (SELECT readings FROM totals) AS c, (SELECT count(*) FROM readings WHERE gateway = 2) AS d",
        )
        .await;
        let after = started.load(Ordering::SeqCst);
        let counts: Vec<u64> = found.split('|').map(|text| text.parse().expect("a number")).collect();
        let frames = counts[0] / 5;
        assert_eq!(counts, [frames * 5, frames, frames * 5, 0], "one instant for all of a statement's tables");
        assert!((before..=after).contains(&frames), "{before} acknowledged before, {after} started after: {frames}");
    }
    assert!(!writer.is_finished() && !flusher.is_finished(), "both went on all the time");
    enough.store(true, Ordering::SeqCst);
    writer.await.expect("no panic");
    flusher.abort();
    let all = started.load(Ordering::SeqCst) * 5;
    assert_eq!(one(&session, "SELECT count(*) FROM readings").await, all.to_string());
    house
}

/// A stream that is read slowly goes on showing the instant that it began at.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_keeps_its_instant() {
    let house = House::open(&[org(1)]).await;
    for number in 0..20 {
        house.send(org(1), 1, "2024-03-01T00:00:00Z", &frame(number)).await;
    }
    let session = house.session(org(1));
    let stream = session.export(query::ExportRequest::default()).await.expect("exports");
    for number in 20..40 {
        house.send(org(1), 1, "2024-03-01T00:00:00Z", &frame(number)).await;
    }
    house.flush(org(1)).await;
    let found = crate::support::batches(stream).await.expect("exports");
    assert_eq!(found.iter().map(arrow::array::RecordBatch::num_rows).sum::<usize>(), 100);
    assert_eq!(answer(&session, "SELECT 1 FROM readings").await.len(), 200);
}

/// Segments that were merged while a stream reads them stay until it has ended.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_reads_what_was_merged_meanwhile() {
    let house = House::open_with(&[org(1)], |config| {
        config.compaction = true;
        config.compaction_interval = Duration::from_millis(500);
        config.garbage_delay = Duration::from_millis(8);
    })
    .await;
    for number in 0..40 {
        house.send(org(1), 1, "2024-03-01T00:00:00Z", &frame(number)).await;
        house.flush(org(1)).await;
    }
    let (session, before) = (house.session(org(1)), house.engine.snapshot(org(1)).await.expect("a snapshot"));
    let named = before.manifest.segments().len();
    drop(before);
    let stream = session.export(query::ExportRequest::default()).await.expect("exports");
    let merged = async {
        loop {
            let now = house.engine.snapshot(org(1)).await.expect("a snapshot").manifest.segments().len();
            // Two windows with three each, at the most.
            if now <= 6 || now < named / 2 {
                break;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), merged).await.expect("it is merged");
    // Long enough for the collection to look more than once.
    tokio::time::sleep(Duration::from_millis(50)).await;
    let found = crate::support::batches(stream).await.expect("exports");
    assert_eq!(found.iter().map(arrow::array::RecordBatch::num_rows).sum::<usize>(), 200);
    assert_eq!(answer(&session, "SELECT 1 FROM readings").await.len(), 200);
}
