//! A program that does not divert ahead of its `main`, whatever its arguments are. How it behaves is a word of the role
//! that the test gave to the application that starts it.

use std::io::{Read, Write};
use std::os::fd::AsFd;

fn main() {
    let role = std::env::var("FORKPOOL_TEST_ROLE").unwrap_or_default();
    println!("what a foreign program prints");
    if role.contains("deaf=speaks") {
        let control = std::io::stdin().as_fd().try_clone_to_owned().expect("standard input");
        let _ = std::fs::File::from(control).write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n");
    }
    if !role.contains("deaf=ends") {
        // Until the application gives up.
        let _ = std::io::stdin().read_to_end(&mut Vec::new());
    }
}
