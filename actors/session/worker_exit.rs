//! What a checkout does when its worker is gone, by itself or by its own doing.

use std::time::Instant;

use super::{Arrived, ExitReport, Host, Lease, Scheduler, Session, SessionState};
use crate::actors::scheduler::exit::EXIT_REPORT_PATIENCE;
use crate::actors::scheduler::worker_handle::WorkerHandle;
use crate::actors::scheduler::worker_state::RetireReason;
use crate::failure::{Failure, FailureKind};

/// Workers that may be lost before they begin a call until that call is taken to be the reason.
const MOST_FALSE_STARTS: u32 = 10;

impl Session {
    pub(super) fn mourn(&mut self) {
        match std::mem::replace(&mut self.stage, SessionState::Out) {
            SessionState::Held(lease) | SessionState::Releasing { lease, .. } => {
                let until = Instant::now() + EXIT_REPORT_PATIENCE;
                self.stage = SessionState::AwaitingExit { lease, until };
            }
            other => self.stage = other,
        }
    }

    /// The worker is known to be dead: what it still said is read, then what it left unanswered is settled.
    pub(super) fn bury(&mut self, exit_report: ExitReport, host: &mut dyn Host) {
        while let SessionState::Held(lease) | SessionState::Releasing { lease, .. } = &mut self.stage {
            let arrived = lease.channel().map_or(Arrived::Nothing, |channel| channel.read_now());
            if !self.arrived(arrived, host) {
                // Something it forked keeps its channel open, but nobody will answer on it.
                self.mourn();
            }
        }
        if let SessionState::AwaitingExit { lease, .. } =
            std::mem::replace(&mut self.stage, SessionState::Out)
        {
            self.lost(lease, Some(exit_report), host);
        }
    }

    /// The worker ended by itself, or closed its channel.
    pub(super) fn lost(&mut self, mut lease: Lease, exit_report: Option<ExitReport>, host: &mut dyn Host) {
        // What a dying process had read it need not have begun. One that nobody saw die may begin until it is killed.
        // Of one on another machine its server tells; if nobody does it may have.
        let seen = lease.channel().and_then(|channel| channel.begun());
        let begun = match &exit_report {
            Some(exit_report) => seen.or(exit_report.had_begun()).unwrap_or(true),
            None => true,
        };
        let untouched = !self.heard && (self.calls.open() == 0 || !(begun || self.is_hopeless()));
        if self.calls.is_empty() && (untouched || !host.is_connected()) {
            // It had nothing to do, so nothing is lost.
            lease.worker.borrowed.keep_to_its_end(self.calls.take_blobs());
            self.forget_pipe();
            self.continue_untouched(host);
        } else if untouched {
            if let Some(channel) = lease.channel().filter(|_| self.calls.open() > 0) {
                self.false_starts += 1;
                channel.outbox().rewind();
                self.unread = Some(std::mem::take(channel.outbox()));
            }
            self.ask(Scheduler::ask_again);
        } else {
            let worker = lease.worker.clone();
            worker.borrowed.keep_to_its_end(self.calls.take_blobs());
            drop(lease.kill(RetireReason::Broken));
            let died = self.death(exit_report, &worker);
            return self.fatal_fault(died, host);
        }
        // Behind the asking: a pool that ends waits for those who have a lease, and would be over before.
        drop(lease.kill(RetireReason::Broken));
    }

    /// What was written is nobody's to answer any more, and what was logged is all there will be.
    pub(super) fn forget_pipe(&mut self) {
        self.calls.forget_pipe();
        self.forwarder.end(true);
    }

    pub(super) fn is_hopeless(&self) -> bool {
        self.false_starts >= MOST_FALSE_STARTS
    }

    fn death(&self, exit_report: Option<ExitReport>, worker: &WorkerHandle) -> Failure {
        let (options, calls_served) = (&self.scheduler.options, Some(self.calls_served));
        let Some(exit_report) = exit_report else {
            let text = "it closed its channel, and was killed";
            return Failure::of(FailureKind::Died, text).on_worker(worker.facts(calls_served));
        };
        let death = match options.hung_worker_timeout.filter(|_| exit_report.was_hung()) {
            Some(limit) => Failure::of(FailureKind::Hung, "").at_limit(limit),
            None => Failure::of(FailureKind::Died, ""),
        };
        exit_report.note_in(death, worker, calls_served, options.memory_limit)
    }

    fn continue_untouched(&mut self, host: &mut dyn Host) {
        if host.is_connected() && !self.closing {
            self.ask(Scheduler::ask_again);
        }
    }

    /// Kills the worker, if there is one, and leaves the line, if in one.
    pub(super) fn lose_worker(&mut self, reason: RetireReason) {
        self.leave_blobs();
        match std::mem::replace(&mut self.stage, SessionState::Out) {
            SessionState::Out => {}
            SessionState::Waiting => drop(self.scheduler.cancel(&self.waiter)),
            SessionState::Held(lease)
            | SessionState::Releasing { lease, .. }
            | SessionState::AwaitingExit { lease, .. } => {
                drop(lease.kill(reason));
            }
        }
        self.forget_pipe();
        self.unread = None;
    }
}
