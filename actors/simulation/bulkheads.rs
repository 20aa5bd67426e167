//! The bulkheads that the pool state must have: how many workers each of them has, and who may have one.

use super::worker::ExpectedState;
use super::world::World;
use crate::actors::scheduler::waiting::BulkheadId;

impl World {
    /// Draws the bulkhead of a new requester; most have none.
    pub(super) fn draw_bulkhead(&mut self) -> Option<BulkheadId> {
        let count = self.most.len();
        let at = self.rng.below(2 * count + 1);
        (at < count).then_some(BulkheadId(at))
    }

    /// Changes how many workers a bulkhead permits.
    pub(super) fn set_most(&mut self) {
        let (at, most) = (self.rng.below(self.most.len().max(1)), *self.plan.options.workers.end());
        let most = 1 + self.rng.below(most);
        let Some(before) = self.most.get_mut(at) else { return };
        *before = most;
        self.record("bulkhead set", || format!("{at} to {most}"));
        let now = self.now();
        self.state.set_most(BulkheadId(at), most, now);
        self.settle();
    }

    /// Returns how many more workers the bulkhead permits.
    fn places(&self, bulkhead: Option<BulkheadId>) -> usize {
        self.places_without(None, bulkhead)
    }

    /// S4, P4: returns whether a checkout may have a worker once this one comes back, if it is lent.
    pub(super) fn has_next(&self, worker: u64) -> bool {
        let is_next = |waiter: &u64| self.places_without(Some(worker), self.bulkhead_of(*waiter)) > 0;
        !self.is_paused && self.queue.iter().any(is_next)
    }

    fn places_without(&self, without: Option<u64>, bulkhead: Option<BulkheadId>) -> usize {
        let Some(bulkhead) = bulkhead else { return usize::MAX };
        let others = self.workers.iter().filter(|(number, _)| Some(**number) != without);
        let in_use = others.filter(|(_, worker)| {
            worker.bulkhead == Some(bulkhead)
                && matches!(worker.expected_state, Some(ExpectedState::Leased(_)))
        });
        let in_use = in_use.count();
        self.most[bulkhead.0].saturating_sub(in_use)
    }

    fn bulkhead_of(&self, waiter: u64) -> Option<BulkheadId> {
        self.waiters.get(&waiter).and_then(|waiter| waiter.bulkhead)
    }

    /// P4: returns the waiters to whom the next workers go, in order: all but those that wait at their bulkheads.
    pub(super) fn allowed(&self) -> Vec<u64> {
        let mut places: Vec<usize> =
            (0..self.most.len()).map(|at| self.places(Some(BulkheadId(at)))).collect();
        let is_allowed = |waiter: &u64| {
            let Some(BulkheadId(at)) = self.bulkhead_of(*waiter) else { return true };
            let is_allowed = places[at] > 0;
            places[at] = places[at].saturating_sub(1);
            is_allowed
        };
        self.queue.iter().copied().filter(is_allowed).collect()
    }

    /// P4: checks that a waiter may have a worker, and notes for whom that worker counts.
    pub(super) fn enter_bulkhead(&mut self, waiter: u64, number: u64) {
        let bulkhead = self.bulkhead_of(waiter);
        assert!(self.places(bulkhead) > 0, "never more workers than the bulkhead permits: {bulkhead:?}");
        if bulkhead.is_some() {
            self.record("worker lent at a bulkhead", || format!("{number} to {waiter}"));
        }
        if let Some(worker) = self.workers.get_mut(&number) {
            worker.bulkhead = bulkhead;
        }
    }
}
