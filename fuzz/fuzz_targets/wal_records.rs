//! `make fuzz TARGET=wal_records`: the body is [`fuzz::wal_records`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    fuzz::wal_records(data);
});
