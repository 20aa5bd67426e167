//! The waiting checkouts, in order, and the bulkheads: how many workers those of one class or message have and may have.
//!
//! Those of each bulkhead stand in a line of their own, so that finding the next one that is allowed a worker takes a time
//! that depends on the number of bulkheads and not on how many are passed over.

use std::collections::HashMap;

use super::line::{Line, Rank};
use super::state::{Action, Admission, PoolPhase, PoolState};
use crate::clock::Instant;

/// One bulkhead of a pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct BulkheadId(pub(crate) usize);

/// A request for a worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Request {
    /// Its number, among those of all checkouts of the pool.
    pub(crate) id: u64,
    /// The bulkhead that its worker counts towards, if there is one.
    pub(crate) bulkhead: Option<BulkheadId>,
    /// Whether it comes from a lane, which writes several calls to a worker.
    pub(crate) is_lane: bool,
}

impl Request {
    /// Returns the request of a checkout.
    pub(crate) fn checkout(id: u64, bulkhead: Option<BulkheadId>) -> Self {
        Request { id, bulkhead, is_lane: false }
    }

    /// Returns the request of a lane.
    pub(crate) fn lane(id: u64, bulkhead: Option<BulkheadId>) -> Self {
        Request { id, bulkhead, is_lane: true }
    }
}

/// How many calls wait in lanes, and for which bulkheads.
#[derive(Clone, Debug, Default)]
pub(crate) struct WaitingCalls {
    unlimited: usize,
    /// By the number of the bulkhead; those beyond the end have none.
    limited: Vec<usize>,
}

impl WaitingCalls {
    /// Returns the number of these calls.
    pub(crate) fn of(&mut self, bulkhead: Option<BulkheadId>) -> &mut usize {
        let Some(BulkheadId(at)) = bulkhead else { return &mut self.unlimited };
        if self.limited.len() <= at {
            self.limited.resize(at + 1, 0);
        }
        &mut self.limited[at]
    }

    /// Returns these and the others.
    pub(crate) fn and(&self, others: &WaitingCalls) -> Self {
        let mut both = self.clone();
        both.unlimited += others.unlimited;
        for (at, others) in others.limited.iter().enumerate() {
            *both.of(Some(BulkheadId(at))) += others;
        }
        both
    }

    /// Returns the number of all of them.
    pub(crate) fn sum(&self) -> usize {
        self.unlimited + self.limited.iter().sum::<usize>()
    }
}

/// Who may have the next workers that are free, each with its rank.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Ahead {
    pub(crate) count: usize,
    pub(crate) first: Option<(Rank, u64)>,
    /// The first that is no lane.
    pub(crate) first_exclusive: Option<(Rank, u64)>,
}

impl Ahead {
    /// Returns who are in front of a line, at most so many.
    fn of(line: &Line, most: usize) -> Self {
        Ahead {
            count: line.len().min(most),
            first: line.front().filter(|_| most > 0),
            first_exclusive: line.first_exclusive(most),
        }
    }

    fn and(self, other: Ahead) -> Ahead {
        let earlier = |one: Option<(Rank, u64)>, other| one.into_iter().chain(other).min();
        Ahead {
            count: self.count + other.count,
            first: earlier(self.first, other.first),
            first_exclusive: earlier(self.first_exclusive, other.first_exclusive),
        }
    }
}

/// One bulkhead: the workers that its checkouts have, and who waits at it.
struct Bulkhead {
    most: usize,
    in_use: usize,
    line: Line,
}

impl Bulkhead {
    /// Returns how many more workers it permits.
    fn places(&self) -> usize {
        self.most.saturating_sub(self.in_use)
    }
}

/// Where one of them stands.
#[derive(Clone, Copy)]
struct Place {
    rank: Rank,
    /// The bulkhead in whose line it stands.
    bulkhead: Option<BulkheadId>,
    is_lane: bool,
}

/// The waiting checkouts and the bulkheads of a pool.
#[derive(Default)]
pub(crate) struct Waiting {
    unlimited: Line,
    bulkheads: Vec<Bulkhead>,
    /// Where each of them stands.
    places: HashMap<u64, Place>,
    /// The ranks of the last that joined at either end: a lower one stands further in front.
    first_rank: i64,
    last_rank: i64,
    /// How many have joined directly ahead of another one.
    ahead: u64,
}

