//! What the scheduler knows of lanes: the queues of single calls, one on each thread, that share a worker's time.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::task::Waker;
use std::time::Instant;

use parking_lot::Mutex;

use super::Scheduler;
use super::registry::{Registry, WaitOutcome};
use super::state::{Admission, PoolPhase, PoolState, ReleaseReport};
use super::waiter::Waiter;
use crate::failure::{Failure, Phase};

/// What other threads see of a lane, and by what they wake it.
#[derive(Default)]
pub(crate) struct LaneSignals {
    /// How many of its calls wait for a worker.
    pub(crate) waiting: AtomicUsize,
    /// Whether a requester has given a call up since the lane last looked.
    pub(crate) has_cancelled: AtomicBool,
    waker: Mutex<Option<Waker>>,
}

impl LaneSignals {
    /// Sets the task that is woken.
    pub(crate) fn set_waker(&self, waker: &Waker) {
        let before = self.waker.lock().replace(waker.clone());
        drop(before);
    }

    fn wake(&self) {
        let waker = self.waker.lock().clone();
        waker.into_iter().for_each(Waker::wake);
    }
}

/// Where a lane stands in the queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LanePlace {
    /// At the front, for a call whose worker was lost before it began it.
    First,
    /// Ahead of the first checkout that is no lane, for a call that was sent before that joined.
    BeforeCheckouts,
    Last,
}

impl LanePlace {
    /// Returns what the pool state is asked.
    pub(crate) fn acquire(self) -> fn(&mut PoolState, u64, Instant) -> Admission {
        match self {
            LanePlace::First => PoolState::reacquire_for_lane,
            LanePlace::BeforeCheckouts => PoolState::acquire_ahead_for_lane,
            LanePlace::Last => PoolState::acquire_for_lane,
        }
    }
}

/// What lanes look at for each call, without the scheduler's lock.
pub(super) struct LaneBoard {
    lanes: Mutex<Vec<Weak<LaneSignals>>>,
    /// Calls that are on their way to a lane.
    on_their_way: AtomicUsize,
    /// Whether the pool accepts calls.
    is_open: AtomicBool,
    /// Checkouts in the queue, lanes among them.
    waiting: AtomicUsize,
    /// The first checkout in the queue that is no lane; `u64::MAX` without one.
    first_exclusive: AtomicU64,
    /// The first checkout in the queue; `u64::MAX` without one.
    first: AtomicU64,
    /// How many checkouts that are no lanes have joined the queue so far.
    exclusive_joined: AtomicU64,
}

impl Default for LaneBoard {
    fn default() -> Self {
        LaneBoard {
            lanes: Mutex::default(),
            on_their_way: AtomicUsize::new(0),
            is_open: AtomicBool::new(true),
            waiting: AtomicUsize::new(0),
            first_exclusive: AtomicU64::new(u64::MAX),
            first: AtomicU64::new(u64::MAX),
            exclusive_joined: AtomicU64::new(0),
        }
    }
}

