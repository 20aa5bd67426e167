//! What a peer says to a standalone server.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| forkpool::testing::fuzz::conversation(data));
