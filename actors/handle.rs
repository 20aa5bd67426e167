//! The handle of a pool: what an application keeps and clones.

use std::future::Future;
use std::marker::PhantomData;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use actix::dev::SendError;
use actix::{Addr, Arbiter, ArbiterHandle, MailboxError, Message};
use actix_rt::time::Sleep;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::oneshot;

use super::batch::Delegation;
use super::blobs;
use super::checkout::Checkout;
use super::context::{ErrorContext, Origin};
use super::desk::Desk;
use super::interface::{Accepts, Worker};
use super::pool::{self, Pool, Relay};
use super::session::{SessionSeed, Terms};
use super::stats::Stats;
use super::supervisor::InspectServer;
use crate::blob::BlobMut;
use crate::config::OnCancel;
use crate::failure::{Failure, FailureKind};
use crate::log::RequestLog;
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
    desk: Arc<Desk>,
    pool: Addr<Pool<W>>,
    arbiter: ArbiterHandle,
}

impl<W: Worker> Drop for Shared<W> {
    fn drop(&mut self) {
        self.desk.close();
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
    pub(super) fn new(desk: Arc<Desk>, pool: Addr<Pool<W>>, arbiter: ArbiterHandle) -> Self {
        PoolHandle { shared: Arc::new(Shared { desk, pool, arbiter }) }
    }

    /// The pool's name.
    pub fn name(&self) -> &str {
        &self.shared.desk.options.name
    }

    /// The pool actor's own address, for a `Recipient` or a message such as [`Stop`](super::Stop). It does not
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
        let desk = &self.shared.desk;
        blobs::room(desk.blobs.as_ref(), capacity).map_err(|full| full.in_pool(self.name()))
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
        let limit = self.shared.desk.options.timeout;
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
            desk: self.shared.desk.clone(),
        }
    }

    /// Runs all these messages, in order, on one free worker: a [`Batch`](super::Batch) on a checkout of its own, with the
    /// pool's `timeout` for each of its calls. The answers stand at the places of their messages.
    ///
    /// # Errors
    ///
    /// Those of the messages, one by one; an error clears the calls behind it.
    ///
    /// # Cancellation
    ///
    /// As that of a [`Batch`](super::Batch).
    #[track_caller]
    pub fn send_batch<M, T, E>(&self, messages: Vec<M>) -> PoolRequest<Vec<Result<T, E>>>
    where
        W: Accepts<M>,
        M: Message<Result = Result<T, E>> + Serialize + Send + 'static,
        T: DeserializeOwned + Send + 'static,
        E: DeserializeOwned + From<Failure> + Send + 'static,
    {
        let (caller, answer) = oneshot::channel();
        let (desk, calls) = (&self.shared.desk, messages.len());
        let batch = Delegation::new(desk, messages, desk.options.timeout, Origin::here());
        batch.run::<W, T, E>(&here_or(&self.shared.arbiter), Some(caller));
        PoolRequest {
            answer,
            timeout: None,
            calls,
            unanswered: |failure, calls| (0..calls).map(|_| Err(E::from(failure.clone()))).collect(),
            desk: desk.clone(),
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
        self.run(&message, self.shared.desk.options.timeout, None);
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
        if !self.shared.desk.is_open() {
            return Err(SendError::Closed(message));
        }
        self.run(&message, self.shared.desk.options.timeout, None);
        Ok(())
    }

    /// Options of a checkout: exclusive use of one worker.
    ///
    /// A checkout that saw an `Err` has its worker replaced when it is released, since what the worker holds may
    /// be in doubt; workers that hold nothing are spared by `keep_after_error(true)`.
    pub fn checkout(&self) -> CheckoutBuilder<W> {
        CheckoutBuilder {
            desk: self.shared.desk.clone(),
            arbiter: self.shared.arbiter.clone(),
            terms: Terms::of(&self.shared.desk.options),
            context: None,
            log: None,
            worker: PhantomData,
        }
    }

    /// What the pool is doing and has done.
    pub fn stats(&self) -> Stats {
        self.shared.desk.stats()
    }

    /// What the pool's fork server is doing and has done, for all applications that it works for; `None` where there is no
    /// server.
    pub fn server_stats(&self) -> impl Future<Output = Option<ServerStats>> + Send + 'static {
        let (inquirer, stats) = oneshot::channel();
        if let Some(supervisor) = self.shared.desk.supervisor() {
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
        pool::stop(self.shared.desk.clone(), drain)
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
        let desk = &self.shared.desk;
        let relay = Relay::<W, M>::new(desk, message, limit, Origin::here());
        relay.run(&here_or(&self.shared.arbiter), caller);
    }
}

/// The current arbiter, or the pool's on a thread that has none.
fn here_or(arbiter: &ArbiterHandle) -> ArbiterHandle {
    Arbiter::try_current().filter(ArbiterHandle::alive).unwrap_or_else(|| arbiter.clone())
}

/// What became of a request, for those who want one error type: a mailbox that is closed is a pool that is
/// stopped, and one that took too long timed out.
impl From<MailboxError> for Failure {
    fn from(error: MailboxError) -> Self {
        let kind = match error {
            MailboxError::Closed => FailureKind::Stopped,
            MailboxError::Timeout => FailureKind::Timeout,
        };
        Failure::of(kind, "")
    }
}

