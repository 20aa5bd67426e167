//! When a worker that nobody holds has had its time.

use std::time::Instant;

use super::state::{PoolPhase, PoolState, ReleaseReport};
use super::worker_state::{RetireReason, WorkerState};

impl PoolState {
    /// Why a worker is to be replaced when it comes back now, if it is.
    pub(crate) fn reason_to_end(
        &self,
        worker: u64,
        facts: ReleaseReport,
        now: Instant,
    ) -> Option<RetireReason> {
        let entry = self.workers.get(&worker)?;
        if self.phase == PoolPhase::Stopping {
            Some(RetireReason::PoolEnds)
        } else if facts.stop {
            Some(RetireReason::Asked)
        } else if !self.may_stay(entry.generation) {
            Some(RetireReason::Outdated)
        } else if entry.checkouts >= self.limits.max_checkouts {
            Some(RetireReason::WornOut)
        } else if facts.private_bytes.is_some_and(|bytes| bytes > self.limits.max_memory) {
            Some(RetireReason::TooLarge)
        } else if self.limits.max_age.is_some_and(|limit| now.duration_since(entry.born) >= limit) {
            Some(RetireReason::TooOld)
        } else {
            None
        }
    }

    /// Time has passed: retires what has been idle for too long or is too old, and tries again what failed.
    pub(crate) fn tick(&mut self, now: Instant) {
        while let Some(worker) = self.overdue(now) {
            let (worker, reason) = worker;
            self.retire(worker, reason, now);
        }
        self.restock(now);
    }

    /// When [`tick`](Self::tick) has something to do next, unless something else happens first.
    pub(crate) fn next_tick(&self) -> Option<Instant> {
        let lru = self.least_recently_used().and_then(|worker| self.idle_until(worker));
        let oldest = self.idle.iter().filter_map(|worker| self.young_until(worker)).min();
        [lru, oldest, self.retry_at].into_iter().flatten().min()
    }

    fn overdue(&self, now: Instant) -> Option<(u64, RetireReason)> {
        let passed = |until: Option<Instant>| until.is_some_and(|until| until <= now);
        let old = self.idle.iter().find(|&worker| passed(self.young_until(worker)));
        let lru = self.least_recently_used().filter(|&worker| passed(self.idle_until(worker)));
        old.map(|worker| (worker, RetireReason::TooOld))
            .or(lru.map(|worker| (worker, RetireReason::IdleTooLong)))
    }

    /// Of those that are not to be replaced anyway.
    fn least_recently_used(&self) -> Option<u64> {
        self.idle.iter().find(|&worker| self.is_current(worker))
    }

    fn idle_until(&self, worker: u64) -> Option<Instant> {
        if self.counts.useful() - self.of_old <= self.kept() {
            return None;
        }
        match self.workers.get(&worker)?.worker_state {
            WorkerState::Idle { since } => since.checked_add(self.limits.idle_timeout?),
            _ => None,
        }
    }

    fn young_until(&self, worker: u64) -> Option<Instant> {
        let limit = self.limits.max_age?;
        self.workers.get(&worker)?.born.checked_add(limit)
    }
}
