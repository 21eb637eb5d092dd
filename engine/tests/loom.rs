//! The publication of append-only columns, in every interleaving that the memory model allows.
//!
//! Run by `RUSTFLAGS="--cfg loom" cargo test -p engine --test loom`. It takes the file by its path and so builds
//! without the engine's dependencies.
#![cfg(loom)]

#[allow(dead_code, reason = "the engine uses all of it, this test what it proves")]
#[path = "../src/sync/column.rs"]
mod column;

use column::{Column, Published};
use loom::sync::Arc;

#[test]
fn a_reader_sees_whole_rows_up_to_the_length() {
    loom::model(|| {
        let shared = Arc::new((Column::new(0), Column::new(0), Published::new()));
        let writer = {
            let shared = Arc::clone(&shared);
            loom::thread::spawn(move || {
                for row in 0..2 {
                    shared.0.write(row, 1, |_| row as u64 + 1);
                    shared.1.write(row, 1, |_| row as u64 + 11);
                    shared.2.publish(row + 1);
                }
            })
        };
        let mut last = 0;
        for _ in 0..2 {
            let len = shared.2.observe();
            assert!(len >= last, "a length never shrinks");
            last = len;
            for row in 0..len {
                assert_eq!((shared.0.get(row), shared.1.get(row)), (row as u64 + 1, row as u64 + 11));
            }
        }
        writer.join().expect("the writer ends");
        assert_eq!(shared.2.observe(), 2);
    });
}
