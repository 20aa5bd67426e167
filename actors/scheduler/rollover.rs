//! Rollover: replacing the workers of a server that forks no more workers, and those that a user has recycled.

use super::state::{PoolPhase, PoolState, WorkerEntry};
use super::worker_state::{RetireReason, WorkerState};
use crate::clock::Instant;

/// Whether a worker may serve for as long as it lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Generation {
    /// It may: its server still forks workers.
    Current,
    /// A user has recycled it. It serves until its replacement is ready.
    Recycled,
    /// Its server forks no more workers, and another server has replaced that. The worker serves until workers of the
    /// other server are ready.
    Outdated,
    /// Its server forks no more workers and exits after its last worker. The worker is retired as soon as no checkout holds
    /// it.
    Obsolete,
}

impl Generation {
    /// Returns why a worker of this generation is replaced.
    pub(super) fn retire_reason(self) -> RetireReason {
        match self {
            Generation::Recycled => RetireReason::Recycled,
            Generation::Current | Generation::Outdated | Generation::Obsolete => RetireReason::Outdated,
        }
    }
}

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
        self.replace(workers, generation, now);
    }

    /// Assigns workers to a generation, and requests their replacements. Those that are idle are retired as far as others
    /// take their place.
    pub(super) fn replace(
        &mut self,
        workers: impl Iterator<Item = u64>,
        generation: Generation,
        now: Instant,
    ) {
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
            let leaving = self.workers.get(&worker).filter(|entry| !self.is_stand_in(entry, 1));
            if let Some(reason) = leaving.map(|entry| entry.generation.retire_reason()) {
                self.retire(worker, reason, now);
            }
        }
    }

    /// Returns whether a lent worker that comes back now is still needed.
    pub(super) fn may_stay(&self, worker: &WorkerEntry) -> bool {
        worker.generation == Generation::Current || self.is_stand_in(worker, 0)
    }

    /// `counted`: it is counted as one of the idle workers itself, or not at all.
    fn is_stand_in(&self, worker: &WorkerEntry, counted: usize) -> bool {
        let is_ready = |entry: &&WorkerEntry| {
            entry.generation == Generation::Current
                && matches!(entry.worker_state, WorkerState::Idle { .. } | WorkerState::Leased { .. })
        };
        let ready = self.workers.values().filter(is_ready).count();
        // One that was recycled during its set-up takes the place of another one before it is replaced itself.
        let is_coming = self.workers.values().any(|entry| {
            matches!(entry.generation, Generation::Current | Generation::Recycled)
                && entry.worker_state == WorkerState::Starting
        });
        let idle = self.idle.iter().filter(|&worker| !self.is_current(worker)).count() - counted;
        // Its own place at a bulkhead may be what others wait for.
        let frees_place = worker.bulkhead.is_some_and(|bulkhead| self.waiting.has_next_at(bulkhead));
        let is_awaited = self.servable() > 0 || frees_place && !self.is_paused;
        let wanted = self.limits.min_workers.max(usize::from(is_awaited));
        // At the maximum, no replacement can be forked before a worker exits.
        let is_ending = self.counts.ending > 0 || self.workers.values().any(|entry| entry.leaves.is_some());
        let blocks_replacement = self.free_capacity() == 0 && !is_coming && !is_ending;
        let serves_on = matches!(worker.generation, Generation::Recycled | Generation::Outdated);
        serves_on && ready + idle < wanted && !blocks_replacement
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

    /// S4
    #[test]
    fn an_old_worker_serves_on_if_the_next_checkout_waits_for_its_place_at_a_bulkhead() {
        let (mut state, now) = state(0, 2);
        let bulkhead = Some(state.waiting.add_bulkhead(1));
        assert_eq!(state.acquire(Request::checkout(7, bulkhead), now), Admission::Queued);
        state.mark_ready(1, now);
        state.mark_outdated([1].into_iter(), true, now);
        assert_eq!(state.acquire(Request::checkout(8, bulkhead), now), Admission::Queued);
        assert_eq!(
            actions(&mut state),
            [Action::Fork(1), Action::Grant { to: 7, worker: 1 }, Action::Fork(2)]
        );
        state.release(1, ReleaseReport::default(), now);
        assert_eq!(actions(&mut state), [Action::Grant { to: 8, worker: 1 }]);
        state.release(1, ReleaseReport::default(), now);
        assert_eq!(actions(&mut state), [retires(1)], "no other needs it");
    }
}