impl Waiting {
    /// Adds a bulkhead with at most so many workers.
    pub(crate) fn add_bulkhead(&mut self, most: usize) -> BulkheadId {
        self.bulkheads.push(Bulkhead { most, in_use: 0, line: Line::default() });
        BulkheadId(self.bulkheads.len() - 1)
    }

    /// Sets the most workers of a bulkhead; those that it has beyond stay until they are released.
    pub(crate) fn set_most(&mut self, bulkhead: BulkheadId, most: usize) {
        if let Some(bulkhead) = self.bulkheads.get_mut(bulkhead.0) {
            bulkhead.most = most;
        }
    }

    /// Returns how many workers a bulkhead has, and the most that it may have.
    pub(crate) fn usage(&self, bulkhead: BulkheadId) -> Option<(usize, usize)> {
        self.bulkheads.get(bulkhead.0).map(|bulkhead| (bulkhead.in_use, bulkhead.most))
    }

    /// Returns whether a worker may be lent that counts towards this bulkhead.
    pub(crate) fn has_place(&self, bulkhead: Option<BulkheadId>) -> bool {
        let bulkhead = bulkhead.and_then(|bulkhead| self.bulkheads.get(bulkhead.0));
        bulkhead.is_none_or(|bulkhead| bulkhead.places() > 0)
    }

    /// Returns whether a checkout waits that may have a worker once one that counts towards this bulkhead comes back.
    pub(crate) fn has_next_at(&self, bulkhead: BulkheadId) -> bool {
        let bulkhead = self.bulkheads.get(bulkhead.0);
        bulkhead.is_some_and(|bulkhead| bulkhead.in_use <= bulkhead.most && !bulkhead.line.is_empty())
    }

    /// Counts a worker that was lent.
    pub(crate) fn take_place(&mut self, bulkhead: BulkheadId) {
        if let Some(bulkhead) = self.bulkheads.get_mut(bulkhead.0) {
            bulkhead.in_use += 1;
        }
    }

    /// Counts a worker that is not lent any more.
    pub(crate) fn free_place(&mut self, bulkhead: BulkheadId) {
        if let Some(bulkhead) = self.bulkheads.get_mut(bulkhead.0) {
            bulkhead.in_use = bulkhead.in_use.saturating_sub(1);
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.places.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.places.is_empty()
    }

    /// Returns all that wait, in order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = u64> {
        self.merged(|_| usize::MAX)
    }

    /// Returns those that the next free workers go to, in order: all but those that wait at their bulkheads.
    pub(crate) fn allowed(&self) -> impl Iterator<Item = u64> {
        self.merged(Bulkhead::places)
    }

    /// Returns all without a bulkhead and the first so many of each bulkhead, in order.
    fn merged(&self, most: impl Fn(&Bulkhead) -> usize) -> impl Iterator<Item = u64> {
        let limited = self.bulkheads.iter().map(|bulkhead| bulkhead.line.ranked().take(most(bulkhead)));
        let unlimited = self.unlimited.ranked();
        let mut limited: Vec<_> = limited.map(Iterator::peekable).collect();
        let mut unlimited = unlimited.peekable();
        std::iter::from_fn(move || {
            let fronts = limited.iter_mut().enumerate();
            let first = fronts.filter_map(|(at, line)| Some((*line.peek()?, at))).min();
            let next = match (first, unlimited.peek()) {
                (Some((first, at)), other) if other.is_none_or(|other| first < *other) => limited[at].next(),
                _ => unlimited.next(),
            };
            next.map(|(_, id)| id)
        })
    }

    /// Returns how many of those that wait may have a worker that is free.
    pub(crate) fn allowed_count(&self) -> usize {
        let limited = self.bulkheads.iter().map(|bulkhead| bulkhead.line.len().min(bulkhead.places()));
        self.unlimited.len() + limited.sum::<usize>()
    }

    /// Returns who may have the next free workers.
    pub(crate) fn ahead(&self) -> Ahead {
        let limited = self.bulkheads.iter().map(|bulkhead| Ahead::of(&bulkhead.line, bulkhead.places()));
        limited.fold(Ahead::of(&self.unlimited, usize::MAX), Ahead::and)
    }

