//! The worker of a checkout: how it is taken, released and lost.

use super::event::{Action, Actions, Answer, Exit, Grant};
use super::{Call, Machine, State};
use crate::actors::calls::faults::Fault;
use crate::actors::calls::limits::{MAX_FALSE_STARTS, RELEASE_TIMEOUT};
use crate::actors::scheduler::exit::ExitReport;
use crate::actors::scheduler::state::ReleaseReport;
use crate::actors::scheduler::worker_state::RetireReason;
use crate::clock::Instant;

/// What holds while a worker is held, and ends with it.
pub(super) struct Held {
    pub(super) since: Instant,
    /// Since when the worker has had nothing to do; valid only while no call is unanswered.
    pub(super) idle_since: Instant,
    /// Number of calls that the worker has answered since its fork.
    pub(super) calls_served: u64,
    /// Whether it has replied to a call.
    pub(super) has_replied: bool,
    /// Number of errors that were delivered to requesters.
    pub(super) errors_seen: u32,
    /// Whether an error left the state of the worker in doubt.
    pub(super) in_doubt: bool,
    /// Whether a handler asked for the worker to be replaced.
    pub(super) stop_requested: bool,
}

impl Held {
    fn new(calls_served: u64, now: Instant) -> Self {
        Held {
            since: now,
            idle_since: now,
            calls_served,
            has_replied: false,
            errors_seen: 0,
            in_doubt: false,
            stop_requested: false,
        }
    }
}

impl<C: Call> Machine<C> {
    /// Takes the worker that was granted, unless it cannot be used: its channel could not be registered (the process
    /// is out of descriptors, for example), or the worker sent bytes before it got a call.
    pub(super) fn accept_grant(&mut self, grant: Grant, now: Instant, actions: &mut Actions<C>) {
        let Grant { calls_served, has_early_bytes, is_registered } = grant;
        if !self.is_waiting() {
            return actions.push_back(Action::GiveBack { report: ReleaseReport::default(), calls_served });
        }
        self.false_starts += u32::from(has_early_bytes);
        if !is_registered || (has_early_bytes && !self.exceeds_false_starts()) {
            return self.try_another_worker(actions);
        }
        self.state = State::Held(Held::new(calls_served, now));
    }

    /// Asks for another worker, and passes what was written to this one to it.
    ///
    /// The worker is killed after the request for another one: a stopping pool waits for its leases, and would be
    /// stopped before the request.
    fn try_another_worker(&mut self, actions: &mut Actions<C>) {
        let resend = self.calls.unanswered() > 0;
        self.acquire(true, actions);
        actions.push_back(Action::Kill { reason: RetireReason::Broken, resend });
    }

    pub(super) fn exceeds_false_starts(&self) -> bool {
        self.false_starts >= MAX_FALSE_STARTS
    }

    /// Releases the worker, or leaves the queue. `ends` says why the worker is to be replaced, if it is.
    pub(super) fn finish(&mut self, ends: Option<RetireReason>, now: Instant, actions: &mut Actions<C>) {
        match std::mem::replace(&mut self.state, State::NoWorker) {
            State::Waiting { .. } => actions.push_back(Action::LeaveQueue),
            State::Held(held) => {
                let asked = held.stop_requested.then_some(RetireReason::StopRequested);
                let ends = asked.or(ends);
                if !held.in_doubt && ends.is_none() {
                    actions.push_back(Action::Release);
                    return self.await_release(held, now);
                }
                // The worker goes to no other checkout, so `checkout_done` does not run, and its replies to cleared
                // calls are not read.
                actions.push_back(Action::CountHold(now.saturating_duration_since(held.since)));
                actions.push_back(match ends.filter(|_| !held.in_doubt) {
                    Some(reason) => Action::Retire(reason),
                    None => Action::Kill { reason: RetireReason::AfterError, resend: false },
                });
                self.forget_written(actions);
            }
            other => self.state = other,
        }
    }

    pub(super) fn await_release(&mut self, held: Held, now: Instant) {
        let limit = self.options.timeout.filter(|limit| now.checked_add(*limit).is_some());
        self.state = State::Releasing { held, since: now, limit: limit.unwrap_or(RELEASE_TIMEOUT) };
    }

