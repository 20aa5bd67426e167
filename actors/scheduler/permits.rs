//! Permits: places in the pool's queue that requesters take before they have a call.
//!
//! A permit counts as a call that waits, until a lane counts its call in its place. So the bound of the queue holds for
//! both, and a call with a permit needs no further check.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering, fence};
use std::task::{Context, Poll, Waker};

use super::Scheduler;
use super::registry::Registry;
use super::state::PoolPhase;
use super::waiting::{BulkheadId, WaitingCalls};
use crate::user_code::{drop_caught, wake_each};

/// The permits of a pool that are held, and those that are waited for.
#[derive(Default)]
pub(super) struct PermitQueue {
    last: u64,
    held: WaitingCalls,
    waiting: usize,
    /// Those that wait, in order, each with what is woken. A bulkhead that is full must not hold up the others.
    lines: BTreeMap<Option<BulkheadId>, BTreeMap<u64, Option<Waker>>>,
}

impl PermitQueue {
    /// Adds one that waits, and returns its number.
    fn join(&mut self, bulkhead: Option<BulkheadId>) -> u64 {
        self.last += 1;
        self.waiting += 1;
        self.lines.entry(bulkhead).or_default().insert(self.last, None);
        self.last
    }

    /// Replaces what is woken of one that waits, and returns what is to be dropped without the lock. `Err`: it has its
    /// permit.
    fn renew(
        &mut self,
        bulkhead: Option<BulkheadId>,
        number: u64,
        waker: Waker,
    ) -> Result<Option<Waker>, Waker> {
        match self.lines.get_mut(&bulkhead).and_then(|line| line.get_mut(&number)) {
            Some(place) => Ok(place.replace(waker)),
            None => Err(waker),
        }
    }

    /// Removes one that waits, or takes its permit back. Returns what is to be dropped without the lock.
    fn leave(&mut self, bulkhead: Option<BulkheadId>, number: u64) -> Option<Waker> {
        match self.lines.get_mut(&bulkhead).and_then(|line| line.remove(&number)) {
            Some(waker) => {
                self.waiting -= 1;
                waker
            }
            None => {
                let held = self.held.of(bulkhead);
                *held = held.saturating_sub(1);
                None
            }
        }
    }

    /// Grants permits as long as there is room, the first first among those that their bulkheads permit one, and returns
    /// what is woken. `has_room` says whether one more call may wait beside so many permits.
    fn grant(&mut self, has_room: impl Fn(&WaitingCalls, Option<BulkheadId>) -> bool) -> Vec<Waker> {
        let (mut granted, mut full) = (Vec::new(), Vec::new());
        loop {
            let lines = self.lines.iter().filter(|(bulkhead, _)| !full.contains(*bulkhead));
            let fronts = lines.filter_map(|(bulkhead, line)| Some((*line.first_key_value()?.0, *bulkhead)));
            let Some((number, bulkhead)) = fronts.min() else { return granted };
            if !has_room(&self.held, bulkhead) {
                full.push(bulkhead);
                continue;
            }
            let waker = self.lines.get_mut(&bulkhead).and_then(|line| line.remove(&number));
            self.waiting -= 1;
            *self.held.of(bulkhead) += 1;
            granted.extend(waker.flatten());
        }
    }

    /// Takes all that is woken of those that wait.
    fn take_wakers(&mut self) -> impl Iterator<Item = Waker> {
        self.lines.values_mut().flat_map(BTreeMap::values_mut).filter_map(Option::take)
    }
}

/// How many permits there are, to be read without the lock.
#[derive(Default)]
pub(super) struct PermitBoard {
    held: AtomicUsize,
    waiting: AtomicUsize,
}

impl PermitBoard {
    fn show(&self, permits: &PermitQueue) {
        self.held.store(permits.held.sum(), Ordering::Relaxed);
        self.waiting.store(permits.waiting, Ordering::Relaxed);
    }

    /// Returns how many permits are held.
    pub(super) fn held(&self) -> usize {
        self.held.load(Ordering::Relaxed)
    }
}

/// A place in the queue of a pool, or the request for one. Dropping it gives the place to the next one that waits.
pub(crate) struct Permit {
    scheduler: Arc<Scheduler>,
    bulkhead: Option<BulkheadId>,
    number: u64,
    is_granted: bool,
}

impl Permit {
    /// Returns whether it is for calls with this bulkhead.
    pub(crate) fn is_at(&self, bulkhead: Option<BulkheadId>) -> bool {
        self.bulkhead == bulkhead
    }

    /// Returns whether it is that and was seen to be granted.
    pub(crate) fn is_granted_at(&self, bulkhead: Option<BulkheadId>) -> bool {
        self.is_granted && self.is_at(bulkhead)
    }

    /// Ready once the place is there. After the end of the pool it is woken once more and stays pending.
    pub(crate) fn poll_granted(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if !self.is_granted {
            // Cloned and dropped without the lock, since a waker is foreign code.
            let waker = cx.waker().clone();
            let before = self.scheduler.registry.lock().permits.renew(self.bulkhead, self.number, waker);
            self.is_granted = before.is_err();
            drop_caught(before);
        }
        if self.is_granted { Poll::Ready(()) } else { Poll::Pending }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let mut registry = self.scheduler.registry.lock();
        let unused = registry.permits.leave(self.bulkhead, self.number);
        let granted = self.scheduler.grant_permits(&mut registry);
        drop(registry);
        drop_caught(unused);
        wake_each(granted);
    }
}

