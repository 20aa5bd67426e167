//! The pool state: which checkout holds which worker, which checkouts wait, and how many workers there should be.
//!
//! It only decides: events with ids go in, actions with ids come out. The time and the jitter are arguments, so that a
//! test controls both.

use std::collections::{HashMap, HashSet, VecDeque};
use std::time::Duration;

use super::queue::LinkedQueue;
use super::rollover::Generation;
use super::waiting::{BulkheadId, Request, Waiting, WaitingCalls};
use super::worker_state::{Event, InvalidTransition, RetireReason, WorkerState};
use crate::clock::Instant;
use crate::config::{Backoff, Options};

/// What the scheduler is to do after a change of the pool state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    /// Fork this worker.
    Fork(u64),
    /// Lend this worker to this waiting checkout.
    Grant { to: u64, worker: u64 },
    /// Let this worker exit, which no checkout holds.
    Retire(u64, RetireReason),
    /// Refuse this waiting checkout because the pool has stopped.
    Refuse(u64),
}

/// The answer to a checkout that requests a worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Admission {
    /// It has this worker.
    Granted { worker: u64 },
    /// It waits in the queue.
    Queued,
    /// It is refused: `waiting` checkouts are queued, as many as `max_waiting` permits.
    Overloaded { waiting: usize },
    /// It is refused: the pool is closing or stopping.
    Stopped,
}

/// Whether the pool accepts and serves checkouts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum PoolPhase {
    /// It accepts and serves checkouts.
    Open,
    /// Its last handle was dropped: it serves waiting and held checkouts and accepts no others.
    Closing,
    /// It was stopped: no checkout gets a worker any more.
    Stopping,
}

/// What a worker reports at the end of a checkout.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct ReleaseReport {
    /// Whether it asked to be replaced.
    pub(crate) stop: bool,
    /// Its private memory in bytes, if it was measured.
    pub(crate) private_bytes: Option<u64>,
    /// How many checkouts the lease counts as, if not as one.
    pub(crate) checkouts: Option<u64>,
}

/// How many workers are in which state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) starting: usize,
    pub(crate) idle: usize,
    pub(crate) leased: usize,
    pub(crate) ending: usize,
}

impl Counts {
    fn of(&mut self, worker_state: WorkerState) -> &mut usize {
        match worker_state {
            WorkerState::Starting => &mut self.starting,
            WorkerState::Idle { .. } => &mut self.idle,
            WorkerState::Leased { .. } => &mut self.leased,
            WorkerState::Ending { .. } => &mut self.ending,
        }
    }

    /// Workers that serve checkouts or will: all but the ending ones.
    pub(super) fn useful(self) -> usize {
        self.starting + self.idle + self.leased
    }

    /// Workers that count against the maximum: ending ones do until their exit is reported.
    fn all(self) -> usize {
        self.useful() + self.ending
    }
}

/// One worker of the pool state.
pub(super) struct WorkerEntry {
    pub(super) worker_state: WorkerState,
    pub(super) generation: Generation,
    /// When the worker was requested; once it is ready, when it became ready. Its age counts from here.
    pub(super) alive_since: Instant,
    /// Checkouts that it was lent to.
    pub(super) checkouts: u64,
    /// The bulkhead that it counts towards, while it is lent.
    pub(super) bulkhead: Option<BulkheadId>,
    /// The number of early exits so far when the worker was requested.
    pub(super) early_exits_before: u64,
    /// Why it is replaced instead of being released, once its holder was told so.
    pub(super) leaves: Option<RetireReason>,
}

impl WorkerEntry {
    /// Returns whether the worker serves or will serve, and is to be replaced by one of the current generation.
    pub(super) fn is_stale(&self) -> bool {
        self.generation != Generation::Current && !matches!(self.worker_state, WorkerState::Ending { .. })
    }
}

/// The options that limit workers and waiting checkouts.
pub(super) struct Limits {
    pub(super) min_workers: usize,
    pub(super) max_workers: usize,
    pub(super) spare_workers: usize,
    pub(super) max_waiting: usize,
    pub(super) idle_timeout: Option<Duration>,
    pub(super) max_checkouts: u64,
    pub(super) max_lifetime: Option<Duration>,
    pub(super) max_memory: u64,
}

