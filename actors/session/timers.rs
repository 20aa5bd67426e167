//! The time limits of a session: one timer, set for the earliest deadline; and calls that their requesters gave up.

use std::task::Context;
use std::time::Duration;

use super::machine::{Due, Event, TimeLimit};
use super::{Host, LeasedWorker, Session};
use crate::actors::calls::limits;
use crate::actors::reply::AnswerSlot;
use crate::actors::scheduler::Scheduler;
use crate::actors::scheduler::exit::ExitReport;
use crate::actors::scheduler::lease::Lease;
use crate::actors::scheduler::worker_handle::WorkerHandle;
use crate::clock::Instant;
use crate::failure::{Failure, FailureKind, Phase};

/// Returns by how much a limit has passed; `None` if it has not.
fn passed_by(limit: &TimeLimit) -> Option<Duration> {
    limits::passed_by(limit.since, limit.at, Instant::now())
}

/// A worker that its holder lets idle.
pub(super) struct IdleWorker {
    worker: WorkerHandle,
    calls_served: u64,
}

impl IdleWorker {
    /// Returns the worker of a checkout that has made no call.
    pub(super) fn of(lease: &mut Lease) -> Self {
        let calls_served = lease.worker.activity.calls_served();
        IdleWorker { worker: lease.worker.clone(), calls_served }
    }

    /// Warns that the holder loses it; returns the failure of the holder's later calls.
    pub(super) fn reclaimed(&self, scheduler: &Scheduler, limit: Duration) -> Failure {
        let (pool, worker) = (scheduler.options.name.clone(), self.worker.number);
        let facts = self.worker.facts_and_usage(Some(self.calls_served));
        let failure = Failure::of(FailureKind::Timeout, "").in_phase(Phase::Holding).at_limit(limit);
        let failure = failure.in_pool(&pool).on_worker(facts);
        scheduler.teller.tell(move || {
            tracing::warn!(target: "forkpool", %pool, worker, ?limit,
                "a checkout held its worker with nothing to run for longer than idle_checkout_timeout and loses it");
        });
        failure
    }
}

impl Session {
    /// Fires the deadline that has passed, if any; returns whether the session has to be looked at again.
    pub(super) fn poll_deadline(&mut self, cx: &mut Context<'_>, host: &mut dyn Host) -> bool {
        let Some(limit) = self.machine.next_deadline() else {
            return false;
        };
        if !self.timer.poll(limit.at, cx) {
            return false;
        }
        let at = limits::without_frozen_time(limit.since, limit.at);
        if at > limit.at && !self.timer.poll(at, cx) {
            return false;
        }
        // Bytes that can be read by now count as in time, even if the reactor has not reported them yet.
        for _ in 0..limits::MAX_READS_BEFORE_TIMEOUT {
            if !self.machine.reads_frames() || !self.read_now(host) {
                break;
            }
            if self.machine.next_deadline().is_none_or(|limit| passed_by(&limit).is_none()) {
                return true;
            }
        }
        if let Some(notice) = self.waiter.take_notice() {
            self.handle_notice(notice, host);
            return true;
        }
        if let Some(limit) = self.machine.next_deadline()
            && let Some(late) = passed_by(&limit)
        {
            self.fire(limit.due, late, host);
        }
        true
    }

    fn fire(&mut self, due: Due, late: Duration, host: &mut dyn Host) {
        match due {
            Due::Exit => {
                // Its process may have ended while its server is stopped and does not report it.
                let is_running = self.worker.as_ref().and_then(|worker| worker.lease.worker.is_running());
                let exit_report = (is_running == Some(false)).then_some(ExitReport::Unknown);
                self.handle_exit(exit_report, host);
            }
            Due::Holding(limit) => self.reclaim_idle_worker(limit, host),
            Due::Call(_) | Due::Wait(_) | Due::Release => {
                self.handle(Event::Expired { due, late }, Instant::now(), host);
            }
        }
    }

    /// Releases a worker that the checkout holds with nothing to run. State that the worker kept for the checkout
    /// is lost, so later calls fail.
    fn reclaim_idle_worker(&mut self, limit: Duration, host: &mut dyn Host) {
        let Some(LeasedWorker { lease, .. }) = &self.worker else { return };
        let idle = IdleWorker { worker: lease.worker.clone(), calls_served: self.machine.calls_served() };
        let (failure, ends) = (idle.reclaimed(&self.scheduler, limit), self.retire_reason());
        self.handle(Event::Reclaimed { failure, ends }, Instant::now(), host);
    }

    /// Drops the first call if it waits for a worker and was given up, and no further call can come: without calls the
    /// session gives up its place in the queue. Returns whether it did; has the task woken when the requester gives up.
    pub(super) fn poll_given_up(&mut self, disconnected: bool, cx: &mut Context<'_>) -> bool {
        disconnected
            && self.machine.is_waiting()
            && self.machine.first().is_some_and(|call| call.slot.poll_abandoned(cx))
            && self.machine.drop_abandoned_first(Instant::now())
    }

    /// Reports to the machine that the requester of the running call gave it up, if the call is to be killed then; returns
    /// whether it did. Has the task woken when the requester gives up.
    pub(super) fn poll_cancellation(&mut self, cx: &mut Context<'_>, host: &mut dyn Host) -> bool {
        if !self.machine.has_running() {
            return false;
        }
        let on_cancel = self.options.on_cancel;
        let is_killed = self.machine.first().is_some_and(|call| call.slot.poll_kill(on_cancel, cx));
        if !is_killed || !self.machine.holds_worker() {
            return false;
        }
        self.handle(Event::Cancelled, Instant::now(), host);
        true
    }
}
