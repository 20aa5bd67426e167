//! Error-handling contexts: who receives a failure, and what is in force below a frame.

mod context_logs;
mod context_scopes;
mod contexts;
#[path = "../harness/mod.rs"]
mod harness;
