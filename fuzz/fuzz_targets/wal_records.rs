//! `cargo +nightly fuzz run -s none --features libfuzzer wal_records`: the body is [`fuzz::wal_records`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    fuzz::wal_records(data);
});
