//! The decisions of a lane: which call goes to which worker, which are taken back, and when a worker is given back.
//!
//! It only decides. The time is an argument, and a call and its encoded message are opaque, so the simulation runs this
//! code with numbers in their place.

use std::collections::VecDeque;
use std::time::Duration;

use super::queue::Queue;
use crate::actors::calls::limits::{ClockStart, MAX_WRITTEN_BYTES, MAX_WRITTEN_CALLS};
use crate::actors::scheduler::lanes::LanePlace;
use crate::clock::Instant;

/// A call goes behind another one only while that one has run for less than this (50 µs): about what it costs to wake
/// another worker.
pub(crate) const FRESH: Duration = Duration::from_micros(50);

/// Longest time for which a lane keeps a worker (100 ms). It gives it back after that, and takes part in the queue again: so
/// limits of the worker's age hold under any load.
const LONGEST_HOLD: Duration = Duration::from_millis(100);

/// How long a lane goes on with a worker that was granted to it although calls of other lanes wait (250 µs): otherwise lanes
/// would hand a worker round for each call, which costs more than most calls.
const TURN: Duration = Duration::from_micros(250);

/// One call of a lane.
pub(crate) struct Single<C> {
    pub(crate) call: C,
    /// When it was taken.
    clock: ClockStart,
    pub(crate) limit: Option<Duration>,
    /// Whether its wait was counted, which ends when it becomes the first call of a worker.
    is_counted: bool,
    /// Workers that ended before they began it, although it was the next one there.
    pub(crate) false_starts: u32,
}

impl<C> Single<C> {
    pub(crate) fn new(call: C, limit: Option<Duration>, now: Instant) -> Self {
        Single { call, clock: ClockStart::at(now), limit, is_counted: false, false_starts: 0 }
    }

    /// Returns since when its clock runs.
    pub(crate) fn since(&self) -> Instant {
        self.clock.since
    }

    /// Returns how long the call has waited that is now the first of its worker, the first time.
    pub(crate) fn end_wait(&mut self, now: Instant) -> Option<Duration> {
        let is_first_time = !std::mem::replace(&mut self.is_counted, true);
        is_first_time.then(|| now.saturating_duration_since(self.since()))
    }

    /// Sets its clock back if its timer fired late; returns whether it did. See [`ClockStart::extend_if_late`].
    pub(crate) fn extend_late_deadline(&mut self, late: Duration) -> bool {
        self.clock.extend_if_late(late)
    }
}

/// A call that no worker has, with its encoded message.
pub(crate) struct Queued<C, M> {
    pub(crate) single: Single<C>,
    pub(crate) message: M,
    /// Its number among the checkouts of the pool.
    pub(crate) ticket: u64,
    /// Whether checkouts have joined the queue since the call before it was queued: it needs a place of its own there.
    pub(crate) starts_run: bool,
}

/// A call that was written to a worker; `P` is where its bytes are.
pub(crate) struct Written<C, P> {
    pub(crate) id: u64,
    pub(crate) single: Single<C>,
    pub(crate) place: P,
    size: usize,
}

/// One worker that the lane holds.
pub(crate) struct Held<C, P> {
    /// The calls that it has, in order.
    pub(crate) written: VecDeque<Written<C, P>>,
    bytes: usize,
    /// Since when the first of them is the first.
    pub(crate) front_since: Instant,
    /// When a call is last known to have begun.
    progress_at: Instant,
    /// How many of them had begun when that was last looked at.
    begun: usize,
    last_id: u64,
    /// How many calls were written and not taken back.
    pub(crate) served: u64,
    /// How many calls it may have altogether.
    budget: u64,
    since: Instant,
    until: Instant,
    /// Whether calls may be written ahead, which they can be where they can be taken back.
    writes_ahead: bool,
    /// Replies behind which the worker has not reported its release.
    pub(crate) unreleased: u32,
    /// Whether it gets no further call, and is given back once it has none.
    pub(crate) is_closing: bool,
    /// Whether it had nothing to do when the lane last looked.
    was_idle: bool,
}

impl<C, P> Held<C, P> {
    /// `budget`: how many calls the worker may serve. `writes_ahead`: whether calls can be taken back.
    pub(crate) fn new(budget: u64, writes_ahead: bool, now: Instant) -> Self {
        Held {
            written: VecDeque::new(),
            bytes: 0,
            front_since: now,
            progress_at: now,
            begun: 0,
            last_id: 0,
            served: 0,
            budget,
            since: now,
            until: now.checked_add(LONGEST_HOLD).unwrap_or(now),
            writes_ahead,
            unreleased: 0,
            is_closing: false,
            was_idle: false,
        }
    }

    /// Returns whether the worker has nothing to do.
    pub(crate) fn is_free(&self) -> bool {
        self.written.is_empty() && self.unreleased == 0
    }

