//! A supervised pool of forked worker processes for actix applications.

#![warn(missing_docs, unreachable_pub)]
#![cfg_attr(not(test), warn(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::todo))]

mod channel;
pub mod config;
mod failure;
mod server;
mod sys;
mod wire;
pub mod worker;

// The host side is a second room of the same house: it may use the wire, which is nobody else's business, so
// it is a module of this crate and not a crate of its own.
#[cfg(feature = "actors")]
#[path = "../actors/mod.rs"]
pub mod actors;

pub use failure::{Ending, Failure, FailureKind, PanicReport, Phase, SetupError};

#[cfg(feature = "actors")]
pub use actors::*;

/// What the macros of this crate expand to.
#[doc(hidden)]
pub mod __private {
    pub use crate::server::{Boot, enter};
}
