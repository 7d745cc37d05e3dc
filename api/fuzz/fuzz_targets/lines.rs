#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| wasmill_api_fuzz::lines(bytes));
