//! Memory, time, rows, size: what is past a limit is an error that says so, never a short answer.

mod memory;
mod time;

use std::time::{Duration, Instant};

use futures::StreamExt;
use query::{LimitKind, QueryError, QueryLimits};
use storage_format::Millis;

use crate::support::{House, ask, batches, climate, error_of, one, org, reading, time};
use kit::Reading;

/// 20 loggers, 500 readings each, half of them flushed.
async fn some() -> House {
    let house = House::open(&[org(1)]).await;
    let start = time("2024-01-01T00:00:00Z").get();
    for part in 0..2 {
        let readings: Vec<Reading> = (1..=20)
            .flat_map(|id| {
                (0..250).map(move |step| {
                    let at = Millis::new(start + (part * 250 + step) * 60_000).expect("in range");
                    reading(id, at, climate(f64::from(i32::try_from(step).expect("small")), 50.0))
                })
            })
            .collect();
        house.send(org(1), 1, "2024-02-01T00:00:00Z", &readings).await;
        if part == 0 {
            house.flush(org(1)).await;
        }
    }
    house
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn too_many_rows_are_an_error_and_no_short_answer() {
    let house = some().await;
    let limits = |rows_max| QueryLimits { rows_max, ..QueryLimits::default() };
    let exact = house.queries(limits(10_000)).session(org(1));
    assert_eq!(
        batches(exact.sql("SELECT * FROM readings").await.expect("runs"))
            .await
            .expect("fits")
            .iter()
            .map(arrow::array::RecordBatch::num_rows)
            .sum::<usize>(),
        10_000
    );
    let session = house.queries(limits(9_999)).session(org(1));
    let error = error_of(&session, "SELECT * FROM readings").await;
    assert!(matches!(error, QueryError::Limit(LimitKind::Rows { rows_max: 9_999 })), "{error}");
    assert_eq!(one(&session, "SELECT count(*) FROM readings").await, "10000", "only answers are counted");
    let exported = session.export(query::ExportRequest::default()).await.expect("exports");
    let rows: usize = batches(exported).await.expect("no limit").iter().map(arrow::array::RecordBatch::num_rows).sum();
    assert_eq!(rows, 10_000);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn time_is_limited_while_it_computes() {
    let house = some().await;
    let limits = QueryLimits {
        time_max: Duration::from_millis(700),
        queries_max: 1,
        queue_time_max: Duration::from_secs(10),
        threads: 2,
        ..QueryLimits::default()
    };
    let session = house.queries(limits).session(org(1));
    for sql in [
        // A hundred million pairs, none of which passes: nothing comes out for many seconds.
        "SELECT count(*) FROM readings a, readings b WHERE a.temperature + b.temperature < b.humidity - a.humidity",
        // The same, and something comes out all the time.
        "SELECT count(*) FROM readings a, readings b WHERE a.temperature + b.temperature >= a.humidity - b.humidity",
        "SELECT sum(a.temperature) FROM readings a JOIN readings b ON a.humidity = b.humidity AND a.battery IS NULL",
    ] {
        let started = Instant::now();
        let error = error_of(&session, sql).await;
        assert!(matches!(error, QueryError::Limit(LimitKind::Time { .. })), "{sql}: {error}");
        assert!(started.elapsed() < Duration::from_secs(5), "{sql}: {:?}", started.elapsed());
        // There is one place: the next query is answered only because the one before was really ended.
        let next =
            tokio::time::timeout(Duration::from_secs(10), async { while ask(&session, "SELECT 1").await.is_err() {} });
        next.await.unwrap_or_else(|_| panic!("{sql}: it goes on computing"));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn memory_is_limited() {
    let house = some().await;
    let limits = QueryLimits { memory_bytes_max: 400 << 10, threads: 2, ..QueryLimits::default() };
    let session = house.queries(limits.clone()).session(org(1));
    let sql = "SELECT * FROM readings ORDER BY humidity, temperature, time, logger";
    let error = error_of(&session, sql).await;
    assert!(matches!(error, QueryError::Limit(LimitKind::Memory { bytes_max: 409_600 })), "{error}");

    let sql = "SELECT count(*) FROM (SELECT DISTINCT logger, time, temperature FROM readings)";
    let error = error_of(&session, sql).await;
    assert!(matches!(error, QueryError::Limit(LimitKind::Memory { .. })), "{error}");

    let enough = house.queries(QueryLimits { memory_bytes_max: 64 << 20, ..limits }).session(org(1));
    assert_eq!(one(&enough, sql).await, "10000");
}

/// Frames with one reading of each logger: every buffered row is a run of its own, and their order takes memory.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_order_of_buffered_rows_is_counted() {
    let house = House::open(&[org(1)]).await;
    let start = time("2024-01-01T00:00:00Z").get();
    for step in 0..100 {
        let at = Millis::new(start + step * 60_000).expect("in range");
        let readings: Vec<Reading> = (1..=50).map(|id| reading(id, at, climate(4.0, 50.0))).collect();
        house.send(org(1), 1, "2024-02-01T00:00:00Z", &readings).await;
    }
    let session =
        |bytes| house.queries(QueryLimits { memory_bytes_max: bytes, ..QueryLimits::default() }).session(org(1));
    for sql in ["SELECT count(*) FROM readings", "SELECT count(*) FROM readings WHERE temperature = 4"] {
        let error = error_of(&session(40 << 10), sql).await;
        assert!(matches!(error, QueryError::Limit(LimitKind::Memory { .. })), "{sql}: {error}");
        assert_eq!(one(&session(200 << 10), sql).await, "5000", "{sql}");
    }
}

/// Texts that expressions make are not counted by the memory pool: they are held to a length instead.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn short_statements_make_no_long_texts() {
    let house = some().await;
    let session = house.session(org(1));
    for sql in [
        "SELECT repeat('x', 2000000000)",
        "SELECT max(repeat('x', CAST(humidity * 1000000 AS BIGINT))) FROM readings",
        "SELECT lpad('x', 2000000000, 'y'), rpad(eui64_text(logger), 2000000000) FROM readings",
        "SELECT rpad('x', 1000000000)",
        "SELECT replace(repeat('x', 4000), 'x', repeat('y', 4000))",
        "SELECT regexp_replace(repeat('x', 100), '(.*)', repeat('\\1', 100))",
    ] {
        let error = error_of(&session, sql).await;
        assert!(matches!(&error, QueryError::Invalid(text) if text.contains("could make a text")), "{sql}: {error}");
    }
    assert_eq!(one(&session, "SELECT length(repeat('x', 8000)), lpad('7', 3, '0')").await, "8000|007");
    assert_eq!(one(&session, "SELECT replace('abc', 'b', 'xy'), regexp_replace('a1', '[0-9]', '#')").await, "axyc|a#");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_does_not_fit_spills_to_its_directory_and_leaves_nothing() {
    let house = some().await;
    let spill = house.dir.path().join("tmp");
    std::fs::create_dir_all(&spill).expect("a directory");
    let limits = QueryLimits { memory_bytes_max: 12 << 20, batch_rows: 32, threads: 1, ..QueryLimits::default() };
    let without = house.queries(limits.clone()).session(org(1));
    let queries =
        query::QueryEngine::with_spill_dir(std::sync::Arc::clone(&house.engine), limits, 1 << 20, spill.clone());
    let session = queries.session(org(1));
    // Wide enough that ten thousand rows do not fit.
    let sql = "SELECT repeat('x', 3000) || temperature AS wide, * FROM readings ORDER BY wide, time, logger";
    let error = error_of(&without, sql).await;
    assert!(matches!(error, QueryError::Limit(LimitKind::Memory { .. })), "{error}");
    let found = ask(&session, sql).await;
    let rows: usize = found.expect("it spills").iter().map(arrow::array::RecordBatch::num_rows).sum();
    assert_eq!(rows, 10_000);
    let left: Vec<_> = std::fs::read_dir(&spill).expect("readable").collect();
    assert!(left.is_empty(), "{left:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_leaves_frees_the_place() {
    let house = some().await;
    let limits = QueryLimits {
        queries_max: 1,
        queue_time_max: Duration::from_millis(100),
        batch_rows: 16,
        ..QueryLimits::default()
    };
    let session = house.queries(limits).session(org(1));
    let mut first = session.export(query::ExportRequest::default()).await.expect("runs");
    assert!(first.next().await.is_some_and(|batch| batch.is_ok()));
    let error = error_of(&session, "SELECT 1").await;
    assert!(matches!(error, QueryError::Limit(LimitKind::Queries(_))), "{error}");
    drop(first);
    let freed =
        tokio::time::timeout(Duration::from_secs(10), async { while ask(&session, "SELECT 1").await.is_err() {} });
    freed.await.expect("the place is free soon after");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_largest_statements_that_pass_do_no_harm() {
    let house = some().await;
    let session = house.session(org(1));
    let sum = format!("SELECT sum(temperature{}) FROM readings", " + humidity".repeat(390));
    assert!(one(&session, &sum).await.parse::<f64>().is_ok());
    let or = (0..190).map(|i| format!("temperature = {i}")).collect::<Vec<_>>().join(" OR ");
    assert_eq!(one(&session, &format!("SELECT count(*) FROM readings WHERE {or}")).await, "7600");
    let list = (0..20_000).map(|i| i.to_string()).collect::<Vec<_>>().join(",");
    assert_eq!(one(&session, &format!("SELECT count(*) FROM readings WHERE logger IN ({list})")).await, "0");
    let nested = format!("SELECT {}1{}", "abs_(".repeat(15), ")".repeat(15));
    assert!(matches!(error_of(&session, &nested).await, QueryError::Invalid(_)));
    let nested = format!("SELECT count(*) FROM {}readings{}", "(SELECT * FROM ".repeat(15), ")".repeat(15));
    assert_eq!(one(&session, &nested).await, "10000");
    for sql in [
        format!("SELECT {}1{}", "(".repeat(5_000), ")".repeat(5_000)),
        format!("SELECT 1{}", " + 1".repeat(100_000)),
        format!("SELECT '{}'", "x".repeat(1 << 20)),
        format!("SELECT * FROM readings WHERE logger IN ({})", "1,".repeat(500_000) + "1"),
    ] {
        assert!(matches!(error_of(&session, &sql).await, QueryError::Refused(_)));
    }
}
