//! The time limits of a lane's calls: one timer, set for the earliest deadline or earlier.

use std::task::Context;
use std::time::Duration;

use super::driver::Driver;
use super::slow_alarm::SlowAlarm;
use super::state::Single;
use super::worker::release_limit;
use crate::actors::calls::PendingCall;
use crate::actors::calls::faults::{Fault, wait_failure};
use crate::actors::calls::limits::{MAX_READS_BEFORE_TIMEOUT, passed_by, without_frozen_time};
use crate::actors::reply::AnswerSlot;
use crate::actors::scheduler::Scheduler;
use crate::actors::scheduler::exit::{EXIT_REPORT_TIMEOUT, ExitReport};
use crate::actors::threads::real_time::LazyTimer;
use crate::actors::transport::Arrived;
use crate::clock::Instant;

/// How soon deadlines that have passed are looked at again that ended nothing (1 ms).
const RECHECK: Duration = Duration::from_millis(1);

/// When something may be due.
#[derive(Default)]
pub(super) struct Limits {
    timer: LazyTimer,
    slow_alarm: SlowAlarm,
    /// No deadline is earlier than this; `None` without one.
    earliest: Option<Instant>,
    /// When the timer fires, at the latest; `None` if it does not run.
    fires_at: Option<Instant>,
}

impl Limits {
    /// Takes the deadline of a new call into account.
    pub(super) fn add(&mut self, scheduler: &Scheduler, single: &Single<PendingCall>) {
        if let Some((_, at)) = deadline(single, scheduler.options.wait_timeout) {
            self.watch(at);
        }
    }

    fn watch(&mut self, at: Instant) {
        self.earliest = Some(self.earliest.map_or(at, |earliest| earliest.min(at)));
    }

    /// Returns whether a deadline may have passed; the task is woken when that is so.
    fn poll(&mut self, now: Instant, cx: &mut Context<'_>) -> bool {
        let Some(earliest) = self.earliest else { return false };
        if earliest > now && self.fires_at.is_some_and(|fires_at| now < fires_at && fires_at <= earliest) {
            return false;
        }
        let is_due = self.timer.poll(earliest, cx);
        self.fires_at = (!is_due).then_some(earliest);
        is_due
    }
}

/// Returns a limit of a call, and when it passes unless the application is frozen meanwhile.
fn deadline(single: &Single<PendingCall>, wait_timeout: Option<Duration>) -> Option<(Duration, Instant)> {
    let limit = single.limit.into_iter().chain(wait_timeout).min()?;
    Some((limit, single.since().checked_add(limit)?))
}

impl Driver {
    /// Ends what has run out of time; returns whether anything was looked at.
    pub(super) fn poll_limits(&mut self, now: Instant, cx: &mut Context<'_>) -> bool {
        if self.state.held.iter().any(|held| held.is_slow(now)) {
            self.limits.slow_alarm.note_slow();
        }
        // The time is looked at anyway if the task looks again at once: setting the alarm costs more than that.
        if let Some(slow_at) = self.state.slow_at(now)
            && !self.looks_again()
            && !self.limits.slow_alarm.wake_at(slow_at, now, cx)
        {
            self.limits.watch(slow_at);
        }
        for at in 0..self.workers.len() {
            if let Some(due) = self.worker_deadline(at, now) {
                self.limits.watch(due);
            }
        }
        if !self.limits.poll(now, cx) {
            return false;
        }
        self.limits.earliest = None;
        let now = Instant::now();
        self.read_all(now);
        self.expire_workers(now);
        self.expire_queued(now);
        self.watch_calls(now);
        true
    }

    /// Returns whether the task was woken to look again at once for what workers have sent.
    fn looks_again(&mut self) -> bool {
        let mut reading = self.workers.iter_mut().filter(|worker| worker.awaiting_exit.is_none());
        reading.any(|worker| worker.channel().is_some_and(|channel| channel.looks_again()))
    }

    /// Watches the deadlines of all calls that the lane has.
    fn watch_calls(&mut self, now: Instant) {
        let wait_timeout = self.scheduler.options.wait_timeout;
        // One that has passed and yet ends nothing is not looked at all the time: the application was frozen.
        let soonest = now.checked_add(RECHECK).unwrap_or(now);
        for at in 0..self.workers.len() {
            let has_its_worker = self.has_its_worker(at);
            for (place, call) in self.state.held[at].written.iter().enumerate() {
                let wait_timeout = wait_timeout.filter(|_| place > 0 || !has_its_worker);
                if let Some((_, due)) = deadline(&call.single, wait_timeout) {
                    self.limits.watch(due.max(soonest));
                }
            }
        }
        for queued in self.state.queued.iter() {
            if let Some((_, due)) = deadline(&queued.single, wait_timeout) {
                self.limits.watch(due.max(soonest));
            }
        }
    }

