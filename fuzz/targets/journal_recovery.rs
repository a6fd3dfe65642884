//! See `journal_recovery` in `bodies.rs`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| waystation_fuzz::journal_recovery(data));
