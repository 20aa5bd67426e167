//! The fork server: one thread, no runtime, one preload, and as many applications as come to it.
//!
//! It begins where the application's start-up would have gone on to `main`, loads what the pool's workers
//! share, and then forks when it is told to, reaps what ends and tells of both. It never decides when to fork
//! and never runs a user's call.

mod agreement;
mod apart;
mod birth;
pub(crate) mod boot;
mod children;
mod claim;
mod clients;
mod control;
mod door;
mod guard;
mod manager;
mod notices;
mod run;
mod serve;
mod strangers;
mod succession;

pub use apart::{ServerError, serve};
pub use boot::{Boot, enter};
pub use door::ListenError;