/// The state of a pool: its workers, its queue of waiting checkouts, and the actions that are due.
pub(crate) struct PoolState {
    pub(super) limits: Limits,
    pub(super) backoff: Backoff,
    pub(super) phase: PoolPhase,
    /// Whether no checkout is granted a worker until the pool is resumed.
    pub(super) is_paused: bool,
    pub(super) workers: HashMap<u64, WorkerEntry>,
    pub(super) counts: Counts,
    /// How many workers are stale, see [`WorkerEntry::is_stale`].
    pub(super) stale: usize,
    /// Idle workers, the least recently used at the front.
    pub(super) idle: LinkedQueue,
    /// Waiting checkouts in order, and the bulkheads at which some of them may wait.
    pub(super) waiting: Waiting,
    /// Calls that wait in lanes, as last counted.
    pub(crate) waiting_calls: WaitingCalls,
    /// Workers that exited while they were lent, until their holders have reacted: each holder may request another
    /// worker.
    pub(super) unnoticed_exits: HashSet<u64>,
    pub(super) last_number: u64,
    /// Early exits so far.
    pub(super) early_exits: u64,
    /// Early exits in a row. It restarts at 0 once a worker becomes ready that was requested after the last early exit.
    pub(super) streak: u32,
    /// Until when no worker is forked.
    pub(super) retry_at: Option<Instant>,
    pub(super) actions: VecDeque<Action>,
}

impl PoolState {
    pub(crate) fn new(options: &Options) -> Self {
        let limits = Limits {
            min_workers: *options.workers.start(),
            max_workers: *options.workers.end(),
            spare_workers: options.spare_workers,
            max_waiting: options.max_waiting.unwrap_or(usize::MAX),
            idle_timeout: options.idle_timeout,
            max_checkouts: options.max_checkouts.unwrap_or(u64::MAX),
            max_lifetime: options.max_lifetime,
            max_memory: options.max_memory.unwrap_or(u64::MAX),
        };
        let mut waiting = Waiting::default();
        for message in &options.message_limits {
            waiting.add_bulkhead(message.most);
        }
        PoolState {
            limits,
            backoff: options.restart,
            phase: PoolPhase::Open,
            is_paused: false,
            workers: HashMap::new(),
            counts: Counts::default(),
            stale: 0,
            idle: LinkedQueue::default(),
            waiting,
            waiting_calls: WaitingCalls::default(),
            unnoticed_exits: HashSet::new(),
            last_number: 0,
            early_exits: 0,
            streak: 0,
            retry_at: None,
            actions: VecDeque::new(),
        }
    }

    /// Takes the next action. The caller carries out all of them, in order.
    pub(crate) fn next_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    pub(crate) fn counts(&self) -> Counts {
        self.counts
    }

    pub(crate) fn waiting(&self) -> &Waiting {
        &self.waiting
    }

    pub(crate) fn waiting_count(&self) -> usize {
        self.waiting.len()
    }

    pub(crate) fn phase(&self) -> PoolPhase {
        self.phase
    }

    /// Returns whether a worker is being started or a fork attempt is scheduled.
    pub(crate) fn is_starting(&self) -> bool {
        self.counts.starting > 0 || self.retry_at.is_some()
    }

    /// Returns whether the minimum of workers is set up.
    pub(crate) fn has_minimum(&self) -> bool {
        self.counts.idle + self.counts.leased >= self.limits.min_workers
    }

    /// Returns whether the pool is closing or stopping, and no worker and no checkout is left.
    pub(crate) fn is_drained(&self) -> bool {
        // A holder that does not know of its worker's exit yet may request another worker, unless the pool was stopped.
        let has_unnoticed_exit = !self.unnoticed_exits.is_empty() && self.phase < PoolPhase::Stopping;
        self.phase > PoolPhase::Open
            && self.workers.is_empty()
            && self.waiting.is_empty()
            && !has_unnoticed_exit
    }

    /// Requests the first workers.
    pub(crate) fn open(&mut self, now: Instant) {
        self.fork_missing(now);
    }

    /// Lends an idle worker to a new checkout, or puts the checkout at the end of the queue.
    pub(crate) fn acquire(&mut self, request: Request, now: Instant) -> Admission {
        if self.phase > PoolPhase::Open {
            return Admission::Stopped;
        }
        if let Some(worker) = self.lend_idle(request, now) {
            return Admission::Granted { worker };
        }
        if let Some(waiting) = self.overload(&self.waiting_calls, request.bulkhead) {
            return Admission::Overloaded { waiting };
        }
        self.waiting.push_back(request);
        self.fork_missing(now);
        Admission::Queued
    }

    /// Removes a checkout from the queue. Returns `false` if it was not in the queue.
    pub(crate) fn cancel(&mut self, checkout: u64, now: Instant) -> bool {
        let left = self.waiting.remove(checkout);
        if left && self.phase == PoolPhase::Closing {
            self.retire_unneeded(now);
        }
        left
    }

