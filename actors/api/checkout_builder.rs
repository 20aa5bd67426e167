//! The options of one checkout.

use std::marker::PhantomData;
use std::panic::Location;
use std::sync::Arc;
use std::time::Duration;

use actix::{Addr, ArbiterHandle};

use super::checkout::Checkout;
use super::checkout_handle::CheckoutHandle;
use crate::actors::context::{CallOrigin, ErrorContext};
use crate::actors::scheduler::Scheduler;
use crate::actors::session::{CallOptions, PendingSession};
use crate::actors::worker_api::worker::Worker;
use crate::config::OnCancel;
use crate::request_log::RequestLog;

/// The options of one checkout; the default of each is the pool's.
#[must_use = "a checkout exists once it is started"]
pub struct CheckoutBuilder<W: Worker> {
    pub(super) scheduler: Arc<Scheduler>,
    pub(super) options: CallOptions,
    pub(super) context: Option<ErrorContext>,
    pub(super) log: Option<RequestLog>,
    /// Where the checkout was made.
    pub(super) at: &'static Location<'static>,
    pub(super) worker: PhantomData<fn() -> W>,
}

impl<W: Worker> std::fmt::Debug for CheckoutBuilder<W> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CheckoutBuilder").field("terms", &self.options).finish_non_exhaustive()
    }
}

impl<W: Worker> CheckoutBuilder<W> {
    /// Sets the time limit of each call, from when it is first in the queue; `None` is no limit. At zero every call is
    /// answered [`Timeout`](crate::FailureKind::Timeout) at once, which costs no worker.
    pub fn timeout(mut self, limit: impl Into<Option<Duration>>) -> Self {
        self.options.timeout = limit.into();
        self
    }

    /// Returns the time limit of each call.
    #[cfg(feature = "actix-web")]
    pub(crate) fn limit(&self) -> Option<Duration> {
        self.options.timeout
    }

    /// Sets the time limit of the wait for a worker alone; with `None`, only `timeout` limits it.
    pub fn wait_timeout(mut self, limit: impl Into<Option<Duration>>) -> Self {
        self.options.wait_timeout = limit.into();
        self
    }

    /// Sets how long this checkout may hold a worker while it has nothing to run; `None` is no limit.
    pub fn idle_checkout_timeout(mut self, limit: impl Into<Option<Duration>>) -> Self {
        self.options.idle_checkout_timeout = limit.into();
        self
    }

    /// Sets what becomes of a running call when its requester drops the future that it waits with.
    pub fn on_cancel(mut self, policy: OnCancel) -> Self {
        self.options.on_cancel = policy;
        self
    }

    /// Sets whether the worker is kept even if a call returned an error.
    pub fn keep_after_error(mut self, keep: bool) -> Self {
        self.options.keep_after_error = keep;
        self
    }

    /// Sets the error-handling context of calls that are sent where none is in force. Default: the one in force where the
    /// checkout is started.
    pub fn in_context(mut self, context: &ErrorContext) -> Self {
        self.context = Some(context.clone());
        self
    }

    /// Attaches a request log; a second one replaces the first.
    ///
    /// Each call becomes a timer of the log, named after its message, from when it is written to the worker until it is
    /// answered. What the worker logs during a call joins the log instead of the application's `tracing` subscriber; the
    /// log's verbosity already filters it in the worker. A call that fails before it is written leaves a message. The log
    /// is delivered after the checkout is released, at the earliest.
    pub fn log(mut self, log: &RequestLog) -> Self {
        self.log = Some(log.clone());
        self
    }

    /// Joins the queue for a worker and returns the checkout's handle, which calls the worker directly.
    ///
    /// Its calls cost less than messages to the address that [`start`](Self::start) returns, and have to be made on one
    /// thread: that of the first call. This never blocks and never fails: what goes wrong is the answer to its calls.
    #[track_caller]
    pub fn open(self) -> CheckoutHandle<W> {
        let home = CallOrigin::here().with_context(self.context).with_log(self.log);
        let pending = PendingSession::new(self.scheduler, self.options, self.at);
        CheckoutHandle::new(pending, self.options.timeout, home)
    }

    /// Joins the queue for a worker and returns the checkout's address, on which calls queue at once.
    ///
    /// The actor runs on the current thread's arbiter, or on the pool's if the thread has none. This never blocks and never
    /// fails: what goes wrong is the answer to its calls.
    #[track_caller]
    pub fn start(self) -> Addr<Checkout<W>> {
        let arbiter = self.scheduler.arbiter_here();
        self.start_in(&arbiter)
    }

    /// As [`start`](Self::start), on this arbiter.
    #[track_caller]
    pub fn start_in(self, arbiter: &ArbiterHandle) -> Addr<Checkout<W>> {
        let home = CallOrigin::here().with_context(self.context).with_log(self.log);
        let pending = PendingSession::new(self.scheduler, self.options, self.at);
        Checkout::start_on(arbiter, pending, self.options.timeout, home)
    }
}
