//! The single calls of the simulation, and what must hold for them whatever happens.

use std::cell::Cell;
use std::collections::BTreeSet;
use std::rc::Rc;
use std::time::Duration;

use super::lane::SimLane;
use super::plan::{LIMITS, micros, millis};
use super::world::{SimEvent, World};
use crate::actors::scheduler::lanes::LanePlace;
use crate::actors::scheduler::state::PoolPhase;
use crate::clock::Instant;
use crate::config::OnCancel;
use crate::failure::FailureKind;

/// A call as its lane sees it.
#[derive(Clone)]
pub(super) struct SimSingle {
    pub(super) number: u64,
    /// Bytes of its message.
    pub(super) size: usize,
    pub(super) limit: Option<Duration>,
    pub(super) is_abandoned: Rc<Cell<bool>>,
    /// What becomes of it if it is given up while it runs.
    pub(super) on_cancel: OnCancel,
}

/// What is known of one call. Calls are numbered in the order in which they were sent.
pub(super) struct SingleRecord {
    lane: u64,
    call: SimSingle,
    sent_at: Instant,
    /// When it was sent, in the order of [`World::next_order`].
    order: u64,
    /// Whether the lane has it. A call of another thread is on its way for a while.
    has_arrived: bool,
    /// The worker that has it.
    worker: Option<u64>,
    /// Whether a worker has or had it.
    was_written: bool,
    written_at: Duration,
    runs: u32,
    answers: u32,
    /// Whether it was given up before it began, and the lane knows of that.
    is_dropped: bool,
}

impl SingleRecord {
    fn is_over(&self) -> bool {
        self.answers > 0 || self.is_dropped
    }
}

impl World {
    /// Adds the lanes of the plan, and schedules the calls to them.
    pub(super) fn add_lanes(&mut self) {
        for id in 0..self.plan.lanes as u64 {
            let lane = SimLane::new(id, *self.plan.options.workers.end());
            self.lanes.by_id.insert(id, lane);
            for _ in 0..self.plan.bursts {
                let at = self.draw_wait(self.plan.calm_at);
                self.schedule_after(at, SimEvent::Singles(id));
            }
        }
    }

    pub(super) fn lanes_are_empty(&self) -> bool {
        self.lanes.open.is_empty() && self.lanes.by_id.values().all(SimLane::is_empty)
    }

    /// Sends some calls to a lane at once.
    pub(super) fn send_singles(&mut self, id: u64) {
        let count = self.rng.pick(&[1, 1, 2, 5, 30]);
        for _ in 0..count {
            self.send_single(id);
        }
    }

    fn send_single(&mut self, id: u64) {
        let number = self.lanes.calls.len() as u64 + 1;
        let limit = self.rng.pick(&LIMITS).map(millis);
        let size = self.rng.pick(&[64, 64, 64, 64, 300_000]);
        let own = self.rng.happens(200).then(|| self.rng.pick(&[OnCancel::Finish, OnCancel::Kill]));
        let on_cancel = own.unwrap_or(self.plan.options.on_cancel);
        let call = SimSingle { number, size, limit, is_abandoned: Rc::new(Cell::new(false)), on_cancel };
        let is_foreign = self.rng.happens(150) && self.state.phase() == PoolPhase::Open;
        let record = SingleRecord {
            lane: id,
            call,
            sent_at: self.now(),
            order: self.next_order(),
            has_arrived: !is_foreign,
            worker: None,
            was_written: false,
            written_at: Duration::ZERO,
            runs: 0,
            answers: 0,
            is_dropped: false,
        };
        self.lanes.calls.insert(number, record);
        self.lanes.open.insert(number);
        self.record("single call sent", || format!("{number} to lane {id}, limit {limit:?}, {size} bytes"));
        if is_foreign {
            let waiter = self.acquire_for_lane(id, LanePlace::Last);
            let wait = self.draw_hop();
            self.schedule_after(wait, SimEvent::Arrive { lane: id, call: number, waiter });
        } else {
            self.with_lane(id, |world, lane| world.submit_single(lane, number, None));
        }
        if self.draw_fault(self.plan.impatient / 4) {
            let wait = self.draw_run();
            self.schedule_after(wait, SimEvent::GiveUpSingle(number));
        }
    }

