//! What the scheduler knows of lanes: the queues of single calls, one on each thread, that share a worker's time.

use std::collections::BTreeSet;
use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::task::Waker;
use std::time::Duration;

use parking_lot::Mutex;

use super::Scheduler;
use super::bulkheads::QueueView;
use super::holding::Tenant;
use super::permits::PermitBoard;
use super::registry::{Registry, WaitOutcome};
use super::state::{Admission, PoolPhase, PoolState, ReleaseReport};
use super::waiter::Waiter;
use super::waiting::{BulkheadId, Request, Waiting, WaitingCalls};
use crate::clock::Instant;
use crate::failure::{Failure, Phase};

/// What other threads see of a lane, and by what they wake it.
#[derive(Default)]
pub(crate) struct LaneSignals {
    /// How many of its calls wait for a worker.
    waiting: AtomicUsize,
    /// Since when the first of them waits, in microseconds from the pool's start; valid while one waits.
    waits_since: AtomicU64,
    /// Whether a requester has given a call up since the lane last looked.
    has_cancelled: AtomicBool,
    /// The numbers of requests that were given up and whose calls are killed if they run.
    doomed: Mutex<Vec<NonZeroUsize>>,
    /// The bulkhead that its workers count towards.
    bulkhead: Option<BulkheadId>,
    waker: Mutex<Option<Waker>>,
}

impl LaneSignals {
    pub(crate) fn at(bulkhead: Option<BulkheadId>) -> Self {
        LaneSignals { bulkhead, ..LaneSignals::default() }
    }

    /// Shows how many calls wait, and since when the first of them does; `pool_start` is when the pool was started.
    /// Returns whether these are fewer than before.
    #[must_use = "there is room for others then"]
    pub(crate) fn show_waiting(&self, waiting: usize, first: Option<Instant>, pool_start: Instant) -> bool {
        if let Some(first) = first {
            let micros = first.saturating_duration_since(pool_start).as_micros();
            self.waits_since.store(u64::try_from(micros).unwrap_or(u64::MAX), Ordering::Relaxed);
        }
        // Only the lane itself writes it.
        let before = self.waiting.load(Ordering::Relaxed);
        self.waiting.store(waiting, Ordering::Release);
        waiting < before
    }

    /// Returns whether calls were last shown to wait.
    pub(crate) fn has_waiting(&self) -> bool {
        self.waiting.load(Ordering::Relaxed) > 0
    }

    /// Sets the task that is woken.
    pub(crate) fn set_waker(&self, waker: &Waker) {
        let before = self.waker.lock().replace(waker.clone());
        drop(before);
    }

