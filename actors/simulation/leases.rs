//! What the simulated scheduler does for sessions and lanes: waiters, grants, and the ends of leases. The pool state
//! decides.

use std::time::Duration;

use super::channel::SimLease;
use super::session::SimTurn;
use super::worker::ExpectedState;
use super::world::World;
use crate::actors::scheduler::exit::ExitReport;
use crate::actors::scheduler::lanes::LanePlace;
use crate::actors::scheduler::state::{Admission, PoolPhase, PoolState, ReleaseReport};
use crate::actors::scheduler::waiting::{BulkheadId, Request};
use crate::actors::scheduler::worker_state::RetireReason;
use crate::actors::session::machine::{Event, Grant};
use crate::clock::Instant;
use crate::failure::{Failure, FailureKind};

/// Who waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Holder {
    Session(u64),
    Lane(u64),
}

/// One waiter, from its request for a worker to the end of its lease.
pub(super) struct SimWaiter {
    pub(super) holder: Holder,
    pub(super) bulkhead: Option<BulkheadId>,
    /// Whether a call is queued on the checkout.
    pub(super) has_call: bool,
    /// When its checkout joined the queue, in the order of [`World::next_order`].
    pub(super) joined: u64,
    notice: Notice,
}

/// What has happened since the holder last took its notice.
#[derive(Default)]
pub(super) struct Notice {
    pub(super) lease: Option<u64>,
    pub(super) refusal: Option<FailureKind>,
    pub(super) failed_start: bool,
    pub(super) exited: bool,
    pub(super) killed: bool,
    pub(super) closing: bool,
    pub(super) stopped: bool,
    is_new: bool,
}

impl SimWaiter {
    pub(super) fn has_notice(&self) -> bool {
        self.notice.is_new
    }
}

impl World {
    /// Requests a worker for a session.
    pub(super) fn acquire(&mut self, id: u64, again: bool) {
        let waiter = if again { self.next_ahead() } else { self.next_ticket() };
        let order = self.next_order();
        let Some(session) = self.sessions.get_mut(&id) else { return };
        // P12: the scheduler knows at any moment of a checkout that is to be served.
        assert_eq!(session.has_place, again, "a checkout with a place asks for no other one");
        session.has_place = true;
        session.waiter = waiter;
        // A checkout whose worker was lost before it began a call stands where it stood.
        let joined = if again { session.joined } else { order };
        session.joined = joined;
        let (has_call, bulkhead) = (!session.machine.is_idle(), session.options.bulkhead);
        let holder = Holder::Session(id);
        self.waiters
            .insert(waiter, SimWaiter { holder, bulkhead, has_call, joined, notice: Notice::default() });
        if self.plan.options.max_waiting.is_some() {
            self.state.waiting_calls = self.waiting_singles();
        }
        let place = if again { LanePlace::First } else { LanePlace::Last };
        let acquire = if again { PoolState::reacquire } else { PoolState::acquire };
        self.admit(Request::checkout(waiter, bulkhead), place, acquire);
    }

    /// Requests a worker for a lane.
    pub(super) fn acquire_for_lane(&mut self, id: u64, place: LanePlace) -> u64 {
        let waiter = if place == LanePlace::Last { self.next_ticket() } else { self.next_ahead() };
        let (holder, joined) = (Holder::Lane(id), self.next_order());
        let notice = Notice::default();
        self.waiters.insert(waiter, SimWaiter { holder, bulkhead: None, has_call: true, joined, notice });
        self.admit(Request::lane(waiter, None), place, place.acquire());
        waiter
    }

    /// Returns the number of what begins to wait now, among checkouts and single calls.
    pub(super) fn next_ticket(&mut self) -> u64 {
        self.last_waiter += 1;
        self.last_waiter
    }

    /// Returns the number of what is put ahead of others.
    fn next_ahead(&mut self) -> u64 {
        self.last_ahead -= 1;
        self.last_ahead
    }

    /// Numbers what joins the queue and what is sent to lanes, in that order.
    pub(super) fn next_order(&mut self) -> u64 {
        self.last_order += 1;
        self.last_order
    }