impl LaneBoard {
    /// Shows what has changed; called under the scheduler's lock.
    pub(super) fn show(&self, state: &PoolState) {
        self.is_open.store(state.phase() == PoolPhase::Open, Ordering::Relaxed);
        self.waiting.store(state.waiting_count(), Ordering::Relaxed);
        self.first.store(state.waiting().next().unwrap_or(u64::MAX), Ordering::Relaxed);
        self.first_exclusive.store(state.first_exclusive().unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// Returns how many calls wait in lanes.
    pub(super) fn waiting_calls(&self) -> usize {
        let lanes = self.lanes.lock();
        lanes.iter().filter_map(Weak::upgrade).map(|lane| lane.waiting.load(Ordering::Relaxed)).sum()
    }

    /// Returns how many calls are on their way to a lane.
    pub(super) fn calls_on_their_way(&self) -> usize {
        self.on_their_way.load(Ordering::Relaxed)
    }

    fn each(&self, with: impl Fn(&LaneSignals)) {
        let mut lanes = self.lanes.lock();
        lanes.retain(|lane| lane.strong_count() > 0);
        let living: Vec<Arc<LaneSignals>> = lanes.iter().filter_map(Weak::upgrade).collect();
        drop(lanes);
        living.iter().for_each(|lane| with(lane));
    }
}

impl Scheduler {
    /// Registers a lane.
    pub(crate) fn add_lane(&self, lane: &Arc<LaneSignals>) {
        self.lanes.lanes.lock().push(Arc::downgrade(lane));
    }

    /// Counts a call that is sent to a lane, until [`note_arrived`](Self::note_arrived).
    pub(crate) fn note_sent(&self) {
        self.lanes.on_their_way.fetch_add(1, Ordering::Relaxed);
    }

    /// Notes that a lane has a call that was on its way, or that the call is given up.
    pub(crate) fn note_arrived(&self) {
        self.lanes.on_their_way.fetch_sub(1, Ordering::Relaxed);
    }

    /// Wakes all lanes: the pool closes, and those without calls end.
    pub(super) fn wake_lanes(&self) {
        self.lanes.each(LaneSignals::wake);
    }

    /// Has all lanes look for calls that were given up.
    pub(crate) fn note_cancelled(&self) {
        self.lanes.each(|lane| {
            lane.has_cancelled.store(true, Ordering::Release);
            lane.wake();
        });
    }

    /// Returns whether the pool accepts calls, without the lock.
    pub(crate) fn accepts_calls(&self) -> bool {
        self.lanes.is_open.load(Ordering::Relaxed)
    }

    /// Returns whether checkouts wait besides these.
    pub(crate) fn others_wait(&self, own: usize) -> bool {
        self.lanes.waiting.load(Ordering::Relaxed) > own
    }

    /// Returns the number of the first waiting checkout that is no lane; `u64::MAX` without one. Calls with a lower
    /// number came before it.
    pub(crate) fn first_exclusive(&self) -> u64 {
        self.lanes.first_exclusive.load(Ordering::Relaxed)
    }

    /// Returns the number of the first in the queue; `u64::MAX` if it is empty.
    pub(crate) fn first_waiting(&self) -> u64 {
        self.lanes.first.load(Ordering::Relaxed)
    }

    /// Returns how many checkouts that are no lanes have joined the queue so far.
    pub(crate) fn exclusive_joined(&self) -> u64 {
        self.lanes.exclusive_joined.load(Ordering::Relaxed)
    }

    /// Notes that a checkout has joined the queue.
    pub(super) fn note_joined(&self, checkout: u64, state: &PoolState) {
        if !state.waiting_lanes.contains(&checkout) {
            self.lanes.exclusive_joined.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Returns the number of a call that begins to wait now, among those of the checkouts.
    pub(crate) fn next_ticket(&self) -> u64 {
        self.last_checkout.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// Refuses a call if as many wait already as may. `granted` returns how many of the calls in the lane have their worker.
    ///
    /// # Errors
    ///
    /// `Overloaded`; the call is not to be queued.
    pub(crate) fn admit_call(&self, granted: impl FnOnce() -> usize) -> Result<(), Failure> {
        let Some(max_waiting) = self.options.max_waiting else { return Ok(()) };
        let calls = self.lanes.waiting_calls();
        if calls.saturating_add(self.lanes.waiting.load(Ordering::Relaxed)) < max_waiting {
            return Ok(());
        }
        let registry = self.registry.lock();
        let waiting = calls.saturating_sub(granted()) + registry.state.waiting_exclusively();
        if waiting < registry.state.room_for_waiting() {
            return Ok(());
        }
        Err(self.overloaded_failure(waiting, registry.usual_hold_so_far(Instant::now())))
    }

    /// Requests a worker for a lane, as [`acquire`](Self::acquire) does for a checkout.
    pub(crate) fn acquire_for_lane(self: &Arc<Self>, place: LanePlace) -> Arc<Waiter> {
        let waiter = self.add_waiter(place.acquire(), place != LanePlace::Last);
        waiter.has_call.store(true, Ordering::Relaxed);
        waiter
    }

    /// Returns what calls are waiting for now, for the failure of one of them.
    pub(crate) fn wait_outcome(&self) -> WaitOutcome {
        self.registry.lock().wait_outcome()
    }
}

impl Registry {
    /// Returns what checkouts are waiting for now.
    pub(super) fn wait_outcome(&self) -> WaitOutcome {
        WaitOutcome {
            phase: if self.state.is_starting() { Phase::Starting } else { Phase::Waiting },
            setup_failure: self.setup_failure.clone(),
            outage: self.outage.clone(),
        }
    }
}

impl PoolState {
    /// Lends an idle worker to a lane, or puts the lane at the end of the queue. The lane bounds its calls, and takes none
    /// once the pool closes.
    pub(crate) fn acquire_for_lane(&mut self, lane: u64, now: Instant) -> Admission {
        self.admit_lane(lane, None, now)
    }

    /// Does the same ahead of the first checkout that is no lane.
    pub(crate) fn acquire_ahead_for_lane(&mut self, lane: u64, now: Instant) -> Admission {
        self.admit_lane(lane, self.first_exclusive(), now)
    }

    fn admit_lane(&mut self, lane: u64, ahead_of: Option<u64>, now: Instant) -> Admission {
        if self.phase == PoolPhase::Stopping {
            return Admission::Stopped;
        }
        if let Some(worker) = self.idle.pop_back() {
            self.lend(worker, lane, now);
            return Admission::Granted { worker };
        }
        match ahead_of {
            Some(checkout) => self.waiting.insert_before(checkout, lane),
            None => self.waiting.push_back(lane),
        }
        self.waiting_lanes.insert(lane);
        self.fork_missing(now);
        Admission::Queued
    }

    /// Does the same at the front of the queue, for a lane whose worker ended before it had begun a call.
    pub(crate) fn reacquire_for_lane(&mut self, lane: u64, now: Instant) -> Admission {
        let admission = self.reacquire(lane, now);
        if admission == Admission::Queued {
            self.waiting_lanes.insert(lane);
        }
        admission
    }

    /// Returns how many calls may wait for a worker: `max_waiting`, and those for which there is one or can be.
    pub(crate) fn room_for_waiting(&self) -> usize {
        let supply = self.counts.starting + self.counts.idle + self.free_capacity();
        supply.saturating_add(self.limits.max_waiting)
    }

    /// Returns whether this waiting checkout is a lane.
    pub(crate) fn is_lane(&self, checkout: u64) -> bool {
        self.waiting_lanes.contains(&checkout)
    }

    /// Returns how many checkouts wait that are no lanes.
    pub(crate) fn waiting_exclusively(&self) -> usize {
        self.waiting.len() - self.waiting_lanes.len()
    }

    /// Returns the first waiting checkout that is no lane.
    pub(crate) fn first_exclusive(&self) -> Option<u64> {
        self.waiting.iter().find(|id| !self.waiting_lanes.contains(id))
    }

    /// Returns how many checkouts a worker may still serve, besides the one that it has.
    pub(crate) fn checkouts_left(&self, worker: u64) -> u64 {
        let served = self.workers.get(&worker).map_or(0, |entry| entry.checkouts);
        self.limits.max_checkouts.saturating_sub(served)
    }

    /// Counts a lease as so many checkouts as it served.
    pub(crate) fn recount(&mut self, worker: u64, report: ReleaseReport) {
        if let (Some(entry), Some(checkouts)) = (self.workers.get_mut(&worker), report.checkouts) {
            entry.checkouts = entry.checkouts.saturating_sub(1).saturating_add(checkouts);
        }
    }
}
