//! Fork servers and workers as processes, and the runtimes they are started from.

mod boot;
mod defiance;
#[path = "../harness/mod.rs"]
mod harness;
mod isolation;
mod runtimes;
mod server;
mod tools;
mod workers;
