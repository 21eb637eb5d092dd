//! `make fuzz TARGET=sql`: the body is [`fuzz_server::sql`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    fuzz_server::sql(data);
});
