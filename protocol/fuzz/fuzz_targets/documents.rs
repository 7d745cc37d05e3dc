#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| wasmill_protocol_fuzz::documents(bytes));
