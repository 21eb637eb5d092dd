//! `cargo +nightly fuzz run -s none --features libfuzzer manifest`: the body is [`fuzz::manifest`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    fuzz::manifest(data);
});