    fn admit(
        &mut self,
        request: Request,
        place: LanePlace,
        acquire: fn(&mut PoolState, Request, Instant) -> Admission,
    ) {
        let (waiter, now) = (request.id, self.now());
        let holder = self.waiters[&waiter].holder;
        let last_idle = self.idle.last().copied();
        let at = match place {
            LanePlace::First => 0,
            LanePlace::BeforeCheckouts => self.before_checkouts(),
            LanePlace::Last => self.queue.len(),
        };
        let answer = acquire(&mut self.state, request, now);
        self.record("worker requested", || format!("{waiter} for {holder:?} at {place:?}: {answer:?}"));
        if answer == Admission::Queued && !request.is_lane {
            self.lanes.exclusive_joined += 1;
        }
        match answer {
            Admission::Granted { worker } => {
                assert!(self.allowed().is_empty(), "no waiting checkout is overtaken");
                assert_eq!(Some(worker), last_idle, "the most recently used worker is taken");
                self.grant(waiter, worker);
            }
            Admission::Queued => self.queue.insert(at, waiter),
            Admission::Overloaded { waiting } => {
                let checkouts = self.queue.iter().filter(|waiter| !self.is_of_lane(**waiter)).count();
                assert_eq!(waiting, checkouts + self.waiting_singles().sum());
                assert!(self.plan.options.max_waiting.is_some_and(|most| waiting >= most));
                self.refuse(waiter, FailureKind::Overloaded);
            }
            Admission::Stopped => {
                let serves = place == LanePlace::First || request.is_lane;
                let served = if serves { PoolPhase::Closing } else { PoolPhase::Open };
                assert!(self.state.phase() > served, "an open pool accepts checkouts");
                self.refuse(waiter, FailureKind::Stopped);
            }
        }
        self.settle();
    }

    /// Returns where a lane stands that joins ahead of the first checkout which does not wait at its bulkhead.
    fn before_checkouts(&self) -> usize {
        let first = self.allowed().into_iter().find(|waiter| !self.is_of_lane(*waiter));
        let at = first.and_then(|first| self.queue.iter().position(|waiter| *waiter == first));
        at.unwrap_or(self.queue.len())
    }

    /// Lends a worker to a waiter, as the pool state has decided.
    pub(super) fn grant(&mut self, waiter: u64, number: u64) {
        assert_ne!(self.state.phase(), PoolPhase::Stopping, "a stopped pool lends no worker");
        assert!(!self.is_paused, "a paused pool lends no worker");
        self.enter_bulkhead(waiter, number);
        let before = self.holders.insert(number, waiter);
        assert_eq!(before, None, "worker {number} has at most one holder");
        self.idle.retain(|idle| *idle != number);
        let Some(worker) = self.worker(number) else { panic!("worker {number} is known") };
        assert_eq!(worker.expected_state, Some(ExpectedState::Idle), "only an idle worker is granted");
        worker.expected_state = Some(ExpectedState::Leased(waiter));
        worker.checkouts += 1;
        let pipe = std::mem::take(&mut worker.pipe);
        let mut lease = SimLease::new(waiter, pipe);
        lease.singles.budget = self.state.checkouts_left(number).saturating_add(1);
        self.leases.insert(number, lease);
        self.notify_waiter(waiter, |notice| notice.lease = Some(number));
    }

    pub(super) fn refuse(&mut self, waiter: u64, kind: FailureKind) {
        if let Holder::Session(id) = self.waiters[&waiter].holder {
            self.give_up_place(id);
        }
        self.notify_waiter(waiter, |notice| notice.refusal = Some(kind));
    }

    pub(super) fn notify_kill(&mut self, waiter: u64) {
        self.notify_waiter(waiter, |notice| notice.killed = true);
    }

    pub(super) fn notify_exit(&mut self, waiter: u64) {
        self.notify_waiter(waiter, |notice| notice.exited = true);
    }

    fn notify_waiter(&mut self, waiter: u64, write: impl FnOnce(&mut Notice)) {
        if let Some(sim_waiter) = self.waiters.get_mut(&waiter) {
            write(&mut sim_waiter.notice);
            sim_waiter.notice.is_new = true;
            self.wake_holder(waiter);
        }
    }

    /// Handles what the scheduler has to say to a session, in the order of a real one; returns whether there was
    /// something.
    pub(super) fn take_notice(&mut self, id: u64) -> bool {
        let waiter = self.sessions[&id].waiter;
        let Some(notice) = self.take_waiter_notice(waiter) else { return false };
        if let Some(worker) = notice.lease {
            self.take_lease(id, worker);
        }
        if notice.closing || notice.stopped {
            if let Some(session) = self.sessions.get_mut(&id) {
                session.is_closing = true;
            }
            self.on(id, Event::Closing);
        }
        if notice.failed_start {
            self.on(id, Event::StartFailed(Failure::of(FailureKind::Setup, "")));
        }
        if let Some(kind) = notice.refusal {
            self.on(id, Event::Refused(Failure::of(kind, "")));
        }
        if notice.exited || notice.killed {
            while self.read(id) {}
            self.on(id, Event::ChannelEnded);
        }
        if notice.stopped {
            self.on(id, Event::Stopped);
        }
        if notice.exited || notice.killed {
            let report = if notice.killed { ExitReport::Killed } else { ExitReport::Unknown };
            self.report_exit(id, Some(report));
        }
        true
    }

