//! `make fuzz TARGET=csv`: the body is [`fuzz_server::csv`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    fuzz_server::csv(data);
});
