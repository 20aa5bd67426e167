//! What a simulated worker does with the calls of a lane: it begins them at its gate, and releases itself behind each.

use std::time::Duration;

use super::channel::{SimFrame, SimOutcome, SimReply, SimWork};
use super::plan::micros;
use super::world::World;
use crate::actors::scheduler::state::ReleaseReport;
use crate::channel::begin_gated;

/// The part of a lease that concerns single calls.
#[derive(Default)]
pub(super) struct SingleWork {
    /// Since when the worker has run a call, or its `checkout_done`.
    pub(super) busy_since: Option<Duration>,
    /// How many calls the lane may write.
    pub(super) budget: u64,
    /// Replies that the lane has read.
    pub(super) answered: u64,
    /// A release that the worker has not reported.
    untold: Option<ReleaseReport>,
    /// Whether it is to be replaced, and begins no further call that can be taken back.
    declines: bool,
    wants_stop: bool,
}

impl World {
    /// Draws how long a message takes between a lane and a worker.
    pub(super) fn draw_hop(&mut self) -> Duration {
        let most = self.longest_hop();
        self.draw_wait(most)
    }

    pub(super) fn longest_hop(&self) -> Duration {
        if self.calm { self.plan.hop.min(super::plan::millis(1)) } else { self.plan.hop }
    }

    /// Draws how long a single call runs.
    pub(super) fn draw_run(&mut self) -> Duration {
        let most = self.rng.pick(&[micros(20), micros(20), micros(400), self.plan.hold]);
        self.draw_wait(most)
    }

    /// Begins a call that a worker has read, or skips one that was taken back.
    pub(super) fn read_single(
        &mut self,
        number: u64,
        waiter: u64,
        (id, call): (u64, u64),
        epoch: Option<u16>,
    ) {
        let elapsed = self.elapsed;
        let Some(lease) = self.leases.get_mut(&number) else { return };
        if epoch.is_some_and(|epoch| lease.singles.declines || !begin_gated(&lease.pipe.gate_word, epoch)) {
            self.record("call skipped", || format!("{call} by {number}"));
            return self.read_frame(number, waiter);
        }
        lease.singles.busy_since = Some(elapsed);
        self.check_single_begin(number, call);
        let took = self.draw_run();
        self.run_call(number, waiter, (id, call), took);
    }

    /// Replies to the call that runs, and ends its checkout.
    pub(super) fn finish_single(&mut self, number: u64, waiter: u64, id: u64, outcome: SimOutcome) {
        let stop = self.draw_fault(self.plan.mishaps / 16);
        self.reply(number, SimReply::Reply { id, outcome, keep: false, stop });
        if outcome == SimOutcome::Panicked {
            return self.exit_process(number);
        }
        let elapsed = self.elapsed;
        let Some(lease) = self.leases.get_mut(&number) else { return };
        lease.singles.wants_stop |= stop;
        lease.singles.busy_since = Some(elapsed);
        lease.begun = false;
        lease.running = Some(SimFrame::Release);
        let mishaps = self.plan.mishaps;
        if self.draw_fault(mishaps / 16) {
            return self.record("release hangs", || number.to_string());
        } else if self.draw_fault(mishaps / 16) {
            self.record("checkout_done panics", || number.to_string());
            return self.exit_process(number);
        }
        let most = self.rng.pick(&[Duration::ZERO, micros(10), micros(300)]);
        let wait = self.draw_wait(most);
        self.schedule_work(wait, number, waiter, SimWork::Release);
    }

    /// The release behind a call is done.
    pub(super) fn finish_done(&mut self, number: u64, waiter: u64) {
        let drawn = self.draw_report();
        let most = self.plan.options.max_memory;
        let Some(lease) = self.leases.get_mut(&number) else { return };
        let singles = &mut lease.singles;
        let report = ReleaseReport { stop: drawn.stop | singles.wants_stop, ..drawn };
        singles.wants_stop = report.stop;
        singles.declines |= report.stop || report.private_bytes > most && most.is_some();
        singles.untold = Some(report);
        if singles.declines {
            // At once, since the calls behind this one are to run elsewhere.
            self.report_untold(number);
        }
        self.read_frame(number, waiter);
    }

    /// Reports a release once no further call is there.
    pub(super) fn report_untold(&mut self, number: u64) {
        let Some(lease) = self.leases.get_mut(&number) else { return };
        lease.singles.busy_since = None;
        if let Some(report) = lease.singles.untold.take() {
            self.reply(number, SimReply::Released(report));
        }
    }
}
