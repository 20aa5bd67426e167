//! The simulated lanes: each decides with the state of a real one, and carries that out with simulated workers.
//!
//! What is done here, and in which order, is what the driver of a real lane does.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::channel::{SimFrame, SimOutcome, SimReply};
use super::leases::{Holder, Notice};
use super::singles::{SimSingle, SingleRecord};
use super::world::{SimEvent, World};
use crate::actors::lane::state::{Held, LaneState, OthersWaiting, Queued, Single};
use crate::actors::scheduler::lanes::LanePlace;
use crate::actors::scheduler::state::{PoolPhase, ReleaseReport};
use crate::actors::scheduler::waiting::WaitingCalls;
use crate::actors::scheduler::worker_state::RetireReason;
use crate::clock::Instant;
use crate::failure::FailureKind;

/// What a lane knows of a worker that it holds, beside its state.
pub(super) struct LaneWorker {
    pub(super) number: u64,
    pub(super) waiter: u64,
    report: ReleaseReport,
    pub(super) awaiting_exit: Option<Instant>,
}

/// Bytes of a message.
pub(super) type Size = usize;

/// One lane. It is taken out of the world while it works.
pub(super) struct SimLane {
    pub(super) id: u64,
    pub(super) state: LaneState<SimSingle, Size, Size>,
    /// In the order of [`LaneState::held`].
    pub(super) workers: Vec<LaneWorker>,
    /// The waiters of the requests for further workers.
    pub(super) asked: Vec<u64>,
    pub(super) urgent: usize,
    pub(super) failed: Vec<(SimSingle, FailureKind)>,
    is_stopping: bool,
    exclusive_seen: u64,
}

/// All lanes, and what the scheduler knows of them.
#[derive(Default)]
pub(super) struct Lanes {
    pub(super) by_id: BTreeMap<u64, SimLane>,
    /// How many calls wait in each.
    pub(super) waiting: BTreeMap<u64, usize>,
    /// When each is looked at next, at the latest.
    looks: BTreeMap<u64, Duration>,
    /// How many checkouts that are no lanes have joined the queue.
    pub(super) exclusive_joined: u64,
    /// All single calls.
    pub(super) calls: BTreeMap<u64, SingleRecord>,
    /// Those that are neither answered nor dropped.
    pub(super) open: BTreeSet<u64>,
}

impl SimLane {
    pub(super) fn new(id: u64, max_workers: usize) -> Self {
        SimLane {
            id,
            state: LaneState::new(max_workers),
            workers: Vec::new(),
            asked: Vec::new(),
            urgent: 0,
            failed: Vec::new(),
            is_stopping: false,
            exclusive_seen: 0,
        }
    }

    fn add_asked(&mut self, waiter: u64) {
        let at = self.asked.partition_point(|other| *other < waiter);
        self.asked.insert(at, waiter);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.state.queued.is_empty() && self.workers.is_empty() && self.asked.is_empty()
    }
}

impl World {
    /// Has a lane look at its notices, its channels and its clock, after a while.
    pub(super) fn wake_lane(&mut self, id: u64) {
        let wait = self.draw_hop();
        self.look_at_lane_after(wait, id);
    }

    pub(super) fn wake_lanes(&mut self) {
        (0..self.plan.lanes as u64).for_each(|id| self.wake_lane(id));
    }

    /// Returns whether a lane is looked at soon.
    pub(super) fn is_woken(&self, id: u64) -> bool {
        self.lanes.looks.get(&id).is_some_and(|at| *at <= self.elapsed + self.longest_hop())
    }

    pub(super) fn look_at_lane_after(&mut self, wait: Duration, id: u64) {
        let at = self.elapsed + wait;
        if self.lanes.looks.get(&id).is_none_or(|known| at < *known) {
            self.lanes.looks.insert(id, at);
            self.schedule_after(wait, SimEvent::LookAtLane(id));
        }
    }

