//! The channel of a simulated worker that is lent, and what the worker does with the frames that it reads.

use std::collections::VecDeque;
use std::sync::atomic::AtomicU32;
use std::time::Duration;

use super::lane_worker::SingleWork;
use super::leases::Holder;
use super::plan::millis;
use super::session::SimTurn;
use super::world::{SimEvent, World};
use crate::actors::calls::reading::{ReplyMeaning, Usage};
use crate::actors::scheduler::state::ReleaseReport;
use crate::channel::HostGate;
use crate::failure::PanicReport;

/// A frame for a worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SimFrame {
    Call {
        id: u64,
        call: u64,
        errors_seen: u32,
    },
    /// A call of a lane; `epoch` is that of the worker's gate, if it has one.
    Single {
        id: u64,
        call: u64,
        epoch: Option<u16>,
    },
    Release,
}

/// The outcome of a call, as the worker replies it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SimOutcome {
    Done,
    Failed,
    Payload { error: bool },
    Panicked,
    Cleared,
}

impl SimOutcome {
    fn is_error(self) -> bool {
        matches!(self, SimOutcome::Failed | SimOutcome::Payload { error: true })
    }

    /// Returns what a real session makes of this outcome.
    pub(super) fn meaning(self) -> ReplyMeaning {
        match self {
            SimOutcome::Done => ReplyMeaning::Done,
            SimOutcome::Failed => ReplyMeaning::Failed,
            SimOutcome::Payload { error } => ReplyMeaning::Payload { text: String::new(), error },
            SimOutcome::Panicked => {
                let usage = Usage { peak_memory: 0, cpu_time: Duration::ZERO };
                ReplyMeaning::Panicked(Box::new(PanicReport::new(String::new(), None)), usage)
            }
            SimOutcome::Cleared => ReplyMeaning::Cleared,
        }
    }
}

/// A frame from a worker.
#[derive(Clone, Copy, Debug)]
pub(super) enum SimReply {
    Reply {
        id: u64,
        outcome: SimOutcome,
        keep: bool,
        stop: bool,
    },
    Released(ReleaseReport),
    /// A frame that no worker of this library sends.
    Nonsense,
}

/// What a worker does next with its lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SimWork {
    /// It reads the next frame, if it is not at work.
    Read,
    /// It replies to the call with this id.
    Reply(u64),
    /// It reports the end of its release.
    Release,
}

/// What a worker's channel keeps from one lease to the next.
#[derive(Default)]
pub(super) struct SimPipe {
    pub(super) gate: HostGate,
    pub(super) gate_word: AtomicU32,
    /// What the worker has not read, calls that were taken back among it.
    inbox: VecDeque<SimFrame>,
}

/// The channel of a worker during one lease, and the worker's part of that lease.
pub(super) struct SimLease {
    pub(super) waiter: u64,
    pub(super) pipe: SimPipe,
    pub(super) outbox: VecDeque<SimReply>,
    pub(super) running: Option<SimFrame>,
    /// Whether it has begun a call, and not ended the checkout since.
    pub(super) begun: bool,
    pub(super) singles: SingleWork,
    /// Number of errors that it has returned.
    errors: u32,
    /// Whether the worker has closed its end of the channel, although it is alive.
    pub(super) closed: bool,
}

impl SimLease {
    pub(super) fn new(waiter: u64, pipe: SimPipe) -> Self {
        SimLease {
            waiter,
            pipe,
            outbox: VecDeque::new(),
            running: None,
            begun: false,
            singles: SingleWork::default(),
            errors: 0,
            closed: false,
        }
    }
}

impl World {
    /// Puts a frame into the channel of a worker.
    pub(super) fn send(&mut self, number: u64, frame: SimFrame) {
        if let Some(lease) = self.leases.get_mut(&number) {
            lease.pipe.inbox.push_back(frame);
            let waiter = lease.waiter;
            let wait = self.draw_delay_of(waiter);
            self.schedule_work(wait, number, waiter, SimWork::Read);
        }
    }

    /// Draws how long a message takes between a worker and this waiter.
    fn draw_delay_of(&mut self, waiter: u64) -> Duration {
        if self.is_of_lane(waiter) { self.draw_hop() } else { self.draw_delay() }
    }

    pub(super) fn schedule_work(&mut self, wait: Duration, worker: u64, waiter: u64, work: SimWork) {
        self.schedule_after(wait, SimEvent::Work { worker, waiter, work });
    }

    /// Lets a worker do the next step with its lease to this waiter. It is ignored if the lease is over.
    pub(super) fn work(&mut self, number: u64, waiter: u64, work: SimWork) {
        let is_alive = self.worker(number).is_some_and(|worker| worker.is_alive());
        let is_of_lane = self.is_of_lane(waiter);
        let Some(lease) = self.leases.get_mut(&number) else { return };
        if !is_alive || lease.waiter != waiter || lease.closed {
            return;
        }
        match (work, lease.running) {
            (SimWork::Read, None) => self.read_frame(number, waiter),
            (SimWork::Reply(id), Some(SimFrame::Call { id: running, .. })) if id == running => {
                let outcome = self.draw_outcome();
                self.finish_frame(number, id, outcome);
            }
            (SimWork::Reply(id), Some(SimFrame::Single { id: running, .. })) if id == running => {
                let outcome = self.draw_outcome();
                self.finish_single(number, waiter, id, outcome);
            }
            (SimWork::Release, Some(SimFrame::Release)) if is_of_lane => self.finish_done(number, waiter),
            (SimWork::Release, Some(SimFrame::Release)) => {
                lease.running = None;
                let report = self.draw_report();
                self.reply(number, SimReply::Released(report));
            }
            _ => {}
        }
    }

