//! A checkout between its start and its first step: it stands in line already and may still change threads.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{Alarm, Calls, Claim, Desk, Replay, Session, Stage, Terms};

/// A session that has joined the line and not yet begun to run; it may move to another thread.
pub(in crate::actors) struct SessionSeed {
    desk: Arc<Desk>,
    claim: Arc<Claim>,
    terms: Terms,
    planted: bool,
}

impl SessionSeed {
    /// Joins the line.
    pub(in crate::actors) fn new(desk: Arc<Desk>, terms: Terms) -> Self {
        let claim = desk.ask();
        SessionSeed { desk, claim, terms, planted: false }
    }

    /// Begins the session on this thread.
    pub(in crate::actors) fn plant(mut self) -> Session {
        self.planted = true;
        Session {
            desk: self.desk.clone(),
            claim: self.claim.clone(),
            terms: self.terms,
            stage: Stage::Waiting,
            calls: Calls::default(),
            alarm: Alarm::default(),
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
            replay: Replay::default(),
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

impl Drop for SessionSeed {
    fn drop(&mut self) {
        if !self.planted {
            drop(self.desk.cancel(&self.claim));
        }
    }
}

impl std::fmt::Debug for SessionSeed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SessionSeed").field("terms", &self.terms).finish_non_exhaustive()
    }
}
