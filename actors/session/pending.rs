//! A checkout between its start and its first step: it has asked for a worker and may still move to another thread.

use std::panic::Location;
use std::sync::Arc;
use std::time::Duration;

use super::machine::{Actions, Machine};
use super::timers::IdleWorker;
use super::{CallOptions, LazyTimer, LentBlobs, Scheduler, Session, Waiter};
use crate::actors::scheduler::holding::Tenant;
use crate::actors::scheduler::worker_state::RetireReason;

/// What has become of a request for a worker.
pub(super) enum News {
    /// It waits, or was refused or fails, which answers the first call.
    Nothing,
    WorkerHeld(IdleWorker),
    /// The worker that was lent has ended.
    WorkerLost,
    /// The pool takes back what holders do not use.
    PoolStops,
}

/// A session that has asked the scheduler for a worker and does not run yet; it may move to another thread.
/// Dropping it cancels the request.
pub(crate) struct PendingSession {
    scheduler: Arc<Scheduler>,
    waiter: Arc<Waiter>,
    options: CallOptions,
    started: bool,
}

impl PendingSession {
    /// Asks the scheduler for a worker. `at`: where in the source the checkout was made.
    pub(crate) fn new(
        scheduler: Arc<Scheduler>,
        options: CallOptions,
        at: &'static Location<'static>,
    ) -> Self {
        let waiter = scheduler.acquire(Tenant::Checkout(at), options.bulkhead);
        PendingSession { scheduler, waiter, options, started: false }
    }

    pub(crate) fn scheduler(&self) -> &Arc<Scheduler> {
        &self.scheduler
    }

    pub(super) fn waiter(&self) -> &Arc<Waiter> {
        &self.waiter
    }

    /// Returns how long the checkout may hold a worker without a call.
    pub(super) fn idle_limit(&self) -> Option<Duration> {
        self.options.idle_checkout_timeout
    }

    /// Returns what the scheduler's notices say, which stay where they are.
    pub(super) fn news(&self) -> News {
        let news = self.waiter.peek(|notice| {
            if notice.closing || notice.stopped {
                News::PoolStops
            } else if notice.worker_ended || notice.killed || notice.exit_report.is_some() {
                News::WorkerLost
            } else {
                notice.lease.as_mut().map_or(News::Nothing, |lease| News::WorkerHeld(IdleWorker::of(lease)))
            }
        });
        news.unwrap_or(News::Nothing)
    }

    /// Asks for another worker, ahead of others, because the one that was lent has ended.
    pub(super) fn replace_worker(&mut self) {
        let lost = self.waiter.take_notice().and_then(|notice| notice.lease);
        // The lease is given up after the request: a pool that ends waits for its leases.
        self.waiter = self.scheduler.reacquire(self.waiter.holding.tenant(), self.options.bulkhead);
        drop(lost.and_then(|lease| lease.kill(RetireReason::Broken)));
    }

    /// Starts the session on this thread.
    pub(crate) fn start(mut self) -> Session {
        self.started = true;
        Session {
            scheduler: self.scheduler.clone(),
            tally: self.scheduler.tallies.here(),
            waiter: self.waiter.clone(),
            options: self.options,
            machine: Machine::waiting(self.options),
            actions: Actions::new(),
            worker: None,
            refused: Vec::new(),
            lent: LentBlobs::default(),
            unread_outbox: None,
            resolving: None,
            timer: LazyTimer::default(),
            calls_since_poll: 0,
            answered: 0,
            was_disconnected: false,
            waker: None,
        }
    }
}

impl Drop for PendingSession {
    fn drop(&mut self) {
        if !self.started {
            drop(self.scheduler.cancel(&self.waiter));
        }
    }
}

impl std::fmt::Debug for PendingSession {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PendingSession").field("options", &self.options).finish_non_exhaustive()
    }
}
