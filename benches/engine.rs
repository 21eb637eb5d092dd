//! The engine's stages in a real directory: append, snapshot, flush, recovery. Times are CPU times of all threads,
//! which a busy machine affects little; throughput is in readings per second of one core.

#![allow(clippy::print_stdout, reason = "this program prints a report")]

use std::time::Duration;

use benches::{Loggers, cpu_time, open, org, send};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use storage_format::{Frame, FrameSequence, SpoolId};

const READINGS: usize = 1_000_000;

fn frames(loggers: usize, per_frame: usize) -> Vec<Frame> {
    let spool = SpoolId::new(1).expect("not zero");
    let mut fleet = Loggers::new(1, loggers);
    (0..READINGS / per_frame).map(|n| fleet.frame(spool, FrameSequence::new(n as u64 + 1), per_frame)).collect()
}

/// Loggers of the gateway, and readings in a frame.
const SHAPES: [(usize, usize); 3] = [(20, 1000), (1000, 1000), (10_000, 20)];

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime")
}

/// Prevents flushes during a measurement.
fn disable_flushes(config: &mut engine::EngineConfig) {
    config.flush_bytes = 1 << 30;
    config.buffer_bytes_max = 4 << 30;
}

fn total_time(rounds: u64, mut run: impl FnMut() -> Duration) -> Duration {
    (0..rounds).map(|_| run()).sum()
}

fn bench(criterion: &mut Criterion) {
    let runtime = runtime();
    let mut group = criterion.benchmark_group("engine");
    group.throughput(Throughput::Elements(READINGS as u64)).sample_size(10);
    for (loggers, per_frame) in SHAPES {
        let frames = frames(loggers, per_frame);
        let shape = format!("{loggers} loggers, {per_frame} a frame");
        let printed = std::cell::Cell::new(false);
        group.bench_function(BenchmarkId::new("append", &shape), |bencher| {
            bencher.iter_custom(|rounds| {
                total_time(rounds, || {
                    runtime.block_on(async {
                        let dir = tempfile::tempdir().expect("a directory");
                        let engine = open(dir.path(), disable_flushes).await;
                        let frames = frames.clone();
                        let started = cpu_time();
                        send(&engine, frames).await;
                        cpu_time() - started
                    })
                })
            });
        });
        group.bench_function(BenchmarkId::new("snapshot", &shape), |bencher| {
            let dir = tempfile::tempdir().expect("a directory");
            let engine = runtime.block_on(async {
                let engine = open(dir.path(), disable_flushes).await;
                send(&engine, frames.clone()).await;
                engine
            });
            bencher.iter_custom(|rounds| {
                total_time(rounds, || {
                    runtime.block_on(async {
                        let started = cpu_time();
                        let snapshot = engine.snapshot(org()).await.expect("a snapshot");
                        let channels = snapshot.channels();
                        let batches = snapshot.buffers.iter().map(|buffer| buffer.batches(None, None, &channels));
                        let rows: usize =
                            batches.map(|batches| batches.map(|batch| batch.num_rows()).sum::<usize>()).sum();
                        assert_eq!(rows, READINGS);
                        cpu_time() - started
                    })
                })
            });
            runtime.block_on(engine.close()).expect("closed");
        });
        group.bench_function(BenchmarkId::new("flush", &shape), |bencher| {
            bencher.iter_custom(|rounds| {
                total_time(rounds, || {
                    runtime.block_on(async {
                        let dir = tempfile::tempdir().expect("a directory");
                        let engine = open(dir.path(), disable_flushes).await;
                        send(&engine, frames.clone()).await;
                        let started = cpu_time();
                        let report = engine.flush(None).await.expect("a flush");
                        let took = cpu_time() - started;
                        assert_eq!(report.readings, READINGS as u64);
                        if !printed.replace(true) {
                            println!(
                                "{shape}: {:.3} B a reading in the segment",
                                report.bytes as f64 / READINGS as f64
                            );
                        }
                        took
                    })
                })
            });
        });
        for (log, several) in [("recovery", false), ("recovery of several files", true)] {
            let config = |config: &mut engine::EngineConfig| {
                disable_flushes(config);
                if several {
                    config.group_bytes_max = 2 << 20;
                    config.wal_file_bytes = 3 << 20;
                }
            };
            let wall = std::cell::RefCell::new(Vec::new());
            group.bench_function(BenchmarkId::new(log, &shape), |bencher| {
                let dir = tempfile::tempdir().expect("a directory");
                runtime.block_on(async {
                    let engine = open(dir.path(), config).await;
                    send(&engine, frames.clone()).await;
                    engine.close().await.expect("closed");
                });
                bencher.iter_custom(|rounds| {
                    total_time(rounds, || {
                        runtime.block_on(async {
                            let started = cpu_time();
                            let engine = open(dir.path(), config).await;
                            let took = cpu_time() - started;
                            assert_eq!(engine.recovery().readings, READINGS as u64);
                            wall.borrow_mut().push(engine.recovery().took);
                            engine.close().await.expect("closed");
                            took
                        })
                    })
                });
            });
            // The wall-clock time shows how much is done on several cores, which the CPU time does not.
            let mut wall = wall.into_inner();
            wall.sort_unstable();
            if let [least, ..] = wall[..] {
                let (median, readings) = (wall[wall.len() / 2], READINGS as f64);
                let ns = |took: Duration| took.as_secs_f64() * 1e9 / readings;
                println!("{log}, {shape}: {:.0} ns of wall clock a reading, {:.0} at best", ns(median), ns(least));
            }
        }
    }
    group.finish();
}

criterion_group!(benches, bench);
criterion_main!(benches);
