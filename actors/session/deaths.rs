//! What a checkout does when its worker is gone, by itself or by its own doing.

use std::time::{Duration, Instant};

use super::{Arrived, Desk, HostChannel, Lease, Obituary, Session, Stage, Surroundings};
use crate::actors::lease::Identity;
use crate::actors::life::Reason;
use crate::failure::{Failure, FailureKind};

/// How long after its worker closed the channel a checkout waits to be told of its death; one that is not told
/// of by then has closed it and lives on.
const OBITUARY_PATIENCE: Duration = Duration::from_millis(500);

/// Workers that may die before they begin a call until that call is taken to be the reason.
const MOST_FALSE_STARTS: u32 = 10;

impl Session {
    pub(super) fn mourn(&mut self) {
        match std::mem::replace(&mut self.stage, Stage::Out) {
            Stage::Held(lease) | Stage::Releasing { lease, .. } => {
                let until = Instant::now() + OBITUARY_PATIENCE;
                // Where a call is lost the next worker is asked for as soon as this one exits, before it is reaped.
                let death = if self.calls.open() > 0 { lease.worker.watch() } else { None };
                self.stage = Stage::Mourning { lease, until, death };
            }
            other => self.stage = other,
        }
    }

    /// The worker is known to be dead: what it still said is read, then what it left unanswered is settled.
    pub(super) fn bury(&mut self, obituary: Obituary, around: &mut dyn Surroundings) {
        while let Stage::Held(lease) | Stage::Releasing { lease, .. } = &mut self.stage {
            let arrived = lease.channel().map_or(Arrived::Nothing, |channel| channel.read_now());
            if !self.arrived(arrived, around) {
                // Something it forked keeps its channel open, but nobody will answer on it.
                self.mourn();
            }
        }
        if let Stage::Mourning { lease, .. } = std::mem::replace(&mut self.stage, Stage::Out) {
            self.lost(lease, Some(obituary), around);
        }
    }

    /// The worker ended by itself, or closed its channel.
    pub(super) fn lost(&mut self, lease: Lease, obituary: Option<Obituary>, around: &mut dyn Surroundings) {
        let worker = lease.worker.clone();
        let channel = lease.kill(Reason::Broken);
        // What a dying process had read it need not have begun.
        // One that nobody saw die was killed just now, and may have begun since.
        let begun = obituary.is_none() || channel.as_ref().is_some_and(HostChannel::begun);
        let hopeless = self.false_starts >= MOST_FALSE_STARTS;
        let untouched = !self.heard && (self.calls.open() == 0 || !(begun || hopeless));
        if self.calls.is_empty() && (untouched || !around.is_connected()) {
            // It had nothing to do, so nothing is lost.
            self.calls.forget_pipe();
            return self.continue_untouched(around);
        }
        if untouched {
            if let Some(mut channel) = channel.filter(|_| self.calls.open() > 0) {
                self.false_starts += 1;
                channel.outbox().rewind();
                self.unread = Some(std::mem::take(channel.outbox()));
            }
            return self.ask(Desk::ask_again);
        }
        let died = match obituary {
            Some(obituary) => self.death(obituary, &worker),
            None => {
                let facts = worker.facts(Some(self.calls_served));
                Failure::of(FailureKind::Died, "it closed its channel, and was killed").on_worker(facts)
            }
        };
        self.fatal_fault(died, around);
    }

    fn death(&self, obituary: Obituary, worker: &Identity) -> Failure {
        let options = &self.desk.options;
        let death = match options.hung_worker_timeout.filter(|_| obituary.says_it_hung()) {
            Some(limit) => Failure::of(FailureKind::Hung, "").at_limit(limit),
            None => Failure::of(FailureKind::Died, ""),
        };
        obituary.note_in(death, worker, Some(self.calls_served), options.memory_limit)
    }

    fn continue_untouched(&mut self, around: &mut dyn Surroundings) {
        if around.is_connected() && !self.closing {
            self.ask(Desk::ask_again);
        }
    }

    /// Kills the worker, if there is one, and leaves the line, if in one.
    pub(super) fn lose_worker(&mut self, reason: Reason) {
        match std::mem::replace(&mut self.stage, Stage::Out) {
            Stage::Out => {}
            Stage::Waiting => drop(self.desk.cancel(&self.claim)),
            Stage::Held(lease) | Stage::Releasing { lease, .. } | Stage::Mourning { lease, .. } => {
                drop(lease.kill(reason));
            }
        }
        self.calls.forget_pipe();
        self.unread = None;
    }
}
