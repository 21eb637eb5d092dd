//! `make fuzz TARGET=manifest`: the body is [`fuzz::manifest`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    fuzz::manifest(data);
});
