//! Carries out what a lane decides: writes calls, reads replies, answers, asks for workers and gives them back.

use std::collections::BTreeSet;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use super::limits::Limits;
use super::state::{LaneState, OthersWaiting, Queued, Single};
use super::worker::{Arrival, LaneWorker, Place};
use crate::actors::calls::PendingCall;
use crate::actors::calls::faults::{Fault, check_quarantine, no_time_left, unencodable};
use crate::actors::calls::payload::Payload;
use crate::actors::reply::AnswerSlot;
use crate::actors::scheduler::Scheduler;
use crate::actors::scheduler::bulkheads::{Bulkhead, QueueView};
use crate::actors::scheduler::lanes::{LanePlace, LaneSignals};
use crate::actors::scheduler::state::ReleaseReport;
use crate::actors::scheduler::tallies::ThreadTally;
use crate::actors::scheduler::waiter::{Notice, Waiter};
use crate::actors::scheduler::waiting::BulkheadId;
use crate::actors::scheduler::worker_state::RetireReason;
use crate::actors::transport::Arrived;
use crate::actors::transport::blobs::Encoded;
use crate::clock::Instant;
use crate::failure::Failure;

/// What a call has when the lane takes it.
#[derive(Clone, Copy)]
pub(super) struct Entry {
    /// The number that it was given when it was sent on another thread, while the pool was open.
    pub(super) ticket: Option<u64>,
    /// Whether it has a place in the queue.
    pub(super) is_permitted: bool,
}

/// A lane at work.
pub(super) struct Driver {
    pub(super) scheduler: Arc<Scheduler>,
    /// What it counts with.
    pub(super) tally: ThreadTally,
    /// What the workers of the lane count towards, if it is for a class or a message that has one.
    bulkhead: Option<Arc<Bulkhead>>,
    pub(super) signals: Arc<LaneSignals>,
    pub(super) state: LaneState<PendingCall, Place, Encoded>,
    /// The workers that the lane holds, in the order of [`LaneState::held`].
    pub(super) workers: Vec<LaneWorker>,
    /// The requests for further workers, by their numbers.
    pub(super) asked: Vec<Arc<Waiter>>,
    /// How many of the next requests go to the front of the queue, for calls whose worker was lost before it began them.
    pub(super) urgent: usize,
    /// Calls that are to be answered with these failures.
    pub(super) failed: Vec<(PendingCall, Failure)>,
    /// The requests that were given up and whose calls are killed once they run.
    pub(super) doomed: BTreeSet<NonZeroUsize>,
    pub(super) limits: Limits,
    waker: Option<Waker>,
    /// Whether the task was woken since it was polled last.
    is_woken: bool,
    /// Whether the pool stops, so that calls without a worker get none.
    pub(super) is_stopping: bool,
    /// How many checkouts had joined the pool's queue when this lane last queued a call.
    exclusive_seen: u64,
    /// How many calls were answered when the task was polled last. Their requesters most likely make others now.
    pub(super) answered: u32,
}

impl Driver {
    pub(super) fn new(
        scheduler: Arc<Scheduler>,
        bulkhead: Option<Arc<Bulkhead>>,
        signals: Arc<LaneSignals>,
    ) -> Self {
        let state = LaneState::new(*scheduler.options.workers.end());
        Driver {
            tally: scheduler.tallies.here(),
            scheduler,
            bulkhead,
            signals,
            state,
            workers: Vec::new(),
            asked: Vec::new(),
            urgent: 0,
            failed: Vec::new(),
            doomed: BTreeSet::new(),
            limits: Limits::default(),
            waker: None,
            is_woken: false,
            is_stopping: false,
            exclusive_seen: 0,
            answered: 0,
        }
    }

    pub(super) fn bulkhead_id(&self) -> Option<BulkheadId> {
        self.bulkhead.as_ref().map(|bulkhead| bulkhead.id)
    }

    /// Returns who waits for workers that the lane could have.
    fn queue(&self) -> &QueueView {
        self.scheduler.queue_at(self.bulkhead.as_ref())
    }

    /// Takes the request for a worker that was made for a call when it was sent on another thread.
    pub(super) fn adopt(&mut self, waiter: Arc<Waiter>) {
        self.waker.iter().for_each(|waker| waiter.set_waker(waker));
        self.add_asked(waiter);
    }

    fn add_asked(&mut self, waiter: Arc<Waiter>) {
        let at = self.asked.partition_point(|other| other.id < waiter.id);
        self.asked.insert(at, waiter);
    }

