//! Workers whose server makes no more make room for those of another.

use std::time::Instant;

use super::state::{Entry, Generation, PoolPhase, PoolState};
use super::worker_state::{RetireReason, WorkerState};

impl PoolState {
    /// These workers' server makes no more. `succeeded`: another does already, so they stand in until its workers are
    /// ready; otherwise they go as soon as nobody holds them, since their server waits for that.
    pub(crate) fn outdate(&mut self, workers: impl Iterator<Item = u64>, succeeded: bool, now: Instant) {
        let generation = if succeeded { Generation::Outdated } else { Generation::Obsolete };
        for worker in workers {
            let Some(entry) = self.workers.get_mut(&worker) else { continue };
            self.of_old -= usize::from(entry.is_of_old());
            entry.generation = generation;
            self.of_old += usize::from(entry.is_of_old());
        }
        self.restock(now);
        self.renew(now);
    }

    /// Retires idle workers in whose place others are ready, or are to come and have no room.
    pub(crate) fn renew(&mut self, now: Instant) {
        if self.of_old == 0 || self.phase > PoolPhase::Open {
            return;
        }
        let old: Vec<u64> = self.idle.iter().filter(|&worker| !self.is_current(worker)).collect();
        for worker in old {
            // As if it came back now: those used last stay for longest.
            let generation = self.workers.get(&worker).map(|entry| entry.generation);
            let stays = generation.is_some_and(|generation| self.may_stay_idle(generation));
            if !stays {
                self.retire(worker, RetireReason::Outdated, now);
            }
        }
    }

    /// Whether a worker that comes back now has something to stay for.
    pub(super) fn may_stay(&self, generation: Generation) -> bool {
        generation == Generation::Current || self.is_stand_in(generation, 0)
    }

    /// The same for one that is idle, and is counted among those.
    fn may_stay_idle(&self, generation: Generation) -> bool {
        self.is_stand_in(generation, 1)
    }

    fn is_stand_in(&self, generation: Generation, counted: usize) -> bool {
        let current = |entry: &&Entry| entry.generation == Generation::Current;
        let worker_states = || self.workers.values().filter(current).map(|entry| entry.worker_state);
        let ready = worker_states()
            .filter(|worker_state| {
                matches!(worker_state, WorkerState::Idle { .. } | WorkerState::Leased { .. })
            })
            .count();
        let is_coming = worker_states().any(|worker_state| worker_state == WorkerState::Starting);
        let idle = self.idle.iter().filter(|&worker| !self.is_current(worker)).count() - counted;
        let wanted = self.limits.fewest.max(usize::from(!self.waiting.is_empty()));
        // Where there is no room, nobody comes before somebody goes.
        let is_in_the_way = self.room() == 0 && !is_coming && self.counts.ending == 0;
        generation == Generation::Outdated && ready + idle < wanted && !is_in_the_way
    }

    pub(crate) fn is_current(&self, worker: u64) -> bool {
        self.workers.get(&worker).is_none_or(|entry| entry.generation == Generation::Current)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::actors::scheduler::state::{Action, Admission, ReleaseReport};
    use crate::config::Options;

    /// A ledger with this many idle workers, 1 and so on, of so many that there may be.
    fn state(idle: u64, most: usize) -> (PoolState, Instant) {
        let now = Instant::now();
        let fewest = usize::try_from(idle).unwrap_or(0);
        let mut state = PoolState::new(&Options { workers: fewest..=most, ..Options::named("p") });
        state.open(now);
        (1..=idle).for_each(|worker| state.ready(worker, now));
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
    fn each_old_worker_goes_when_a_new_one_is_ready_in_its_place() {
        let (mut state, now) = state(2, 4);
        state.outdate([1, 2].into_iter(), true, now);
        assert_eq!(actions(&mut state), [Action::Fork(3), Action::Fork(4)]);
        assert_eq!(state.ask(7, now), Admission::Granted { worker: 2 }, "they serve meanwhile");
        state.released(2, ReleaseReport::default(), now);
        assert_eq!(actions(&mut state), []);
        state.ready(3, now);
        assert_eq!(actions(&mut state), [retires(1)], "the one that was used last stays for longest");
        state.ready(4, now);
        assert_eq!(actions(&mut state), [retires(2)]);
    }

    /// S4
    #[test]
    fn where_there_is_no_room_one_makes_room_and_the_next_waits_for_its_place() {
        let (mut state, now) = state(2, 2);
        state.outdate([1, 2].into_iter(), true, now);
        assert_eq!(actions(&mut state), [retires(1)]);
        state.ended(1, false, now, 0.5);
        assert_eq!(actions(&mut state), [Action::Fork(3)]);
        state.ready(3, now);
        assert_eq!(actions(&mut state), [retires(2)]);
    }

    /// S4
    #[test]
    fn workers_of_a_server_that_waits_for_them_go_as_soon_as_nobody_holds_them() {
        let (mut state, now) = state(2, 4);
        assert_eq!(state.ask(7, now), Admission::Granted { worker: 2 });
        state.outdate([1, 2].into_iter(), false, now);
        assert_eq!(actions(&mut state), [Action::Fork(3), Action::Fork(4), retires(1)]);
        assert_eq!(state.reason_to_end(2, ReleaseReport::default(), now), Some(RetireReason::Outdated));
    }
}
