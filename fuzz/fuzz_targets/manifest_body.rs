//! `make fuzz TARGET=manifest_body`: the body is [`fuzz::manifest_body`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    fuzz::manifest_body(data);
});
