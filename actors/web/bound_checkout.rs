//! Checkouts whose calls are bound to a request.

use std::fmt;
use std::time::Duration;

use actix::Message;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::bound_call::{About, BoundCall, Terms};
use crate::actors::api::checkout_builder::CheckoutBuilder;
use crate::actors::api::checkout_call::CheckoutCall;
use crate::actors::api::checkout_handle::CheckoutHandle;
use crate::actors::api::request::PoolRequest;
use crate::actors::context::ErrorContext;
use crate::actors::worker_api::interface::Accepts;
use crate::actors::worker_api::worker::Worker;
use crate::failure::Failure;
use crate::request_log::RequestLog;

/// The options of a checkout whose calls are bound to a web request. They are those of a
/// [`CheckoutBuilder`](crate::CheckoutBuilder), but that [`Config::on_client_gone`](super::Config::on_client_gone) says what
/// becomes of a call that is given up.
#[must_use = "a checkout exists once it is opened"]
pub struct BoundCheckoutBuilder<W: Worker> {
    builder: CheckoutBuilder<W>,
    terms: Terms,
}

impl<W: Worker> fmt::Debug for BoundCheckoutBuilder<W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BoundCheckoutBuilder").field("builder", &self.builder).finish_non_exhaustive()
    }
}

impl<W: Worker> BoundCheckoutBuilder<W> {
    pub(super) fn new(builder: CheckoutBuilder<W>, terms: Terms) -> Self {
        BoundCheckoutBuilder { builder, terms }
    }

    /// As [`CheckoutBuilder::timeout`](crate::CheckoutBuilder::timeout); the request's deadline holds as well.
    pub fn timeout(self, limit: impl Into<Option<Duration>>) -> Self {
        BoundCheckoutBuilder { builder: self.builder.timeout(limit), ..self }
    }

    /// As [`CheckoutBuilder::wait_timeout`](crate::CheckoutBuilder::wait_timeout).
    pub fn wait_timeout(self, limit: impl Into<Option<Duration>>) -> Self {
        BoundCheckoutBuilder { builder: self.builder.wait_timeout(limit), ..self }
    }

    /// As [`CheckoutBuilder::idle_checkout_timeout`](crate::CheckoutBuilder::idle_checkout_timeout).
    pub fn idle_checkout_timeout(self, limit: impl Into<Option<Duration>>) -> Self {
        BoundCheckoutBuilder { builder: self.builder.idle_checkout_timeout(limit), ..self }
    }

    /// As [`CheckoutBuilder::keep_after_error`](crate::CheckoutBuilder::keep_after_error).
    pub fn keep_after_error(self, keep: bool) -> Self {
        BoundCheckoutBuilder { builder: self.builder.keep_after_error(keep), ..self }
    }

    /// As [`CheckoutBuilder::in_context`](crate::CheckoutBuilder::in_context).
    pub fn in_context(self, context: &ErrorContext) -> Self {
        BoundCheckoutBuilder { builder: self.builder.in_context(context), ..self }
    }

    /// As [`CheckoutBuilder::log`](crate::CheckoutBuilder::log).
    pub fn log(self, log: &RequestLog) -> Self {
        BoundCheckoutBuilder { builder: self.builder.log(log), ..self }
    }

    /// Joins the queue for a worker and returns the checkout's handle, as
    /// [`CheckoutBuilder::open`](crate::CheckoutBuilder::open) does.
    #[track_caller]
    pub fn open(self) -> BoundCheckout<W> {
        let timeout = self.builder.limit();
        BoundCheckout { handle: self.builder.open(), timeout, terms: self.terms }
    }
}

/// Exclusive use of one worker, by calls that are bound to a web request: a [`CheckoutHandle`](crate::CheckoutHandle) whose
/// calls end when the client is gone.
///
/// The worker is released once this is dropped and all calls are answered. A call that is killed ends the checkout.
///
/// ```no_run
/// # use forkpool::prelude::*;
/// # async fn transfer<W, M>(pool: forkpool::web::Pool<W>, [take, give, commit]: [M; 3]) -> Result<(), Failure>
/// # where
/// #     W: Worker + forkpool::Accepts<M>,
/// #     M: actix::Message<Result = Result<(), Failure>> + serde::Serialize,
/// # {
/// let checkout = pool.checkout().open();
/// checkout.call(take).await?;
/// checkout.call(give).await?;
/// checkout.call(commit).await
/// # }
/// ```
pub struct BoundCheckout<W: Worker> {
    handle: CheckoutHandle<W>,
    timeout: Option<Duration>,
    terms: Terms,
}

