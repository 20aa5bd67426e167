//! A supervised pool of forked worker processes for actix applications.
//!
//! A worker is an actix actor whose handlers run in a process of their own, where they may block, panic, crash
//! or hang: that fails their own call and costs a worker, which is replaced. A [`PoolHandle`] runs a message on
//! any free worker, as `SyncArbiter` does; a [`CheckoutHandle`] has one worker to itself, and a [`Checkout`] is the same
//! as an actor. The processes are forked by a fork server, which is this program started again; the application itself
//! never forks.
//!
//! ```no_run
//! use actix::prelude::*;
//! use forkpool::prelude::*;
//! use serde::{Deserialize, Serialize};
//!
//! #[derive(Message, Serialize, Deserialize)]
//! #[rtype(result = "Result<u64, Failure>")]
//! struct Add(u64);
//!
//! struct Counter {
//!     sum: u64,
//! }
//!
//! impl Actor for Counter {
//!     type Context = WorkerContext<Self>;
//! }
//!
//! impl Worker for Counter {
//!     type Config = u64;
//!
//!     fn setup(start: u64, _: &mut WorkerContext<Self>) -> Result<Self, SetupError> {
//!         Ok(Counter { sum: start })
//!     }
//! }
//!
//! impl Handler<Add> for Counter {
//!     type Result = Result<u64, Failure>;
//!
//!     fn handle(&mut self, Add(number): Add, _: &mut WorkerContext<Self>) -> Self::Result {
//!         self.sum = self.sum.checked_add(number).ok_or_else(|| Failure::task("too large"))?;
//!         Ok(self.sum)
//!     }
//! }
//!
//! forkpool::interface!(Counter { Add }); // the messages that may be sent
//! forkpool::boot!(Counter); // lets this program be started again as the fork server
//!
//! #[actix::main]
//! async fn main() -> Result<(), Box<dyn std::error::Error>> {
//!     let pool = Pool::<Counter>::builder(40).workers(1..=4).start()?;
//!     println!("{}", pool.send(Add(1)).await?); // on any free worker
//!
//!     let checkout = pool.checkout().open(); // one worker, until the handle is dropped
//!     checkout.call(Add(1)).await?;
//!     println!("{}", checkout.call(Add(1)).await?);
//!     Ok(())
//! }
//! ```
//!
//! Reading order: [`prelude`] is what a user needs in scope. [`Worker`] and [`WorkerContext`] are a worker's side of a
//! call; [`PoolHandle`], [`CheckoutHandle`], [`Checkout`] and [`Pool`] are its caller's; a caller receives a [`Failure`] if no handler
//! answered. The attribute [`methods`] writes messages, handlers and interface of a worker. [`PoolBuilder`] has the options and [`Stats`] the figures. A [`RequestLog`] collects what belongs to one
//! request in all processes; [`WorkerLog`] writes to it from a worker.
//!
//! The `docs` folder of the package explains the architecture, what a worker inherits, and the messages between the
//! processes.

#![warn(missing_docs, missing_debug_implementations, unreachable_pub)]
#![cfg_attr(not(test), warn(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::todo))]
#![cfg_attr(docsrs, feature(doc_cfg))]

/// The program in the README is a documentation test.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

#[cfg(not(target_os = "linux"))]
compile_error!(
    "forkpool runs on Linux only, 5.10 or newer: build for a Linux target, for example in a container"
);

#[cfg(target_os = "linux")]
mod address;
#[cfg(target_os = "linux")]
mod blob;
#[cfg(target_os = "linux")]
mod certificates;
#[cfg(target_os = "linux")]
mod channel;
#[cfg(target_os = "linux")]
mod clock;
#[cfg(target_os = "linux")]
mod config;
#[cfg(target_os = "linux")]
mod escape;
#[cfg(target_os = "linux")]
mod failure;
#[cfg(target_os = "linux")]
mod frozen_time;
#[cfg(target_os = "linux")]
mod request_log;
#[cfg(target_os = "linux")]
mod server;
#[cfg(target_os = "linux")]
mod silence;
#[cfg(target_os = "linux")]
mod sys;
#[cfg(target_os = "linux")]
mod telling;
#[cfg(all(any(test, fuzzing), target_os = "linux"))]
#[doc(hidden)]
pub mod testing;
#[cfg(target_os = "linux")]
mod user_code;
#[cfg(target_os = "linux")]
mod wire;
#[cfg(target_os = "linux")]
mod worker;

// The host side uses the wire, which is private to this crate, so it is a module and not a crate of its own.
#[cfg(all(feature = "actors", target_os = "linux"))]
#[path = "../actors/mod.rs"]
mod actors;

#[cfg(target_os = "linux")]
pub use crate::{
    address::AddressError,
    blob::{Blob, BlobMut, BlobReader},
    certificates::{CertificateError, Certificates},
    config::{Backoff, OnCancel, OnMisfit, OptionError, Transport},
    failure::{Ending, Failure, FailureKind, MemoryVerdict, PanicReport, Phase, SetupError},
    request_log::{FinishedLog, LogLevel, LogMessage, LogTimer, LogTiming, RequestLog},
    server::{ListenError, ServerError},
    wire::frame::PayloadError,
    worker::{Preload, SharedBytes, WorkerLog, WorkerTimer},
};

#[cfg(all(feature = "actors", target_os = "linux"))]
#[cfg_attr(docsrs, doc(cfg(feature = "actors")))]
pub use crate::actors::*;

/// What the macros of this crate expand to, and what is called from there alone.
#[cfg(target_os = "linux")]
#[doc(hidden)]
pub mod __private {
    #[cfg(feature = "actors")]
    pub use crate::actors::expanded::crates::*;
    #[cfg(feature = "actors")]
    pub use crate::actors::{
        ByDebug, ByDisplay, ByName, Describe, Described, Fallible, Function, NoMessage, is_argument,
        is_result, last_segment,
    };
    pub use crate::config::ServerOptions;
    pub use crate::server::{Boot, enter, serve};
    pub use crate::worker::{Incoming, Program, Replying, Service, Setup, Signature, blob};
}
