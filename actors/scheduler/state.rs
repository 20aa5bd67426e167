//! Who has which worker, who waits, and how many workers there should be.
//!
//! Decisions only: ids in, actions out. The clock and chance are arguments, so that a test can be both.

use std::collections::{HashMap, HashSet, VecDeque};
use std::time::{Duration, Instant};

use super::queue::LinkedQueue;
use super::worker_state::{Event, Impossible, RetireReason, WorkerState};
use crate::config::{Backoff, Options};

/// What the ledger wants done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    /// Fork this worker.
    Fork(u64),
    /// Hand this worker to this waiting checkout.
    Grant { to: u64, worker: u64 },
    /// End this worker, which nobody holds.
    Retire(u64, RetireReason),
    /// Tell this waiting checkout that the pool has stopped.
    Refuse(u64),
}

/// What a checkout that asks is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Admission {
    Granted {
        worker: u64,
    },
    Waits,
    /// `waiting` checkouts are ahead and there may be no more.
    Overloaded {
        waiting: usize,
    },
    Stopped,
}

/// Whether the pool takes and serves checkouts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum PoolPhase {
    /// Both.
    Open,
    /// Its last handle is gone: those waiting and held are served, no other.
    Closing,
    /// It was stopped: nobody new gets a worker.
    Stopping,
}

/// What is known of a worker that comes back from a checkout.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct ReleaseReport {
    /// It asked to be replaced.
    pub(crate) stop: bool,
    /// Its private memory in bytes, where it was measured.
    pub(crate) private_bytes: Option<u64>,
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

    /// Workers that are or will be of use.
    pub(super) fn useful(self) -> usize {
        self.starting + self.idle + self.leased
    }

    /// Processes there are.
    fn all(self) -> usize {
        self.useful() + self.ending
    }
}

/// Whether a worker's server still makes workers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Generation {
    Current,
    /// It does not, and another does: this worker stands in until those of the other are ready.
    Outdated,
    /// It ends with its last worker: this one goes as soon as nobody holds it.
    Obsolete,
}

pub(super) struct Entry {
    pub(super) worker_state: WorkerState,
    pub(super) generation: Generation,
    /// When it was asked for, and from then on when it became ready: its age counts from there.
    pub(super) born: Instant,
    pub(super) checkouts: u64,
    /// Early ends there had been when it was asked for.
    pub(super) asked_after: u64,
}

impl Entry {
    /// Whether it is or will be of use, and is to be replaced.
    pub(super) fn is_of_old(&self) -> bool {
        self.generation != Generation::Current && !matches!(self.worker_state, WorkerState::Ending { .. })
    }
}

pub(super) struct Limits {
    pub(super) fewest: usize,
    pub(super) most: usize,
    pub(super) spare: usize,
    pub(super) max_waiting: usize,
    pub(super) idle_timeout: Option<Duration>,
    pub(super) max_checkouts: u64,
    pub(super) max_age: Option<Duration>,
    pub(super) max_memory: u64,
}

/// The pool's books.
pub(crate) struct PoolState {
    pub(super) limits: Limits,
    pub(super) backoff: Backoff,
    pub(super) phase: PoolPhase,
    pub(super) workers: HashMap<u64, Entry>,
    pub(super) counts: Counts,
    /// Of the useful ones, those that are to be replaced.
    pub(super) of_old: usize,
    /// Front: least recently used.
    pub(super) idle: LinkedQueue,
    /// Front: first come.
    pub(super) waiting: LinkedQueue,
    /// Workers that ended while they were lent, until their holders know: each may ask again.
    pub(super) bereaving: HashSet<u64>,
    pub(super) last_number: u64,
    /// Early ends so far.
    pub(super) early_ends: u64,
    /// Early ends since a worker became ready that was asked for after the last of them.
    pub(super) streak: u32,
    pub(super) retry_at: Option<Instant>,
    pub(super) actions: VecDeque<Action>,
}

