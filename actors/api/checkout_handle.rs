//! The handle of a checkout: calls that reach the worker without an actor in between.

use std::cell::RefCell;
use std::marker::PhantomData;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use actix::Message;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::oneshot;

use super::checkout_call::{CheckoutCall, Refusal, no_event_loop};
use super::request::PoolRequest;
use crate::actors::calls::payload::Payload;
use crate::actors::context::CallOrigin;
use crate::actors::reply::{AnswerSlot, BatchSlots, OwnPolicy};
use crate::actors::scheduler::Scheduler;
use crate::actors::session::direct::{Control, DirectSession, Executor, SessionPlace};
use crate::actors::session::dispatch::{CallLimit, LimitedMessage, call, calls_of, limit_of, method_of};
use crate::actors::session::{PendingSession, UnusedCheckout};
use crate::actors::worker_api::interface::Accepts;
use crate::actors::worker_api::worker::Worker;
use crate::failure::{Failure, FailureKind};
use crate::user_code::{UserValues, drop_caught};

/// Exclusive use of one worker, without an actor in between: a call is written to the worker by the code that makes it.
///
/// [`CheckoutBuilder::open`](crate::CheckoutBuilder::open) makes one. It joins the queue for a worker at once. It is the
/// fastest way to make calls one after the other, or many at once, on one worker. Its calls run in the order in which they
/// were made, as those of a [`Checkout`](crate::Checkout) do.
///
/// The handle is `Send` and not `Sync`; share it with an `Rc` between the tasks of a thread. The checkout stays on the
/// thread of the first call, and runs on the actix arbiter there, or on the tokio runtime if that is of the flavor
/// `current_thread` and has I/O and time enabled. Calls on any other thread are answered
/// [`Elsewhere`](FailureKind::Elsewhere), and change nothing. Until the first call the handle may be moved; it keeps its
/// place in the queue, or its worker, until it is dropped, the pool is stopped, or it has held the worker for
/// [`idle_checkout_timeout`](crate::PoolBuilder::idle_checkout_timeout).
///
/// Dropping the handle, on any thread, releases the worker once all calls are answered.
///
/// # Errors
///
/// A call is answered with the handler's own error, or with an error made from a [`Failure`] if the handler did not
/// answer. An error answers with [`Cleared`](FailureKind::Cleared) the calls that were made before the future of the failed
/// call was ready; calls that are made later run. After a fatal error (the worker died, panicked, timed out, was aborted or
/// broke the protocol) every later call is answered with the same failure at once.
///
/// # Cancellation
///
/// If a call's future is dropped before the call is written to the worker, it never runs. A call that runs is let finish,
/// or its worker is killed, as [`on_cancel`](crate::PoolBuilder::on_cancel) of the pool, the checkout or the call says.
pub struct CheckoutHandle<W: Worker> {
    progress: RefCell<Progress>,
    control: Arc<Control>,
    scheduler: Arc<Scheduler>,
    timeout: Option<Duration>,
    /// The source location and the error-handling context in which the checkout was made.
    home: CallOrigin,
    worker: PhantomData<fn() -> W>,
}

/// How far a checkout has come.
enum Progress {
    /// It has asked for a worker, and no call was made.
    Unused(Arc<UnusedCheckout>),
    /// Its session is at this place.
    Started(SessionPlace),
    /// It was aborted, or has lost its worker for good, before its first call.
    Over(Failure),
    /// Its session is being started.
    Starting,
}

impl<W: Worker> std::fmt::Debug for CheckoutHandle<W> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CheckoutHandle").field("worker", &std::any::type_name::<W>()).finish_non_exhaustive()
    }
}

impl<W: Worker> Drop for CheckoutHandle<W> {
    fn drop(&mut self) {
        self.control.close();
        if let Progress::Unused(unused) = self.progress.get_mut() {
            drop(unused.take());
        }
    }
}

impl<W: Worker> CheckoutHandle<W> {
    pub(super) fn new(pending: PendingSession, timeout: Option<Duration>, home: CallOrigin) -> Self {
        let scheduler = pending.scheduler().clone();
        CheckoutHandle {
            progress: RefCell::new(Progress::Unused(UnusedCheckout::new(pending))),
            control: Arc::default(),
            scheduler,
            timeout,
            home,
            worker: PhantomData,
        }
    }

