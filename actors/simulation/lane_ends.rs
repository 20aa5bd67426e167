//! How the calls and the workers of simulated lanes end: time limits, calls that are given up, workers that are lost.

use std::time::Duration;

use super::lane::SimLane;
use super::singles::SimSingle;
use super::world::World;
use crate::actors::calls::limits::{MAX_FALSE_STARTS, RELEASE_TIMEOUT};
use crate::actors::lane::state::Single;
use crate::actors::scheduler::exit::EXIT_REPORT_TIMEOUT;
use crate::actors::scheduler::worker_state::RetireReason;
use crate::clock::Instant;
use crate::config::OnCancel;
use crate::failure::FailureKind;

/// How soon deadlines that have passed are looked at again that ended nothing.
const RECHECK: Duration = Duration::from_millis(1);

/// Returns when a limit of a call passes.
fn deadline(single: &Single<SimSingle>, wait_timeout: Option<Duration>) -> Option<Instant> {
    let limit = single.limit.into_iter().chain(wait_timeout).min()?;
    single.since().checked_add(limit)
}

/// Returns by how much a limit of a call has passed; `None` if it has not.
fn passed(single: &Single<SimSingle>, wait_timeout: Option<Duration>, now: Instant) -> Option<Duration> {
    now.checked_duration_since(deadline(single, wait_timeout)?)
}

impl World {
    /// Drops the calls that their requesters gave up before they began.
    pub(super) fn drop_abandoned(&mut self, lane: &mut SimLane) {
        for at in 0..lane.workers.len() {
            let Some(begun) = self.begun(lane, at) else { continue };
            let mut waiting = lane.state.held[at].written.iter().skip(begun);
            if waiting.any(|call| call.single.call.is_abandoned.get()) {
                self.take_back(lane, at);
            }
        }
        self.drop_abandoned_queued(lane);
    }

    fn drop_abandoned_queued(&mut self, lane: &mut SimLane) {
        lane.state.queued.retain(|queued| {
            let is_abandoned = queued.single.call.is_abandoned.get();
            if is_abandoned {
                self.drop_single(queued.single.call.number);
            }
            !is_abandoned
        });
    }

    /// Kills the worker of a running call that its requester has given up, if its policy says so; returns whether it did.
    pub(super) fn cancel_single(&mut self, lane: &mut SimLane) -> bool {
        for at in 0..lane.workers.len() {
            let first = lane.state.held[at].written.front();
            let is_killed = |call: &SimSingle| call.is_abandoned.get() && call.on_cancel == OnCancel::Kill;
            if first.is_some_and(|first| is_killed(&first.single.call)) {
                if self.begun(lane, at) == Some(0) {
                    self.take_back(lane, at);
                    self.drop_abandoned_queued(lane);
                } else {
                    self.end_faulty(lane, at, FailureKind::Cancelled, None);
                }
                return true;
            }
        }
        false
    }

    /// Returns when a worker must have released itself, or its exit must have been reported.
    fn worker_deadline(&self, lane: &SimLane, at: usize) -> Option<Instant> {
        if let Some(since) = lane.workers[at].awaiting_exit {
            return since.checked_add(EXIT_REPORT_TIMEOUT);
        }
        let held = &lane.state.held[at];
        if held.unreleased == 0 {
            return None;
        }
        let limit = self.plan.options.timeout.unwrap_or(RELEASE_TIMEOUT);
        let due = held.front_since.checked_add(limit)?;
        let has_begun_next = || self.begun(lane, at).is_some_and(|begun| begun > 0);
        if due <= self.now() && has_begun_next() { None } else { Some(due) }
    }

    /// Ends what has run out of time; returns whether that is anything.
    pub(super) fn expire(&mut self, lane: &mut SimLane) -> bool {
        let mut has_any = false;
        for at in (0..lane.workers.len()).rev() {
            let now = self.now();
            if self.worker_deadline(lane, at).is_some_and(|due| due <= now) {
                has_any = true;
                if lane.workers[at].awaiting_exit.is_some() {
                    self.end_exited(lane, at);
                } else {
                    self.end_faulty(lane, at, FailureKind::Timeout, None);
                }
            } else {
                has_any |= self.expire_written(lane, at);
            }
        }
        has_any | self.expire_queued(lane)
    }

    /// Returns whether the first call of a worker has it.
    fn has_its_worker(&self, lane: &SimLane, at: usize) -> bool {
        lane.state.held[at].unreleased == 0 || self.begun(lane, at) != Some(0)
    }

    fn expire_written(&mut self, lane: &mut SimLane, at: usize) -> bool {
        let (now, wait_timeout) = (self.now(), self.plan.options.wait_timeout);
        let has_its_worker = self.has_its_worker(lane, at);
        if has_its_worker
            && let Some(first) = lane.state.held[at].written.front_mut()
            && let Some(late) = passed(&first.single, None, now)
        {
            if !first.single.extend_late_deadline(late) {
                let number = lane.workers[at].number;
                // T4
                let replied = self.leases.get(&number).is_some_and(|lease| !lease.outbox.is_empty());
                assert!(
                    !replied || lane.workers[at].awaiting_exit.is_some(),
                    "a reply that can be read wins"
                );
                self.end_faulty(lane, at, FailureKind::Timeout, None);
            }
            return true;
        }
        let mut behind = lane.state.held[at].written.iter().skip(usize::from(has_its_worker));
        behind.any(|call| passed(&call.single, wait_timeout, now).is_some()) && self.take_back(lane, at) > 0
    }

