//! `make fuzz TARGET=segment`: the body is [`fuzz::segment`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    fuzz::segment(data);
});
