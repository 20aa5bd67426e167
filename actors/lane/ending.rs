//! How a lane's worker ends, and what becomes of the calls that it has.

use std::task::Context;

use super::driver::Driver;
use super::state::Queued;
use super::worker::{HeldState, LaneWorker};
use crate::actors::calls::faults::{Fault, count_kill, with_times};
use crate::actors::calls::limits::MAX_FALSE_STARTS;
use crate::actors::calls::payload::Payload;
use crate::actors::calls::{CallTimes, PendingCall};
use crate::actors::reply::AnswerSlot;
use crate::actors::scheduler::exit::ExitReport;
use crate::actors::scheduler::lease::Lease;
use crate::actors::scheduler::waiter::Notice;
use crate::actors::scheduler::worker_state::RetireReason;
use crate::actors::transport::{Arrived, MAX_LAST_READS};
use crate::clock::Instant;
use crate::config::OnCancel;
use crate::failure::{Failure, FailureKind, Phase};

impl Driver {
    pub(super) fn handle_notice(&mut self, at: usize, notice: Notice, now: Instant) {
        if notice.closing || notice.stopped {
            (0..self.workers.len()).for_each(|at| self.close(at, now));
            self.is_stopping = true;
        }
        let has_ended = notice.worker_ended || notice.killed || notice.exit_report.is_some();
        if has_ended && !self.read_last(at, now) {
            return;
        }
        // Before the exit report: most likely the stop has killed the worker.
        if notice.stopped {
            let stopped = self.scheduler.stopped_failure();
            let (worker, held) = self.remove(at);
            self.failed.extend(held.written.into_iter().map(|call| (call.single.call, stopped.clone())));
            drop(worker.lease.kill(RetireReason::PoolEnds));
        } else if let Some(exit_report) = notice.killed.then_some(ExitReport::Killed).or(notice.exit_report) {
            self.end_worker(at, Fault::Exited(Some(exit_report)), None, now);
        }
    }

    /// Takes back what stands behind the first call of a worker, which gets no further one.
    fn close(&mut self, at: usize, now: Instant) {
        let held = &self.state.held[at];
        let has_its_worker = held.unreleased == 0 && !held.written.is_empty();
        self.take_back(at);
        if has_its_worker && self.state.held[at].written.is_empty() {
            self.write_first(at, now);
        }
        self.state.held[at].is_closing = true;
    }

    /// Leaves each worker the call that it has, and keeps none: the pool is paused.
    pub(super) fn pause(&mut self, now: Instant) {
        for at in 0..self.workers.len() {
            if !self.state.held[at].is_closing || self.state.held[at].behind() > 0 {
                self.close(at, now);
            }
        }
    }

    /// Kills a worker that was granted and serves no call.
    pub(super) fn lose(&mut self, lease: Lease, reason: RetireReason, now: Instant) {
        self.urgent += 1;
        // Before the worker is killed: its exit may be known, and a pool that closes ends once it has no request.
        self.ask(now);
        drop(lease.kill(reason));
    }

    /// Writes the first queued call to this worker.
    pub(super) fn write_first(&mut self, at: usize, now: Instant) {
        if let Some(Queued { single, message, .. }) = self.state.queued.pop_first() {
            self.write(at, single, Payload::Encoded(message), now);
        }
    }

    /// Answers all calls that no worker has begun, because the pool stops.
    pub(super) fn stop_waiting(&mut self) {
        let stopped = self.scheduler.stopped_failure();
        let queued = self.state.queued.take();
        self.failed.extend(queued.into_iter().map(|queued| (queued.single.call, stopped.clone())));
    }

    /// Reads what a worker that has ended still sent. Returns whether the lane still has it.
    fn read_last(&mut self, at: usize, now: Instant) -> bool {
        let worker = self.workers[at].lease.worker.number;
        for _ in 0..MAX_LAST_READS {
            let arrived = self.workers[at].channel().map_or(Arrived::Nothing, |channel| channel.read_now());
            if arrived != Arrived::Some {
                break;
            }
            self.take_arrivals(at, now);
            if self.workers.get(at).is_none_or(|now| now.lease.worker.number != worker) {
                return false;
            }
        }
        // A process that the worker forked keeps the channel open, but does not answer on it.
        self.workers[at].awaiting_exit.get_or_insert(now);
        true
    }

    pub(super) fn remove(&mut self, at: usize) -> (LaneWorker, HeldState) {
        let (mut worker, held) = (self.workers.remove(at), self.state.held.remove(at));
        worker.keep_blobs_until_exit();
        (worker, held)
    }

