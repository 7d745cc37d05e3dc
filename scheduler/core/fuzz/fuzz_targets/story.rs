#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| wasmill_scheduler_core_fuzz::story(bytes));
