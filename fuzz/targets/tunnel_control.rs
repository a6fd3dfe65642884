//! See `tunnel_control` in `bodies.rs`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| waystation_fuzz::tunnel_control(data));
