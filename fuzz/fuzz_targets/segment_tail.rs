//! `make fuzz TARGET=segment_tail`: the body is [`fuzz::segment_tail`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    fuzz::segment_tail(data);
});
