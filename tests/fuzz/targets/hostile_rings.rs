//! A worker that writes what it likes over the counters of its rings.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| forkpool::testing::fuzz::hostile_rings(data));