    /// Calls the worker, with the checkout's [`timeout`](crate::CheckoutBuilder::timeout). The call is made when this
    /// method returns, also if the future is polled later.
    ///
    /// The future resolves to the message's own result, so one `?` is enough:
    /// `let crypted = checkout.call(Hash { .. }).await?;`.
    ///
    /// # Errors
    ///
    /// Those of the [checkout](Self#errors), and [`Elsewhere`](FailureKind::Elsewhere) on a thread on which the checkout
    /// does not run.
    ///
    /// # Cancellation
    ///
    /// As that of the [checkout](Self#cancellation).
    #[track_caller]
    pub fn call<M, T, E>(&self, message: M) -> CheckoutCall<T, E>
    where
        W: Accepts<M>,
        M: Message<Result = Result<T, E>> + Serialize,
        T: DeserializeOwned + 'static,
        E: DeserializeOwned + From<Failure> + 'static,
    {
        self.submit(message, &Ok(self.timeout), self.origin_here())
    }

    /// As [`call`](Self::call), with a time limit of its own: `None` is no limit, and zero is answered
    /// [`Timeout`](FailureKind::Timeout) at once.
    ///
    /// # Errors
    ///
    /// As [`call`](Self::call).
    ///
    /// # Cancellation
    ///
    /// As [`call`](Self::call).
    #[track_caller]
    pub fn call_within<M, T, E>(&self, limit: impl Into<Option<Duration>>, message: M) -> CheckoutCall<T, E>
    where
        W: Accepts<M>,
        M: Message<Result = Result<T, E>> + Serialize,
        T: DeserializeOwned + 'static,
        E: DeserializeOwned + From<Failure> + 'static,
    {
        let origin = self.origin_here();
        self.submit(message, &limit_of(limit), origin)
    }

    /// Makes all these calls, one behind the other, as [`Batch`](crate::Batch) does on the address of a checkout. The
    /// result has one answer for each message, at the message's index.
    ///
    /// # Errors
    ///
    /// Those of each message, as for [`call`](Self::call).
    ///
    /// # Cancellation
    ///
    /// As that of a [`Batch`](crate::Batch).
    #[track_caller]
    pub fn call_batch<M, T, E>(&self, messages: Vec<M>) -> PoolRequest<Vec<Result<T, E>>>
    where
        W: Accepts<M>,
        M: Message<Result = Result<T, E>> + Serialize,
        T: DeserializeOwned + 'static,
        E: DeserializeOwned + From<Failure> + 'static,
    {
        self.call_batch_within(self.timeout, messages)
    }

    /// As [`call_batch`](Self::call_batch), with this time limit for each message.
    #[track_caller]
    pub(crate) fn call_batch_within<M, T, E>(
        &self,
        limit: Option<Duration>,
        messages: Vec<M>,
    ) -> PoolRequest<Vec<Result<T, E>>>
    where
        W: Accepts<M>,
        M: Message<Result = Result<T, E>> + Serialize,
        T: DeserializeOwned + 'static,
        E: DeserializeOwned + From<Failure> + 'static,
    {
        let origin = self.origin_here();
        let (messages, limit) = (UserValues(messages), Ok(limit));
        let ((caller, answer), own) = (oneshot::channel(), OwnPolicy::default());
        let slots = BatchSlots::<Result<T, E>>::answering(messages.0.len(), Some(caller), Some(own.clone()));
        match self.session() {
            Ok(session) => {
                for (call, message) in calls_of::<W, M, T, E>(&messages.0, &slots, &limit, &origin) {
                    session.submit(call, Payload::Value(&message));
                }
            }
            Err(failure) => {
                for place in 0..messages.0.len() {
                    slots.slot(place).fail(self.refusal::<M>(failure.clone(), &origin).report());
                }
            }
        }
        PoolRequest::batch(answer, messages.0.len(), own, self.scheduler.clone())
    }

