//! `make fuzz TARGET=manifest_script`: the body is [`fuzz::manifest_script`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    fuzz::manifest_script(data);
});
