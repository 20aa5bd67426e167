//! The options of one checkout.

use std::marker::PhantomData;
use std::sync::Arc;
use std::time::Duration;

use actix::{Addr, ArbiterHandle};

use super::checkout::Checkout;
use super::pool_handle::here_or;
use crate::actors::context::{ErrorContext, Origin};
use crate::actors::scheduler::Scheduler;
use crate::actors::session::{CallOptions, PendingSession};
use crate::actors::worker_api::worker::Worker;
use crate::config::OnCancel;
use crate::request_log::RequestLog;

/// Options of one checkout; each begins as the pool's.
#[must_use = "a checkout exists once it is started"]
pub struct CheckoutBuilder<W: Worker> {
    pub(super) scheduler: Arc<Scheduler>,
    pub(super) arbiter: ArbiterHandle,
    pub(super) options: CallOptions,
    pub(super) context: Option<ErrorContext>,
    pub(super) log: Option<RequestLog>,
    pub(super) worker: PhantomData<fn() -> W>,
}

impl<W: Worker> std::fmt::Debug for CheckoutBuilder<W> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CheckoutBuilder").field("terms", &self.options).finish_non_exhaustive()
    }
}

impl<W: Worker> CheckoutBuilder<W> {
    /// Full clock of each call, from its being first in the queue; `None` is no limit. Default: the pool's.
    /// At zero every call is answered with a timeout at once, which costs no worker.
    pub fn timeout(mut self, limit: impl Into<Option<Duration>>) -> Self {
        self.options.timeout = limit.into();
        self
    }

    /// Longest wait for a worker alone; `None` leaves it to `timeout`. Default: the pool's.
    pub fn wait_timeout(mut self, limit: impl Into<Option<Duration>>) -> Self {
        self.options.wait_timeout = limit.into();
        self
    }

    /// How long this checkout may hold a worker while it has nothing to run; `None` is no limit. Default: the pool's.
    pub fn idle_checkout_timeout(mut self, limit: impl Into<Option<Duration>>) -> Self {
        self.options.idle_checkout_timeout = limit.into();
        self
    }

    /// What becomes of a call that runs when its requester drops the future that it waits with. Default: the pool's.
    pub fn on_cancel(mut self, policy: OnCancel) -> Self {
        self.options.on_cancel = policy;
        self
    }

    /// Whether the worker is kept although a call ended with an error. Default: the pool's.
    pub fn keep_after_error(mut self, keep: bool) -> Self {
        self.options.keep_after_error = keep;
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
        let pending = PendingSession::new(self.scheduler, self.options);
        Checkout::start_on(arbiter, pending, self.options.timeout, home)
    }
}
