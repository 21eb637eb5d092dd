//! `make fuzz TARGET=session`: the body is [`fuzz::session`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    fuzz::session(data);
});