    /// Returns who may have a worker that counts towards this bulkhead now, once it is released: `ahead`, and all that wait
    /// at the bulkhead.
    pub(crate) fn ahead_of(&self, bulkhead: BulkheadId, ahead: Ahead) -> Ahead {
        let Some(bulkhead) = self.bulkheads.get(bulkhead.0) else { return ahead };
        let counted = bulkhead.line.len().min(bulkhead.places());
        let whole = Ahead::of(&bulkhead.line, usize::MAX);
        Ahead { count: ahead.count - counted, ..ahead }.and(whole)
    }

    /// Returns the first that is no lane, at whatever bulkhead it waits.
    pub(crate) fn first_exclusive(&self) -> Option<u64> {
        let lines =
            std::iter::once(&self.unlimited).chain(self.bulkheads.iter().map(|bulkhead| &bulkhead.line));
        let first = lines.filter_map(|line| line.first_exclusive(usize::MAX)).min();
        first.map(|(_, id)| id)
    }

    /// Returns how many wait that are no lanes.
    pub(crate) fn exclusive(&self) -> usize {
        let limited = self.bulkheads.iter().map(|bulkhead| bulkhead.line.exclusive());
        self.unlimited.exclusive() + limited.sum::<usize>()
    }

    /// Returns how many wait with these calls of lanes and one more, and for how many of them only a worker is missing: they
    /// would not wait at their bulkheads.
    pub(crate) fn with_one_more(&self, calls: &WaitingCalls, bulkhead: Option<BulkheadId>) -> (usize, usize) {
        let mut calls = calls.clone();
        *calls.of(bulkhead) += 1;
        let (waiting, mut allowed) = (self.exclusive() + calls.sum(), self.unlimited.exclusive());
        allowed += calls.unlimited;
        for (at, bulkhead) in self.bulkheads.iter().enumerate() {
            let calls = calls.limited.get(at).copied().unwrap_or_default();
            allowed += (bulkhead.line.exclusive() + calls).min(bulkhead.places());
        }
        (waiting, allowed)
    }

    /// Adds a checkout behind all others. It must not wait yet.
    pub(crate) fn push_back(&mut self, request: Request) {
        self.last_rank += 1;
        self.insert(request, Rank::new(self.last_rank));
    }

    /// Adds a checkout ahead of all others. It must not wait yet.
    pub(crate) fn push_front(&mut self, request: Request) {
        self.first_rank -= 1;
        self.insert(request, Rank::new(self.first_rank));
    }

    /// Adds a lane ahead of the first checkout that is no lane and may have a worker that the lane could have, or behind all
    /// others without one. It must not wait yet.
    pub(crate) fn push_before_checkouts(&mut self, request: Request) {
        let ahead = self.ahead();
        let ahead = request.bulkhead.map_or(ahead, |bulkhead| self.ahead_of(bulkhead, ahead));
        let Some((rank, _)) = ahead.first_exclusive else { return self.push_back(request) };
        self.ahead += 1;
        self.insert(request, rank.ahead(self.ahead));
    }

    fn insert(&mut self, Request { id, bulkhead, is_lane }: Request, rank: Rank) {
        let bulkhead = bulkhead.filter(|bulkhead| bulkhead.0 < self.bulkheads.len());
        let previous = self.places.insert(id, Place { rank, bulkhead, is_lane });
        debug_assert!(previous.is_none(), "it waits at one place");
        self.line(bulkhead).insert(rank, id, is_lane);
    }

    fn line(&mut self, bulkhead: Option<BulkheadId>) -> &mut Line {
        let bulkhead = bulkhead.and_then(|bulkhead| self.bulkheads.get_mut(bulkhead.0));
        bulkhead.map_or(&mut self.unlimited, |bulkhead| &mut bulkhead.line)
    }

    /// Returns the bulkhead of a waiting checkout.
    pub(crate) fn bulkhead_of(&self, id: u64) -> Option<BulkheadId> {
        self.places.get(&id)?.bulkhead
    }

    /// Removes a checkout. Returns `false` if it did not wait.
    pub(crate) fn remove(&mut self, id: u64) -> bool {
        let Some(Place { rank, bulkhead, is_lane }) = self.places.remove(&id) else { return false };
        self.line(bulkhead).remove(rank, is_lane);
        true
    }

