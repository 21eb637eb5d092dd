//! `make fuzz TARGET=local_call`: the body is [`fuzz_server::local_call`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    fuzz_server::local_call(data);
});