    /// Lets a lane do all that it can do now.
    pub(super) fn look_at_lane(&mut self, id: u64) {
        if self.lanes.looks.get(&id).is_some_and(|at| *at <= self.elapsed) {
            self.lanes.looks.remove(&id);
        }
        self.with_lane(id, |world, lane| {
            world.poll_lane(lane);
            world.check_lane(lane);
        });
    }

    pub(super) fn with_lane(&mut self, id: u64, work: impl FnOnce(&mut Self, &mut SimLane)) {
        let Some(mut lane) = self.lanes.by_id.remove(&id) else { return };
        work(self, &mut lane);
        self.lanes.waiting.insert(id, lane.state.waiting());
        self.lanes.by_id.insert(id, lane);
    }

    /// Takes a call. `waiter`: the request for a worker that was made when the call was sent on another thread.
    pub(super) fn submit_single(&mut self, lane: &mut SimLane, number: u64, waiter: Option<u64>) {
        let call = self.sim_single(number);
        if let Some(waiter) = waiter {
            lane.add_asked(waiter);
        }
        if call.limit == Some(Duration::ZERO) {
            lane.failed.push((call, FailureKind::Timeout));
        } else if waiter.is_none() && self.state.phase() > PoolPhase::Open {
            lane.failed.push((call, FailureKind::Stopped));
        } else {
            self.write_or_queue(lane, call, waiter);
        }
        self.wake_lane(lane.id);
    }

    fn write_or_queue(&mut self, lane: &mut SimLane, call: SimSingle, ticket: Option<u64>) {
        let now = self.now();
        let (size, limit) = (call.size, call.limit);
        let single = Single::new(call, limit, now);
        self.note_progress(lane);
        let place = match self.is_paused {
            true => None,
            false => lane.state.place_for_new(self.others_waiting(lane), now),
        };
        let is_free = place.is_some_and(|at| lane.state.held[at].written.is_empty());
        if !is_free && !self.admit_single(lane) {
            return lane.failed.push((single.call, FailureKind::Overloaded));
        }
        if let Some(at) = place {
            return self.write_single(lane, at, single, size);
        }
        let ticket = ticket.unwrap_or_else(|| self.next_ticket());
        let joined = self.lanes.exclusive_joined;
        let starts_run = std::mem::replace(&mut lane.exclusive_seen, joined) != joined;
        lane.state.queued.insert(Queued { single, message: size, ticket, starts_run });
        self.ask_at(lane, LanePlace::Last);
    }

    /// P9: decides whether a call may wait, as the scheduler does.
    fn admit_single(&self, lane: &SimLane) -> bool {
        let Some(max_waiting) = self.plan.options.max_waiting else { return true };
        let mut calls = self.waiting_singles();
        if calls.sum().saturating_add(self.state.waiting_count()) < max_waiting {
            return true;
        }
        let granted = lane.asked.iter().filter(|waiter| self.waiters[waiter].has_notice()).count();
        let own = calls.of(None);
        *own = own.saturating_sub(granted);
        self.state.overload(&calls, None).is_none()
    }

    /// Returns how many calls wait in lanes, as the scheduler sees it.
    pub(super) fn waiting_singles(&self) -> WaitingCalls {
        let mut calls = WaitingCalls::default();
        *calls.of(None) = self.lanes.waiting.values().sum();
        calls
    }

    pub(super) fn others_waiting(&self, lane: &SimLane) -> OthersWaiting {
        OthersWaiting {
            any: self.state.waiting().ahead().count > lane.asked.len(),
            exclusive: self.first_exclusive() != u64::MAX,
        }
    }

    fn first_exclusive(&self) -> u64 {
        self.state.waiting().ahead().first_exclusive.map_or(u64::MAX, |(_, id)| id)
    }

