//! The WAL codec: building and sealing a block of frames, without a disk. Throughput is in bytes of frames.

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use storage_format::encryption::SecretKey;
use storage_format::wal::{WalBlockBuilder, WalFileKey};
use storage_format::{GatewayId, Lsn, Millis, OrgId};

fn bench(criterion: &mut Criterion) {
    let key = WalFileKey::new(&SecretKey::from_bytes([7; 32]));
    let (org, gateway) = (OrgId::new(1).expect("an id"), GatewayId::new(1).expect("an id"));
    for (frames, frame_bytes) in [(1, 300), (100, 300), (100, 4_000)] {
        let frame = vec![0xA5; frame_bytes];
        let mut group = criterion.benchmark_group(format!("WAL block of {frames} frames of {frame_bytes} bytes"));
        group.throughput(Throughput::Bytes((frames * frame_bytes) as u64));
        let mut block = WalBlockBuilder::new();
        group.bench_function("build and seal", |bencher| {
            bencher.iter(|| {
                for lsn in 1..=frames as u64 {
                    block.push_frame(Lsn::new(lsn), org, gateway, Millis::EPOCH, &frame);
                }
                black_box(block.seal(&key, 4096).len())
            });
        });
        group.finish();
    }
}

criterion_group!(benches, bench);
criterion_main!(benches);