    /// Takes the first one that is allowed a worker, with its bulkhead.
    pub(crate) fn pop_allowed(&mut self) -> Option<(u64, Option<BulkheadId>)> {
        let (_, id) = self.ahead_first()?;
        let bulkhead = self.bulkhead_of(id);
        self.remove(id);
        Some((id, bulkhead))
    }

    fn ahead_first(&self) -> Option<(Rank, u64)> {
        let allowed = self.bulkheads.iter().filter(|bulkhead| bulkhead.places() > 0);
        let lines = allowed.map(|bulkhead| &bulkhead.line).chain([&self.unlimited]);
        lines.filter_map(Line::front).min()
    }

    /// Takes the first of all.
    pub(crate) fn pop_first(&mut self) -> Option<u64> {
        let first = self.iter().next()?;
        self.remove(first);
        Some(first)
    }
}

impl PoolState {
    /// Lends an idle worker to a checkout whose worker exited before it had begun a call, or puts the checkout at the front
    /// of the queue.
    pub(crate) fn reacquire(&mut self, request: Request, now: Instant) -> Admission {
        if self.phase == PoolPhase::Stopping {
            return Admission::Stopped;
        }
        if let Some(worker) = self.lend_idle(request, now) {
            return Admission::Granted { worker };
        }
        self.waiting.push_front(request);
        self.fork_missing(now);
        Admission::Queued
    }

    /// Sets the most workers of a bulkhead, and lends workers to those that wait there and are allowed one now.
    pub(crate) fn set_most(&mut self, bulkhead: BulkheadId, most: usize, now: Instant) {
        self.waiting.set_most(bulkhead, most);
        self.serve_waiting(now);
        self.fork_missing(now);
    }

    /// Lends the idle worker that was used last, unless the request has to wait at its bulkhead or the pool is paused.
    pub(super) fn lend_idle(&mut self, request: Request, now: Instant) -> Option<u64> {
        if self.is_paused || !self.waiting.has_place(request.bulkhead) {
            return None;
        }
        let worker = self.idle.pop_back()?;
        self.lend(worker, request.id, request.bulkhead, now);
        Some(worker)
    }

    /// Lends idle workers to the checkouts that wait and are allowed one, the first one first.
    pub(super) fn serve_waiting(&mut self, now: Instant) {
        let before = self.waiting.len();
        while !self.is_paused
            && !self.idle.is_empty()
            && let Some((to, bulkhead)) = self.waiting.pop_allowed()
            && let Some(worker) = self.idle.pop_back()
        {
            self.lend(worker, to, bulkhead, now);
            self.actions.push_back(Action::Grant { to, worker });
        }
        if self.waiting.len() < before {
            self.retire_unneeded(now);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// P4: a lane stands ahead of the first checkout that competes with it, behind lanes that did so before, and behind
    /// those that wait at other bulkheads and came first.
    #[test]
    fn a_lane_that_asks_ahead_stands_before_the_first_checkout_that_may_have_its_worker() {
        let mut waiting = Waiting::default();
        let (full, own) = (waiting.add_bulkhead(1), waiting.add_bulkhead(2));
        waiting.take_place(full);
        waiting.push_back(Request::lane(1, None));
        waiting.push_back(Request::checkout(2, Some(full)));
        waiting.push_back(Request::checkout(3, None));
        waiting.push_back(Request::lane(4, Some(own)));
        waiting.push_back(Request::checkout(5, Some(own)));
        waiting.push_before_checkouts(Request::lane(6, Some(own)));
        waiting.push_before_checkouts(Request::lane(7, None));
        assert!(waiting.iter().eq([1, 2, 6, 7, 3, 4, 5]));
        waiting.push_front(Request::checkout(8, Some(full)));
        waiting.push_before_checkouts(Request::lane(9, None));
        assert!(waiting.iter().eq([8, 1, 2, 6, 7, 9, 3, 4, 5]));
        assert!(waiting.allowed().eq([1, 6, 7, 9, 3, 4]), "its bulkhead has two places");
        waiting.push_before_checkouts(Request::lane(10, Some(full)));
        assert_eq!(waiting.iter().next(), Some(10), "they compete at the bulkhead");
    }
}
