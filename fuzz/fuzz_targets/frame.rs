//! `make fuzz TARGET=frame`: the body is [`fuzz::frame`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    fuzz::frame(data);
});
