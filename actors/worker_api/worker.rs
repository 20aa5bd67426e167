//! The worker actor, and the context of its handlers.

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
/// Its handlers may block, panic, crash or hang: that fails their own call and costs this worker process, which is
/// replaced. The worker is named in a [`boot!`](crate::boot) line, and its messages in an
/// [`interface!`](crate::interface).
pub trait Worker: Actor<Context = WorkerContext<Self>> + Interface {
    /// What [`setup`](Self::setup) receives. It is sent to the fork server once, when the pool starts.
    type Config: Serialize + DeserializeOwned + Send + 'static;

    /// Makes one worker, in its own process, before its first call.
    ///
    /// [`setup_timeout`](crate::PoolBuilder::setup_timeout) limits its duration, and the limit of a call that waits
    /// for it goes on.
    ///
    /// # Errors
    ///
    /// An error, a panic or an exit of the process fails the first waiting call with
    /// [`Setup`](crate::FailureKind::Setup). The worker is replaced, and the waits between attempts grow
    /// ([`restart`](crate::PoolBuilder::restart)).
    fn setup(config: Self::Config, ctx: &mut WorkerContext<Self>) -> Result<Self, SetupError>;

    /// Runs after every release, also if no call was made, but not in a worker that is being replaced. Does nothing by
    /// default.
    ///
    /// It is the place for a `ROLLBACK`. The first call of the next checkout waits until it returns.
    ///
    /// The next checkout has the same process, with all that handlers have changed in it: the working directory, the umask,
    /// environment variables, limits, signal handlers and masks, open descriptors, threads, child processes that still run,
    /// and memory. The library puts none of that back. Do it here, or have the worker replaced, with
    /// [`WorkerContext::stop`] or [`max_checkouts`](crate::PoolBuilder::max_checkouts).
    fn checkout_done(&mut self, ctx: &mut WorkerContext<Self>) {
        let _ = ctx;
    }

    /// Runs once in the fork server, before the first fork. Does nothing by default.
    ///
    /// All workers of the pool share, copy-on-write, what it puts into `shared`. It fails if it leaves a thread running,
    /// since a fork would not copy it.
    ///
    /// # Errors
    ///
    /// An error fails the first waiting call with [`Setup`](crate::FailureKind::Setup). The server is started again,
    /// and the waits between attempts grow.
    fn preload(config: &Self::Config, shared: &mut Preload) -> Result<(), SetupError> {
        let _ = (config, shared);
        Ok(())
    }
}

/// The context of a worker: what a handler can learn about its call and ask of its pool.
pub struct WorkerContext<W> {
    preload: &'static Preload,
    pub(super) call: Option<CallInfo>,
    pub(super) keep: bool,
    pub(super) stop: bool,
    /// The encoded baggage of the running call.
    pub(super) baggage: Vec<u8>,
    worker: PhantomData<fn() -> W>,
}

/// The call that a worker is running.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct CallInfo {
    /// The call's number within its checkout, from 1.
    pub id: u64,
    /// The name of its message.
    pub name: &'static str,
    /// When the call's time limit ends; `None` if it has no limit.
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

    /// Returns when the time limit of the running call ends; `None` if it has no limit, and outside of calls. It ends later
    /// if the application was frozen meanwhile.
    pub fn deadline(&self) -> Option<Instant> {
        self.call.and_then(|call| call.deadline)
    }

    /// Returns the running call; `None` in `setup` and `checkout_done`.
    pub fn call(&self) -> Option<CallInfo> {
        self.call
    }

    /// Keeps this worker even if the running call returns an error.
    ///
    /// By default a worker is replaced when a checkout that saw an error is released, since its state (a transaction,
    /// a session) may be inconsistent. A handler that knows better calls this.
    pub fn keep_worker(&mut self) {
        self.keep = true;
    }

    /// Returns the value of this type among the baggage of the call's error-handling context, see
    /// [`ErrorContext::baggage`](crate::ErrorContext::baggage); `None` if there is none, or if it cannot be decoded.
    pub fn baggage<T: DeserializeOwned>(&self) -> Option<T> {
        baggage::read(&self.baggage)
    }

    /// Allocates a blob of at most `capacity` bytes in memory that the application reads in place.
    ///
    /// Below 16 KiB, and if the application is reached over a network, it is ordinary memory.
    ///
    /// # Errors
    ///
    /// [`Overloaded`](crate::FailureKind::Overloaded) if the application still holds so many results of this worker that
    /// [`blob_memory`](crate::PoolBuilder::blob_memory) has not enough space left, and
    /// [`Payload`](crate::FailureKind::Payload) if all of it would not be enough; nothing is allocated then.
    pub fn blob(&self, capacity: usize) -> Result<BlobMut, Failure> {
        crate::worker::blob(capacity)
    }

    /// Returns the log of the request to which the running call belongs.
    pub fn log(&self) -> WorkerLog {
        WorkerLog::new()
    }

    /// Returns the value of this type that [`preload`](Worker::preload) put there; `None` if it put none.
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
    /// Asks for a replacement, as in `SyncContext`: the current reply is delivered, and the worker is replaced when its
    /// checkout is released.
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
