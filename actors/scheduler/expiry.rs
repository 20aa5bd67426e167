//! When an idle or a returning worker is replaced.

use super::state::{PoolPhase, PoolState, ReleaseReport, WorkerEntry};
use super::worker_state::{RetireReason, WorkerState};
use crate::clock::Instant;

impl PoolState {
    /// Returns why a worker is to be replaced if it comes back now, or `None` if it may stay.
    pub(crate) fn retire_reason(
        &self,
        worker: u64,
        report: ReleaseReport,
        now: Instant,
    ) -> Option<RetireReason> {
        let entry = self.workers.get(&worker)?;
        if self.phase == PoolPhase::Stopping {
            Some(RetireReason::PoolEnds)
        } else if entry.leaves.is_some() {
            entry.leaves
        } else if report.stop {
            Some(RetireReason::StopRequested)
        } else if !self.may_stay(entry) {
            Some(entry.generation.retire_reason())
        } else if entry.checkouts >= self.limits.max_checkouts {
            Some(RetireReason::MaxCheckouts)
        } else if report.private_bytes.is_some_and(|bytes| bytes > self.limits.max_memory) {
            Some(RetireReason::MaxMemory)
        } else if self
            .limits
            .max_lifetime
            .is_some_and(|limit| now.saturating_duration_since(entry.alive_since) >= limit)
        {
            Some(RetireReason::MaxLifetime)
        } else {
            None
        }
    }

    /// Returns why a worker is ending; `None` if it is not.
    pub(crate) fn retired_for(&self, worker: u64) -> Option<RetireReason> {
        match self.workers.get(&worker)?.worker_state {
            WorkerState::Ending { reason } => Some(reason),
            WorkerState::Starting | WorkerState::Idle { .. } | WorkerState::Leased { .. } => None,
        }
    }

    /// Decides the same for a worker that its holder replaces instead of releasing it. Until that is done, the worker
    /// counts as one that ends.
    pub(crate) fn decide_retirement(&mut self, worker: u64, now: Instant) -> Option<RetireReason> {
        let reason = self.retire_reason(worker, ReleaseReport::default(), now);
        if let Some(entry) = self.workers.get_mut(&worker) {
            entry.leaves = reason;
        }
        reason
    }

    /// Takes away an idle worker whose process has ended although its exit was not reported: its server may be stopped.
    /// It counts until it is. Returns whether the worker was idle. `jitter` is between 0 and 1.
    pub(crate) fn mark_dead(&mut self, worker: u64, now: Instant, jitter: f64) -> bool {
        let idle = |entry: &&WorkerEntry| matches!(entry.worker_state, WorkerState::Idle { .. });
        let Some(entry) = self.workers.get(&worker).filter(idle) else { return false };
        let age = now.saturating_duration_since(entry.alive_since);
        if entry.worker_state.exited_early(entry.checkouts > 0, age) {
            self.back_off(now, jitter);
        }
        self.dismiss(worker, RetireReason::Died, now);
        true
    }

    /// Retires workers that have been idle for too long or are too old, and repeats fork attempts that are due.
    pub(crate) fn tick(&mut self, now: Instant) {
        while let Some((worker, reason)) = self.overdue(now) {
            self.retire(worker, reason, now);
        }
        self.fork_missing(now);
    }

    /// Returns when [`tick`](Self::tick) has something to do next, unless another event comes first.
    pub(crate) fn next_tick(&self) -> Option<Instant> {
        let lru = self.least_recently_used().and_then(|worker| self.idle_deadline(worker));
        let oldest = self.idle.iter().filter_map(|worker| self.age_deadline(worker)).min();
        [lru, oldest, self.retry_at].into_iter().flatten().min()
    }

    fn overdue(&self, now: Instant) -> Option<(u64, RetireReason)> {
        let passed = |until: Option<Instant>| until.is_some_and(|until| until <= now);
        let old = self.idle.iter().find(|&worker| passed(self.age_deadline(worker)));
        let lru = self.least_recently_used().filter(|&worker| passed(self.idle_deadline(worker)));
        old.map(|worker| (worker, RetireReason::MaxLifetime))
            .or(lru.map(|worker| (worker, RetireReason::IdleTimeout)))
    }

    /// Returns the least recently used idle worker that is not stale.
    fn least_recently_used(&self) -> Option<u64> {
        self.idle.iter().find(|&worker| self.is_current(worker))
    }

    fn idle_deadline(&self, worker: u64) -> Option<Instant> {
        if self.counts.useful() - self.stale <= self.target_workers() {
            return None;
        }
        match self.workers.get(&worker)?.worker_state {
            WorkerState::Idle { since } => since.checked_add(self.limits.idle_timeout?),
            _ => None,
        }
    }

    fn age_deadline(&self, worker: u64) -> Option<Instant> {
        let limit = self.limits.max_lifetime?;
        self.workers.get(&worker)?.alive_since.checked_add(limit)
    }
}
