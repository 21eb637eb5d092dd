//! Values do not depend on how they are computed: on partitions, batches, spills, or whether rows are exported.

use std::sync::Arc;

use kit::Reading;
use query::{ExportRequest, LimitKind, QueryEngine, QueryError, QueryLimits};
use storage_format::Millis;

use crate::support::{House, answer, batches, climate, code, error_of, lines, one, org, reading, time};

/// Terms that a rounded sum adds up to anything, depending on their order. Their sum is 0.75.
const TERMS: [f64; 4] = [1e16, 0.5, -1e16, 0.25];

/// Twelve months of 2024, one segment each but the last, which is in the buffer: 240 temperatures of three loggers.
async fn a_year() -> House {
    let house = House::open(&[org(1)]).await;
    for month in 1..=12 {
        let start = time(&format!("2024-{month:02}-10T00:00:00Z")).get();
        let at = |step: i64| Millis::new(start + step * 60_000).expect("in range");
        let value = |step: i64| TERMS[usize::try_from(step).expect("small") % TERMS.len()];
        let readings: Vec<Reading> =
            (0..20).map(|step| reading(1 + u64::from(step % 3 == 0), at(step), climate(value(step), -0.0))).collect();
        house.send(org(1), 9, "2025-01-01T00:00:00Z", &readings).await;
        if month < 12 {
            house.flush(org(1)).await;
        }
    }
    house
}

/// Bounds of one aggregate must not keep rows from another: of a channel that only late segments have, of an expression,
/// of rows that pass a filter.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn least_and_greatest_do_not_disturb_each_other() {
    let house = House::open(&[org(1)]).await;
    for month in 1..=12 {
        let start = time(&format!("2024-{month:02}-10T00:00:00Z")).get();
        let of_month = |step: i64| {
            let at = Millis::new(start + step * 60_000).expect("in range");
            let mut samples = if month < 9 { climate(-18.5, 90.5) } else { climate(-20.5, 50.0) };
            if month >= 9 {
                samples.push((code("battery"), 3.5));
            }
            reading(1, at, samples)
        };
        let readings: Vec<Reading> = (0..20).map(of_month).collect();
        house.send(org(1), 9, "2025-01-01T00:00:00Z", &readings).await;
        house.flush(org(1)).await;
    }
    for threads in [1, 2] {
        let queries = house.queries(QueryLimits { threads, ..QueryLimits::default() });
        let session = queries.session(org(1));
        for (sql, expected) in [
            ("SELECT max(battery), max(humidity) FROM readings WHERE humidity > 0", "3.5|90.5"),
            ("SELECT max(humidity), min(humidity * 1.0) FROM readings", "90.5|50.0"),
            ("SELECT max(battery) FILTER (WHERE temperature < -20), max(humidity) FROM readings", "3.5|90.5"),
            ("SELECT max(humidity), max(abs(temperature)) FROM readings", "90.5|20.5"),
        ] {
            assert_eq!(one(&session, sql).await, expected, "{sql} with {threads} threads");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sums_do_not_depend_on_partitions_and_batches() {
    let house = a_year().await;
    for (threads, batch_rows) in [(1, 8192), (2, 7), (5, 1), (12, 64)] {
        let limits = QueryLimits { threads, batch_rows, ..QueryLimits::default() };
        let session = house.queries(limits).session(org(1));
        let all = "SELECT sum(temperature), avg(temperature), sum(DISTINCT temperature) FROM readings";
        assert_eq!(one(&session, all).await, "45.0|0.1875|0.75", "{threads} threads, {batch_rows} rows");
        let sorted = "SELECT sum(temperature) FROM (SELECT * FROM readings ORDER BY humidity, temperature DESC, time)";
        assert_eq!(one(&session, sorted).await, "45.0");
        let grouped = "SELECT date_trunc('month', time) AS m, sum(temperature), avg(temperature), \
                       sum(DISTINCT temperature), count(*) FROM readings GROUP BY m ORDER BY m";
        let grouped = answer(&session, grouped).await;
        assert_eq!(grouped.len(), 12);
        assert!(grouped.iter().all(|line| line.ends_with("|3.75|0.1875|0.75|20")), "{grouped:?}");
        let windows = "SELECT DISTINCT sum(temperature) OVER (PARTITION BY date_trunc('month', time)) FROM readings";
        assert_eq!(answer(&session, windows).await, ["3.75"]);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sums_survive_a_spill() {
    let house = a_year().await;
    let spill = house.dir.path().join("tmp");
    std::fs::create_dir_all(&spill).expect("a directory");
    let limits = QueryLimits { memory_bytes_max: 4 << 20, batch_rows: 8, threads: 1, ..QueryLimits::default() };
    let without = house.queries(limits.clone()).session(org(1));
    let session = QueryEngine::with_spill_dir(Arc::clone(&house.engine), limits, 1 << 20, spill).session(org(1));
    // Every group once from each of three copies of the readings, with a name of several kilobytes.
    let sql = "SELECT count(*), sum(s), min(c), max(c) FROM (\
               SELECT repeat('x', 12000) || time AS wide, sum(temperature) AS s, count(temperature) AS c FROM (\
               SELECT * FROM readings UNION ALL SELECT * FROM readings UNION ALL SELECT * FROM readings) GROUP BY wide)";
    let error = error_of(&without, sql).await;
    assert!(matches!(error, QueryError::Limit(LimitKind::Memory { .. })), "{error}");
    assert_eq!(one(&session, sql).await, "240|135.0|3|3");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn exports_have_one_zero() {
    let house = a_year().await;
    let session = house.session(org(1));
    let exported = session.export(ExportRequest::default()).await.expect("exports");
    let exported = lines(&batches(exported).await.expect("exports"));
    assert_eq!(exported.len(), 240);
    assert!(exported.iter().all(|line| line.split('|').nth(3) == Some("0.0")), "{exported:?}");
}