    /// Ends the checkout: its running and queued calls are answered [`Aborted`](FailureKind::Aborted) with this reason, and
    /// its worker is killed.
    ///
    /// Later calls are answered with the same failure, and no late reply is delivered. It works on any thread, and while the
    /// checkout waits for a worker as well.
    pub fn abort(&self, reason: impl Into<String>) {
        let reason = reason.into();
        if let Ok(session) = self.session() {
            return session.abort(reason);
        }
        let mut progress = self.progress.borrow_mut();
        match &*progress {
            Progress::Unused(unused) => {
                let (failure, pending) = match unused.take() {
                    Ok(pending) => (Failure::of(FailureKind::Aborted, reason), Some(pending)),
                    Err(failure) => (failure, None),
                };
                *progress = Progress::Over(failure);
                drop(progress);
                // No call was made, so the worker goes back to the pool, if there was one.
                drop(pending);
            }
            Progress::Started(_) => self.control.abort(reason),
            Progress::Over(_) | Progress::Starting => {}
        }
    }

    #[cfg(feature = "actix-web")]
    pub(crate) fn scheduler(&self) -> &Arc<Scheduler> {
        &self.scheduler
    }

    #[track_caller]
    fn origin_here(&self) -> CallOrigin {
        self.home.for_awaited_call()
    }

    fn submit<M, T, E>(&self, message: M, limit: &CallLimit, origin: CallOrigin) -> CheckoutCall<T, E>
    where
        W: Accepts<M>,
        M: Message<Result = Result<T, E>> + Serialize,
        T: DeserializeOwned + 'static,
        E: DeserializeOwned + From<Failure> + 'static,
    {
        let made = match self.session() {
            Ok(session) => {
                let (slot, reply) = session.slots::<T, E>(W::METHOD).slot();
                let call = call::<W, M>(slot, limit.clone().unwrap_or(None), origin);
                session.submit(call, Payload::Value(&LimitedMessage(&message, limit)));
                CheckoutCall::waiting(reply, session)
            }
            Err(failure) => CheckoutCall::refused(self.refusal::<M>(failure, &origin)),
        };
        drop_caught(message);
        made
    }

    fn refusal<M>(&self, failure: Failure, origin: &CallOrigin) -> Refusal
    where
        W: Accepts<M>,
    {
        let (origin, scheduler) = (origin.clone(), self.scheduler.clone());
        Refusal { failure, method: method_of::<W, M>(), origin, scheduler }
    }

    /// Returns the session, which the first call starts on its thread.
    ///
    /// # Errors
    ///
    /// Why this thread has none.
    fn session(&self) -> Result<Rc<DirectSession>, Failure> {
        if let Progress::Started(place) = &*self.progress.borrow()
            && let Some(session) = DirectSession::find(*place)
        {
            return Ok(session);
        }
        self.start()
    }

    #[cold]
    fn start(&self) -> Result<Rc<DirectSession>, Failure> {
        let before = std::mem::replace(&mut *self.progress.borrow_mut(), Progress::Starting);
        let (after, started) = match before {
            Progress::Unused(unused) => self.start_here(unused),
            Progress::Started(place) => (Progress::Started(place), Err(self.gone())),
            Progress::Over(failure) => (Progress::Over(failure.clone()), Err(failure)),
            Progress::Starting => (Progress::Starting, Err(no_event_loop())),
        };
        *self.progress.borrow_mut() = after;
        started
    }

    fn start_here(&self, unused: Arc<UnusedCheckout>) -> (Progress, Result<Rc<DirectSession>, Failure>) {
        let Some(executor) = Executor::here() else {
            return (Progress::Unused(unused), Err(no_event_loop()));
        };
        match unused.take() {
            Ok(pending) => {
                let place = DirectSession::start(executor, pending, &self.control);
                (Progress::Started(place), DirectSession::find(place).ok_or_else(no_event_loop))
            }
            Err(failure) => (Progress::Over(failure.clone()), Err(failure)),
        }
    }

    /// Returns why the session is not found on this thread.
    fn gone(&self) -> Failure {
        if self.control.is_ended() {
            return self.scheduler.stopped_failure();
        }
        Failure::of(FailureKind::Elsewhere, "the first call of its checkout was made on another thread")
    }
}
