//! What workers write to their gates while the host takes calls back.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| forkpool::testing::fuzz::gate(data));
