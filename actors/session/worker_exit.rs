//! What a checkout does when its worker has exited or has to be killed.

use std::time::Instant;

use super::{Arrived, ExitReport, Host, Lease, Scheduler, Session, SessionState};
use crate::actors::scheduler::exit::unreported_end;
use crate::actors::scheduler::worker_handle::WorkerHandle;
use crate::actors::scheduler::worker_state::RetireReason;
use crate::actors::transport::MAX_LAST_READS;
use crate::failure::{Failure, FailureKind};

/// Number of workers that may exit before they begin a call. After that the call itself is taken to be the cause.
const MAX_FALSE_STARTS: u32 = 10;

impl Session {
    pub(super) fn await_exit(&mut self) {
        match std::mem::replace(&mut self.state, SessionState::NoWorker) {
            SessionState::Held(lease) | SessionState::Releasing { lease, .. } => {
                self.state = SessionState::AwaitingExit { lease, since: Instant::now() };
            }
            other => self.state = other,
        }
    }

    /// Reads what a worker that has ended still sent, and then awaits the report on how it ended.
    pub(super) fn take_last_replies(&mut self, host: &mut dyn Host) {
        let mut reads = 0;
        while let SessionState::Held(lease) | SessionState::Releasing { lease, .. } = &mut self.state {
            reads += 1;
            let arrived = lease.channel().map_or(Arrived::Nothing, |channel| channel.read_now());
            if !self.handle_arrived(arrived, host) || reads == MAX_LAST_READS {
                // A process that the worker forked keeps the channel open, but does not answer on it.
                self.await_exit();
            }
        }
    }

    /// Handles the worker's exit: reads what the worker still sent, then answers or retries the calls that it left
    /// unanswered.
    pub(super) fn handle_exit(&mut self, exit_report: ExitReport, host: &mut dyn Host) {
        self.take_last_replies(host);
        if let SessionState::AwaitingExit { lease, .. } =
            std::mem::replace(&mut self.state, SessionState::NoWorker)
        {
            self.handle_lost_worker(lease, Some(exit_report), host);
        }
    }

    /// Decides what a lost worker means for the calls: a retry on another worker, or a failure. Without an exit
    /// report the worker has closed its channel and may still be alive; it is killed here.
    pub(super) fn handle_lost_worker(
        &mut self,
        mut lease: Lease,
        exit_report: Option<ExitReport>,
        host: &mut dyn Host,
    ) {
        // A call that a dead worker had read may not have begun. A worker without an exit report may begin it until
        // it is killed. On another machine only the server's report shows it, and without that it may have begun.
        let seen = lease.channel().and_then(|channel| channel.has_begun());
        let begun = match &exit_report {
            Some(exit_report) => seen.or(exit_report.had_begun()).unwrap_or(true),
            None => true,
        };
        let untouched =
            !self.has_replied && (self.calls.unanswered() == 0 || !(begun || self.exceeds_false_starts()));
        if self.calls.is_empty() && (untouched || !host.is_connected()) {
            // The worker had nothing to run, so nothing is lost.
            lease.worker.borrowed.keep_until_exit(self.calls.take_blobs());
            self.forget_written_calls();
            self.reacquire_if_connected(host);
        } else if untouched {
            if let Some(channel) = lease.channel().filter(|_| self.calls.unanswered() > 0) {
                self.false_starts += 1;
                channel.outbox().rewind();
                self.unread_outbox = Some(std::mem::take(channel.outbox()));
            }
            self.request_worker(Scheduler::reacquire);
        } else {
            let worker = lease.worker.clone();
            worker.borrowed.keep_until_exit(self.calls.take_blobs());
            // What the process does is looked at before it is killed.
            let died = self.exit_failure(exit_report, &worker);
            self.count_hold();
            drop(lease.kill(RetireReason::Broken));
            return self.fail_checkout(died, host);
        }
        // The worker is killed after the request for another one: a stopping pool waits for its leases, and would be
        // stopped before the request.
        drop(lease.kill(RetireReason::Broken));
    }

    /// Counts how long the worker was held, for the estimate of how long others have to wait for one.
    pub(super) fn count_hold(&self) {
        self.scheduler.totals.add_hold(self.held_since.elapsed());
    }

    /// Drops the record of written calls and ends their log spans: no reply or log record will follow.
    pub(super) fn forget_written_calls(&mut self) {
        self.calls.forget_written();
        self.forwarder.end_call(true);
    }

    pub(super) fn exceeds_false_starts(&self) -> bool {
        self.false_starts >= MAX_FALSE_STARTS
    }

    fn exit_failure(&self, exit_report: Option<ExitReport>, worker: &WorkerHandle) -> Failure {
        let (options, calls_served) = (&self.scheduler.options, Some(self.calls_served));
        let Some(exit_report) = exit_report else {
            let text = format!("it {}", unreported_end(worker.is_running()));
            return Failure::of(FailureKind::Died, text).on_worker(worker.facts_and_usage(calls_served));
        };
        let death = match options.hung_worker_timeout.filter(|_| exit_report.was_hung()) {
            Some(limit) => Failure::of(FailureKind::Hung, "").at_limit(limit),
            None => Failure::of(FailureKind::Died, ""),
        };
        exit_report.add_to(death, worker, calls_served, options.memory_limit)
    }

    fn reacquire_if_connected(&mut self, host: &mut dyn Host) {
        if host.is_connected() && !self.closing {
            self.request_worker(Scheduler::reacquire);
        }
    }

    /// Kills the worker, or leaves the queue if the session waits for one.
    pub(super) fn drop_worker(&mut self, reason: RetireReason) {
        self.keep_blobs_until_exit();
        match std::mem::replace(&mut self.state, SessionState::NoWorker) {
            SessionState::NoWorker => {}
            SessionState::Waiting => drop(self.scheduler.cancel(&self.waiter)),
            SessionState::Held(lease)
            | SessionState::Releasing { lease, .. }
            | SessionState::AwaitingExit { lease, .. } => {
                self.count_hold();
                drop(lease.kill(reason));
            }
        }
        self.forget_written_calls();
        self.unread_outbox = None;
    }
}