impl Scheduler {
    /// Requests a permit for a call with this bulkhead. `waker` is woken once it is there, unless it is there at once.
    pub(crate) fn request_permit(self: &Arc<Self>, bulkhead: Option<BulkheadId>, waker: &Waker) -> Permit {
        let waker = waker.clone();
        let mut registry = self.registry.lock();
        let number = registry.permits.join(bulkhead);
        let granted = self.grant_permits(&mut registry);
        let unused = registry.permits.renew(bulkhead, number, waker);
        drop(registry);
        wake_each(granted);
        let is_granted = unused.is_err();
        drop_caught(unused);
        Permit { scheduler: self.clone(), bulkhead, number, is_granted }
    }

    /// Grants the permits for which there is room, after a change under the lock, and returns what is to be woken without
    /// the lock. Once the pool is closed or stops, these are all that wait, and no permit is granted.
    #[must_use = "those that have a permit are woken"]
    pub(super) fn grant_permits(&self, registry: &mut Registry) -> Vec<Waker> {
        let Registry { permits, state, .. } = registry;
        let board = &self.lanes.permits;
        board.show(permits);
        if permits.waiting == 0 {
            return Vec::new();
        }
        if state.phase() > PoolPhase::Open {
            return permits.take_wakers().collect();
        }
        // A lane that shows fewer calls after this looks whether any permit is waited for, and finds so.
        fence(Ordering::SeqCst);
        let calls = self.lanes.waiting_calls();
        let granted = permits.grant(|held, bulkhead| state.overload(&calls.and(held), bulkhead).is_none());
        board.show(permits);
        granted
    }

    /// Grants permits after a lane has shown that fewer of its calls wait.
    pub(crate) fn grant_permits_if_awaited(&self) {
        if self.options.max_waiting.is_none() {
            // No service has permits of such a pool.
            return;
        }
        // See `grant_permits`.
        fence(Ordering::SeqCst);
        if self.lanes.permits.waiting.load(Ordering::Relaxed) > 0 {
            let mut registry = self.registry.lock();
            let granted = self.grant_permits(&mut registry);
            drop(registry);
            wake_each(granted);
        }
    }

    /// Returns the calls that wait in lanes, and those for which permits are held.
    pub(super) fn waiting_calls(&self, registry: &Registry) -> WaitingCalls {
        self.lanes.waiting_calls().and(&registry.permits.held)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use proptest::prelude::*;

    /// What happens to a queue of permits; a place is the index of one that joined, among those that are left.
    #[derive(Clone, Debug)]
    enum Step {
        Join(Option<BulkheadId>),
        Leave(usize),
        Renew(usize),
        /// So many may wait altogether, and so many of each of two bulkheads.
        Bound(usize, [usize; 2]),
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let bulkhead = prop::option::of((0_usize..2).prop_map(BulkheadId));
        let step = prop_oneof![
            4 => bulkhead.prop_map(Step::Join),
            2 => any::<usize>().prop_map(Step::Leave),
            1 => any::<usize>().prop_map(Step::Renew),
            1 => (0_usize..6, [0_usize..4, 0_usize..4]).prop_map(|(all, each)| Step::Bound(all, each)),
        ];
        prop::collection::vec(step, 1..80)
    }

    /// One that joined and has not left, in a model that is a list.
    struct One {
        bulkhead: Option<BulkheadId>,
        number: u64,
        is_granted: bool,
    }

    fn has_room((all, each): (usize, [usize; 2]), held: &WaitingCalls, bulkhead: Option<BulkheadId>) -> bool {
        let of_bulkhead = bulkhead.map(|at| (*held.clone().of(bulkhead), each[at.0]));
        held.sum() < all && of_bulkhead.is_none_or(|(held, most)| held < most)
    }

    /// Grants the first that may have a permit, as often as there is one.
    fn grant_in_order(model: &mut [One], bound: (usize, [usize; 2])) {
        loop {
            let mut held = WaitingCalls::default();
            model.iter().filter(|one| one.is_granted).for_each(|one| *held.of(one.bulkhead) += 1);
            let waiting = model.iter_mut().filter(|one| !one.is_granted);
            let Some(next) = waiting.into_iter().find(|one| has_room(bound, &held, one.bulkhead)) else {
                return;
            };
            next.is_granted = true;
        }
    }

    proptest! {
        /// V2: permits go to the first that may have one, and are never more than there is room for.
        #[test]
        fn permits_are_granted_as_in_a_list(steps in steps()) {
            let (mut queue, mut model, mut bound) = (PermitQueue::default(), Vec::<One>::new(), (2, [1, 1]));
            for step in steps {
                match step {
                    Step::Join(bulkhead) => {
                        let number = queue.join(bulkhead);
                        model.push(One { bulkhead, number, is_granted: false });
                    }
                    Step::Leave(at) if !model.is_empty() => {
                        let one = model.remove(at % model.len());
                        queue.leave(one.bulkhead, one.number);
                    }
                    Step::Renew(at) if !model.is_empty() => {
                        let one = &model[at % model.len()];
                        let renewed = queue.renew(one.bulkhead, one.number, Waker::noop().clone());
                        prop_assert_eq!(renewed.is_err(), one.is_granted);
                    }
                    Step::Leave(_) | Step::Renew(_) => {}
                    Step::Bound(all, each) => bound = (all, each),
                }
                queue.grant(|held, bulkhead| has_room(bound, held, bulkhead));
                grant_in_order(&mut model, bound);
                let waits = |one: &One| queue.lines.get(&one.bulkhead).is_some_and(|line| line.contains_key(&one.number));
                prop_assert!(model.iter().all(|one| waits(one) != one.is_granted));
                prop_assert_eq!(queue.held.sum(), model.iter().filter(|one| one.is_granted).count());
                prop_assert_eq!(queue.waiting, model.len() - queue.held.sum());
            }
        }
    }
}
