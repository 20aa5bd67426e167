//! How a lane answers calls, counts them, and shows what it does.

use std::time::Duration;

use super::driver::Driver;
use super::worker::Reply;
use crate::actors::calls::answering::Answering;
use crate::actors::calls::faults::{Fault, payload_failure, with_times};
use crate::actors::calls::reading::ReplyMeaning;
use crate::actors::calls::{CallTimes, PendingCall};
use crate::actors::threads::symbolizer;
use crate::clock::Instant;
use crate::failure::Failure;

impl Driver {
    pub(super) fn count_wait(&mut self, at: usize, now: Instant) {
        let Some(first) = self.state.held[at].written.front_mut() else { return };
        if let Some(waited) = first.single.end_wait(now) {
            self.tally.count_checkout();
            self.tally.add_wait(first.single.call.method, waited);
        }
    }

    /// Shows which call a worker is to answer next, and since when.
    pub(super) fn show_running(&self, at: usize) {
        let held = &self.state.held[at];
        let first = held.written.front().map(|first| (first.single.call.method.index, held.front_since));
        self.workers[at].lease.worker.activity.show_running(first);
    }

    /// Shows how many calls wait, and since when the first of them does.
    pub(super) fn show_waiting(&self) {
        let waiting = self.state.waiting();
        let first = if waiting == 0 { None } else { self.state.waits_since() };
        self.show(waiting, first);
    }

    /// Does the same after a call was added, which is the first of those that wait only if it is the only one.
    pub(super) fn show_added(&self) {
        let waiting = self.state.waiting();
        let is_first = waiting > 0 && !self.signals.has_waiting();
        let first = if is_first { self.state.waits_since() } else { None };
        self.show(waiting, first);
    }

    pub(super) fn show(&self, waiting: usize, first: Option<Instant>) {
        if self.signals.show_waiting(waiting, first, self.scheduler.started) {
            self.scheduler.grant_permits_if_awaited();
        }
    }

    /// Delivers a reply; returns `false` if the worker is lost with it.
    pub(super) fn deliver(&mut self, at: usize, reply: Reply, now: Instant) -> bool {
        let Reply { call, meaning, stop, times } = reply;
        self.answered += 1;
        self.state.held[at].is_closing |= stop;
        if !matches!(meaning, ReplyMeaning::Panicked(..) | ReplyMeaning::Cleared) {
            self.count_wait(at, now);
            self.workers[at].add_served();
            self.show_running(at);
            let ran = times.ran.unwrap_or_default();
            Answering(&self.scheduler).count_run(&call, ran, &self.tally);
            self.tally.add_hold(ran);
        }
        let answering = Answering(&self.scheduler);
        match meaning {
            ReplyMeaning::Done => answering.deliver_value(&call, &self.tally),
            ReplyMeaning::Failed => {
                if let Some(failure) = answering.deliver_error(&call, &self.tally) {
                    answering.report(&call, failure);
                }
            }
            ReplyMeaning::Payload { text, .. } => {
                let worker = &self.workers[at];
                let failure =
                    payload_failure(&text, call.method, &worker.lease.worker, worker.calls_served());
                answering.fail(&call, failure);
            }
            ReplyMeaning::Panicked(report, usage) => {
                self.end_worker(at, Fault::Panicked(report, usage), Some((call, times)), now);
                return false;
            }
            ReplyMeaning::Cleared => {
                let what = "it cleared a call that it had to run".into();
                self.end_worker(at, Fault::BrokeProtocol(what), Some((call, times)), now);
                return false;
            }
        }
        true
    }

    /// Fails a call that no worker has begun.
    pub(super) fn fail_waiting(&mut self, call: PendingCall, failure: Failure, waited: Duration) {
        let failure = with_times(failure, call.method, CallTimes { waited, ran: None });
        self.failed.push((call, failure));
    }

    /// Answers the calls that have failed; returns whether there were any.
    pub(super) fn deliver_failed(&mut self) -> bool {
        let failed = std::mem::take(&mut self.failed);
        let has_any = !failed.is_empty();
        for (call, failure) in failed {
            if failure.has_raw_backtrace() {
                let scheduler = self.scheduler.clone();
                actix_rt::spawn(async move {
                    let failure = symbolizer::resolved_soon(failure).await;
                    Answering(&scheduler).fail(&call, failure);
                });
            } else {
                Answering(&self.scheduler).fail(&call, failure);
            }
        }
        has_any
    }
}