    /// A call that was sent on another thread arrives at its lane.
    pub(super) fn arrive(&mut self, id: u64, number: u64, waiter: u64) {
        if let Some(record) = self.lanes.calls.get_mut(&number) {
            record.has_arrived = true;
        }
        self.with_lane(id, |world, lane| world.submit_single(lane, number, Some(waiter)));
    }

    pub(super) fn sim_single(&self, number: u64) -> SimSingle {
        self.lanes.calls[&number].call.clone()
    }

    /// C9: a requester drops the future of a call.
    pub(super) fn give_up_single(&mut self, number: u64) {
        let Some(record) = self.lanes.calls.get_mut(&number).filter(|record| !record.is_over()) else {
            return;
        };
        record.call.is_abandoned.set(true);
        let lane = record.lane;
        self.record("single call given up", || number.to_string());
        self.wake_lane(lane);
    }

    /// Returns the calls that are neither answered nor dropped.
    fn open_singles(&self) -> impl Iterator<Item = (u64, &SingleRecord)> {
        self.lanes.open.iter().map(|number| (*number, &self.lanes.calls[number]))
    }

    /// Returns the waiters that are no lanes, and do not wait at their bulkheads.
    fn allowed_checkouts(&self) -> impl Iterator<Item = u64> {
        self.allowed().into_iter().filter(|waiter| !self.is_of_lane(*waiter))
    }

    fn single(&mut self, number: u64) -> &mut SingleRecord {
        self.lanes.calls.get_mut(&number).expect("the call is known")
    }

    /// P4, P6, C9: checks that a call may be written to a worker.
    pub(super) fn check_single_write(&mut self, worker: u64, call: &SimSingle) {
        let elapsed = self.elapsed;
        let number = call.number;
        let record = self.single(number);
        assert!(!record.is_over(), "call {number} is written after its end");
        assert_eq!(record.worker, None, "call {number} is in one place");
        (record.worker, record.written_at) = (Some(worker), elapsed);
        let (was_written, order) = (std::mem::replace(&mut record.was_written, true), record.order);
        let sooner = self.allowed_checkouts().find(|waiter| self.waiters[waiter].joined < order);
        assert!(
            was_written || sooner.is_none(),
            "call {number} is written ahead of checkout {sooner:?}, which has waited for longer"
        );
        let open = self.open_singles().filter(|(_, record)| record.worker == Some(worker)).count() as u64;
        let most = self.plan.options.max_checkouts.unwrap_or(u64::MAX);
        // Its exit may have been reported, which the lane does not know yet.
        let Some(before) = self.workers.get(&worker).map(|worker| worker.checkouts - 1) else { return };
        let served = before + self.leases[&worker].singles.answered + open;
        assert!(
            served <= most,
            "{served} calls and checkouts are written to worker {worker}, at most {most}"
        );
    }

    /// A call was taken back.
    pub(super) fn leave_worker(&mut self, number: u64) {
        let record = self.single(number);
        assert_eq!(record.runs, 0, "call {number} has run and is taken back");
        record.worker = None;
    }

    /// A call that its requester gave up never begins.
    pub(super) fn drop_single(&mut self, number: u64) {
        let record = self.single(number);
        assert_eq!((record.runs, record.answers), (0, 0), "call {number} has begun and is dropped");
        record.is_dropped = true;
        self.lanes.open.remove(&number);
    }

    /// C4: checks that a worker may begin a call.
    pub(super) fn check_single_begin(&mut self, worker: u64, number: u64) {
        let record = self.single(number);
        record.runs += 1;
        assert_eq!(record.runs, 1, "call {number} runs once at most");
        assert!(!record.is_over(), "call {number} runs after its end");
        assert_eq!(record.worker, Some(worker), "call {number} runs where it is written");
        self.record("single call begun", || format!("{number} on {worker}"));
    }

    /// C4: checks that a call may fail because its worker has died.
    pub(super) fn check_lost(&self, call: &SimSingle, is_blamed: bool) {
        let has_run = self.lanes.calls[&call.number].runs > 0;
        assert!(has_run || is_blamed, "call {} was not begun, and runs elsewhere", call.number);
    }

