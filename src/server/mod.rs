//! The fork server: one thread, no runtime, one pool.
//!
//! It begins where the application's start-up would have gone on to `main`, loads what the pool's workers
//! share, and then forks when it is told to, reaps what ends and tells of both. It never decides when to fork
//! and never runs a user's call.

pub(crate) mod boot;
mod children;
mod control;
mod guard;
mod run;

pub use boot::{Boot, enter};
