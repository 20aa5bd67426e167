//! A checkout between its start and its first step: it has asked for a worker and may still move to another thread.

use std::sync::Arc;

use super::machine::{Actions, Machine};
use super::{CallOptions, LazyTimer, LentBlobs, Scheduler, Session, Waiter};

/// A session that has asked the scheduler for a worker and does not run yet; it may move to another thread.
/// Dropping it cancels the request.
pub(crate) struct PendingSession {
    scheduler: Arc<Scheduler>,
    waiter: Arc<Waiter>,
    options: CallOptions,
    started: bool,
}

impl PendingSession {
    /// Asks the scheduler for a worker.
    pub(crate) fn new(scheduler: Arc<Scheduler>, options: CallOptions) -> Self {
        let waiter = scheduler.acquire(options.bulkhead);
        PendingSession { scheduler, waiter, options, started: false }
    }

    pub(crate) fn scheduler(&self) -> &Arc<Scheduler> {
        &self.scheduler
    }

    /// Starts the session on this thread.
    pub(crate) fn start(mut self) -> Session {
        self.started = true;
        Session {
            scheduler: self.scheduler.clone(),
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
