//! What a worker says in the log of one call.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| forkpool::testing::fuzz::logs(data));
