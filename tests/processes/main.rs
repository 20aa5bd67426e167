//! Fork servers and workers as processes, and the runtimes they are started from.

mod boot;
mod defiance;
mod frozen;
#[path = "../harness/mod.rs"]
mod harness;
mod inherited;
mod isolation;
mod limits;
mod parked;
mod runtimes;
mod server;
mod stop_signals;
mod terminals;
mod tools;
mod workers;