impl PoolState {
    pub(crate) fn new(options: &Options) -> Self {
        let limits = Limits {
            fewest: *options.workers.start(),
            most: *options.workers.end(),
            spare: options.spare_workers,
            max_waiting: options.max_waiting.unwrap_or(usize::MAX),
            idle_timeout: options.idle_timeout,
            max_checkouts: options.max_checkouts.unwrap_or(u64::MAX),
            max_age: options.max_age,
            max_memory: options.max_memory.unwrap_or(u64::MAX),
        };
        PoolState {
            limits,
            backoff: options.restart,
            phase: PoolPhase::Open,
            workers: HashMap::new(),
            counts: Counts::default(),
            of_old: 0,
            idle: LinkedQueue::default(),
            waiting: LinkedQueue::default(),
            bereaving: HashSet::new(),
            last_number: 0,
            early_ends: 0,
            streak: 0,
            retry_at: None,
            actions: VecDeque::new(),
        }
    }

    /// The next thing to do, in order, until there is none.
    pub(crate) fn next_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    pub(crate) fn counts(&self) -> Counts {
        self.counts
    }

    pub(crate) fn waiting(&self) -> impl Iterator<Item = u64> {
        self.waiting.iter()
    }

    pub(crate) fn waiting_count(&self) -> usize {
        self.waiting.len()
    }

    pub(crate) fn phase(&self) -> PoolPhase {
        self.phase
    }

    /// Whether a waiting checkout may hope for a worker that is being started.
    pub(crate) fn is_starting(&self) -> bool {
        self.counts.starting > 0 || self.retry_at.is_some()
    }

    /// Whether nothing is left to wait for.
    pub(crate) fn is_drained(&self) -> bool {
        // Whoever is still to be told that its worker is dead may ask for another, unless the pool was stopped.
        let bereaved = !self.bereaving.is_empty() && self.phase < PoolPhase::Stopping;
        self.phase > PoolPhase::Open && self.workers.is_empty() && self.waiting.is_empty() && !bereaved
    }

    /// The workers that are to be there from the beginning.
    pub(crate) fn open(&mut self, now: Instant) {
        self.restock(now);
    }

    /// A checkout wants a worker.
    pub(crate) fn ask(&mut self, checkout: u64, now: Instant) -> Admission {
        if self.phase > PoolPhase::Open {
            return Admission::Stopped;
        }
        if let Some(worker) = self.idle.pop_back() {
            self.lend(worker, checkout, now);
            return Admission::Granted { worker };
        }
        // Whoever a worker is being started for does not wait in the line that max_waiting bounds.
        let supply = self.counts.starting + self.room();
        let waiting = self.waiting.len();
        if waiting >= supply.saturating_add(self.limits.max_waiting) {
            return Admission::Overloaded { waiting };
        }
        self.waiting.push_back(checkout);
        self.restock(now);
        Admission::Waits
    }

    /// A checkout whose worker ended before it had done anything wants another, ahead of all others.
    pub(crate) fn ask_again(&mut self, checkout: u64, now: Instant) -> Admission {
        if self.phase == PoolPhase::Stopping {
            return Admission::Stopped;
        }
        if let Some(worker) = self.idle.pop_back() {
            self.lend(worker, checkout, now);
            return Admission::Granted { worker };
        }
        self.waiting.push_front(checkout);
        self.restock(now);
        Admission::Waits
    }

    /// A checkout leaves the line; `false` if it does not stand there.
    pub(crate) fn cancel(&mut self, checkout: u64, now: Instant) -> bool {
        let left = self.waiting.remove(checkout);
        if left && self.phase == PoolPhase::Closing {
            self.retire_unneeded(now);
        }
        left
    }