    /// Returns whether a requester has given a call up since the last look. Adds the requests whose calls are killed if they
    /// run.
    pub(crate) fn take_cancelled(&self, doomed: &mut BTreeSet<NonZeroUsize>) -> bool {
        let has_cancelled = self.has_cancelled.swap(false, Ordering::AcqRel);
        if has_cancelled {
            doomed.extend(self.doomed.lock().drain(..));
        }
        has_cancelled
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
    pub(crate) fn acquire(self) -> fn(&mut PoolState, Request, Instant) -> Admission {
        match self {
            LanePlace::First => PoolState::reacquire,
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
    /// Whether the pool is paused.
    is_paused: AtomicBool,
    /// Checkouts in the queue, lanes among them.
    waiting: AtomicUsize,
    /// Those that come before a lane without a bulkhead: all but those that wait at bulkheads.
    pub(super) queue: QueueView,
    /// How many checkouts that are no lanes have joined the queue so far.
    exclusive_joined: AtomicU64,
    pub(super) permits: PermitBoard,
}

impl Default for LaneBoard {
    fn default() -> Self {
        LaneBoard {
            lanes: Mutex::default(),
            on_their_way: AtomicUsize::new(0),
            is_open: AtomicBool::new(true),
            is_paused: AtomicBool::new(false),
            waiting: AtomicUsize::new(0),
            queue: QueueView::default(),
            exclusive_joined: AtomicU64::new(0),
            permits: PermitBoard::default(),
        }
    }
}

impl LaneBoard {
    /// Shows what has changed; called under the scheduler's lock.
    pub(super) fn show(&self, registry: &Registry) {
        let state = &registry.state;
        self.is_open.store(state.phase() == PoolPhase::Open, Ordering::Relaxed);
        self.is_paused.store(state.is_paused(), Ordering::Relaxed);
        self.waiting.store(state.waiting_count(), Ordering::Relaxed);
        let ahead = state.waiting().ahead();
        self.queue.show(ahead);
        for bulkhead in &registry.bulkheads {
            bulkhead.queue.show(state.waiting().ahead_of(bulkhead.id, ahead));
        }
    }

    /// Returns how many calls wait in lanes.
    pub(super) fn waiting_calls(&self) -> WaitingCalls {
        let mut calls = WaitingCalls::default();
        for lane in self.lanes.lock().iter().filter_map(Weak::upgrade) {
            *calls.of(lane.bulkhead) += lane.waiting.load(Ordering::Relaxed);
        }
        calls
    }

    /// Returns since when the first of those calls waits; `pool_start` is when the pool was started.
    pub(super) fn waits_since(&self, pool_start: Instant) -> Option<Instant> {
        let lanes = self.lanes.lock();
        let lanes = lanes.iter().filter_map(Weak::upgrade);
        let waiting = lanes.filter(|lane| lane.waiting.load(Ordering::Acquire) > 0);
        let first = waiting.map(|lane| lane.waits_since.load(Ordering::Relaxed)).min()?;
        pool_start.checked_add(Duration::from_micros(first))
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

    /// Wakes all lanes: the pool closes and those without calls end, or it is paused and they keep no worker.
    pub(super) fn wake_lanes(&self) {
        self.lanes.each(LaneSignals::wake);
    }

    /// Has all lanes look for calls that were given up: this one is killed if it runs.
    ///
    /// A lane that is made later gets no call that was given up before.
    pub(crate) fn note_cancelled(&self, doomed: Option<NonZeroUsize>) {
        self.lanes.each(|lane| {
            lane.doomed.lock().extend(doomed);
            lane.has_cancelled.store(true, Ordering::Release);
            lane.wake();
        });
    }

    /// Returns whether the pool accepts calls, without the lock.
    pub(crate) fn accepts_calls(&self) -> bool {
        self.lanes.is_open.load(Ordering::Relaxed)
    }

    /// Returns whether the pool is paused, without the lock.
    pub(crate) fn is_paused(&self) -> bool {
        self.lanes.is_paused.load(Ordering::Relaxed)
    }

    /// Returns how many checkouts that are no lanes have joined the queue so far.
    pub(crate) fn exclusive_joined(&self) -> u64 {
        self.lanes.exclusive_joined.load(Ordering::Relaxed)
    }

    /// Notes that a checkout has joined the queue.
    pub(super) fn note_joined(&self, request: Request) {
        if !request.is_lane {
            self.lanes.exclusive_joined.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Returns the number of a call that begins to wait now, among those of the checkouts.
    pub(crate) fn next_ticket(&self) -> u64 {
        self.last_checkout.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// Returns the number of a checkout that is put ahead of others: lower than all before.
    pub(super) fn next_ahead(&self) -> u64 {
        self.last_ahead.fetch_sub(1, Ordering::Relaxed)
    }

    /// Refuses a call if as many wait already as may. `granted` returns how many of the calls in the lane have their worker.
    ///
    /// # Errors
    ///
    /// `Overloaded`; the call is not to be queued.
    pub(crate) fn admit_call(
        &self,
        bulkhead: Option<BulkheadId>,
        granted: impl FnOnce() -> usize,
    ) -> Result<(), Failure> {
        let Some(max_waiting) = self.options.max_waiting else { return Ok(()) };
        let calls = self.lanes.waiting_calls().sum() + self.lanes.permits.held();
        if calls.saturating_add(self.lanes.waiting.load(Ordering::Relaxed)) < max_waiting {
            return Ok(());
        }
        let registry = self.registry.lock();
        let mut calls = self.waiting_calls(&registry);
        let own = calls.of(bulkhead);
        *own = own.saturating_sub(granted());
        match registry.state.overload(&calls, bulkhead) {
            None => Ok(()),
            Some(waiting) => {
                Err(self.overloaded_failure(waiting, registry.usual_hold_so_far(Instant::now())))
            }
        }
    }

    /// Requests a worker for a lane, as [`acquire`](Self::acquire) does for a checkout.
    pub(crate) fn acquire_for_lane(
        self: &Arc<Self>,
        bulkhead: Option<BulkheadId>,
        place: LanePlace,
    ) -> Arc<Waiter> {
        let id = if place == LanePlace::Last { self.next_ticket() } else { self.next_ahead() };
        let request = Request::lane(id, bulkhead);
        let waiter = self.add_waiter(Tenant::Lane(None), place.acquire(), request);
        waiter.has_call.store(true, Ordering::Relaxed);
        waiter
    }
}

impl Registry {
    /// Returns what checkouts with this bulkhead are waiting for now.
    pub(super) fn wait_outcome(&self, bulkhead: Option<BulkheadId>) -> WaitOutcome {
        let is_paused = self.state.is_paused();
        let full_bulkhead = bulkhead.filter(|_| !is_paused).and_then(|bulkhead| self.full_text(bulkhead));
        // No other worker would help at a full bulkhead; nor would one while the pool is paused and another is idle.
        let lacks_worker = full_bulkhead.is_none() && (!is_paused || self.state.counts().idle == 0);
        WaitOutcome {
            phase: if lacks_worker && self.state.is_starting() { Phase::Starting } else { Phase::Waiting },
            full_bulkhead,
            setup_failure: self.setup_failure.clone().filter(|_| lacks_worker),
            outage: self.outage.clone().filter(|_| lacks_worker),
            held: String::new(),
            is_paused,
        }
    }
}

impl PoolState {
    /// Lends an idle worker to a lane, or puts the lane at the end of the queue. The lane bounds its calls, and takes none
    /// once the pool closes.
    pub(crate) fn acquire_for_lane(&mut self, request: Request, now: Instant) -> Admission {
        self.admit_lane(request, Waiting::push_back, now)
    }

    /// Does the same ahead of the first checkout that is no lane and may have a worker that the lane could have.
    pub(crate) fn acquire_ahead_for_lane(&mut self, request: Request, now: Instant) -> Admission {
        self.admit_lane(request, Waiting::push_before_checkouts, now)
    }

    fn admit_lane(&mut self, request: Request, queue: fn(&mut Waiting, Request), now: Instant) -> Admission {
        if self.phase == PoolPhase::Stopping {
            return Admission::Stopped;
        }
        if let Some(worker) = self.lend_idle(request, now) {
            return Admission::Granted { worker };
        }
        queue(&mut self.waiting, request);
        self.fork_missing(now);
        Admission::Queued
    }

    /// Returns how many wait already if one more would be too many: `max_waiting` does not count those for which there is a
    /// worker or can be one. `calls` wait in lanes.
    pub(crate) fn overload(&self, calls: &WaitingCalls, bulkhead: Option<BulkheadId>) -> Option<usize> {
        if self.limits.max_waiting == usize::MAX {
            return None;
        }
        let supply = self.counts.starting + self.counts.idle + self.free_capacity();
        let (waiting, allowed) = self.waiting.with_one_more(calls, bulkhead);
        (waiting - allowed.min(supply) > self.limits.max_waiting).then(|| waiting - 1)
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