    /// Makes a worker idle, or lends it to the first waiting checkout, once its set-up is done. Returns how long ago it was
    /// requested; `None` if it is not starting any more.
    pub(crate) fn mark_ready(&mut self, worker: u64, now: Instant) -> Option<Duration> {
        let previous = self.workers.get(&worker).map(|entry| entry.worker_state);
        if self.apply(worker, Event::Ready, now).is_err() || previous != Some(WorkerState::Starting) {
            return None;
        }
        let entry = self.workers.get_mut(&worker)?;
        let requested = std::mem::replace(&mut entry.alive_since, now);
        // A worker requested before the last early exit does not show that workers requested now will last. If it reset
        // the streak, workers that exit early could cause each other to be forked without any delay.
        if entry.early_exits_before == self.early_exits {
            self.streak = 0;
            self.retry_at = None;
        }
        self.offer(worker, now);
        self.fork_missing(now);
        self.retire_stale(now);
        Some(now.saturating_duration_since(requested))
    }

    /// Takes a worker back from its checkout, for the next checkout or to be retired.
    pub(crate) fn release(&mut self, worker: u64, report: ReleaseReport, now: Instant) {
        let worker_state = self.workers.get(&worker).map(|entry| entry.worker_state);
        if !matches!(worker_state, Some(WorkerState::Leased { .. })) {
            // It was dismissed, or its exit was reported, before its release arrived.
            self.unnoticed_exits.remove(&worker);
            return;
        }
        self.recount(worker, report);
        match self.retire_reason(worker, report, now) {
            Some(reason) => {
                self.retire(worker, reason, now);
            }
            None => {
                if self.apply(worker, Event::Released, now).is_ok() {
                    self.offer(worker, now);
                }
            }
        }
    }

    /// Lets a worker exit, after it has requested the worker's replacement.
    pub(crate) fn retire(&mut self, worker: u64, reason: RetireReason, now: Instant) {
        self.dismiss(worker, reason, now);
        self.actions.push_back(Action::Retire(worker, reason));
    }

    /// Marks a worker as ending that is being killed or is unusable, and requests its replacement.
    pub(crate) fn dismiss(&mut self, worker: u64, reason: RetireReason, now: Instant) {
        self.unnoticed_exits.remove(&worker);
        if self.apply(worker, Event::Dismissed(reason), now).is_ok() {
            self.idle.remove(worker);
            self.serve_waiting(now);
            self.fork_missing(now);
        }
    }

    /// Removes a worker whose process has exited, and requests its replacement.
    ///
    /// `has_call`: its holder had a call for it. `jitter` is between 0 and 1.
    pub(crate) fn record_exit(&mut self, worker: u64, has_call: bool, now: Instant, jitter: f64) {
        self.add_unnoticed_exit(worker);
        let Some(entry) = self.workers.remove(&worker) else {
            return;
        };
        *self.counts.of(entry.worker_state) -= 1;
        self.stale -= usize::from(entry.is_stale());
        self.idle.remove(worker);
        // Before others are served: what they are lent may need a spare worker, which is forked after the delay.
        let current = if matches!(entry.worker_state, WorkerState::Leased { .. }) { 1 } else { 0 };
        let used = has_call || entry.checkouts > current;
        if entry.worker_state.exited_early(used, now.saturating_duration_since(entry.alive_since)) {
            self.back_off(now, jitter);
        }
        if let Some(bulkhead) = entry.bulkhead {
            self.waiting.free_place(bulkhead);
            self.serve_waiting(now);
        }
        self.fork_missing(now);
        self.retire_stale(now);
    }

    fn add_unnoticed_exit(&mut self, worker: u64) {
        let entry = self.workers.get(&worker);
        if entry.is_some_and(|entry| matches!(entry.worker_state, WorkerState::Leased { .. })) {
            self.unnoticed_exits.insert(worker);
        }
    }

    /// Marks a worker as ending whose set-up failed, and delays the next attempt. `jitter` is between 0 and 1.
    pub(crate) fn mark_setup_failed(&mut self, worker: u64, now: Instant, jitter: f64) {
        if self.apply(worker, Event::Dismissed(RetireReason::NotSetUp), now).is_ok() {
            self.back_off(now, jitter);
        }
    }

    pub(super) fn back_off(&mut self, now: Instant, jitter: f64) {
        self.early_exits += 1;
        self.streak = self.streak.saturating_add(1);
        self.retry_at = now.checked_add(self.backoff.wait(self.streak, jitter));
    }

    /// Accepts no new checkouts; waiting and held ones are still served, also if the pool was paused.
    pub(crate) fn close(&mut self, now: Instant) {
        self.phase = self.phase.max(PoolPhase::Closing);
        self.resume(now);
        self.retire_unneeded(now);
    }

