//! The handle of a pool: what an application keeps and clones.

use std::future::Future;
use std::marker::PhantomData;
use std::sync::Arc;
use std::time::Duration;

use actix::dev::SendError;
use actix::{Addr, Arbiter, ArbiterHandle, Message};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::oneshot;

use super::checkout_builder::CheckoutBuilder;
use super::pool;
use super::pool::Pool;
use super::request::PoolRequest;
use super::stats::Stats;
use crate::actors::context::Origin;
use crate::actors::scheduler::Scheduler;
use crate::actors::session::CallOptions;
use crate::actors::session::dispatch::{Delegation, Relay};
use crate::actors::supervisor::InspectServer;
use crate::actors::transport::blobs;
use crate::actors::worker_api::interface::Accepts;
use crate::actors::worker_api::worker::Worker;
use crate::blob::BlobMut;
use crate::failure::Failure;
use crate::wire::control::ServerStats;

/// A pool of workers, to be cloned wherever it is needed.
///
/// Calls and checkouts run on the arbiter they are made on; on a thread without one they run on the pool's.
/// When the last clone is dropped, checkouts that hold or wait for a worker are served until they are released,
/// and then the pool ends.
pub struct PoolHandle<W: Worker> {
    shared: Arc<Shared<W>>,
}

struct Shared<W: Worker> {
    scheduler: Arc<Scheduler>,
    pool: Addr<Pool<W>>,
    arbiter: ArbiterHandle,
}

impl<W: Worker> Drop for Shared<W> {
    fn drop(&mut self) {
        self.scheduler.close();
    }
}

impl<W: Worker> Clone for PoolHandle<W> {
    fn clone(&self) -> Self {
        PoolHandle { shared: self.shared.clone() }
    }
}

impl<W: Worker> std::fmt::Debug for PoolHandle<W> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PoolHandle").field("name", &self.name()).finish_non_exhaustive()
    }
}

impl<W: Worker> PoolHandle<W> {
    pub(crate) fn new(scheduler: Arc<Scheduler>, pool: Addr<Pool<W>>, arbiter: ArbiterHandle) -> Self {
        PoolHandle { shared: Arc::new(Shared { scheduler, pool, arbiter }) }
    }

    /// The pool's name.
    pub fn name(&self) -> &str {
        &self.shared.scheduler.options.name
    }

    /// The pool actor's own address, for a `Recipient` or a message such as [`Stop`](crate::actors::Stop). It does not
    /// keep the pool running: handles and checkouts do.
    pub fn addr(&self) -> Addr<Pool<W>> {
        self.shared.pool.clone()
    }

    /// Room for a blob of so many bytes at most, which workers of this pool will read where it is written; ordinary memory
    /// for fewer than 16 KiB, and where the pool's workers are reached over a network.
    ///
    /// # Errors
    ///
    /// [`Overloaded`](FailureKind::Overloaded) where other blobs have the pool's
    /// [`blob_memory`](crate::Builder::blob_memory).
    pub fn blob(&self, capacity: usize) -> Result<BlobMut, Failure> {
        let scheduler = &self.shared.scheduler;
        blobs::allocation(scheduler.blobs.as_ref(), capacity).map_err(|full| full.in_pool(self.name()))
    }

    /// Runs a message on any free worker, as with `SyncArbiter`; the clock is the pool's `timeout`.
    ///
    /// # Errors
    ///
    /// The message's own error, made from a [`Failure`] where it was not the handler that failed.
    ///
    /// # Cancellation
    ///
    /// A call whose future is dropped before a worker had it is not run; one that runs is let finish.
    #[track_caller]
    pub fn send<M, T, E>(&self, message: M) -> PoolRequest<Result<T, E>>
    where
        W: Accepts<M>,
        M: Message<Result = Result<T, E>> + Serialize,
        T: DeserializeOwned + Send + 'static,
        E: DeserializeOwned + From<Failure> + Send + 'static,
    {
        let limit = self.shared.scheduler.options.timeout;
        self.send_within(limit, message)
    }

    /// As [`send`](Self::send), with a clock of its own; `None` is no limit, and zero is answered with a timeout
    /// at once.
    ///
    /// # Errors
    ///
    /// As [`send`](Self::send).
    #[track_caller]
    pub fn send_within<M, T, E>(
        &self,
        limit: impl Into<Option<Duration>>,
        message: M,
    ) -> PoolRequest<Result<T, E>>
    where
        W: Accepts<M>,
        M: Message<Result = Result<T, E>> + Serialize,
        T: DeserializeOwned + Send + 'static,
        E: DeserializeOwned + From<Failure> + Send + 'static,
    {
        let (caller, answer) = oneshot::channel();
        self.run(&message, limit.into(), Some(caller));
        PoolRequest {
            answer,
            timeout: None,
            calls: 1,
            unanswered: |failure, _| Err(E::from(failure)),
            scheduler: self.shared.scheduler.clone(),
        }
    }