    fn write_single(&mut self, lane: &mut SimLane, at: usize, single: Single<SimSingle>, size: Size) {
        let now = self.now();
        let worker = lane.workers[at].number;
        self.check_single_write(worker, &single.call);
        let (id, call) = (lane.state.held[at].next_id(), single.call.number);
        let epoch = self.pipe(worker).map(|pipe| {
            pipe.gate.add_written();
            pipe.gate.epoch()
        });
        lane.state.held[at].push(single, size, size, now);
        self.send(worker, SimFrame::Single { id, call, epoch });
    }

    pub(super) fn write_first(&mut self, lane: &mut SimLane, at: usize) {
        if let Some(Queued { single, message, .. }) = lane.state.queued.pop_first() {
            self.write_single(lane, at, single, message);
        }
    }

    pub(super) fn write_queued_singles(&mut self, lane: &mut SimLane) {
        let now = self.now();
        while !self.is_paused
            && let Some(at) = lane.state.place_for_queued(self.first_exclusive(), now)
        {
            let Some(Queued { single, message, .. }) = lane.state.queued.pop_first() else { return };
            if single.call.is_abandoned.get() {
                self.drop_single(single.call.number);
            } else {
                self.write_single(lane, at, single, message);
            }
        }
    }

    fn poll_lane(&mut self, lane: &mut SimLane) {
        loop {
            self.drop_abandoned(lane);
            let mut has_worked = self.take_lane_notices(lane);
            if self.is_paused {
                self.pause_lane(lane);
            }
            self.write_queued_singles(lane);
            self.spread(lane);
            has_worked |= self.ask(lane);
            for at in (0..lane.workers.len()).rev() {
                has_worked |= self.read_singles(lane, at);
            }
            has_worked |= self.deliver_failed(lane) | self.cancel_single(lane) | self.expire(lane);
            if !has_worked {
                break;
            }
        }
        self.give_back_unneeded(lane);
        self.schedule_limits(lane);
    }

    /// Asks for one more worker if it has something to do, or withdraws requests; returns whether it asked.
    pub(super) fn ask(&mut self, lane: &mut SimLane) -> bool {
        let place = lane.state.place_in_line(self.first_exclusive());
        self.ask_at(lane, place)
    }

    fn ask_at(&mut self, lane: &mut SimLane, place: LanePlace) -> bool {
        let wanted = lane.state.wanted(self.others_waiting(lane).exclusive, self.now());
        while lane.asked.len() > wanted
            && let Some(at) = lane.state.queued.surplus(lane.asked.iter().copied(), self.first_exclusive())
        {
            self.cancel_waiter(lane.asked.remove(at));
        }
        if lane.asked.len() == wanted {
            lane.urgent = 0;
            return false;
        }
        let place = if lane.urgent > 0 { LanePlace::First } else { place };
        lane.urgent = lane.urgent.saturating_sub(1);
        let waiter = self.acquire_for_lane(lane.id, place);
        lane.add_asked(waiter);
        true
    }

    fn take_lane_notices(&mut self, lane: &mut SimLane) -> bool {
        let mut has_any = false;
        for at in (0..lane.asked.len()).rev() {
            if let Some(waiter) = lane.asked.get(at).copied()
                && let Some(notice) = self.take_waiter_notice(waiter)
            {
                has_any = true;
                self.handle_answer(lane, at, waiter, notice);
            }
        }
        for at in (0..lane.workers.len()).rev() {
            if let Some(waiter) = lane.workers.get(at).map(|worker| worker.waiter)
                && let Some(notice) = self.take_waiter_notice(waiter)
            {
                has_any = true;
                self.handle_lane_notice(lane, at, notice);
            }
        }
        if lane.is_stopping {
            Self::stop_waiting(lane);
        }
        has_any
    }

