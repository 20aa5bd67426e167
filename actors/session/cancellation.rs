//! Calls that their requesters gave up, and workers that are held with nothing to run.

use std::task::Context;
use std::time::{Duration, Instant};

use super::{Host, Session, SessionState};
use crate::actors::scheduler::worker_state::RetireReason;
use crate::config::OnCancel;
use crate::failure::{Failure, FailureKind, Phase};

impl Session {
    /// Kills the worker if the requester of the running call gave it up and `on_cancel` says so; returns whether it
    /// did. Registers the task to be woken when the requester gives up.
    pub(super) fn poll_cancellation(&mut self, cx: &mut Context<'_>, host: &mut dyn Host) -> bool {
        if self.options.on_cancel == OnCancel::Finish || self.calls.unanswered() == 0 {
            return false;
        }
        let given_up = self.calls.first().is_some_and(|(call, _)| call.slot.poll_abandoned(cx));
        if !given_up || !matches!(self.state, SessionState::Held(_)) {
            return false;
        }
        if let Some(facts) = self.kill_worker(RetireReason::Cancelled) {
            let cancelled = Failure::of(FailureKind::Cancelled, "").in_phase(Phase::Running).on_worker(facts);
            self.fail_checkout(cancelled, host);
        }
        true
    }

    /// Returns since when a worker has been held with nothing to run, and after which time it is taken from the
    /// checkout.
    pub(super) fn idle_limit(&self) -> Option<(Instant, Duration)> {
        let limit = self.options.idle_checkout_timeout?;
        let idle = matches!(self.state, SessionState::Held(_))
            && self.calls.is_empty()
            && self.pending_error.is_none();
        idle.then_some((self.idle_since, limit))
    }

    /// Releases a worker that the checkout holds with nothing to run. State that the worker kept for the checkout
    /// is lost, so later calls fail.
    pub(super) fn reclaim_idle_worker(&mut self, limit: Duration) {
        let SessionState::Held(lease) = &self.state else { return };
        let worker = lease.worker.number;
        let failure = Failure::of(FailureKind::Timeout, "").in_phase(Phase::Holding).at_limit(limit);
        let facts = lease.worker.facts_and_usage(Some(self.calls_served));
        self.fatal = Some(failure.in_pool(&self.scheduler.options.name).on_worker(facts));
        self.finish_lease();
        let pool = self.scheduler.options.name.clone();
        self.scheduler.teller.tell(move || {
            tracing::warn!(target: "forkpool", %pool, worker, ?limit,
                "a checkout held its worker with nothing to run for longer than idle_checkout_timeout and loses it");
        });
    }
}
