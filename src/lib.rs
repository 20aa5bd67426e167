//! A supervised pool of forked worker processes for actix applications.
//!
//! A worker is an actix actor whose handlers run in a process of their own, where they may block, panic, crash
//! or hang: that fails their own call and costs a worker, which is replaced. A [`PoolHandle`] runs a message on
//! any free worker, as `SyncArbiter` does; a [`Checkout`] has one worker to itself. The processes are forked by a
//! fork server, which is this program started again; the application itself never forks.
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
//!     let checkout = pool.checkout().start();
//!     checkout.send(Add(1)).await??;
//!     println!("{}", checkout.send(Add(1)).await??);
//!     Ok(())
//! }
//! ```
//!
//! Reading order: [`prelude`] is what a user needs in scope. [`Worker`] and [`WorkerContext`] are a worker's side
//! of a call, [`Pool`], [`PoolHandle`] and [`Checkout`] its caller's, [`Failure`] is what a caller gets where no
//! handler answered. [`RequestLog`] is what belongs to one request, in all its processes, [`time_of_record`] and
//! [`WorkerLog`] are its two ends. [`PoolBuilder`] and [`config`] have the options, [`Stats`] the figures. [`mod@worker`] is what the
//! loop in a worker process sees of all this, and builds without actix.
//!
//! How it is built, what a worker inherits, and what is said between the processes is in the `docs` folder of the
//! package.

#![warn(missing_docs, unreachable_pub)]
#![cfg_attr(not(test), warn(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::todo))]

mod address;
mod blob;
#[cfg(feature = "tls")]
mod certificates;
#[cfg(not(feature = "tls"))]
#[path = "certificates/disabled.rs"]
mod certificates;
mod channel;
pub mod config;
mod failure;
mod request_log;
mod server;
mod sys;
#[cfg(any(test, fuzzing))]
#[doc(hidden)]
pub mod testing;
mod wire;
pub mod worker;

// The host side is a second room of the same house: it may use the wire, which is nobody else's business, so
// it is a module of this crate and not a crate of its own.
#[cfg(feature = "actors")]
#[path = "../actors/mod.rs"]
pub mod actors;

pub use crate::address::AddressError;
pub use crate::blob::{Blob, BlobMut, BlobReader};
#[cfg(feature = "tls")]
pub use crate::certificates::CertificateError;
pub use crate::certificates::Certificates;
pub use crate::failure::{Ending, Failure, FailureKind, MemoryVerdict, PanicReport, Phase, SetupError};
pub use crate::request_log::{FinishedLog, LogLevel, LogMessage, LogTimer, LogTiming, RequestLog};
pub use crate::server::{ListenError, ServerError, serve};
pub use crate::wire::control::ServerStats;
pub use crate::worker::{SharedBytes, WorkerLog, WorkerTimer};

#[cfg(feature = "actors")]
pub use crate::actors::*;

/// What the macros of this crate expand to.
#[doc(hidden)]
pub mod __private {
    #[cfg(feature = "actors")]
    pub use crate::actors::{
        ByDebug, ByDisplay, ByName, Describe, Described, Fallible, NoMessage, last_segment,
    };
    pub use crate::server::{Boot, enter};
}