    pub(super) fn handle_released(&mut self, report: ReleaseReport, now: Instant, actions: &mut Actions<C>) {
        if self.calls.expects_reply() {
            return self.fail_on_violation("it reported a release that was not due".into(), now, actions);
        }
        match std::mem::replace(&mut self.state, State::NoWorker) {
            State::Releasing { held, .. } => {
                actions.push_back(Action::CountHold(now.saturating_duration_since(held.since)));
                actions.push_back(Action::GiveBack { report, calls_served: held.calls_served });
                if self.calls.has_queued() {
                    // These calls came through an address that was upgraded from a weak one meanwhile.
                    self.acquire(false, actions);
                }
            }
            other => {
                self.state = other;
                self.fail_on_violation("it reported a release that was not due".into(), now, actions);
            }
        }
    }

    /// Starts to wait for the exit report of a worker whose channel has ended.
    pub(super) fn await_exit(&mut self, now: Instant) {
        self.state = match std::mem::replace(&mut self.state, State::NoWorker) {
            State::Held(held) | State::Releasing { held, .. } => State::AwaitingExit { held, since: now },
            other => other,
        };
    }

    /// Decides what a lost worker means for the calls: a retry on another worker, or a failure. Without an exit
    /// report the worker has closed its channel and may still be alive; it is killed here.
    pub(super) fn handle_exit(&mut self, exit: Exit, now: Instant, actions: &mut Actions<C>) {
        let State::AwaitingExit { held, .. } = &self.state else { return };
        // A call that a dead worker had read may not have begun. A worker without an exit report may begin it until
        // it is killed, and one that was just killed until it has ended. On another machine only the server's report shows it, and without that it may have begun.
        let begun = match &exit.report {
            Some(ExitReport::Killed) | None => true,
            Some(report) => exit.seen_begun.or(report.had_begun()).unwrap_or(true),
        };
        let may_run_elsewhere = self.calls.unanswered() == 0 || !(begun || self.exceeds_false_starts());
        let untouched = !held.has_replied && may_run_elsewhere;
        if self.calls.is_empty() && (untouched || !exit.is_connected) {
            // The worker had nothing to run, so nothing is lost.
            self.state = State::NoWorker;
            if exit.is_connected && !self.closing {
                self.acquire(true, actions);
            }
            actions.push_back(Action::Kill { reason: RetireReason::Broken, resend: false });
            self.forget_written(actions);
        } else if untouched {
            self.false_starts += u32::from(self.calls.unanswered() > 0);
            self.try_another_worker(actions);
        } else {
            self.fail_worker(Fault::Exited(exit.report), now, actions);
        }
    }

    /// Answers all calls with `Stopped` and gives up the worker, because the pool has stopped.
    pub(super) fn handle_stop(&mut self, now: Instant, actions: &mut Actions<C>) {
        self.closing = true;
        self.calls.clear(|call| actions.push_back(Action::Answer(call, Answer::Stopped)));
        self.drop_worker(RetireReason::PoolEnds, now, actions);
    }

    /// Kills the worker, or leaves the queue.
    pub(super) fn drop_worker(&mut self, reason: RetireReason, now: Instant, actions: &mut Actions<C>) {
        match std::mem::replace(&mut self.state, State::NoWorker) {
            State::Waiting { .. } => actions.push_back(Action::LeaveQueue),
            State::Held(held) | State::Releasing { held, .. } | State::AwaitingExit { held, .. } => {
                actions.push_back(Action::CountHold(now.saturating_duration_since(held.since)));
                actions.push_back(Action::Kill { reason, resend: false });
            }
            other @ (State::NoWorker | State::Refused(_) | State::Failing { .. }) => self.state = other,
        }
        self.forget_written(actions);
    }

    /// Drops the record of written calls, all of which are answered: no reply or log record will follow.
    pub(super) fn forget_written(&mut self, actions: &mut Actions<C>) {
        self.calls.forget_written();
        actions.push_back(Action::ForgetWritten);
    }
}
