//! The frame codec: encoding and decoding, by shape of frame. Throughput is in readings.

#![allow(clippy::print_stdout, reason = "this program prints a report")]

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use kit::SplitMix64;
use storage_format::{ChannelCode, Frame, FrameBuilder, FrameSequence, LoggerId, Millis, SpoolId};

/// Adds readings like a fleet's: with ±0.35 s of jitter, from sensors with steps of 0.01 and 0.0625.
fn fill(builder: &mut FrameBuilder, loggers: u64, per_logger: i64) {
    let [temperature, humidity] = [1, 2].map(|code| ChannelCode::new(code).expect("a code"));
    let mut random = SplitMix64::new(1);
    let mut random_below = move |sides: u64| i64::try_from(random.below(sides)).expect("small");
    for logger in 0..loggers {
        for n in 0..per_logger {
            let time = Millis::new(1_700_000_000_000 + n * 300_000 + random_below(700)).expect("a time");
            let (t, h) = ((480 + random_below(9)) as f64 / 100.0, (700 + random_below(5)) as f64 / 16.0);
            let logger = LoggerId::new(0x0012_4B00_0000_0001 + logger).expect("an id");
            builder.push(logger, time, &[(temperature, t), (humidity, h)]).expect("it fits");
        }
    }
}

fn bench(criterion: &mut Criterion) {
    let spool = SpoolId::new(1).expect("an id");
    for (name, loggers, per_logger) in
        [("20 loggers x 1", 20, 1), ("20 loggers x 50", 20, 50), ("1 logger x 1000", 1, 1000)]
    {
        let readings = loggers * u64::try_from(per_logger).expect("small");
        let mut group = criterion.benchmark_group(format!("frame of {name}"));
        group.throughput(Throughput::Elements(readings));
        let mut builder = FrameBuilder::new();
        group.bench_function("build and encode", |bencher| {
            bencher.iter(|| {
                fill(&mut builder, loggers, per_logger);
                black_box(builder.encode(spool, FrameSequence::new(1)))
            });
        });
        fill(&mut builder, loggers, per_logger);
        let bytes = builder.encode(spool, FrameSequence::new(1));
        // Allocations are counted per frame, because single readings allocate nothing.
        let decoding =
            allocation_counter::measure(|| drop(black_box(Frame::decode(bytes.clone()).expect("it decodes"))));
        let encoding = allocation_counter::measure(|| {
            fill(&mut builder, loggers, per_logger);
            drop(black_box(builder.encode(spool, FrameSequence::new(1))));
        });
        println!(
            "frame of {name}: {} allocations to decode, {} to build and encode",
            decoding.count_total, encoding.count_total
        );
        group.bench_function(format!("decode ({:.2} B a reading)", bytes.len() as f64 / readings as f64), |bencher| {
            bencher.iter(|| Frame::decode(black_box(bytes.clone())).expect("it decodes"));
        });
        group.finish();
    }
}

criterion_group!(benches, bench);
criterion_main!(benches);