    /// Takes what the scheduler has to say to a waiter, if there is anything.
    pub(super) fn take_waiter_notice(&mut self, waiter: u64) -> Option<Notice> {
        let waiter = self.waiters.get_mut(&waiter)?;
        waiter.notice.is_new.then(|| std::mem::take(&mut waiter.notice))
    }

    /// Takes a worker that was granted, and passes it what the last worker has not read.
    fn take_lease(&mut self, id: u64, worker: u64) {
        let mishaps = self.plan.mishaps;
        let (early, unregistered) = (self.draw_fault(mishaps / 16), self.draw_fault(mishaps / 16));
        let Some(session) = self.sessions.get_mut(&id) else { return };
        assert_eq!(session.worker.replace(worker), None, "a session has one worker");
        let grant = Grant { calls_served: 0, has_early_bytes: early, is_registered: !unregistered };
        session.retries += u32::from(early);
        session.is_granting = true;
        self.on(id, Event::Granted(grant));
        let Some(session) = self.sessions.get_mut(&id) else { return };
        session.is_granting = false;
        if session.worker == Some(worker) {
            let unread = session.unconfirmed.clone();
            unread.into_iter().for_each(|frame| self.send(worker, frame));
        }
    }

    /// Notes that a checkout is released or is served no more: what it asks for later is a new place.
    fn give_up_place(&mut self, id: u64) {
        if let Some(session) = self.sessions.get_mut(&id) {
            session.has_place = false;
        }
    }

    /// Shows the scheduler whether a waiting checkout has a call.
    pub(super) fn show_calls(&mut self, id: u64) {
        let Some(session) = self.sessions.get(&id).filter(|session| session.machine.is_waiting()) else {
            return;
        };
        if let Some(waiter) = self.waiters.get_mut(&session.waiter) {
            waiter.has_call = !session.machine.is_idle();
        }
    }

    /// Gives up a session's request for a worker. A worker that was granted meanwhile is given back.
    pub(super) fn leave_queue(&mut self, id: u64) {
        self.give_up_place(id);
        self.cancel_waiter(self.sessions[&id].waiter);
    }

    pub(super) fn cancel_waiter(&mut self, waiter: u64) {
        let now = self.now();
        self.record("checkout leaves the queue", || waiter.to_string());
        let at = self.queue.iter().position(|waiting| *waiting == waiter);
        at.map(|at| self.queue.remove(at));
        assert_eq!(self.state.cancel(waiter, now), at.is_some(), "a waiting checkout is in the queue");
        self.settle();
        let granted = self.waiters.remove(&waiter).and_then(|waiter| waiter.notice.lease);
        if let Some(worker) = granted {
            self.give_back(worker, ReleaseReport::default());
        }
    }

    /// Returns the lease of a session's worker.
    pub(super) fn lease_of(&self, id: u64) -> Option<&SimLease> {
        self.leases.get(&self.sessions.get(&id)?.worker?)
    }

    /// Decides whether a worker is to be replaced after its checkout, and why, as the pool state has it.
    pub(super) fn decide_retirement(&mut self, worker: u64) -> Option<RetireReason> {
        let now = self.now();
        self.state.decide_retirement(worker, now)
    }

    pub(super) fn give_back_lease(&mut self, id: u64, report: ReleaseReport) {
        self.give_up_place(id);
        if let Some(worker) = self.sessions.get_mut(&id).and_then(|session| session.worker.take()) {
            self.record("worker released", || format!("{worker} by {id}, {report:?}"));
            self.give_back(worker, report);
        }
    }

    /// Gives a worker back that a lane held.
    pub(super) fn give_back_held(&mut self, number: u64, waiter: u64, report: ReleaseReport) {
        self.record("worker given back by a lane", || format!("{number}, {report:?}"));
        self.waiters.remove(&waiter);
        if let (Some(worker), Some(checkouts)) = (self.workers.get_mut(&number), report.checkouts) {
            worker.checkouts = worker.checkouts - 1 + checkouts;
        }
        self.give_back(number, report);
    }