    fn handle_answer(&mut self, lane: &mut SimLane, at: usize, waiter: u64, notice: Notice) {
        if notice.failed_start
            && let Some(first) = lane.state.queued.pop_first()
        {
            lane.failed.push((first.single.call, FailureKind::Setup));
        }
        if let Some(refusal) = notice.refusal {
            assert_eq!(refusal, FailureKind::Stopped, "a lane is refused a worker by a stop alone");
            lane.asked.remove(at);
            self.waiters.remove(&waiter);
            return Self::stop_waiting(lane);
        }
        let Some(worker) = notice.lease else { return };
        lane.asked.remove(at);
        if notice.killed || self.draw_fault(self.plan.mishaps / 16) {
            lane.urgent += 1;
            self.ask(lane);
            let reason = if notice.killed { RetireReason::Killed } else { RetireReason::Broken };
            return self.kill_held(worker, waiter, reason);
        }
        let budget = self.leases[&worker].singles.budget;
        let report = ReleaseReport::default();
        lane.workers.push(LaneWorker { number: worker, waiter, report, awaiting_exit: None });
        lane.state.held.push(Held::new(budget, self.plan.has_gates, self.now()));
        if notice.closing || self.is_paused {
            self.write_first(lane, lane.workers.len() - 1);
        } else {
            self.write_queued_singles(lane);
        }
        self.handle_lane_notice(lane, lane.workers.len() - 1, notice);
    }

    fn handle_lane_notice(&mut self, lane: &mut SimLane, at: usize, notice: Notice) {
        if notice.closing || notice.stopped {
            (0..lane.workers.len()).for_each(|at| self.close_worker(lane, at));
            lane.is_stopping = true;
        }
        if (notice.exited || notice.killed) && !self.read_last(lane, at) {
            return;
        }
        if notice.stopped {
            let (worker, held) = Self::remove_held(lane, at);
            let stopped = held.written.into_iter().map(|call| (call.single.call, FailureKind::Stopped));
            lane.failed.extend(stopped);
            self.kill_held(worker.number, worker.waiter, RetireReason::PoolEnds);
        } else if notice.exited || notice.killed {
            self.end_exited(lane, at);
        }
    }

    /// Takes back what stands behind the first call of a worker, which gets no further one.
    fn close_worker(&mut self, lane: &mut SimLane, at: usize) {
        let held = &lane.state.held[at];
        let has_its_worker = held.unreleased == 0 && !held.written.is_empty();
        self.take_back(lane, at);
        if has_its_worker && lane.state.held[at].written.is_empty() {
            self.write_first(lane, at);
        }
        lane.state.held[at].is_closing = true;
    }

    /// P17: leaves each worker the call that it has, and keeps none.
    fn pause_lane(&mut self, lane: &mut SimLane) {
        for at in 0..lane.workers.len() {
            if !lane.state.held[at].is_closing || lane.state.held[at].behind() > 0 {
                self.close_worker(lane, at);
            }
        }
    }

    fn stop_waiting(lane: &mut SimLane) {
        let queued = lane.state.queued.take();
        lane.failed.extend(queued.into_iter().map(|queued| (queued.single.call, FailureKind::Stopped)));
    }

    /// Reads what a worker that has ended still sent. Returns whether the lane still has it.
    fn read_last(&mut self, lane: &mut SimLane, at: usize) -> bool {
        let worker = lane.workers[at].number;
        while self.read_singles(lane, at) {
            if lane.workers.get(at).is_none_or(|now| now.number != worker) {
                return false;
            }
        }
        let now = self.now();
        lane.workers[at].awaiting_exit.get_or_insert(now);
        true
    }

    /// Reads what a worker has sent; returns whether there was anything, or the end of its channel.
    pub(super) fn read_singles(&mut self, lane: &mut SimLane, at: usize) -> bool {
        let (number, now) = (lane.workers[at].number, self.now());
        if lane.workers[at].awaiting_exit.is_some() {
            return false;
        }
        let is_alive = self.workers.get(&number).is_some_and(|worker| worker.is_alive());
        let Some(lease) = self.leases.get_mut(&number) else { return false };
        let arrived = std::mem::take(&mut lease.outbox);
        if arrived.is_empty() {
            let has_ended = !is_alive || lease.closed;
            lane.workers[at].awaiting_exit = has_ended.then_some(now);
            return has_ended;
        }
        for reply in arrived {
            if !self.take_reply(lane, at, reply) {
                break;
            }
        }
        true
    }