    /// Takes a call.
    pub(super) fn submit(&mut self, mut call: PendingCall, payload: Payload<'_>, entry: Entry, now: Instant) {
        match self.check(&mut call, payload, entry.ticket.is_some()) {
            Ok(payload) => self.write_or_queue(call, payload, entry, now),
            Err(failure) => self.failed.push((call, failure)),
        }
        self.show_added();
        if !std::mem::replace(&mut self.is_woken, true) {
            self.waker.iter().for_each(Waker::wake_by_ref);
        }
    }

    /// Returns the message of a call that may run.
    ///
    /// # Errors
    ///
    /// What the call is to be answered with.
    fn check<'a>(
        &self,
        call: &mut PendingCall,
        payload: Payload<'a>,
        is_admitted: bool,
    ) -> Result<Payload<'a>, Failure> {
        if call.limit == Some(Duration::ZERO) {
            return Err(no_time_left());
        }
        if !is_admitted && !self.scheduler.accepts_calls() {
            return Err(self.scheduler.stopped_failure());
        }
        check_quarantine(&self.scheduler, call, payload)
    }

    fn write_or_queue(&mut self, call: PendingCall, payload: Payload<'_>, entry: Entry, now: Instant) {
        let limit = call.limit;
        let single = Single::new(call, limit, now);
        self.limits.add(&self.scheduler, &single);
        self.note_progress(now);
        let place = match self.scheduler.is_paused() {
            true => None,
            false => self.state.place_for_new(self.others_waiting(), now),
        };
        let is_free = place.is_some_and(|at| self.state.held[at].written.is_empty());
        if !is_free
            && !entry.is_permitted
            && let Err(overloaded) = self.admit()
        {
            return self.failed.push((single.call, overloaded));
        }
        if let Some(at) = place {
            return self.write(at, single, payload, now);
        }
        let baggage = single.call.origin.baggage().len();
        match payload.into_encoded(&self.scheduler, baggage) {
            Ok(message) => {
                let ticket = entry.ticket.unwrap_or_else(|| self.scheduler.next_ticket());
                let joined = self.scheduler.exclusive_joined();
                let starts_run = std::mem::replace(&mut self.exclusive_seen, joined) != joined;
                self.state.queued.insert(Queued { single, message, ticket, starts_run });
                // At once, so that no checkout that is made later comes before it.
                self.ask_at(LanePlace::Last, now);
            }
            Err(problem) => {
                self.failed.push((single.call, unencodable(&problem)));
            }
        }
    }

    /// Refuses one more call if as many wait already as may.
    ///
    /// # Errors
    ///
    /// `Overloaded`; the call is not to be queued.
    fn admit(&self) -> Result<(), Failure> {
        // Some calls that count as waiting have their worker, which the lane has not taken yet.
        let granted = || self.asked.iter().filter(|waiter| waiter.has_notice()).count();
        let admitted = self.scheduler.admit_call(self.bulkhead_id(), granted);
        // One more has its worker if it asked for one on another thread, before the lane had it.
        admitted.or_else(|refused| if granted() > self.state.waiting() { Ok(()) } else { Err(refused) })
    }

    fn others_waiting(&self) -> OthersWaiting {
        OthersWaiting {
            any: self.queue().others_wait(self.asked.len()),
            exclusive: self.queue().first_exclusive() != u64::MAX,
        }
    }

    pub(super) fn write(&mut self, at: usize, call: Single<PendingCall>, payload: Payload<'_>, now: Instant) {
        let (worker, held) = (&mut self.workers[at], &mut self.state.held[at]);
        let was_free = held.written.is_empty();
        if let Err(refused) = worker.write(&self.scheduler, held, call, payload, now) {
            let (call, problem) = *refused;
            return self.failed.push((call, unencodable(&problem)));
        }
        self.count_wait(at, now);
        if was_free {
            self.show_running(at);
        }
        let follow = self.answered > 1;
        if let Some(channel) = self.workers[at].channel() {
            if was_free { channel.write_first(follow) } else { channel.write_soon() }
        }
    }

    pub(super) fn write_queued(&mut self, now: Instant) {
        while !self.scheduler.is_paused() {
            let first_exclusive = self.queue().first_exclusive();
            let Some(at) = self.state.place_for_queued(first_exclusive, now) else { return };
            let Some(Queued { single, message, .. }) = self.state.queued.pop_first() else { return };
            if !single.call.slot.is_abandoned() {
                self.write(at, single, Payload::Encoded(message), now);
            }
        }
    }

    /// Does all work that can be done now; ready once the pool has ended and all calls are answered.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.is_woken = false;
        self.answered = 0;
        self.set_waker(cx.waker());
        let mut now = Instant::now();
        loop {
            let began = now;
            self.drop_cancelled();
            let mut has_worked = self.take_notices(now);
            if self.scheduler.is_paused() {
                self.pause(now);
            }
            self.write_queued(now);
            self.spread(now);
            has_worked |= self.ask(now);
            for at in (0..self.workers.len()).rev() {
                has_worked |= self.exchange(at, &mut now, cx);
            }
            has_worked |= self.deliver_failed() | self.poll_cancellation(cx) | self.poll_limits(now, cx);
            if !has_worked {
                break;
            }
            if now == began {
                now = Instant::now();
            }
        }
        self.give_back(now, cx);
        self.show_waiting();
        let is_over = !self.scheduler.accepts_calls() && self.is_empty();
        if is_over { Poll::Ready(()) } else { Poll::Pending }
    }

    fn is_empty(&self) -> bool {
        self.state.queued.is_empty() && self.workers.is_empty() && self.asked.is_empty()
    }

    fn set_waker(&mut self, waker: &Waker) {
        if self.waker.as_ref().is_some_and(|known| known.will_wake(waker)) {
            return;
        }
        self.waker = Some(waker.clone());
        self.signals.set_waker(waker);
        self.asked.iter().for_each(|waiter| waiter.set_waker(waker));
        self.workers.iter().for_each(|worker| worker.waiter.set_waker(waker));
    }

    /// Asks for one more worker if it has something to do, or withdraws requests; returns whether it asked. The next one
    /// is asked for once that is answered or waits: most often one worker is enough.
    pub(super) fn ask(&mut self, now: Instant) -> bool {
        self.ask_at(self.state.place_in_line(self.queue().first_exclusive()), now)
    }

    fn ask_at(&mut self, place: LanePlace, now: Instant) -> bool {
        if let Some(bulkhead) = &self.bulkhead {
            self.state.max_workers = bulkhead.most();
        }
        let wanted = self.state.wanted(self.others_waiting().exclusive, now);
        while self.asked.len() > wanted
            && let first_exclusive = self.queue().first_exclusive()
            && let places = self.asked.iter().map(|waiter| waiter.id)
            && let Some(at) = self.state.queued.surplus(places, first_exclusive)
        {
            drop(self.scheduler.cancel(&self.asked.remove(at)));
        }
        if self.asked.len() == wanted {
            self.urgent = 0;
            return false;
        }
        let place = if self.urgent > 0 { LanePlace::First } else { place };
        self.urgent = self.urgent.saturating_sub(1);
        let waiter = self.scheduler.acquire_for_lane(self.bulkhead_id(), place);
        self.waker.iter().for_each(|waker| waiter.set_waker(waker));
        self.add_asked(waiter);
        true
    }

    /// Takes what the scheduler has to say; returns whether that is anything.
    fn take_notices(&mut self, now: Instant) -> bool {
        let mut has_any = false;
        // What one notice leads to may withdraw requests and end workers.
        for at in (0..self.asked.len()).rev() {
            if let Some(notice) = self.asked.get(at).and_then(|waiter| waiter.take_notice()) {
                has_any = true;
                self.handle_answer(at, notice, now);
            }
        }
        for at in (0..self.workers.len()).rev() {
            if let Some(notice) = self.workers.get(at).and_then(|worker| worker.waiter.take_notice()) {
                has_any = true;
                self.handle_notice(at, notice, now);
            }
        }
        if self.is_stopping {
            self.stop_waiting();
        }
        has_any
    }

    /// Handles the scheduler's answer to a request for a worker.
    fn handle_answer(&mut self, at: usize, mut notice: Notice, now: Instant) {
        // The request stands for the calls behind the one that fails.
        if let Some(failure) = notice.failed_start.take()
            && let Some(first) = self.state.queued.pop_first()
        {
            self.failed.push((first.single.call, failure));
        }
        // A lane is refused a worker by a stop alone.
        if notice.refusal.is_some() {
            self.asked.remove(at);
            return self.stop_waiting();
        }
        if let Some(lease) = notice.lease.take() {
            let waiter = self.asked.remove(at);
            if notice.killed {
                return self.lose(lease, RetireReason::Killed, now);
            }
            match LaneWorker::accept(lease, waiter, now) {
                Ok((worker, held)) => {
                    self.workers.push(worker);
                    self.state.held.push(held);
                    // Before the notice, which may be that the pool stops: each worker has a call by now. So it has if
                    // the pool was paused meanwhile.
                    if notice.closing || self.scheduler.is_paused() {
                        self.write_first(self.workers.len() - 1, now);
                    } else {
                        self.write_queued(now);
                    }
                    self.handle_notice(self.workers.len() - 1, notice, now);
                }
                Err(lease) => self.lose(*lease, RetireReason::Broken, now),
            }
        }
    }

    /// Writes and reads the channel of a worker and handles what arrived; returns whether anything did. It may wait a little
    /// for that, and sets `now` anew then.
    fn exchange(&mut self, at: usize, now: &mut Instant, cx: &mut Context<'_>) -> bool {
        let held = &self.state.held[at];
        let expects = !held.is_free();
        if self.workers[at].awaiting_exit.is_some() {
            return false;
        }
        let Some(channel) = self.workers[at].channel() else { return false };
        match channel.poll_exchange(cx, expects) {
            Poll::Ready(Arrived::Nothing) | Poll::Pending => false,
            Poll::Ready(arrived) => {
                *now = Instant::now();
                self.handle_arrived(at, arrived, *now)
            }
        }
    }

    pub(super) fn handle_arrived(&mut self, at: usize, arrived: Arrived, now: Instant) -> bool {
        match arrived {
            Arrived::Some => self.take_arrivals(at, now),
            Arrived::Nothing => return false,
            Arrived::End => {
                self.workers[at].awaiting_exit.get_or_insert(now);
            }
            Arrived::Corrupt => {
                let what = "it wrote invalid counters to its channel".into();
                self.end_worker(at, Fault::BrokeProtocol(what), None, now);
            }
        }
        true
    }

    /// Handles every whole frame that has arrived from a worker.
    pub(super) fn take_arrivals(&mut self, at: usize, now: Instant) {
        loop {
            let (worker, held) = (&mut self.workers[at], &mut self.state.held[at]);
            match worker.next_arrival(&self.scheduler, held, now) {
                None => break worker.discard_answered(held),
                Some(Arrival::Handled) => {}
                Some(Arrival::Reply(reply)) => {
                    if !self.deliver(at, reply, now) {
                        return;
                    }
                }
                Some(Arrival::Released(_)) if held.unreleased == 0 => {
                    let what = "it reported a release that was not due".into();
                    return self.end_worker(at, Fault::BrokeProtocol(what), None, now);
                }
                Some(Arrival::Released(released)) => {
                    held.unreleased = 0;
                    let max_memory = self.scheduler.options.max_memory;
                    let declines =
                        released.stop || released.private_bytes > max_memory && max_memory.is_some();
                    worker.released = released;
                    if declines {
                        held.is_closing = true;
                        self.take_back(at);
                    }
                }
                Some(Arrival::Invalid(what)) => {
                    return self.end_worker(at, Fault::BrokeProtocol(what), None, now);
                }
            }
        }
    }

    /// Gives back the workers that have nothing to do, or are not to be kept.
    fn give_back(&mut self, now: Instant, cx: &mut Context<'_>) {
        let first = (self.queue().first(), self.queue().first_exclusive());
        self.state.close_held(self.others_waiting(), first, now);
        let mut look_again = false;
        loop {
            let workers = &mut self.workers;
            let is_written =
                |at: usize| workers[at].channel().is_none_or(|channel| channel.outbox().is_empty());
            let Some(at) = self.state.next_to_give_back(is_written, &mut look_again) else { break };
            let (worker, held) = self.remove(at);
            // Before the worker is given back: a pool that closes ends once it has no lease and no request.
            self.ask(now);
            let released = &worker.released;
            worker.lease.give_back(ReleaseReport {
                stop: released.stop,
                private_bytes: released.private_bytes,
                checkouts: Some(held.served),
            });
            // They are to have another worker, which the next look asks for.
            look_again |= !self.state.queued.is_empty();
        }
        // Calls that are left need another worker.
        let has_left = self.state.wanted(self.others_waiting().exclusive, now) > self.asked.len();
        if look_again || has_left || !self.failed.is_empty() {
            cx.waker().wake_by_ref();
        }
    }
}
