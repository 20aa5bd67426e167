//! A checkout between its start and its first step: it stands in line already and may still change threads.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{CallOptions, CallQueue, EventForwarder, LazyTimer, Scheduler, Session, SessionState, Waiter};

/// A session that has joined the line and not yet begun to run; it may move to another thread.
pub(crate) struct PendingSession {
    scheduler: Arc<Scheduler>,
    waiter: Arc<Waiter>,
    options: CallOptions,
    planted: bool,
}

impl PendingSession {
    /// Joins the line.
    pub(crate) fn new(scheduler: Arc<Scheduler>, options: CallOptions) -> Self {
        let waiter = scheduler.ask();
        PendingSession { scheduler, waiter, options, planted: false }
    }

    /// Begins the session on this thread.
    pub(crate) fn start(mut self) -> Session {
        self.planted = true;
        Session {
            scheduler: self.scheduler.clone(),
            waiter: self.waiter.clone(),
            options: self.options,
            stage: SessionState::Waiting,
            calls: CallQueue::default(),
            alarm: LazyTimer::default(),
            fault: None,
            last_fence: 0,
            fatal: None,
            refusal: None,
            errors_seen: 0,
            in_doubt: false,
            releases_itself: false,
            asked_to_stop: false,
            heard: false,
            false_starts: 0,
            lent: Vec::new(),
            forwarder: EventForwarder::default(),
            unread: None,
            held_since: Instant::now(),
            idle_since: Instant::now(),
            calls_served: 0,
            waited: Duration::ZERO,
            closing: false,
            unpolled: 0,
            seen_gone: false,
            waker: None,
        }
    }
}

impl Drop for PendingSession {
    fn drop(&mut self) {
        if !self.planted {
            drop(self.scheduler.cancel(&self.waiter));
        }
    }
}

impl std::fmt::Debug for PendingSession {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SessionSeed").field("terms", &self.options).finish_non_exhaustive()
    }
}
