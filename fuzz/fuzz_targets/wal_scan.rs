//! `make fuzz TARGET=wal_scan`: the body is [`fuzz::wal_scan`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    fuzz::wal_scan(data);
});
