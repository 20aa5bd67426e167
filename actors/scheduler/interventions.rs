//! What a user does to a running pool: pauses and resumes it, recycles its workers, kills one.

use super::rollover::Generation;
use super::state::{PoolPhase, PoolState, WorkerEntry};
use super::worker_state::{RetireReason, WorkerState};
use crate::actors::api::recycling::Recycle;
use crate::clock::Instant;

impl PoolState {
    pub(crate) fn is_paused(&self) -> bool {
        self.is_paused
    }

    /// Grants no further worker until the pool is resumed. Returns whether the pool was open and not paused.
    pub(crate) fn pause(&mut self) -> bool {
        let pauses = self.phase == PoolPhase::Open && !self.is_paused;
        self.is_paused |= pauses;
        pauses
    }

    /// Lends idle workers to those that wait, and grants workers again. Returns whether the pool was paused.
    pub(crate) fn resume(&mut self, now: Instant) -> bool {
        if !std::mem::take(&mut self.is_paused) {
            return false;
        }
        self.serve_waiting(now);
        self.fork_missing(now);
        true
    }

    /// Returns how many waiting checkouts may get a worker: those that have a place at their bulkhead, unless the pool is
    /// paused.
    pub(super) fn servable(&self) -> usize {
        if self.is_paused { 0 } else { self.waiting.allowed_count() }
    }

    /// Returns whether the pool has this worker, or waits for the report of its exit.
    pub(crate) fn has(&self, worker: u64) -> bool {
        self.workers.contains_key(&worker)
    }

    /// Has workers replaced, one after the other where the pool is at its maximum, and returns which. A worker that is
    /// replaced already is among them, and one that is ending is not.
    pub(crate) fn recycle(&mut self, which: Recycle, now: Instant) -> Vec<u64> {
        if self.phase > PoolPhase::Open {
            return Vec::new();
        }
        let concerned = |(&worker, entry): (&u64, &WorkerEntry)| {
            let serves = !matches!(entry.worker_state, WorkerState::Ending { .. });
            let is_meant = match which {
                Recycle::All => true,
                Recycle::Worker(number) => worker == number,
                Recycle::OlderThan(age) => now.saturating_duration_since(entry.alive_since) >= age,
            };
            (serves && is_meant).then_some(worker)
        };
        let mut concerned = Vec::from_iter(self.workers.iter().filter_map(concerned));
        // A map has a random order, and the order of the actions must be reproducible.
        concerned.sort_unstable();
        let current = concerned.iter().copied().filter(|&worker| self.is_current(worker));
        self.replace(Vec::from_iter(current).into_iter(), Generation::Recycled, now);
        concerned
    }

