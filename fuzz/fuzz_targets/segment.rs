//! `cargo +nightly fuzz run -s none --features libfuzzer segment`: the body is [`fuzz::segment`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    fuzz::segment(data);
});