    /// C4, T1: records the answer to a call, and checks it. `kind`: the failure, if the worker did not answer it.
    pub(super) fn answer_single(&mut self, call: &SimSingle, kind: Option<FailureKind>) {
        let (now, number) = (self.now(), call.number);
        let (phase, wait_timeout) = (self.state.phase(), self.plan.options.wait_timeout);
        let is_full = self.plan.options.max_waiting.is_some();
        self.record("single call answered", || format!("{number}: {kind:?}"));
        self.lanes.open.remove(&number);
        let record = self.single(number);
        record.answers += 1;
        record.worker = None;
        assert_eq!(record.answers, 1, "call {number} is answered once");
        assert!(!record.is_dropped, "call {number} is answered after it was dropped");
        let waited = now.saturating_duration_since(record.sent_at);
        match kind {
            None | Some(FailureKind::Payload | FailureKind::Panic | FailureKind::Cancelled) => {
                assert!(kind == Some(FailureKind::Cancelled) || record.runs == 1, "call {number} has run");
            }
            Some(FailureKind::Stopped) => {
                assert_ne!(phase, PoolPhase::Open, "only a pool that ends is stopped");
            }
            Some(FailureKind::Timeout) => {
                let limit = record.call.limit.into_iter().chain(wait_timeout).min();
                let is_late = limit.is_some_and(|limit| waited >= limit);
                assert!(is_late, "call {number} times out before its limit");
            }
            Some(FailureKind::Overloaded) => assert!(is_full && record.runs == 0),
            Some(FailureKind::Setup) => assert_eq!(record.runs, 0, "a call that waits fails with a set-up"),
            Some(FailureKind::Died | FailureKind::Protocol) => {}
            Some(kind) => panic!("call {number} is answered {kind:?}"),
        }
    }

    /// Checks what must hold whenever a lane has done all it can.
    pub(super) fn check_lane(&self, lane: &SimLane) {
        let now = self.now();
        let written =
            lane.state.held.iter().flat_map(|held| held.written.iter().map(|call| call.single.call.number));
        let queued = lane.state.queued.iter().map(|queued| queued.single.call.number);
        let failed = lane.failed.iter().map(|(call, _)| call.number);
        let places: Vec<u64> = written.chain(queued).chain(failed).collect();
        let open = self.open_singles().filter(|(_, record)| record.lane == lane.id && record.has_arrived);
        let open: BTreeSet<u64> = open.map(|(number, _)| number).collect();
        assert_eq!(places.len(), open.len(), "each open call is in one place");
        assert!(places.iter().all(|call| open.contains(call)), "each open call is in one place");
        assert_eq!(
            lane.state.slow_worker(now),
            None,
            "calls wait behind a slow one, and another worker takes them"
        );
        let wanted = lane.state.wanted(self.others_waiting(lane).exclusive, now);
        let is_coming = !lane.asked.is_empty() || self.is_woken(lane.id);
        assert!(wanted == 0 || is_coming, "a worker is asked for");
        assert!(lane.state.waiting() <= open.len());
    }

    /// Checks that no call waits behind a slow one while a worker is idle.
    pub(super) fn check_waits(&self) {
        let Some(idle_since) = self.idle.iter().map(|idle| self.workers[idle].idle_from).min() else {
            return;
        };
        for (_, record) in self.open_singles().filter(|(_, record)| record.runs == 0) {
            let Some(lease) = record.worker.and_then(|worker| self.leases.get(&worker)) else { continue };
            let Some(busy_since) = lease.singles.busy_since else { continue };
            let since = busy_since.max(record.written_at).max(idle_since);
            let waited = self.elapsed.saturating_sub(since);
            let most = FRESH_LIMIT * 2 + self.longest_hop() * 4;
            assert!(
                waited <= most,
                "call {} waits behind a slow one for {waited:?} although a worker is idle",
                record.call.number
            );
        }
    }

    /// C4: checks what must hold after the last event.
    pub(super) fn check_singles(&self) {
        for (number, record) in &self.lanes.calls {
            let has_end = record.is_over();
            assert!(has_end, "call {number} of lane {} has an answer", record.lane);
        }
        for lane in self.lanes.by_id.values() {
            assert!(lane.is_empty() && lane.failed.is_empty(), "lane {} has ended", lane.id);
        }
    }
}

/// What a call behind a slow one may wait, besides the time of messages.
const FRESH_LIMIT: Duration = micros(50);
