//! See `proxy_header` in `bodies.rs`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| waystation_fuzz::proxy_header(data));
