//! Values of types that contain themselves, or have no bytes.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| forkpool::testing::fuzz::values(data));
