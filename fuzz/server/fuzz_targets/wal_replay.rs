//! `make fuzz TARGET=wal_replay`: the body is [`fuzz_server::wal_replay`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    fuzz_server::wal_replay(data);
});
