//! What a checkout does for requesters that have gone, and about holders that do nothing.

use std::task::Context;
use std::time::{Duration, Instant};

use super::{Host, Session, SessionState};
use crate::actors::scheduler::worker_state::RetireReason;
use crate::config::OnCancel;
use crate::failure::{Failure, FailureKind, Phase};

impl Session {
    /// Ends a call that runs and whose requester has given it up, where that was agreed; whether it did.
    pub(super) fn watch_requester(&mut self, cx: &mut Context<'_>, host: &mut dyn Host) -> bool {
        if self.options.on_cancel == OnCancel::Finish || self.calls.open() == 0 {
            return false;
        }
        let given_up = self.calls.first().is_some_and(|(call, _)| call.slot.poll_abandoned(cx));
        if !given_up || !matches!(self.stage, SessionState::Held(_)) {
            return false;
        }
        if let Some(facts) = self.give_up(RetireReason::Cancelled) {
            let cancelled = Failure::of(FailureKind::Cancelled, "").in_phase(Phase::Running).on_worker(facts);
            self.fatal_fault(cancelled, host);
        }
        true
    }

    /// When a worker that is held and has nothing to run is taken from its checkout.
    pub(super) fn reclaimed_at(&self) -> Option<(Instant, Duration)> {
        let limit = self.options.idle_checkout_timeout?;
        let idle =
            matches!(self.stage, SessionState::Held(_)) && self.calls.is_empty() && self.fault.is_none();
        if idle { Some((self.idle_since.checked_add(limit)?, limit)) } else { None }
    }

    /// Releases a worker that its holder has nothing for. What later calls may rely on is gone with it, so they fail.
    pub(super) fn reclaim(&mut self, limit: Duration) {
        let SessionState::Held(lease) = &self.stage else { return };
        let worker = lease.worker.number;
        tracing::warn!(target: "forkpool", pool = %self.scheduler.options.name, worker, ?limit,
            "a checkout held its worker for longer than idle_checkout_timeout with nothing to run");
        let failure = Failure::of(FailureKind::Timeout, "").in_phase(Phase::Holding).at_limit(limit);
        let facts = lease.worker.facts(Some(self.calls_served));
        self.fatal = Some(failure.in_pool(&self.scheduler.options.name).on_worker(facts));
        self.leave();
    }
}
