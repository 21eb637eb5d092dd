//! `make fuzz TARGET=units`: the body is [`fuzz_server::units`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    fuzz_server::units(data);
});