    fn expire_queued(&mut self, lane: &mut SimLane) -> bool {
        let (now, wait_timeout) = (self.now(), self.plan.options.wait_timeout);
        let (mut at, before) = (0, lane.state.queued.len());
        while let Some(queued) = lane.state.queued.get_mut(at) {
            let late = passed(&queued.single, wait_timeout, now);
            if late.is_none_or(|late| queued.single.extend_late_deadline(late)) {
                at += 1;
            } else if let Some(queued) = lane.state.queued.remove(at) {
                lane.failed.push((queued.single.call, FailureKind::Timeout));
            }
        }
        lane.state.queued.len() < before
    }

    /// Has the lane looked at when something is due.
    pub(super) fn schedule_limits(&mut self, lane: &SimLane) {
        let (now, wait_timeout) = (self.now(), self.plan.options.wait_timeout);
        let soonest = now + RECHECK;
        let mut due: Vec<Instant> = lane.state.slow_at(now).into_iter().collect();
        for (at, held) in lane.state.held.iter().enumerate() {
            due.extend(self.worker_deadline(lane, at));
            let has_its_worker = self.has_its_worker(lane, at);
            due.extend(held.written.iter().enumerate().filter_map(|(place, call)| {
                let wait_timeout = wait_timeout.filter(|_| place > 0 || !has_its_worker);
                Some(deadline(&call.single, wait_timeout)?.max(soonest))
            }));
        }
        let queued = lane.state.queued.iter();
        due.extend(queued.filter_map(|queued| Some(deadline(&queued.single, wait_timeout)?.max(soonest))));
        if let Some(due) = due.into_iter().min() {
            self.look_at_lane_after(due.saturating_duration_since(now), lane.id);
        }
    }

    /// Ends a worker that has to be killed. `answered` is the call whose reply is the end of the worker.
    pub(super) fn end_faulty(
        &mut self,
        lane: &mut SimLane,
        at: usize,
        kind: FailureKind,
        answered: Option<SimSingle>,
    ) {
        let begun = self.close_gate(lane, at).unwrap_or(lane.state.held[at].written.len());
        let blames_first = match kind {
            FailureKind::Timeout => lane.state.held[at].unreleased == 0,
            FailureKind::Protocol => answered.is_none(),
            _ => false,
        };
        let begun = if blames_first { begun.max(1) } else { begun };
        let reason = match kind {
            FailureKind::Timeout => RetireReason::TimedOut,
            FailureKind::Cancelled => RetireReason::Cancelled,
            FailureKind::Panic => RetireReason::Panicked,
            _ => RetireReason::Broken,
        };
        self.end_worker(lane, at, begun, (kind, reason), answered);
    }

    /// Ends a worker that has exited, or closed its channel.
    pub(super) fn end_exited(&mut self, lane: &mut SimLane, at: usize) {
        // At a port there is no gate, and only a report of the server shows whether a call had begun.
        let has_report = self.rng.happens(900);
        let lease = self.leases.get(&lane.workers[at].number).filter(|_| has_report);
        let held = &mut lane.state.held[at];
        let unknown = if lease.is_some_and(|lease| !lease.begun) { 0 } else { held.written.len() };
        let mut begun = self.close_gate(lane, at).unwrap_or(unknown);
        if begun == 0
            && let Some(first) = lane.state.held[at].written.front_mut()
        {
            first.single.false_starts += 1;
            let false_starts = first.single.false_starts;
            assert!(false_starts <= MAX_FALSE_STARTS, "a call is sent to ten workers at most");
            begun = usize::from(false_starts == MAX_FALSE_STARTS);
        }
        self.end_worker(lane, at, begun, (FailureKind::Died, RetireReason::Broken), None);
    }

    /// Fails the first calls of a worker, and has the others run elsewhere.
    fn end_worker(
        &mut self,
        lane: &mut SimLane,
        at: usize,
        begun: usize,
        (kind, reason): (FailureKind, RetireReason),
        answered: Option<SimSingle>,
    ) {
        lane.urgent += self.requeue_behind(lane, at, begun);
        let (worker, held) = Self::remove_held(lane, at);
        if kind == FailureKind::Died && self.plan.has_gates {
            for written in &held.written {
                let is_blamed = written.single.false_starts == MAX_FALSE_STARTS;
                self.check_lost(&written.single.call, is_blamed);
            }
        }
        let running = held.written.into_iter().map(|written| written.single.call);
        lane.failed.extend(answered.into_iter().chain(running).map(|call| (call, kind)));
        // The worker is killed after the request for another one: a pool that ends waits for its leases.
        self.ask(lane);
        self.kill_held(worker.number, worker.waiter, reason);
    }
}
