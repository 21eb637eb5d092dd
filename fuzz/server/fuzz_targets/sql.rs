//! `cargo +nightly fuzz run --fuzz-dir fuzz/server --features libfuzzer sql`: the body is [`fuzz_server::sql`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    fuzz_server::sql(data);
});
