//! Workers whose server makes no more make room for those of another.

use std::time::Instant;

use super::state::{Entry, Generation, PoolPhase, PoolState};
use super::worker_state::{RetireReason, WorkerState};

impl PoolState {
    /// These workers' server makes no more. `succeeded`: another does already, so they stand in until its workers are
    /// ready; otherwise they go as soon as nobody holds them, since their server waits for that.
    pub(crate) fn outdate(&mut self, workers: impl Iterator<Item = u64>, succeeded: bool, now: Instant) {
        let vintage = if succeeded { Generation::Outdated } else { Generation::Obsolete };
        for worker in workers {
            let Some(entry) = self.workers.get_mut(&worker) else { continue };
            self.of_old -= usize::from(entry.is_of_old());
            entry.vintage = vintage;
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
            let vintage = self.workers.get(&worker).map(|entry| entry.vintage);
            let stays = vintage.is_some_and(|vintage| self.may_stay_idle(vintage));
            if !stays {
                self.retire(worker, RetireReason::Outdated, now);
            }
        }
    }

    /// Whether a worker that comes back now has something to stay for.
    pub(super) fn may_stay(&self, vintage: Generation) -> bool {
        vintage == Generation::Current || self.is_stand_in(vintage, 0)
    }

    /// The same for one that is idle, and is counted among those.
    fn may_stay_idle(&self, vintage: Generation) -> bool {
        self.is_stand_in(vintage, 1)
    }

    fn is_stand_in(&self, vintage: Generation, counted: usize) -> bool {
        let current = |entry: &&Entry| entry.vintage == Generation::Current;
        let lives = || self.workers.values().filter(current).map(|entry| entry.life);
        let ready = lives()
            .filter(|life| matches!(life, WorkerState::Idle { .. } | WorkerState::Leased { .. }))
            .count();
        let is_coming = lives().any(|life| life == WorkerState::Starting);
        let idle = self.idle.iter().filter(|&worker| !self.is_current(worker)).count() - counted;
        let wanted = self.limits.fewest.max(usize::from(!self.waiting.is_empty()));
        // Where there is no room, nobody comes before somebody goes.
        let is_in_the_way = self.room() == 0 && !is_coming && self.census.ending == 0;
        vintage == Generation::Outdated && ready + idle < wanted && !is_in_the_way
    }

    pub(crate) fn is_current(&self, worker: u64) -> bool {
        self.workers.get(&worker).is_none_or(|entry| entry.vintage == Generation::Current)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::actors::scheduler::state::{Action, Admission, ReleaseReport};
    use crate::config::Options;

    /// A ledger with this many idle workers, 1 and so on, of so many that there may be.
    fn ledger(idle: u64, most: usize) -> (PoolState, Instant) {
        let now = Instant::now();
        let fewest = usize::try_from(idle).unwrap_or(0);
        let mut ledger = PoolState::new(&Options { workers: fewest..=most, ..Options::named("p") });
        ledger.open(now);
        (1..=idle).for_each(|worker| ledger.ready(worker, now));
        actions(&mut ledger);
        (ledger, now)
    }

    fn actions(ledger: &mut PoolState) -> Vec<Action> {
        std::iter::from_fn(|| ledger.next_action()).collect()
    }

    fn retires(worker: u64) -> Action {
        Action::Retire(worker, RetireReason::Outdated)
    }

    /// S4
    #[test]
    fn each_old_worker_goes_when_a_new_one_is_ready_in_its_place() {
        let (mut ledger, now) = ledger(2, 4);
        ledger.outdate([1, 2].into_iter(), true, now);
        assert_eq!(actions(&mut ledger), [Action::Fork(3), Action::Fork(4)]);
        assert_eq!(ledger.ask(7, now), Admission::Granted { worker: 2 }, "they serve meanwhile");
        ledger.released(2, ReleaseReport::default(), now);
        assert_eq!(actions(&mut ledger), []);
        ledger.ready(3, now);
        assert_eq!(actions(&mut ledger), [retires(1)], "the one that was used last stays for longest");
        ledger.ready(4, now);
        assert_eq!(actions(&mut ledger), [retires(2)]);
    }

    /// S4
    #[test]
    fn where_there_is_no_room_one_makes_room_and_the_next_waits_for_its_place() {
        let (mut ledger, now) = ledger(2, 2);
        ledger.outdate([1, 2].into_iter(), true, now);
        assert_eq!(actions(&mut ledger), [retires(1)]);
        ledger.ended(1, false, now, 0.5);
        assert_eq!(actions(&mut ledger), [Action::Fork(3)]);
        ledger.ready(3, now);
        assert_eq!(actions(&mut ledger), [retires(2)]);
    }

    /// S4
    #[test]
    fn workers_of_a_server_that_waits_for_them_go_as_soon_as_nobody_holds_them() {
        let (mut ledger, now) = ledger(2, 4);
        assert_eq!(ledger.ask(7, now), Admission::Granted { worker: 2 });
        ledger.outdate([1, 2].into_iter(), false, now);
        assert_eq!(actions(&mut ledger), [Action::Fork(3), Action::Fork(4), retires(1)]);
        assert_eq!(ledger.reason_to_end(2, ReleaseReport::default(), now), Some(RetireReason::Outdated));
    }
}
