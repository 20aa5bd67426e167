//! What a worker says of blobs to the host, one report after another.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| forkpool::testing::fuzz::lending(data));