    /// Returns whether the first call of a worker has it. A worker that had nothing else to do has its first call, even if it
    /// has not got round to begin it.
    fn has_its_worker(&mut self, at: usize) -> bool {
        self.state.held[at].unreleased == 0 || self.has_begun(at)
    }

    /// Returns when a worker must have released itself, or its exit must have been reported.
    fn worker_deadline(&mut self, at: usize, now: Instant) -> Option<Instant> {
        if let Some(since) = self.workers[at].awaiting_exit {
            return since.checked_add(EXIT_REPORT_TIMEOUT);
        }
        let held = &self.state.held[at];
        if held.unreleased == 0 {
            return None;
        }
        let since = held.front_since;
        let due = since.checked_add(release_limit(&self.scheduler))?;
        if due > now {
            return Some(due);
        }
        // A worker that has begun its next call is past its release, and reports it later.
        let begun = self.workers[at].channel().map(|channel| channel.begun());
        let has_begun_next = matches!(begun, Some(Ok(Some(begun))) if begun > 0);
        if has_begun_next { None } else { Some(without_frozen_time(since, due)) }
    }

    /// Reads what can be read by now, which counts as in time.
    fn read_all(&mut self, now: Instant) {
        for at in (0..self.workers.len()).rev() {
            let number = self.workers[at].lease.worker.number;
            for _ in 0..MAX_READS_BEFORE_TIMEOUT {
                let worker = self.workers.get_mut(at).filter(|worker| worker.lease.worker.number == number);
                let Some(worker) = worker.filter(|worker| worker.awaiting_exit.is_none()) else { break };
                let arrived = worker.channel().map_or(Arrived::Nothing, |channel| channel.read_now());
                if !self.handle_arrived(at, arrived, now) {
                    break;
                }
            }
        }
    }

    fn expire_workers(&mut self, now: Instant) {
        for at in (0..self.workers.len()).rev() {
            if self.worker_deadline(at, now).is_some_and(|due| due <= now) {
                if self.workers[at].awaiting_exit.is_some() {
                    // Its process may have ended while its server is stopped and does not report it.
                    let is_running = self.workers[at].lease.worker.is_running();
                    let exit_report = (is_running == Some(false)).then_some(ExitReport::Unknown);
                    self.end_worker(at, Fault::Exited(exit_report), None, now);
                    continue;
                }
                let limit = release_limit(&self.scheduler);
                self.end_worker(at, Fault::TimedOut(limit), None, now);
                continue;
            }
            self.expire_written(at, now);
        }
    }

    fn expire_written(&mut self, at: usize, now: Instant) {
        let wait_timeout = self.scheduler.options.wait_timeout;
        let passed = |single: &Single<PendingCall>, wait_timeout| {
            let (limit, due) = deadline(single, wait_timeout)?;
            passed_by(single.since(), due, now).map(|late| (limit, late))
        };
        let has_its_worker = self.has_its_worker(at);
        if has_its_worker
            && let Some(first) = self.state.held[at].written.front_mut()
            && let Some((limit, late)) = passed(&first.single, None)
        {
            if !first.single.extend_late_deadline(late) {
                return self.end_worker(at, Fault::TimedOut(limit), None, now);
            }
            return;
        }
        let behind = self.state.held[at].written.iter().skip(usize::from(has_its_worker));
        if behind.into_iter().any(|call| passed(&call.single, wait_timeout).is_some()) {
            self.take_back(at);
        }
    }

    /// Answers the calls whose time has passed and that no worker has begun.
    fn expire_queued(&mut self, now: Instant) {
        let wait_timeout = self.scheduler.options.wait_timeout;
        let mut outcome = None;
        let mut at = 0;
        while let Some(queued) = self.state.queued.get_mut(at) {
            let due = deadline(&queued.single, wait_timeout);
            let late = due.and_then(|(_, due)| passed_by(queued.single.since(), due, now));
            let (Some((limit, _)), Some(late)) = (due, late) else {
                at += 1;
                continue;
            };
            if queued.single.extend_late_deadline(late) {
                at += 1;
                continue;
            }
            let Some(queued) = self.state.queued.remove(at) else { return };
            if !queued.single.call.slot.is_abandoned() {
                // Many calls may end in this moment, all for the same reason.
                let bulkhead = self.bulkhead_id();
                let outcome = outcome.get_or_insert_with(|| self.scheduler.wait_outcome(bulkhead));
                let failure = wait_failure(&self.scheduler, outcome.clone(), limit);
                let waited = now.saturating_duration_since(queued.single.since());
                self.fail_waiting(queued.single.call, failure, waited);
            }
        }
    }
}