/// The answer to a message that was sent to a pool.
#[must_use = "a call whose request is dropped may never run"]
pub struct PoolRequest<R> {
    answer: oneshot::Receiver<R>,
    timeout: Option<Pin<Box<Sleep>>>,
    calls: usize,
    unanswered: fn(Failure, usize) -> R,
    desk: Arc<Desk>,
}

impl<R> std::fmt::Debug for PoolRequest<R> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PoolRequest").finish_non_exhaustive()
    }
}

impl<R> PoolRequest<R> {
    /// Gives up after this time with `MailboxError::Timeout`, as actix's requests do. It only drops the
    /// request; the pool's own `timeout` is what ends a call.
    pub fn timeout(mut self, limit: Duration) -> Self {
        self.timeout = Some(Box::pin(actix_rt::time::sleep(limit)));
        self
    }
}

impl<R> Future for PoolRequest<R> {
    type Output = Result<R, MailboxError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match Pin::new(&mut self.answer).poll(cx) {
            Poll::Ready(Ok(result)) => return Poll::Ready(Ok(result)),
            // The arbiter it ran on has ended.
            Poll::Ready(Err(_)) => {
                return Poll::Ready(Ok((self.unanswered)(self.desk.stopped(), self.calls)));
            }
            Poll::Pending => {}
        }
        match &mut self.timeout {
            Some(timeout) => timeout.as_mut().poll(cx).map(|()| Err(MailboxError::Timeout)),
            None => Poll::Pending,
        }
    }
}

/// Options of one checkout; each begins as the pool's.
#[must_use = "a checkout exists once it is started"]
pub struct CheckoutBuilder<W: Worker> {
    desk: Arc<Desk>,
    arbiter: ArbiterHandle,
    terms: Terms,
    context: Option<ErrorContext>,
    log: Option<RequestLog>,
    worker: PhantomData<fn() -> W>,
}

impl<W: Worker> std::fmt::Debug for CheckoutBuilder<W> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CheckoutBuilder").field("terms", &self.terms).finish_non_exhaustive()
    }
}

impl<W: Worker> CheckoutBuilder<W> {
    /// Full clock of each call, from its being first in the queue; `None` is no limit. Default: the pool's.
    /// At zero every call is answered with a timeout at once, which costs no worker.
    pub fn timeout(mut self, limit: impl Into<Option<Duration>>) -> Self {
        self.terms.timeout = limit.into();
        self
    }

    /// Longest wait for a worker alone; `None` leaves it to `timeout`. Default: the pool's.
    pub fn wait_timeout(mut self, limit: impl Into<Option<Duration>>) -> Self {
        self.terms.wait_timeout = limit.into();
        self
    }

    /// How long this checkout may hold a worker while it has nothing to run; `None` is no limit. Default: the pool's.
    pub fn idle_checkout_timeout(mut self, limit: impl Into<Option<Duration>>) -> Self {
        self.terms.idle_checkout_timeout = limit.into();
        self
    }

    /// What becomes of a call that runs when its requester drops the future that it waits with. Default: the pool's.
    pub fn on_cancel(mut self, policy: OnCancel) -> Self {
        self.terms.on_cancel = policy;
        self
    }

    /// Whether the worker is kept although a call ended with an error. Default: the pool's.
    pub fn keep_after_error(mut self, keep: bool) -> Self {
        self.terms.keep_after_error = keep;
        self
    }

    /// The context of calls that are sent where none is in force. Default: the one in force where the checkout is
    /// started.
    pub fn in_context(mut self, context: &ErrorContext) -> Self {
        self.context = Some(context.clone());
        self
    }

    /// Attaches a log: each call is a timer in it, named after its message, from being written to the worker until it is
    /// answered, and what the worker logs in the middle of a call joins it, in place of the application's subscriber.
    ///
    /// How much that is the log's verbosity decides, in the worker. A call that fails before it is written is told of by a
    /// message. The log is not delivered before the checkout has been released. Of two logs the second takes the place
    /// of the first.
    pub fn log(mut self, log: &RequestLog) -> Self {
        self.log = Some(log.clone());
        self
    }

    /// Joins the line for a worker and returns the checkout's address, on which calls queue at once.
    ///
    /// The actor runs on the current arbiter, or on the pool's where the thread has none. This never blocks and
    /// never fails: what goes wrong is told to the calls.
    #[track_caller]
    pub fn start(self) -> Addr<Checkout<W>> {
        let arbiter = here_or(&self.arbiter);
        self.start_in(&arbiter)
    }

    /// As [`start`](Self::start), on this arbiter.
    #[track_caller]
    pub fn start_in(self, arbiter: &ArbiterHandle) -> Addr<Checkout<W>> {
        let home = Origin::here().within(self.context).logged_to(self.log);
        let seed = SessionSeed::new(self.desk, self.terms);
        Checkout::start_on(arbiter, seed, self.terms.timeout, home)
    }
}