    /// A worker is set up.
    pub(crate) fn ready(&mut self, worker: u64, now: Instant) {
        let was = self.workers.get(&worker).map(|entry| entry.worker_state);
        if self.change(worker, Event::Ready, now).is_err() || was != Some(WorkerState::Starting) {
            return;
        }
        let Some(entry) = self.workers.get_mut(&worker) else { return };
        entry.born = now;
        // One that was asked for before the last early end says nothing of what has come since. If it ended the
        // wait, workers that do not last could have each other forked without any.
        if entry.asked_after == self.early_ends {
            self.streak = 0;
            self.retry_at = None;
        }
        self.offer(worker, now);
        self.restock(now);
        self.renew(now);
    }

    /// A worker comes back from its checkout.
    pub(crate) fn released(&mut self, worker: u64, facts: ReleaseReport, now: Instant) {
        let worker_state = self.workers.get(&worker).map(|entry| entry.worker_state);
        if !matches!(worker_state, Some(WorkerState::Leased { .. })) {
            // It was dismissed, or its end was seen, while it was on its way back.
            self.bereaving.remove(&worker);
            return;
        }
        match self.reason_to_end(worker, facts, now) {
            Some(reason) => {
                self.retire(worker, reason, now);
            }
            None => {
                if self.change(worker, Event::Released, now).is_ok() {
                    self.offer(worker, now);
                }
            }
        }
    }

    /// A worker is to end by itself, and its replacement is asked for first.
    pub(crate) fn retire(&mut self, worker: u64, reason: RetireReason, now: Instant) {
        self.dismiss(worker, reason, now);
        self.actions.push_back(Action::Retire(worker, reason));
    }

    /// A worker is being killed, or is known to be of no use; its replacement is asked for at once.
    pub(crate) fn dismiss(&mut self, worker: u64, reason: RetireReason, now: Instant) {
        self.bereaving.remove(&worker);
        if self.change(worker, Event::Dismissed(reason), now).is_ok() {
            self.idle.remove(worker);
            self.restock(now);
        }
    }

    /// A worker's process is gone. `has_call`: its holder had a call for it; `chance` is between 0 and 1.
    pub(crate) fn ended(&mut self, worker: u64, has_call: bool, now: Instant, chance: f64) {
        self.note_bereavement(worker);
        let Some(entry) = self.workers.remove(&worker) else {
            return;
        };
        *self.counts.of(entry.worker_state) -= 1;
        self.of_old -= usize::from(entry.is_of_old());
        self.idle.remove(worker);
        let earlier = if matches!(entry.worker_state, WorkerState::Leased { .. }) { 1 } else { 0 };
        let used = has_call || entry.checkouts > earlier;
        if entry.worker_state.ended_early(used, now.saturating_duration_since(entry.born)) {
            self.back_off(now, chance);
        }
        self.restock(now);
        self.renew(now);
    }

    fn note_bereavement(&mut self, worker: u64) {
        let entry = self.workers.get(&worker);
        if entry.is_some_and(|entry| matches!(entry.worker_state, WorkerState::Leased { .. })) {
            self.bereaving.insert(worker);
        }
    }

    /// A worker could not be set up; the next attempt waits. `chance` is between 0 and 1.
    pub(crate) fn not_set_up(&mut self, worker: u64, now: Instant, chance: f64) {
        if self.change(worker, Event::Dismissed(RetireReason::NotSetUp), now).is_ok() {
            self.back_off(now, chance);
        }
    }

    fn back_off(&mut self, now: Instant, chance: f64) {
        self.early_ends += 1;
        self.streak = self.streak.saturating_add(1);
        self.retry_at = now.checked_add(self.backoff.wait(self.streak, chance));
    }

    /// No new checkouts; those waiting and held are served.
    pub(crate) fn close(&mut self, now: Instant) {
        self.phase = self.phase.max(PoolPhase::Closing);
        self.retire_unneeded(now);
    }

