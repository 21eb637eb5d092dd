//! Aggregates over a year of readings, from rollups and from the readings themselves. Times are CPU times of all threads;
//! the ratio of the two is printed.

#![allow(clippy::print_stdout, reason = "this program prints a report")]

use std::cell::Cell;
use std::time::Duration;

use benches::{Loggers, cpu_time, open, org, send};
use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use engine::CompactScope;
use futures::TryStreamExt as _;
use query::{QueryEngine, QueryLimits, Session};
use storage_format::{FrameSequence, SpoolId};

const LOGGERS: usize = 10;
/// Readings of a logger in 2020, one in five minutes.
const READINGS: usize = 366 * 288;
const PER_FRAME: usize = 1_000;

const STATEMENTS: [(&str, &str); 3] = [
    (
        "by day",
        "SELECT logger, date_trunc('day', time) AS day, count(*), avg(temperature), max(temperature) FROM readings \
         GROUP BY logger, day",
    ),
    (
        "by day in Berlin",
        "SELECT logger, date_trunc('day', time AT TIME ZONE 'Europe/Berlin') AS day, count(*), avg(temperature), \
         max(temperature) FROM readings GROUP BY logger, day",
    ),
    (
        "last value of each day",
        "SELECT logger, date_trunc('day', time) AS day, last_value(temperature ORDER BY time) FROM readings GROUP BY logger, day",
    ),
];

async fn rows(session: &Session, sql: &str) -> usize {
    let batches = session.sql(sql).await.expect("it is planned");
    batches.try_fold(0, |rows, batch| async move { Ok(rows + batch.num_rows()) }).await.expect("it is answered")
}

fn bench(criterion: &mut Criterion) {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime");
    let dir = tempfile::tempdir().expect("a directory");
    let engine = runtime.block_on(async {
        let engine = open(dir.path(), |_| ()).await;
        let mut fleet = Loggers::new(1, LOGGERS);
        let spool = SpoolId::new(1).expect("not zero");
        let frames = (1..=LOGGERS * READINGS / PER_FRAME).map(|n| FrameSequence::new(n as u64));
        send(&engine, frames.map(|sequence| fleet.frame(spool, sequence, PER_FRAME)).collect()).await;
        engine.flush(None).await.expect("a flush");
        engine.compact(CompactScope::All, &|_| ()).await.expect("merged");
        let manifest = engine.snapshot(org()).await.expect("a snapshot").manifest;
        assert_eq!(manifest.rollups().len(), 2 * manifest.segments().len(), "each segment has rollups");
        engine
    });
    let limits = QueryLimits { threads: 1, ..QueryLimits::default() };
    let from_rollups = QueryEngine::new(engine.clone(), limits, 64 << 20).session(org());
    let from_readings = from_rollups.clone().without_rollups();
    let mut group = criterion.benchmark_group("query");
    group.sample_size(10);
    for (name, sql) in STATEMENTS {
        let per_query =
            [("from rollups", &from_rollups), ("from readings", &from_readings)].map(|(source, session)| {
                let total = Cell::new((Duration::ZERO, 0));
                group.bench_function(BenchmarkId::new(source, name), |bencher| {
                    bencher.iter_custom(|rounds| {
                        let started = cpu_time();
                        for _ in 0..rounds {
                            assert!(runtime.block_on(rows(session, sql)) >= LOGGERS * 365);
                        }
                        let took = cpu_time() - started;
                        let (before, queries) = total.get();
                        total.set((before + took, queries + rounds));
                        took
                    });
                });
                let (took, queries) = total.get();
                (queries > 0).then(|| took.as_secs_f64() / queries as f64)
            });
        // The command's filter may leave one out.
        if let [Some(from_rollups), Some(from_readings)] = per_query {
            println!("{name}: from readings it takes {:.1} times as long", from_readings / from_rollups);
        }
    }
    group.finish();
    runtime.block_on(engine.close()).expect("closed");
}

criterion_group!(benches, bench);
criterion_main!(benches);