    /// Marks a worker as ending that is killed whatever it does, and requests its replacement.
    pub(crate) fn kill(&mut self, worker: u64, now: Instant) {
        match self.workers.get(&worker).map(|entry| entry.worker_state) {
            // The supervisor is to know that its set-up has not failed.
            Some(WorkerState::Starting) => self.retire(worker, RetireReason::Killed, now),
            Some(WorkerState::Idle { .. }) => self.dismiss(worker, RetireReason::Killed, now),
            Some(WorkerState::Leased { .. }) => {
                self.dismiss(worker, RetireReason::Killed, now);
                // Its holder may request another one for calls that had not begun.
                self.unnoticed_exits.insert(worker);
            }
            Some(WorkerState::Ending { .. }) | None => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::actors::scheduler::state::{Action, Admission, Counts, ReleaseReport};
    use crate::actors::scheduler::waiting::Request;
    use crate::config::Options;

    /// A pool state with as many idle workers as its fewest, numbered from 1.
    fn state(fewest: usize, most: usize, max_waiting: Option<usize>) -> (PoolState, Instant) {
        let now = Instant::now();
        let mut state =
            PoolState::new(&Options { workers: fewest..=most, max_waiting, ..Options::named("p") });
        state.open(now);
        for worker in 1..=fewest as u64 {
            state.mark_ready(worker, now);
        }
        actions(&mut state);
        (state, now)
    }

    fn actions(state: &mut PoolState) -> Vec<Action> {
        std::iter::from_fn(|| state.next_action()).collect()
    }

    fn retires(worker: u64) -> Action {
        Action::Retire(worker, RetireReason::Recycled)
    }

    /// P15
    #[test]
    fn below_the_most_a_recycled_worker_serves_until_its_replacement_is_ready() {
        let (mut state, now) = state(2, 4, None);
        assert_eq!(state.recycle(Recycle::All, now), [1, 2]);
        assert_eq!(actions(&mut state), [Action::Fork(3), Action::Fork(4)]);
        state.mark_ready(3, now);
        assert_eq!(actions(&mut state), [retires(1)]);
        state.mark_ready(4, now);
        assert_eq!(actions(&mut state), [retires(2)]);
    }

    /// P15: two holders on two threads decide before either of them has done what it decided.
    #[test]
    fn at_the_most_a_recycled_worker_leaves_when_no_other_one_does() {
        let (mut state, now) = state(3, 3, None);
        for worker in [3, 2, 1] {
            assert_eq!(state.acquire(Request::checkout(worker, None), now), Admission::Granted { worker });
        }
        assert_eq!(state.recycle(Recycle::All, now), [1, 2, 3]);
        assert_eq!(state.decide_retirement(1, now), Some(RetireReason::Recycled));
        assert_eq!(state.decide_retirement(2, now), None);
        assert_eq!(state.decide_retirement(1, now), Some(RetireReason::Recycled), "it is decided");
        state.release(2, ReleaseReport::default(), now);
        state.retire(1, RetireReason::Recycled, now);
        assert_eq!(actions(&mut state), [retires(1)]);
        state.record_exit(1, true, now, 0.5);
        assert_eq!(actions(&mut state), [Action::Fork(4)]);
        state.release(3, ReleaseReport::default(), now);
        assert_eq!(actions(&mut state), [], "the replacement is not ready");
        state.mark_ready(4, now);
        assert_eq!(actions(&mut state), [retires(2)]);
    }

    /// P15
    #[test]
    fn a_worker_that_is_recycled_in_its_set_up_takes_a_place_before_it_is_replaced() {
        let (mut state, now) = state(2, 2, None);
        state.kill(1, now);
        state.record_exit(1, false, now, 0.5);
        assert_eq!(actions(&mut state), [Action::Fork(3)]);
        assert_eq!(state.recycle(Recycle::All, now), [2, 3]);
        assert_eq!(actions(&mut state), [], "one is left, and one is coming");
        state.mark_ready(3, now);
        assert_eq!(actions(&mut state), [retires(2)]);
    }

    /// P15
    #[test]
    fn this_table_lists_whom_recycle_means() {
        let (age, second) = (Duration::from_secs(10), Duration::from_secs(1));
        let table = [
            (Recycle::All, vec![1, 3]),
            (Recycle::Worker(1), vec![1]),
            (Recycle::Worker(2), vec![]),
            (Recycle::Worker(9), vec![]),
            (Recycle::OlderThan(age), vec![1]),
            (Recycle::OlderThan(age + second), vec![]),
            (Recycle::OlderThan(Duration::ZERO), vec![1, 3]),
        ];
        for (which, expected) in table {
            // The first is idle, the second is ending, and the third is being set up.
            let (mut state, start) = state(2, 4, None);
            let now = start + age;
            state.kill(2, now);
            assert_eq!(state.recycle(which, now), expected, "{which:?}");
            state.stop(now);
            assert!(state.recycle(which, now).is_empty(), "{which:?} after a stop");
        }
    }

    /// P16
    #[test]
    fn a_worker_is_killed_in_every_state_and_replaced() {
        let killed = |worker| Action::Retire(worker, RetireReason::Killed);
        for (row, worker, expected) in [
            ("idle", 1, vec![]),
            ("lent", 2, vec![]),
            ("starting", 3, vec![killed(3)]),
            ("unknown", 9, vec![]),
        ] {
            let (mut state, now) = state(2, 4, None);
            assert_eq!(state.acquire(Request::checkout(7, None), now), Admission::Granted { worker: 2 });
            state.recycle(Recycle::Worker(1), now);
            assert_eq!(actions(&mut state), [Action::Fork(3)]);
            let before = state.counts();
            state.kill(worker, now);
            let ending = usize::from(worker != 9);
            assert_eq!(state.counts().ending, ending, "{row}");
            let retired = Vec::from_iter(
                actions(&mut state).into_iter().filter(|action| matches!(action, Action::Retire(..))),
            );
            assert_eq!(retired, expected, "{row}");
            let first = state.counts();
            state.kill(worker, now);
            assert_eq!((state.counts(), actions(&mut state)), (first, vec![]), "{row}: once");
            assert!(before.useful() <= first.useful() + ending, "{row}");
        }
    }

    /// P16, P12
    #[test]
    fn a_closing_pool_waits_for_the_holder_of_a_killed_worker() {
        let (mut state, now) = state(1, 1, None);
        state.acquire(Request::checkout(7, None), now);
        state.close(now);
        state.kill(1, now);
        state.record_exit(1, true, now, 0.5);
        assert!(!state.is_drained(), "its holder may request another one");
        state.dismiss(1, RetireReason::Broken, now);
        assert!(state.is_drained());
    }

    /// P17, P4, P9
    #[test]
    fn a_paused_pool_queues_all_and_serves_them_in_order() {
        let (mut state, now) = state(2, 2, Some(1));
        assert!(state.pause() && !state.pause());
        assert_eq!(state.acquire(Request::checkout(10, None), now), Admission::Queued);
        assert_eq!(state.acquire_for_lane(Request::lane(11, None), now), Admission::Queued);
        assert_eq!(state.reacquire(Request::checkout(12, None), now), Admission::Queued);
        // Two for the idle workers, and one that waits; the lane bounds its calls itself.
        assert_eq!(state.acquire(Request::checkout(13, None), now), Admission::Queued);
        assert_eq!(state.acquire(Request::checkout(14, None), now), Admission::Overloaded { waiting: 3 });
        assert_eq!(actions(&mut state), []);
        assert!(state.resume(now) && !state.resume(now));
        let granted = [Action::Grant { to: 12, worker: 2 }, Action::Grant { to: 10, worker: 1 }];
        assert_eq!(actions(&mut state), granted);
        state.release(2, ReleaseReport::default(), now);
        assert_eq!(actions(&mut state), [Action::Grant { to: 11, worker: 2 }]);
    }

    /// P17
    #[test]
    fn a_paused_pool_forks_its_fewest_and_none_for_those_that_wait() {
        let (mut state, now) = state(1, 3, None);
        state.pause();
        (10..13).for_each(|checkout| {
            assert_eq!(state.acquire(Request::checkout(checkout, None), now), Admission::Queued)
        });
        assert_eq!(actions(&mut state), []);
        state.kill(1, now);
        assert_eq!(actions(&mut state), [Action::Fork(2)]);
        state.record_exit(1, false, now, 0.5);
        state.mark_ready(2, now);
        assert_eq!(state.counts(), Counts { idle: 1, ..Counts::default() });
        state.resume(now);
        let expected = [Action::Grant { to: 10, worker: 2 }, Action::Fork(3), Action::Fork(4)];
        assert_eq!(actions(&mut state), expected);
    }

    /// P17, P12
    #[test]
    fn an_end_ends_the_pause() {
        for closes in [true, false] {
            let (mut state, now) = state(1, 1, None);
            state.pause();
            state.acquire(Request::checkout(10, None), now);
            if closes {
                state.close(now)
            } else {
                state.stop(now)
            }
            assert!(!state.is_paused() && !state.pause() && !state.resume(now));
            let expected = if closes { Action::Grant { to: 10, worker: 1 } } else { Action::Refuse(10) };
            assert_eq!(actions(&mut state)[0], expected);
        }
    }
}
