//! Rollover: replacing the workers of a server that forks no more workers.

use std::time::Instant;

use super::state::{Generation, PoolPhase, PoolState, WorkerEntry};
use super::worker_state::{RetireReason, WorkerState};

impl PoolState {
    /// Marks workers whose server forks no more workers, and requests their replacements.
    ///
    /// With `succeeded`, another server has replaced theirs, and they serve until its workers are ready. Otherwise they
    /// are retired as soon as no checkout holds them, because their server waits for them to exit.
    pub(crate) fn mark_outdated(
        &mut self,
        workers: impl Iterator<Item = u64>,
        succeeded: bool,
        now: Instant,
    ) {
        let generation = if succeeded { Generation::Outdated } else { Generation::Obsolete };
        for worker in workers {
            let Some(entry) = self.workers.get_mut(&worker) else { continue };
            self.stale -= usize::from(entry.is_stale());
            entry.generation = generation;
            self.stale += usize::from(entry.is_stale());
        }
        self.fork_missing(now);
        self.retire_stale(now);
    }

    /// Retires stale idle workers whose replacements are ready, or cannot be forked because the pool is at its maximum.
    pub(crate) fn retire_stale(&mut self, now: Instant) {
        if self.stale == 0 || self.phase > PoolPhase::Open {
            return;
        }
        let old: Vec<u64> = self.idle.iter().filter(|&worker| !self.is_current(worker)).collect();
        for worker in old {
            // Decided for one worker after the other, least recently used first, so the last used ones stay longest.
            let generation = self.workers.get(&worker).map(|entry| entry.generation);
            let stays = generation.is_some_and(|generation| self.may_stay_idle(generation));
            if !stays {
                self.retire(worker, RetireReason::Outdated, now);
            }
        }
    }

    /// Returns whether a lent worker that comes back now is still needed.
    pub(super) fn may_stay(&self, generation: Generation) -> bool {
        generation == Generation::Current || self.is_stand_in(generation, 0)
    }

    /// Returns the same for an idle worker, which is counted among the idle ones itself.
    fn may_stay_idle(&self, generation: Generation) -> bool {
        self.is_stand_in(generation, 1)
    }

    fn is_stand_in(&self, generation: Generation, counted: usize) -> bool {
        let current = |entry: &&WorkerEntry| entry.generation == Generation::Current;
        let worker_states = || self.workers.values().filter(current).map(|entry| entry.worker_state);
        let ready = worker_states()
            .filter(|worker_state| {
                matches!(worker_state, WorkerState::Idle { .. } | WorkerState::Leased { .. })
            })
            .count();
        let is_coming = worker_states().any(|worker_state| worker_state == WorkerState::Starting);
        let idle = self.idle.iter().filter(|&worker| !self.is_current(worker)).count() - counted;
        let wanted = self.limits.min_workers.max(usize::from(!self.waiting.is_empty()));
        // At the maximum, no replacement can be forked before a worker exits.
        let blocks_replacement = self.free_capacity() == 0 && !is_coming && self.counts.ending == 0;
        generation == Generation::Outdated && ready + idle < wanted && !blocks_replacement
    }

    pub(crate) fn is_current(&self, worker: u64) -> bool {
        self.workers.get(&worker).is_none_or(|entry| entry.generation == Generation::Current)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::actors::scheduler::state::{Action, Admission, ReleaseReport};
    use crate::actors::scheduler::waiting::Request;
    use crate::config::Options;

    /// A pool state with `idle` idle workers, numbered from 1, and at most `most` workers.
    fn state(idle: u64, most: usize) -> (PoolState, Instant) {
        let now = Instant::now();
        let min = usize::try_from(idle).unwrap_or(0);
        let mut state = PoolState::new(&Options { workers: min..=most, ..Options::named("p") });
        state.open(now);
        (1..=idle).for_each(|worker| assert!(state.mark_ready(worker, now).is_some()));
        actions(&mut state);
        (state, now)
    }

    fn actions(state: &mut PoolState) -> Vec<Action> {
        std::iter::from_fn(|| state.next_action()).collect()
    }

    fn retires(worker: u64) -> Action {
        Action::Retire(worker, RetireReason::Outdated)
    }

    /// S4
    #[test]
    fn each_old_worker_retires_when_its_replacement_is_ready() {
        let (mut state, now) = state(2, 4);
        state.mark_outdated([1, 2].into_iter(), true, now);
        assert_eq!(actions(&mut state), [Action::Fork(3), Action::Fork(4)]);
        assert_eq!(
            state.acquire(Request::checkout(7, None), now),
            Admission::Granted { worker: 2 },
            "old workers serve meanwhile"
        );
        state.release(2, ReleaseReport::default(), now);
        assert_eq!(actions(&mut state), []);
        state.mark_ready(3, now);
        assert_eq!(actions(&mut state), [retires(1)], "the last used worker stays longest");
        state.mark_ready(4, now);
        assert_eq!(actions(&mut state), [retires(2)]);
    }

    /// S4
    #[test]
    fn at_the_maximum_one_old_worker_retires_first_and_the_next_waits_for_its_replacement() {
        let (mut state, now) = state(2, 2);
        state.mark_outdated([1, 2].into_iter(), true, now);
        assert_eq!(actions(&mut state), [retires(1)]);
        state.record_exit(1, false, now, 0.5);
        assert_eq!(actions(&mut state), [Action::Fork(3)]);
        state.mark_ready(3, now);
        assert_eq!(actions(&mut state), [retires(2)]);
    }

    /// S4
    #[test]
    fn workers_of_a_server_that_waits_for_them_retire_as_soon_as_no_checkout_holds_them() {
        let (mut state, now) = state(2, 4);
        assert_eq!(state.acquire(Request::checkout(7, None), now), Admission::Granted { worker: 2 });
        state.mark_outdated([1, 2].into_iter(), false, now);
        assert_eq!(actions(&mut state), [Action::Fork(3), Action::Fork(4), retires(1)]);
        assert_eq!(state.retire_reason(2, ReleaseReport::default(), now), Some(RetireReason::Outdated));
    }
}
