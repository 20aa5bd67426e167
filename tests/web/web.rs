//! Pools behind real web servers: over real sockets, with clients that leave.

mod bodies;
mod bodies_http2;
mod bound;
mod client;
mod dashboard;
mod deadline;
mod error_types;
mod errors;
#[path = "../harness/mod.rs"]
mod harness;
mod requests;
mod run;
#[allow(dead_code, reason = "not every test reads all of an answer")]
mod service;
mod services;
mod slow_bodies;
mod yard;
