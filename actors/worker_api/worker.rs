//! From a user's actor to what the worker's loop can run.

use std::marker::PhantomData;
use std::time::Instant;

use actix::{Actor, ActorContext, ActorState};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::interface::Interface;
use crate::blob::BlobMut;
use crate::failure::{Failure, SetupError};
use crate::wire::baggage;
use crate::worker::{Preload, WorkerLog};

/// An actor whose context is a forked process.
///
/// Its handlers block as they like. It is named in a [`boot!`](crate::boot) line and its messages in an
/// [`interface!`](crate::interface).
pub trait Worker: Actor<Context = WorkerContext<Self>> + Interface {
    /// What [`setup`](Self::setup) gets; it travels to the fork server once, when the pool is started.
    type Config: Serialize + DeserializeOwned + Send + 'static;

    /// Makes one worker, in its own process, before its first call.
    ///
    /// # Errors
    ///
    /// Whatever is returned reaches the first waiting call as [`Setup`](crate::FailureKind::Setup); the worker
    /// is replaced, with growing waits between attempts.
    fn setup(config: Self::Config, ctx: &mut WorkerContext<Self>) -> Result<Self, SetupError>;

    /// Runs after every release, also when no call was made, and never in a worker that is being replaced: the
    /// place for a ROLLBACK. The next checkout's first call waits behind it.
    fn checkout_done(&mut self, ctx: &mut WorkerContext<Self>) {
        let _ = ctx;
    }

    /// Runs once, in the fork server, before the first fork: what it puts into `shared` is shared
    /// copy-on-write by all workers of the pool. It must not leave a thread behind.
    ///
    /// # Errors
    ///
    /// Reaches the first waiting call as [`Setup`](crate::FailureKind::Setup); the server is started again,
    /// with growing waits between attempts.
    fn preload(config: &Self::Config, shared: &mut Preload) -> Result<(), SetupError> {
        let _ = (config, shared);
        Ok(())
    }
}

/// The context of a worker: what a handler can learn of its call and ask of its pool.
pub struct WorkerContext<W> {
    preload: &'static Preload,
    pub(super) call: Option<CallInfo>,
    pub(super) keep: bool,
    pub(super) stop: bool,
    /// What came along with the running call, as it travelled.
    pub(super) baggage: Vec<u8>,
    worker: PhantomData<fn() -> W>,
}

/// Which call a worker is running.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct CallInfo {
    /// Its number within its checkout, from 1.
    pub id: u64,
    /// The name of its message.
    pub name: &'static str,
    /// When its caller stops waiting; `None` is never.
    pub deadline: Option<Instant>,
}

impl<W> WorkerContext<W> {
    pub(super) fn new(preload: &'static Preload) -> Self {
        WorkerContext {
            preload,
            call: None,
            keep: false,
            stop: false,
            baggage: Vec::new(),
            worker: PhantomData,
        }
    }

    /// When the caller of the running call stops waiting; `None` is never, and outside of calls.
    pub fn deadline(&self) -> Option<Instant> {
        self.call.and_then(|call| call.deadline)
    }

    /// The running call; `None` in `setup` and `checkout_done`.
    pub fn call(&self) -> Option<CallInfo> {
        self.call
    }

    /// Keeps this worker although the running call ends with an error: what it holds is not in doubt.
    pub fn keep_worker(&mut self) {
        self.keep = true;
    }

    /// The baggage of this type that the running call's context has, see
    /// [`ErrorContext::baggage`](crate::actors::ErrorContext::baggage). It is decoded here; `None` if there is none, or if
    /// it cannot be decoded.
    pub fn baggage<T: DeserializeOwned>(&self) -> Option<T> {
        baggage::read(&self.baggage)
    }

    /// Room for a blob of so many bytes at most, which the application will read where it is written; ordinary memory for
    /// fewer than 16 KiB, and where the application is reached over a network.
    ///
    /// # Errors
    ///
    /// [`Overloaded`](crate::FailureKind::Overloaded) where the application still has other results of this worker that
    /// leave no room in [`blob_memory`](crate::Builder::blob_memory).
    pub fn blob(&self, capacity: usize) -> Result<BlobMut, Failure> {
        crate::worker::blob(capacity)
    }

    /// The log of the request that the running call belongs to.
    pub fn log(&self) -> WorkerLog {
        WorkerLog::new()
    }

    /// What the preload put into the shared memory, or `None` if it put no value of this type there.
    pub fn preloaded<T: 'static>(&self) -> Option<&'static T> {
        self.preload.get()
    }
}

impl<W> std::fmt::Debug for WorkerContext<W> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("WorkerContext").field("call", &self.call).finish_non_exhaustive()
    }
}

impl<W> ActorContext for WorkerContext<W> {
    /// Asks to be replaced, as in `SyncContext`: the current reply is delivered, and the worker is replaced
    /// when its checkout is released.
    fn stop(&mut self) {
        self.stop = true;
    }

    fn terminate(&mut self) {
        self.stop = true;
    }

    fn state(&self) -> ActorState {
        if self.stop { ActorState::Stopping } else { ActorState::Running }
    }
}