    /// No new checkouts, nobody waiting is served, and nothing idle stays.
    pub(crate) fn stop(&mut self, now: Instant) {
        self.phase = PoolPhase::Stopping;
        while let Some(checkout) = self.waiting.pop_front() {
            self.actions.push_back(Action::Refuse(checkout));
        }
        self.retire_unneeded(now);
    }

    fn lend(&mut self, worker: u64, to: u64, now: Instant) {
        if self.change(worker, Event::Granted { to }, now).is_ok()
            && let Some(entry) = self.workers.get_mut(&worker)
        {
            entry.checkouts += 1;
        }
        if self.limits.spare > 0 {
            self.restock(now);
        }
    }

    /// A worker that just became idle goes to whoever is first in line, or to the idle list.
    fn offer(&mut self, worker: u64, now: Instant) {
        if let Some(to) = self.waiting.pop_front() {
            self.lend(worker, to, now);
            self.actions.push_back(Action::Grant { to, worker });
        } else {
            self.idle.push_back(worker);
        }
        self.retire_unneeded(now);
    }

    /// In a pool that ends, whatever nobody will ask for is ended, too.
    fn retire_unneeded(&mut self, now: Instant) {
        if self.phase == PoolPhase::Open || !self.waiting.is_empty() {
            return;
        }
        let starting = self.workers.iter().filter(|(_, entry)| entry.worker_state == WorkerState::Starting);
        let mut unneeded: Vec<u64> = starting.map(|(worker, _)| *worker).collect();
        // The order of a map is chance, and what is decided here depends on none.
        unneeded.sort_unstable();
        unneeded.extend(self.idle.iter());
        for worker in unneeded {
            self.retire(worker, RetireReason::PoolEnds, now);
        }
    }

    /// Asks for as many workers as are missing, and may be, and are worth an attempt now.
    pub(super) fn restock(&mut self, now: Instant) {
        if self.retry_at.is_some_and(|at| now < at) {
            return;
        }
        self.retry_at = None;
        for _ in 0..self.missing() {
            self.last_number += 1;
            let asked_after = self.early_ends;
            let (worker_state, generation) = (WorkerState::Starting, Generation::Current);
            let entry = Entry { worker_state, generation, born: now, checkouts: 0, asked_after };
            self.workers.insert(self.last_number, entry);
            self.counts.starting += 1;
            self.actions.push_back(Action::Fork(self.last_number));
        }
    }

    fn missing(&self) -> usize {
        let kept = if self.phase == PoolPhase::Open { self.kept() } else { 0 };
        let below_fewest = kept.saturating_sub(self.counts.useful() - self.of_old);
        let for_waiting = self.waiting.len().saturating_sub(self.counts.starting);
        let room = self.room();
        let missing = below_fewest.max(for_waiting).min(room);
        if self.streak == 0 {
            return missing;
        }
        // After an early end one worker at a time has to show that it can be done at all.
        missing.min(1_usize.saturating_sub(self.counts.starting))
    }

    /// How many there are to be whether or not anybody waits: while some are lent, spare ones beside them.
    pub(super) fn kept(&self) -> usize {
        match self.counts.leased {
            0 => self.limits.fewest,
            leased => self.limits.fewest.max(leased.saturating_add(self.limits.spare)),
        }
    }

    pub(super) fn room(&self) -> usize {
        self.limits.most.saturating_sub(self.counts.all())
    }

    fn change(&mut self, worker: u64, event: Event, now: Instant) -> Result<(), Impossible> {
        let Some(entry) = self.workers.get_mut(&worker) else {
            // Its end was seen before what it did last.
            return Err(Impossible {
                worker_state: WorkerState::Ending { reason: RetireReason::Broken },
                event,
            });
        };
        let next = entry.worker_state.on(event, now)?;
        *self.counts.of(entry.worker_state) -= 1;
        *self.counts.of(next) += 1;
        self.of_old -= usize::from(entry.is_of_old());
        entry.worker_state = next;
        self.of_old += usize::from(entry.is_of_old());
        Ok(())
    }
}