    /// Ends a worker that is lost or has to be killed: fails the calls that it has begun, and has the others run elsewhere,
    /// ahead of others. `answered` is the call whose reply is the end of the worker.
    pub(super) fn end_worker(
        &mut self,
        at: usize,
        fault: Fault,
        answered: Option<(PendingCall, CallTimes)>,
        now: Instant,
    ) {
        let written = self.state.held[at].written.len();
        let taken = self.workers[at].channel().map(|channel| channel.take_back());
        let had_begun = match &fault {
            Fault::Exited(exit_report) => exit_report.as_ref().and_then(ExitReport::had_begun),
            _ => None,
        };
        let mut begun = match taken {
            Some(Ok(Some(begun))) => begun,
            // On another machine only the server's report shows it.
            Some(Ok(None)) if had_begun == Some(false) => 0,
            _ => written,
        };
        let blames_first = match fault {
            Fault::TimedOut(_) => self.state.held[at].unreleased == 0,
            Fault::BrokeProtocol(_) => answered.is_none(),
            Fault::Exited(_) | Fault::Cancelled | Fault::Panicked(..) => false,
        };
        if blames_first {
            begun = begun.max(1);
        }
        if begun == 0
            && matches!(fault, Fault::Exited(_))
            && let Some(first) = self.state.held[at].written.front_mut()
        {
            first.single.false_starts += 1;
            begun = usize::from(first.single.false_starts >= MAX_FALSE_STARTS);
        }
        let taken = self.state.held[at].take_behind(begun);
        self.urgent += taken.len();
        let worker = &mut self.workers[at];
        self.state.requeue(taken, |id, place| worker.message(id, place));
        let reason = fault.retire_reason();
        let failure = fault.failure(&self.scheduler, &worker.lease.worker, worker.calls_served());
        let (worker, held) = self.remove(at);
        let began = held.front_since;
        self.tally.add_hold(now.saturating_duration_since(began));
        let running = held.written.into_iter().map(|call| {
            let times = LaneWorker::times(&call.single, began, now);
            (call.single.call, times)
        });
        for (call, times) in answered.into_iter().chain(running) {
            let failure = with_times(failure.clone(), call.method, times);
            count_kill(&self.scheduler, &failure, call.call_hash);
            self.failed.push((call, failure));
        }
        // The worker is killed after the request for another one: a pool that ends waits for its leases.
        self.ask(now);
        drop(worker.lease.kill(reason));
    }

    /// Kills the worker of a running call that its requester has given up, if its policy says so; returns whether it did.
    pub(super) fn poll_cancellation(&mut self, cx: &mut Context<'_>) -> bool {
        let on_cancel = self.scheduler.options.on_cancel;
        if on_cancel == OnCancel::Finish && self.doomed.is_empty() {
            return false;
        }
        self.forget_doomed();
        let now = Instant::now();
        for at in 0..self.workers.len() {
            let first = self.state.held[at].written.front();
            let is_killed = first.is_some_and(|first| match first.single.call.slot.request_number() {
                Some(number) => self.doomed.contains(&number),
                None => first.single.call.slot.poll_kill(on_cancel, cx),
            });
            if is_killed {
                if self.has_begun(at) {
                    self.end_worker(at, Fault::Cancelled, None, now);
                } else {
                    self.take_back(at);
                    self.state.queued.retain(|queued| !queued.single.call.slot.is_abandoned());
                }
                return true;
            }
        }
        false
    }

    /// Returns whether a worker has begun the first of its calls.
    pub(super) fn has_begun(&mut self, at: usize) -> bool {
        let begun = self.workers[at].channel().map(|channel| channel.begun());
        !matches!(begun, Some(Ok(Some(0))))
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        let ended =
            Failure::of(FailureKind::Aborted, "the actix system ended").in_pool(&self.scheduler.options.name);
        let ended = ended.in_phase(Phase::Waiting);
        let written = self.state.held.iter().flat_map(|held| &held.written).map(|call| &call.single);
        let queued = self.state.queued.iter().map(|queued| &queued.single);
        written.chain(queued).for_each(|single| single.call.log_failure(&ended));
        self.show(0, None);
        for waiter in self.asked.drain(..) {
            drop(self.scheduler.cancel(&waiter));
        }
        // The leases of the workers are dropped, which kills them.
        self.workers.iter_mut().for_each(LaneWorker::keep_blobs_until_exit);
    }
}
