//! See `smtp_answer` in `bodies.rs`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| waystation_fuzz::smtp_answer(data));