    /// Notes how many of the calls have begun.
    pub(crate) fn mark_begun(&mut self, begun: usize, now: Instant) {
        if begun > self.begun {
            self.begun = begun;
            self.progress_at = now;
        }
    }

    /// Returns whether the lane need not give it back for the calls of other lanes.
    fn is_in_turn(&self, now: Instant) -> bool {
        now < self.since + TURN
    }

    /// Returns whether a call may be written to it.
    fn takes(&self, now: Instant) -> bool {
        if self.is_closing || self.served >= self.budget || self.until <= now {
            return false;
        }
        self.is_free()
            || (self.writes_ahead
                && self.written.len() < MAX_WRITTEN_CALLS
                && self.bytes < MAX_WRITTEN_BYTES
                && self.is_fresh(now))
    }

    fn is_fresh(&self, now: Instant) -> bool {
        now < self.progress_at + FRESH
    }

    /// Returns the id of the next call.
    pub(crate) fn next_id(&self) -> u64 {
        self.last_id + 1
    }

    /// Notes that a call was written with [`next_id`](Self::next_id); `size` is its bytes.
    pub(crate) fn push(&mut self, single: Single<C>, place: P, size: usize, now: Instant) {
        if self.written.is_empty() {
            (self.front_since, self.progress_at) = (now, now);
        }
        self.last_id += 1;
        self.served += 1;
        self.bytes += size;
        self.was_idle = false;
        self.written.push_back(Written { id: self.last_id, single, place, size });
    }

    /// Takes the first call, whose reply has arrived; `None` if a reply with this id is not due.
    pub(crate) fn answer(&mut self, id: u64, now: Instant) -> Option<Written<C, P>> {
        self.written.front().filter(|first| first.id == id)?;
        let first = self.written.pop_front()?;
        self.bytes -= first.size;
        self.begun = self.begun.saturating_sub(1);
        (self.front_since, self.progress_at) = (now, now);
        self.unreleased += 1;
        Some(first)
    }

    /// Takes the calls behind the first `begun`: they will not begin there.
    pub(crate) fn take_behind(&mut self, begun: usize) -> VecDeque<Written<C, P>> {
        let taken = self.written.split_off(begun.min(self.written.len()));
        self.served -= taken.len() as u64;
        self.bytes -= taken.iter().map(|call| call.size).sum::<usize>();
        taken
    }

    /// Returns since when the first call waits for this worker to begin it, although the worker has nothing else to do.
    pub(crate) fn stuck_since(&self) -> Option<Instant> {
        (self.unreleased == 0 && self.begun == 0 && !self.written.is_empty()).then_some(self.progress_at)
    }

    /// Notes that the first call was taken back and written anew, and waits for longer than that.
    pub(crate) fn stay_stuck(&mut self, since: Instant) {
        self.progress_at = since;
    }

    /// Returns how many calls stand behind what the worker does now: its first call, or a release that it has not reported.
    pub(crate) fn behind(&self) -> usize {
        let running = if self.unreleased == 0 { self.begun.max(1) } else { self.begun };
        self.written.len().saturating_sub(running)
    }

    /// Returns since when the first of them waits.
    fn behind_since(&self) -> Option<Instant> {
        let first = self.written.len() - self.behind();
        self.written.get(first).map(|call| call.single.since())
    }

    /// Returns whether calls stand behind something that has run for too long.
    pub(crate) fn is_slow(&self, now: Instant) -> bool {
        self.behind() > 0 && !self.is_fresh(now)
    }
}

/// Who waits for a worker besides the lane.
#[derive(Clone, Copy, Debug)]
pub(crate) struct OthersWaiting {
    /// Checkouts or other lanes.
    pub(crate) any: bool,
    /// Checkouts that are no lanes.
    pub(crate) exclusive: bool,
}

/// The calls and the workers of one lane.
pub(crate) struct LaneState<C, P, M> {
    pub(crate) queued: Queue<C, M>,
    /// The workers, the one that is filled first in front.
    pub(crate) held: Vec<Held<C, P>>,
    /// Most workers that the lane may have: those of the pool, or of its bulkhead.
    pub(crate) max_workers: usize,
}

impl<C, P, M> LaneState<C, P, M> {
    pub(crate) fn new(max_workers: usize) -> Self {
        LaneState { queued: Queue::default(), held: Vec::new(), max_workers }
    }

    /// Returns the worker to which a new call is written at once; `waiting` says which others wait, who came before it.
    pub(crate) fn place_for_new(&self, waiting: OthersWaiting, now: Instant) -> Option<usize> {
        if waiting.exclusive || !self.queued.is_empty() {
            return None;
        }
        let at = self.place(now)?;
        (!waiting.any || self.held[at].is_in_turn(now)).then_some(at)
    }