    /// Runs all these messages, in order, on one free worker: a [`Batch`](crate::actors::Batch) on a checkout of its own, with the
    /// pool's `timeout` for each of its calls. The answers stand at the places of their messages.
    ///
    /// # Errors
    ///
    /// Those of the messages, one by one; an error clears the calls behind it.
    ///
    /// # Cancellation
    ///
    /// As that of a [`Batch`](crate::actors::Batch).
    #[track_caller]
    pub fn send_batch<M, T, E>(&self, messages: Vec<M>) -> PoolRequest<Vec<Result<T, E>>>
    where
        W: Accepts<M>,
        M: Message<Result = Result<T, E>> + Serialize + Send + 'static,
        T: DeserializeOwned + Send + 'static,
        E: DeserializeOwned + From<Failure> + Send + 'static,
    {
        let (caller, answer) = oneshot::channel();
        let (scheduler, calls) = (&self.shared.scheduler, messages.len());
        let batch = Delegation::new(scheduler, messages, scheduler.options.timeout, Origin::here());
        batch.run::<W, T, E>(&here_or(&self.shared.arbiter), Some(caller));
        PoolRequest {
            answer,
            timeout: None,
            calls,
            unanswered: |failure, calls| (0..calls).map(|_| Err(E::from(failure.clone()))).collect(),
            scheduler: scheduler.clone(),
        }
    }

    /// Runs a message on any free worker and forgets its answer.
    #[track_caller]
    pub fn do_send<M, T, E>(&self, message: M)
    where
        W: Accepts<M>,
        M: Message<Result = Result<T, E>> + Serialize,
        T: DeserializeOwned + Send + 'static,
        E: DeserializeOwned + From<Failure> + Send + 'static,
    {
        self.run(&message, self.shared.scheduler.options.timeout, None);
    }

    /// As [`do_send`](Self::do_send).
    ///
    /// # Errors
    ///
    /// [`SendError::Closed`] where the pool has ended or is ending; the message comes back. It is never `Full`.
    #[track_caller]
    pub fn try_send<M, T, E>(&self, message: M) -> Result<(), SendError<M>>
    where
        W: Accepts<M>,
        M: Message<Result = Result<T, E>> + Serialize,
        T: DeserializeOwned + Send + 'static,
        E: DeserializeOwned + From<Failure> + Send + 'static,
    {
        if !self.shared.scheduler.is_open() {
            return Err(SendError::Closed(message));
        }
        self.run(&message, self.shared.scheduler.options.timeout, None);
        Ok(())
    }

    /// Options of a checkout: exclusive use of one worker.
    ///
    /// A checkout that saw an `Err` has its worker replaced when it is released, since what the worker holds may
    /// be in doubt; workers that hold nothing are spared by `keep_after_error(true)`.
    pub fn checkout(&self) -> CheckoutBuilder<W> {
        CheckoutBuilder {
            scheduler: self.shared.scheduler.clone(),
            arbiter: self.shared.arbiter.clone(),
            options: CallOptions::of(&self.shared.scheduler.options),
            context: None,
            log: None,
            worker: PhantomData,
        }
    }

    /// What the pool is doing and has done.
    pub fn stats(&self) -> Stats {
        self.shared.scheduler.stats()
    }

    /// What the pool's fork server is doing and has done, for all applications that it works for; `None` where there is no
    /// server.
    pub fn server_stats(&self) -> impl Future<Output = Option<ServerStats>> + Send + 'static {
        let (inquirer, stats) = oneshot::channel();
        if let Some(supervisor) = self.shared.scheduler.supervisor() {
            supervisor.do_send(InspectServer(inquirer));
        }
        async { stats.await.ok() }
    }

    /// Ends the pool: nobody new gets a worker, what is queued on held checkouts may finish for `drain`, then
    /// whatever still runs is killed. Ready once the last process of the pool has been reaped.
    ///
    /// # Cancellation
    ///
    /// The pool ends all the same.
    pub fn stop(&self, drain: Duration) -> impl Future<Output = ()> + Send + 'static {
        pool::stop(self.shared.scheduler.clone(), drain)
    }

    #[track_caller]
    fn run<M, T, E>(
        &self,
        message: &M,
        limit: Option<Duration>,
        caller: Option<oneshot::Sender<Result<T, E>>>,
    ) where
        W: Accepts<M>,
        M: Message<Result = Result<T, E>> + Serialize,
        T: DeserializeOwned + Send + 'static,
        E: DeserializeOwned + From<Failure> + Send + 'static,
    {
        let scheduler = &self.shared.scheduler;
        let relay = Relay::<W, M>::new(scheduler, message, limit, Origin::here());
        relay.run(&here_or(&self.shared.arbiter), caller);
    }
}

/// The current arbiter, or the pool's on a thread that has none.
pub(super) fn here_or(arbiter: &ArbiterHandle) -> ArbiterHandle {
    Arbiter::try_current().filter(ArbiterHandle::alive).unwrap_or_else(|| arbiter.clone())
}
