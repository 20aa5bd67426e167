//! The time limits of a checkout: one timer, set for the earliest deadline.

use std::task::Context;
use std::time::{Duration, Instant};

use super::{Arrived, ExitReport, Host, Session, SessionState};
use crate::actors::scheduler::exit::EXIT_REPORT_TIMEOUT;
use crate::actors::scheduler::worker_state::RetireReason;
use crate::actors::threads;
use crate::failure::{Failure, FailureKind, Phase};

/// Maximum number of reads before a deadline fires: many times what a channel holds at once, and a bound for a
/// worker that never stops sending.
const MAX_READS_BEFORE_TIMEOUT: usize = 512;

/// Returns the failure of a call whose limit is zero. The call takes no worker and does not end the checkout.
pub(super) fn no_time_left() -> Failure {
    Failure::of(FailureKind::Timeout, "").in_phase(Phase::Waiting).at_limit(Duration::ZERO)
}

/// Which time limit a deadline belongs to.
enum Deadline {
    /// The first call's own limit.
    Call(Duration),
    /// The limit on the wait for a worker.
    Wait(Duration),
    /// The limit on `checkout_done`.
    Release,
    /// The limit on the wait for an exit report. The worker closed its end of the channel; without a report it is
    /// still alive.
    AwaitingExit,
    /// The limit on holding a worker with nothing to run, `idle_checkout_timeout`.
    Holding(Duration),
}

/// A time limit that runs.
struct TimeLimit {
    since: Instant,
    /// When it passes, unless the application is frozen meanwhile.
    at: Instant,
    due: Deadline,
}

impl TimeLimit {
    /// Returns `None` for a limit beyond the range of the clock, which never passes.
    fn new(since: Instant, limit: Duration, due: Deadline) -> Option<Self> {
        Some(TimeLimit { since, at: since.checked_add(limit)?, due })
    }

    /// Returns when it passes if the time does not count in which the application was frozen.
    fn without_frozen_time(&self) -> Instant {
        let frozen = threads::frozen_since(self.since);
        self.at.checked_add(frozen).unwrap_or(self.at)
    }

    fn has_passed(&self) -> bool {
        let now = Instant::now();
        self.at <= now && self.without_frozen_time() <= now
    }
}

impl Session {
    /// Fires the deadline that has passed, if any; returns whether the session has to be looked at again.
    pub(super) fn poll_deadline(&mut self, cx: &mut Context<'_>, host: &mut dyn Host) -> bool {
        let Some(limit) = self.next_deadline() else {
            return false;
        };
        if !self.timer.poll(limit.at, cx) {
            return false;
        }
        let at = limit.without_frozen_time();
        if at > limit.at && !self.timer.poll(at, cx) {
            return false;
        }
        // Bytes that can be read by now count as in time, even if the reactor has not reported them yet.
        for _ in 0..MAX_READS_BEFORE_TIMEOUT {
            let (SessionState::Held(lease) | SessionState::Releasing { lease, .. }) = &mut self.state else {
                break;
            };
            let arrived = lease.channel().map_or(Arrived::Nothing, |channel| channel.read_now());
            if !self.handle_arrived(arrived, host) {
                break;
            }
            if self.next_deadline().is_none_or(|limit| !limit.has_passed()) {
                return true;
            }
        }
        if let Some(notice) = self.waiter.take_notice() {
            self.handle_notice(notice, host);
            return true;
        }
        if self.calls.extend_late_deadline(at.elapsed()) {
            return true;
        }
        if let Some(limit) = self.next_deadline().filter(TimeLimit::has_passed) {
            self.fire(limit.due, host);
        }
        true
    }

    fn next_deadline(&self) -> Option<TimeLimit> {
        match &self.state {
            SessionState::Releasing { since, limit, .. } => {
                return TimeLimit::new(*since, *limit, Deadline::Release);
            }
            SessionState::AwaitingExit { since, .. } => {
                return TimeLimit::new(*since, EXIT_REPORT_TIMEOUT, Deadline::AwaitingExit);
            }
            SessionState::NoWorker | SessionState::Waiting | SessionState::Held(_) => {}
        }
        if let Some((since, limit)) = self.idle_limit() {
            return TimeLimit::new(since, limit, Deadline::Holding(limit));
        }
        let (call, since) = self.calls.first()?;
        let waiting = matches!(self.state, SessionState::Waiting);
        let wait = self.options.wait_timeout.filter(|_| waiting).map(|limit| (limit, Deadline::Wait(limit)));
        let own = call.limit.map(|limit| (limit, Deadline::Call(limit)));
        let (limit, due) = [own, wait].into_iter().flatten().min_by_key(|(limit, _)| *limit)?;
        TimeLimit::new(since, limit, due)
    }

    fn fire(&mut self, due: Deadline, host: &mut dyn Host) {
        match due {
            Deadline::Call(limit) | Deadline::Wait(limit) => self.time_out(limit, host),
            Deadline::Release => self.drop_worker(RetireReason::TimedOut),
            Deadline::AwaitingExit => self.give_up_on_exit(host),
            Deadline::Holding(limit) => self.reclaim_idle_worker(limit),
        }
    }

    fn time_out(&mut self, limit: Duration, host: &mut dyn Host) {
        if self.calls.drop_abandoned_first() {
            return;
        }
        let stuck = match &self.state {
            SessionState::Held(lease)
            | SessionState::Releasing { lease, .. }
            | SessionState::AwaitingExit { lease, .. } => lease.worker.stuck_text().unwrap_or_default(),
            SessionState::NoWorker | SessionState::Waiting => String::new(),
        };
        let failure = match self.kill_worker(RetireReason::TimedOut) {
            Some(facts) => Failure::of(FailureKind::Timeout, stuck).in_phase(Phase::Running).on_worker(facts),
            // The session waits for a worker and has none to kill.
            None => {
                self.state = SessionState::NoWorker;
                self.failed_wait()
            }
        };
        self.unread_outbox = None;
        self.fail_checkout(failure.at_limit(limit), host);
    }

    /// Leaves the queue and returns what the checkout was waiting for.
    pub(super) fn leave_queue(&mut self) -> Phase {
        self.state = SessionState::NoWorker;
        self.scheduler.cancel(&self.waiter).phase
    }

    /// Leaves the queue and returns why no worker came, as far as the scheduler knows.
    fn failed_wait(&mut self) -> Failure {
        let mut outcome = self.scheduler.cancel(&self.waiter);
        if outcome.setup_failure.is_none() && outcome.outage.is_none() {
            outcome.outage = self.scheduler.stopped_server_text();
        }
        let kind = if outcome.outage.is_some() { FailureKind::NoServer } else { FailureKind::Timeout };
        let failure = Failure::of(kind, "").in_phase(outcome.phase);
        match (outcome.setup_failure, outcome.outage) {
            (Some(setup_failure), _) => failure.caused_by(setup_failure),
            (None, Some(outage)) => failure.with_chain(&[outage]),
            (None, None) => failure,
        }
    }

    fn give_up_on_exit(&mut self, host: &mut dyn Host) {
        if let SessionState::AwaitingExit { lease, .. } =
            std::mem::replace(&mut self.state, SessionState::NoWorker)
        {
            // Its process may have ended while its server is stopped and does not report it.
            let has_ended = lease.worker.is_running() == Some(false);
            let exit_report = has_ended.then_some(ExitReport::Unknown);
            self.handle_lost_worker(lease, exit_report, host);
        }
    }
}