    /// Returns the worker to which the first queued call is written; `first_exclusive` is the number of the first waiting
    /// checkout that is no lane.
    pub(crate) fn place_for_queued(&self, first_exclusive: u64, now: Instant) -> Option<usize> {
        self.queued.first().filter(|first| first.ticket < first_exclusive)?;
        self.place(now)
    }

    /// Returns where the next request for a worker stands that is made because the lane has lost or given back one:
    /// `first_exclusive` is the number of the first waiting checkout that is no lane.
    pub(crate) fn place_in_line(&self, first_exclusive: u64) -> LanePlace {
        let came_before = self.queued.first().is_some_and(|first| first.ticket < first_exclusive);
        if came_before { LanePlace::BeforeCheckouts } else { LanePlace::Last }
    }

    fn place(&self, now: Instant) -> Option<usize> {
        self.held.iter().position(|worker| worker.takes(now))
    }

    /// Returns how many more workers have something to do at once: for calls that are queued, and for those that stand behind
    /// a slow one.
    ///
    /// `exclusive_wait`: so do checkouts that are no lanes. Calls that were queued before and behind one of them need places
    /// of their own in the queue.
    pub(crate) fn wanted(&self, exclusive_wait: bool, now: Instant) -> usize {
        let slow = self.held.iter().filter(|worker| worker.is_slow(now));
        let calls = self.queued.len() + slow.map(Held::behind).sum::<usize>();
        let most = self.max_workers.saturating_sub(self.held.len()).max(usize::from(self.held.is_empty()));
        let runs = if exclusive_wait { self.queued.runs() } else { 0 };
        calls.min(most.max(runs))
    }

    /// Returns a worker behind whose first call others stand for too long, although another worker takes them.
    pub(crate) fn slow_worker(&self, now: Instant) -> Option<usize> {
        let slow = self.held.iter().position(|worker| worker.is_slow(now))?;
        self.place(now).map(|_| slow)
    }

    /// Returns when a worker with calls behind its first one becomes slow.
    pub(crate) fn slow_at(&self, now: Instant) -> Option<Instant> {
        let behind = self.held.iter().filter(|worker| worker.behind() > 0 && worker.is_fresh(now));
        behind.filter_map(|worker| worker.progress_at.checked_add(FRESH)).min()
    }

    /// Puts calls back at the front that were taken back from a worker.
    pub(crate) fn requeue(&mut self, taken: VecDeque<Written<C, P>>, mut message: impl FnMut(u64, &P) -> M) {
        for Written { id, single, place, .. } in taken.into_iter().rev() {
            let message = message(id, &place);
            // It had a worker, so it goes ahead of all that wait.
            self.queued.push_first(Queued { single, message, ticket: 0, starts_run: false });
        }
    }

    /// Returns how many calls wait for a worker.
    pub(crate) fn waiting(&self) -> usize {
        self.queued.len() + self.held.iter().map(Held::behind).sum::<usize>()
    }

    /// Returns since when the call waits that waits for a worker for longest.
    pub(crate) fn waits_since(&self) -> Option<Instant> {
        let queued = self.queued.first().map(|queued| queued.single.since());
        self.held.iter().filter_map(Held::behind_since).chain(queued).min()
    }

    /// Closes the workers that must not be kept: the lane has kept them for long, or others wait for them and come before the
    /// next call of this lane. `first` is the number of the first in the queue, and `first_exclusive` that of the first
    /// checkout that is no lane.
    pub(crate) fn close_held(
        &mut self,
        waiting: OthersWaiting,
        (first, first_exclusive): (u64, u64),
        now: Instant,
    ) {
        let next = self.queued.first().map(|queued| queued.ticket);
        for worker in &mut self.held {
            let is_next = match next {
                Some(next) => next < first_exclusive && (next < first || worker.is_in_turn(now)),
                None => !waiting.exclusive && worker.is_in_turn(now),
            };
            let must_yield = waiting.any && !is_next;
            worker.is_closing |= must_yield || worker.until <= now || worker.served >= worker.budget;
        }
    }

    /// Returns a worker that is to be given back now. One that has nothing to do is kept until the second look, so that a
    /// requester that got an answer has the time to make another call; `look_again` is set then. `is_written(at)`: all that
    /// was written for this worker has left, calls that were taken back among it.
    pub(crate) fn next_to_give_back(
        &mut self,
        mut is_written: impl FnMut(usize) -> bool,
        look_again: &mut bool,
    ) -> Option<usize> {
        for (at, worker) in self.held.iter_mut().enumerate() {
            if worker.is_free() && is_written(at) {
                if worker.is_closing || std::mem::replace(&mut worker.was_idle, true) {
                    return Some(at);
                }
                *look_again = true;
            }
        }
        None
    }
}
