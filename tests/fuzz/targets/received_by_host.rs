//! What a worker or a fork server says to the host.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| forkpool::testing::fuzz::received_by_host(data));