    /// Accepts no new checkouts, refuses the waiting ones and retires all idle workers.
    pub(crate) fn stop(&mut self, now: Instant) {
        self.phase = PoolPhase::Stopping;
        self.is_paused = false;
        while let Some(checkout) = self.waiting.pop_first() {
            self.actions.push_back(Action::Refuse(checkout));
        }
        self.retire_unneeded(now);
    }

    pub(super) fn lend(&mut self, worker: u64, to: u64, bulkhead: Option<BulkheadId>, now: Instant) {
        if self.apply(worker, Event::Granted { to }, now).is_ok()
            && let Some(entry) = self.workers.get_mut(&worker)
        {
            entry.checkouts += 1;
            entry.bulkhead = bulkhead;
            bulkhead.into_iter().for_each(|bulkhead| self.waiting.take_place(bulkhead));
        }
        if self.limits.spare_workers > 0 {
            self.fork_missing(now);
        }
    }

    /// Lends a worker that just became idle to the first waiting checkout, or adds it to the idle workers.
    fn offer(&mut self, worker: u64, now: Instant) {
        self.idle.push_back(worker);
        self.serve_waiting(now);
        self.retire_unneeded(now);
    }

    /// In a closing or stopping pool without waiting checkouts, retires the workers that no checkout will request.
    pub(super) fn retire_unneeded(&mut self, now: Instant) {
        if self.phase == PoolPhase::Open || !self.waiting.is_empty() {
            return;
        }
        let starting = self.workers.iter().filter(|(_, entry)| entry.worker_state == WorkerState::Starting);
        let mut unneeded: Vec<u64> = starting.map(|(worker, _)| *worker).collect();
        // A map has a random order, and the order of the actions must be reproducible.
        unneeded.sort_unstable();
        unneeded.extend(self.idle.iter());
        for worker in unneeded {
            self.retire(worker, RetireReason::PoolEnds, now);
        }
    }

    /// Requests the missing workers, unless the delay after an early exit has not passed.
    pub(super) fn fork_missing(&mut self, now: Instant) {
        if self.retry_at.is_some_and(|at| now < at) {
            return;
        }
        self.retry_at = None;
        for _ in 0..self.missing() {
            self.last_number += 1;
            let early_exits_before = self.early_exits;
            let (worker_state, generation) = (WorkerState::Starting, Generation::Current);
            let entry = WorkerEntry {
                worker_state,
                generation,
                alive_since: now,
                checkouts: 0,
                bulkhead: None,
                early_exits_before,
                leaves: None,
            };
            self.workers.insert(self.last_number, entry);
            self.counts.starting += 1;
            self.actions.push_back(Action::Fork(self.last_number));
        }
    }

    fn missing(&self) -> usize {
        let target = if self.phase == PoolPhase::Open { self.target_workers() } else { 0 };
        let below_target = target.saturating_sub(self.counts.useful() - self.stale);
        let for_waiting = self.servable().saturating_sub(self.counts.starting);
        let free = self.free_capacity();
        let missing = below_target.max(for_waiting).min(free);
        if self.streak == 0 {
            return missing;
        }
        // After an early exit, workers are started one at a time until one becomes ready.
        missing.min(1_usize.saturating_sub(self.counts.starting))
    }

    /// Returns how many workers there should be without waiting checkouts: the minimum, or the lent ones and
    /// `spare_workers` more if that is greater.
    pub(super) fn target_workers(&self) -> usize {
        match self.counts.leased {
            0 => self.limits.min_workers,
            leased => self.limits.min_workers.max(leased.saturating_add(self.limits.spare_workers)),
        }
    }

    pub(super) fn free_capacity(&self) -> usize {
        self.limits.max_workers.saturating_sub(self.counts.all())
    }

    fn apply(&mut self, worker: u64, event: Event, now: Instant) -> Result<(), InvalidTransition> {
        let Some(entry) = self.workers.get_mut(&worker) else {
            // Its exit was reported before this event arrived.
            return Err(InvalidTransition {
                worker_state: WorkerState::Ending { reason: RetireReason::Broken },
                event,
            });
        };
        let next = entry.worker_state.on(event, now)?;
        *self.counts.of(entry.worker_state) -= 1;
        *self.counts.of(next) += 1;
        self.stale -= usize::from(entry.is_stale());
        entry.worker_state = next;
        self.stale += usize::from(entry.is_stale());
        if !matches!(next, WorkerState::Leased { .. })
            && let Some(bulkhead) = entry.bulkhead.take()
        {
            self.waiting.free_place(bulkhead);
        }
        Ok(())
    }
}
