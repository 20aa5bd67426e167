//! Pools behind real web servers: over real sockets, with clients that leave.

mod client;
#[path = "../harness/mod.rs"]
mod harness;
#[allow(dead_code, reason = "not every test reads all of an answer")]
mod service;
mod services;
