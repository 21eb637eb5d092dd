//! `make fuzz TARGET=config`: the body is [`fuzz_server::config`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    fuzz_server::config(data);
});
