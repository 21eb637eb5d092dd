//! `cargo +nightly fuzz run -s none --features libfuzzer manifest_body`: the body is [`fuzz::manifest_body`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    fuzz::manifest_body(data);
});