impl<W: Worker> fmt::Debug for BoundCheckout<W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BoundCheckout").field("handle", &self.handle).finish_non_exhaustive()
    }
}

impl<W: Worker> BoundCheckout<W> {
    /// Returns the checkout, whose own calls are not bound to the request: for what has to be finished whether the client waits
    /// or not.
    pub fn handle(&self) -> &CheckoutHandle<W> {
        &self.handle
    }

    /// Calls the worker, as [`CheckoutHandle::call`](crate::CheckoutHandle::call) does, until the client is gone or the
    /// request's deadline has passed.
    ///
    /// # Errors
    ///
    /// As [`CheckoutHandle::call`](crate::CheckoutHandle::call), and [`Cancelled`](crate::FailureKind::Cancelled) once the
    /// client is gone.
    ///
    /// # Cancellation
    ///
    /// As that of a [`BoundCall`].
    #[track_caller]
    pub fn call<M, T, E>(&self, message: M) -> BoundCall<CheckoutCall<T, E>>
    where
        W: Accepts<M>,
        M: Message<Result = Result<T, E>> + Serialize,
        T: DeserializeOwned + 'static,
        E: DeserializeOwned + From<Failure> + 'static,
    {
        self.call_within(self.timeout, message)
    }

    /// As [`call`](Self::call), with a time limit of its own; the request's deadline holds as well.
    ///
    /// # Errors
    ///
    /// As [`call`](Self::call).
    ///
    /// # Cancellation
    ///
    /// As that of a [`BoundCall`].
    #[track_caller]
    pub fn call_within<M, T, E>(
        &self,
        limit: impl Into<Option<Duration>>,
        message: M,
    ) -> BoundCall<CheckoutCall<T, E>>
    where
        W: Accepts<M>,
        M: Message<Result = Result<T, E>> + Serialize,
        T: DeserializeOwned + 'static,
        E: DeserializeOwned + From<Failure> + 'static,
    {
        let (about, limit) = (self.about::<M>(1), self.terms.limit(limit.into()));
        let Some(policy) = self.terms.policy() else { return self.terms.bind(about, None) };
        let call = self.handle.call_within(limit, message).on_cancel(policy);
        self.terms.bind_queued(about, Some(call))
    }

    /// Makes all these calls, as [`CheckoutHandle::call_batch`](crate::CheckoutHandle::call_batch) does, until the client is
    /// gone or the request's deadline has passed.
    ///
    /// # Errors
    ///
    /// Those of each message, as for [`call`](Self::call).
    ///
    /// # Cancellation
    ///
    /// As that of a [`BoundCall`].
    #[track_caller]
    pub fn call_batch<M, T, E>(&self, messages: Vec<M>) -> BoundCall<PoolRequest<Vec<Result<T, E>>>>
    where
        W: Accepts<M>,
        M: Message<Result = Result<T, E>> + Serialize,
        T: DeserializeOwned + 'static,
        E: DeserializeOwned + From<Failure> + 'static,
    {
        let (about, limit) = (self.about::<M>(messages.len()), self.terms.limit(self.timeout));
        let Some(policy) = self.terms.policy() else { return self.terms.bind(about, None) };
        let call = self.handle.call_batch_within(limit, messages).on_cancel(policy);
        self.terms.bind_queued(about, Some(call))
    }

    /// Ends the checkout, as [`CheckoutHandle::abort`](crate::CheckoutHandle::abort) does.
    pub fn abort(&self, reason: impl Into<String>) {
        self.handle.abort(reason);
    }

    fn about<M>(&self, calls: usize) -> About
    where
        W: Accepts<M>,
    {
        About { scheduler: self.handle.scheduler().clone(), message: W::NAME, calls }
    }
}
