//! `cargo +nightly fuzz run -s none --features libfuzzer frame`: the body is [`fuzz::frame`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    fuzz::frame(data);
});