    fn give_back(&mut self, number: u64, report: ReleaseReport) {
        let now = self.now();
        self.holders.remove(&number);
        let (expected, elapsed) = (self.expected_reason(number, report, now), self.elapsed);
        let leased = self.end_lease(number);
        if let Some(worker) = self.worker(number).filter(|_| leased) {
            worker.expected_state = Some(ExpectedState::Idle);
            worker.idle_since = now;
            worker.idle_from = elapsed;
            self.idle.push(number);
        }
        self.state.release(number, report, now);
        self.settle();
        let ends =
            self.worker(number).is_none_or(|worker| worker.expected_state == Some(ExpectedState::Ending));
        assert!(!leased || expected.is_none() || ends, "worker {number} is to be retired: {expected:?}");
    }

    /// Ends the lease of a worker; returns whether it was lent.
    fn end_lease(&mut self, number: u64) -> bool {
        if let (Some(lease), Some(worker)) = (self.leases.remove(&number), self.workers.get_mut(&number)) {
            worker.pipe = lease.pipe;
        }
        let expected_state = self.worker(number).and_then(|worker| worker.expected_state);
        matches!(expected_state, Some(ExpectedState::Leased(_)))
    }

    /// Kills the worker of a session, if it has one. The session may have asked for another one before.
    pub(super) fn kill_lease(&mut self, id: u64, reason: RetireReason) {
        if !self.sessions[&id].machine.is_waiting() {
            self.give_up_place(id);
        }
        let Some(number) = self.sessions.get_mut(&id).and_then(|session| session.worker.take()) else {
            return;
        };
        self.kill_lent(number, reason);
    }

    /// Kills a worker that a lane holds.
    pub(super) fn kill_held(&mut self, number: u64, waiter: u64, reason: RetireReason) {
        self.waiters.remove(&waiter);
        self.kill_lent(number, reason);
    }

    fn kill_lent(&mut self, number: u64, reason: RetireReason) {
        self.record("worker killed", || format!("{number}: {reason}"));
        self.kill(number);
        let now = self.now();
        self.holders.remove(&number);
        self.end_lease(number);
        if let Some(worker) = self.worker(number)
            && let Some(expected_state) = &mut worker.expected_state
        {
            *expected_state = ExpectedState::Ending;
        }
        self.state.dismiss(number, reason, now);
        self.settle();
    }

    pub(super) fn retire_lease(&mut self, id: u64, reason: RetireReason) {
        self.give_up_place(id);
        let Some(number) = self.sessions.get_mut(&id).and_then(|session| session.worker.take()) else {
            return;
        };
        let now = self.now();
        self.record("worker retired at release", || format!("{number} by {id}: {reason}"));
        self.holders.remove(&number);
        let leased = self.end_lease(number);
        if let Some(worker) = self.worker(number).filter(|_| leased) {
            worker.expected_state = Some(ExpectedState::Ending);
        }
        if reason == RetireReason::Recycled && leased {
            self.check_recycled(0);
        }
        self.state.retire(number, reason, now);
        self.settle();
    }

    pub(super) fn end_session(&mut self, id: u64) {
        let Some(session) = self.sessions.remove(&id) else { return };
        assert_eq!(session.worker, None, "a checkout ends without a worker");
        self.waiters.retain(|_, waiter| waiter.holder != Holder::Session(id));
        self.record("checkout ends", || id.to_string());
    }

    /// W3: fails a call of the first waiting session or lane that has one with a failed set-up. It keeps its place.
    pub(super) fn notify_first_waiter(&mut self) {
        let has_call = |waiter: &u64| self.waiters[waiter].has_call;
        let first = self.state.waiting().allowed().find(has_call).filter(|_| !self.is_paused);
        if let Some(first) = first {
            self.record("checkout failed with a set-up", || first.to_string());
            // A lane has further calls.
            let is_of_lane = self.is_of_lane(first);
            if let Some(waiter) = self.waiters.get_mut(&first) {
                waiter.has_call = is_of_lane;
            }
            self.notify_waiter(first, |notice| notice.failed_start = true);
        }
    }

    /// Notifies all holders that the pool is stopping, or that it has stopped.
    pub(super) fn notify_holders(&mut self, stopped: bool) {
        let holders: Vec<u64> = self.holders.values().copied().collect();
        for waiter in holders {
            self.notify_waiter(waiter, |notice| {
                notice.closing |= !stopped;
                notice.stopped |= stopped;
            });
        }
    }

    /// Lets calls and set-ups finish that hang, and holders that keep their checkouts.
    pub(super) fn end_stuck_sessions(&mut self) {
        self.finish_hung_setups();
        self.finish_hung_work();
        let stuck: Vec<u64> = self.sessions.keys().copied().collect();
        stuck.into_iter().for_each(|id| self.schedule_turn_after(Duration::ZERO, id, SimTurn::Send));
    }
}