    /// Handles a frame of a worker; returns whether the lane still has it.
    fn take_reply(&mut self, lane: &mut SimLane, at: usize, reply: SimReply) -> bool {
        let now = self.now();
        match reply {
            SimReply::Reply { id, outcome, stop, .. } => {
                if let Some(lease) = self.leases.get_mut(&lane.workers[at].number) {
                    lease.singles.answered += 1;
                    lease.pipe.gate.add_answered();
                }
                let held = &mut lane.state.held[at];
                let written = held.answer(id, now).expect("replies come in order");
                held.is_closing |= stop;
                self.deliver_reply(lane, at, written.single.call, outcome)
            }
            SimReply::Released(report) => {
                let held = &mut lane.state.held[at];
                assert!(held.unreleased > 0, "a release is due");
                held.unreleased = 0;
                lane.workers[at].report = report;
                let most = self.plan.options.max_memory;
                if report.stop || report.private_bytes > most && most.is_some() {
                    held.is_closing = true;
                    self.record("worker declines", || lane.workers[at].number.to_string());
                    self.take_back(lane, at);
                }
                true
            }
            SimReply::Nonsense => {
                self.end_faulty(lane, at, FailureKind::Protocol, None);
                false
            }
        }
    }

    fn deliver_reply(&mut self, lane: &mut SimLane, at: usize, call: SimSingle, outcome: SimOutcome) -> bool {
        match outcome {
            SimOutcome::Done | SimOutcome::Failed => self.answer_single(&call, None),
            SimOutcome::Payload { .. } => self.answer_single(&call, Some(FailureKind::Payload)),
            SimOutcome::Panicked => {
                self.end_faulty(lane, at, FailureKind::Panic, Some(call));
                return false;
            }
            SimOutcome::Cleared => panic!("no error clears a single call"),
        }
        true
    }

    fn deliver_failed(&mut self, lane: &mut SimLane) -> bool {
        let failed = std::mem::take(&mut lane.failed);
        let has_any = !failed.is_empty();
        failed.into_iter().for_each(|(call, kind)| self.answer_single(&call, Some(kind)));
        has_any
    }

    pub(super) fn remove_held(lane: &mut SimLane, at: usize) -> (LaneWorker, Held<SimSingle, Size>) {
        (lane.workers.remove(at), lane.state.held.remove(at))
    }

    /// Gives back the workers that have nothing to do, or are not to be kept.
    fn give_back_unneeded(&mut self, lane: &mut SimLane) {
        let now = self.now();
        let first = self.state.waiting().ahead().first.map_or(u64::MAX, |(_, id)| id);
        lane.state.close_held(self.others_waiting(lane), (first, self.first_exclusive()), now);
        let mut look_again = false;
        while let Some(at) = lane.state.next_to_give_back(|_| true, &mut look_again) {
            let (worker, held) = Self::remove_held(lane, at);
            // Before the worker is given back: a pool that closes ends once it has no lease and no request.
            self.ask(lane);
            let report = ReleaseReport { checkouts: Some(held.served), ..worker.report };
            self.give_back_held(worker.number, worker.waiter, report);
            look_again |= !lane.state.queued.is_empty();
        }
        let wanted = lane.state.wanted(self.others_waiting(lane).exclusive, now);
        if look_again || wanted > lane.asked.len() || !lane.failed.is_empty() {
            self.wake_lane(lane.id);
        }
    }

    /// Returns whether the waiter is a request of a lane.
    pub(super) fn is_of_lane(&self, waiter: u64) -> bool {
        self.waiters.get(&waiter).is_some_and(|waiter| matches!(waiter.holder, Holder::Lane(_)))
    }
}
