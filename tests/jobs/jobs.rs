//! Pools that run the jobs of a store: a real Redis, and processes that are killed in the middle of jobs.

#[path = "../../examples/durable_jobs/main.rs"]
#[allow(dead_code, reason = "only its own main starts it alone")]
mod durable_jobs;
mod example;
#[path = "../harness/mod.rs"]
mod harness;

mod killed;
mod office;
mod restarted;
mod store;
