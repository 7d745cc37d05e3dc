#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| wasmill_record_fuzz::event(bytes));
