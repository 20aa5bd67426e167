//! The fork server: one thread, no runtime, one preload, and as many applications as come to it.
//!
//! It begins where the application's start-up would have gone on to `main`, loads what the pool's workers
//! share, and then forks when it is told to, reaps what ends and tells of both. It never decides when to fork
//! and never runs a user's call.

pub(crate) mod boot;
mod children;
mod clients;
mod compatibility;
mod control_channel;
mod event_loop;
mod handover;
mod handshake;
mod listener;
mod private_server;
mod rejection_log;
mod socket_lock;
mod spawn;
mod standalone;
mod systemd;
mod watchdog;

pub use boot::{Boot, enter};
pub use listener::ListenError;
pub use standalone::{ServerError, serve};
