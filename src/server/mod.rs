//! The fork server: one thread, no runtime, one preload, and any number of client applications.
//!
//! A private server is the application's own program, executed again and diverted ahead of `main`; a standalone
//! server is a program of its own. Either one loads what the pool's workers share. Then it forks workers on request,
//! reaps them, and reports both to its clients. It never decides on its own to start a worker and never runs a user's
//! call.

mod adoption;
pub(crate) mod boot;
mod children;
mod clients;
mod compatibility;
mod control_channel;
mod errors;
mod event_loop;
mod handover;
mod handshake;
#[cfg(all(any(test, fuzzing), feature = "actors"))]
pub(crate) mod hostile;
mod inheritance;
mod listener;
mod lock_file;
mod orders;
mod parked;
mod parking;
mod patience;
mod pending;
mod predecessor;
mod private_server;
mod rejection_log;
mod reports;
mod socket_lock;
mod spawn;
mod standalone;
mod succession;
mod systemd;
#[cfg(feature = "actors")]
pub(crate) mod viewers;
mod watchdog;

pub use boot::{Boot, enter};
pub use errors::{ListenError, ServerError};
#[cfg(feature = "actors")]
pub(crate) use orders::PARKED;
pub use standalone::serve;
