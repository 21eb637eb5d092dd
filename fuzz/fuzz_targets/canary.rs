//! `make fuzz TARGET=canary`: the body is [`fuzz::canary`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    fuzz::canary(data);
});
