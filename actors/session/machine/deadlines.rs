//! The time limits of a checkout, and calls that their requesters gave up.

use std::time::Duration;

use super::event::{Action, Actions, Due, TimeLimit};
use super::{Call, Machine, State};
use crate::actors::calls::faults::Fault;
use crate::actors::scheduler::exit::EXIT_REPORT_TIMEOUT;
use crate::actors::scheduler::worker_state::RetireReason;
use crate::clock::Instant;

impl<C: Call> Machine<C> {
    /// Returns the time limit that passes next.
    #[inline]
    pub(crate) fn next_deadline(&self) -> Option<TimeLimit> {
        match &self.state {
            State::Releasing { since, limit, .. } => {
                return TimeLimit::new(*since, *limit, Due::Release);
            }
            State::AwaitingExit { since, .. } => {
                return TimeLimit::new(*since, EXIT_REPORT_TIMEOUT, Due::Exit);
            }
            // No time passes any more for the call: its failure is there already.
            State::Failing { .. } | State::Waiting { is_failing: true } => return None,
            State::Held(held) if self.calls.is_empty() && self.pending_error.is_none() => {
                let limit = self.options.idle_checkout_timeout?;
                return TimeLimit::new(held.idle_since, limit, Due::Holding(limit));
            }
            State::NoWorker | State::Refused(_) | State::Waiting { .. } | State::Held(_) => {}
        }
        let (call, since) = self.calls.first()?;
        let wait = self.options.wait_timeout.filter(|_| self.is_waiting());
        let wait = wait.map(|limit| (limit, Due::Wait(limit)));
        let own = call.limit().map(|limit| (limit, Due::Call(limit)));
        let (limit, due) = [own, wait].into_iter().flatten().min_by_key(|(limit, _)| *limit)?;
        TimeLimit::new(since, limit, due)
    }

    pub(super) fn handle_expiry(&mut self, due: Due, late: Duration, now: Instant, actions: &mut Actions<C>) {
        match due {
            Due::Call(limit) | Due::Wait(limit) => {
                if !self.calls.extend_late_deadline(late) {
                    self.time_out(limit, now, actions);
                }
            }
            Due::Release => self.drop_worker(RetireReason::TimedOut, now, actions),
            // The driver looks at the process, or describes the failure, and reports events of their own.
            Due::Exit | Due::Holding(_) => {}
        }
    }

    fn time_out(&mut self, limit: Duration, now: Instant, actions: &mut Actions<C>) {
        if self.calls.drop_abandoned_first(now) {
            return;
        }
        if self.state.held().is_some() {
            return self.fail_worker(Fault::TimedOut(limit), now, actions);
        }
        self.state = State::Failing { ends_checkout: true };
        actions.push_back(Action::FailWait { limit, times: self.calls.times_of_first(now) });
    }

    /// Drops the first call if it is not written and its requester has given it up; returns whether it did.
    pub(crate) fn drop_abandoned_first(&mut self, now: Instant) -> bool {
        self.calls.drop_abandoned_first(now)
    }

    /// Kills the worker because the requester of the running call gave it up, if it is still running.
    pub(super) fn handle_cancellation(&mut self, now: Instant, actions: &mut Actions<C>) {
        let is_given_up = self.calls.unanswered() > 0 && self.first().is_some_and(Call::is_abandoned);
        if is_given_up && self.holds_worker() {
            self.fail_worker(Fault::Cancelled, now, actions);
        }
    }
}
