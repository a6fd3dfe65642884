//! See `authentication_results` in `bodies.rs`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| waystation_fuzz::authentication_results(data));