    /// Lets a worker read its next frame.
    pub(super) fn read_frame(&mut self, number: u64, waiter: u64) {
        let Some(lease) = self.leases.get_mut(&number) else { return };
        let frame = lease.pipe.inbox.pop_front();
        lease.running = frame;
        match frame {
            Some(SimFrame::Call { id, call, errors_seen }) if errors_seen < lease.errors => {
                self.record("call cleared by its worker", || call.to_string());
                self.finish_frame(number, id, SimOutcome::Cleared);
            }
            Some(SimFrame::Call { id, call, .. }) => {
                self.check_begin(number, call);
                let took = self.draw_wait(self.plan.hold);
                self.run_call(number, waiter, (id, call), took);
            }
            Some(SimFrame::Single { id, call, epoch }) => {
                self.read_single(number, waiter, (id, call), epoch);
            }
            Some(SimFrame::Release) => self.begin_release(number, waiter),
            None => self.report_untold(number),
        }
    }

    fn draw_outcome(&mut self) -> SimOutcome {
        let (errors, mishaps) = (self.plan.errors, self.plan.mishaps);
        if self.draw_fault(mishaps / 8) {
            SimOutcome::Panicked
        } else if self.draw_fault(errors) {
            if self.rng.happens(800) { SimOutcome::Failed } else { SimOutcome::Payload { error: true } }
        } else if self.draw_fault(mishaps / 8) {
            SimOutcome::Payload { error: false }
        } else {
            SimOutcome::Done
        }
    }

    /// Runs a call that has begun.
    pub(super) fn run_call(&mut self, number: u64, waiter: u64, (id, call): (u64, u64), took: Duration) {
        if let Some(lease) = self.leases.get_mut(&number) {
            lease.begun = true;
        }
        let mishaps = self.plan.mishaps;
        if self.draw_fault(mishaps / 16) {
            self.record("call hangs", || call.to_string());
        } else if self.draw_fault(mishaps / 16) {
            self.record("call ends its worker", || call.to_string());
            self.exit_process(number);
        } else if self.draw_fault(mishaps / 32) {
            self.record("call closes its worker's channel", || call.to_string());
            if let Some(lease) = self.leases.get_mut(&number) {
                lease.closed = true;
            }
            self.wake_holder(waiter);
        } else if self.draw_fault(mishaps / 32) {
            self.reply(number, SimReply::Nonsense);
        } else {
            self.schedule_work(took, number, waiter, SimWork::Reply(id));
        }
    }

    /// Replies to the call that runs, and goes on.
    fn finish_frame(&mut self, number: u64, id: u64, outcome: SimOutcome) {
        let mishaps = self.plan.mishaps;
        let (keep, stop) = (self.rng.happens(200), self.draw_fault(mishaps / 16));
        let Some(lease) = self.leases.get_mut(&number) else { return };
        lease.errors += u32::from(outcome.is_error());
        let waiter = lease.waiter;
        self.reply(number, SimReply::Reply { id, outcome, keep, stop });
        if outcome == SimOutcome::Panicked {
            return self.exit_process(number);
        }
        if let Some(lease) = self.leases.get_mut(&number) {
            lease.running = None;
            let wait = self.draw_delay();
            self.schedule_work(wait, number, waiter, SimWork::Read);
        }
    }

    pub(super) fn begin_release(&mut self, number: u64, waiter: u64) {
        if let Some(lease) = self.leases.get_mut(&number) {
            lease.running = Some(SimFrame::Release);
        }
        let mishaps = self.plan.mishaps;
        if self.draw_fault(mishaps / 16) {
            return self.record("release hangs", || number.to_string());
        }
        let wait = self.draw_wait(millis(5));
        self.schedule_work(wait, number, waiter, SimWork::Release);
    }

    pub(super) fn reply(&mut self, number: u64, reply: SimReply) {
        if let Some(lease) = self.leases.get_mut(&number) {
            lease.outbox.push_back(reply);
            let waiter = lease.waiter;
            self.wake_holder(waiter);
        }
    }

    /// Lets the session or the lane with this waiter look at its channel and its notice, after a while.
    pub(super) fn wake_holder(&mut self, waiter: u64) {
        match self.waiters.get(&waiter).map(|waiter| waiter.holder) {
            Some(Holder::Session(session)) => {
                let wait = self.draw_delay();
                self.schedule_turn_after(wait, session, SimTurn::Look);
            }
            Some(Holder::Lane(lane)) => self.wake_lane(lane),
            None => {}
        }
    }

    /// Lets calls and releases that hang go on.
    pub(super) fn finish_hung_work(&mut self) {
        let leases = self.leases.iter().filter_map(|(number, lease)| {
            let work = match lease.running? {
                SimFrame::Call { id, .. } | SimFrame::Single { id, .. } => SimWork::Reply(id),
                SimFrame::Release => SimWork::Release,
            };
            Some((*number, lease.waiter, work))
        });
        for (number, waiter, work) in leases.collect::<Vec<_>>() {
            let wait = self.draw_delay();
            self.schedule_work(wait, number, waiter, work);
        }
    }
}
