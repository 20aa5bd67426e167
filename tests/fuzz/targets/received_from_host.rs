//! What the host says to workers and to the fork server.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| forkpool::testing::fuzz::received_from_host(data));
