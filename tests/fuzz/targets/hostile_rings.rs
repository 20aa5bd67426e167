//! A worker that writes what it likes over the counters of its rings.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| forkpool::fuzzing::hostile_rings(data));
