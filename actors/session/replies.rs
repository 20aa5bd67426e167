//! The channel of a session: frames become events.

use std::task::{Context, Poll};

use super::machine::{DueReply, Event, Exit};
use super::{Host, LeasedWorker, PendingCall, Session};
use crate::actors::calls::answering::Answering;
use crate::actors::calls::reading::{ReplyMeaning, Violation, next_message};
use crate::actors::scheduler::exit::ExitReport;
use crate::actors::scheduler::state::ReleaseReport;
use crate::actors::transport::{Arrived, MAX_LAST_READS};
use crate::clock::Instant;
use crate::wire::call::{FromWorker, Lending, Released, ReplyHeader};
use crate::wire::log_record::Logged;

impl Session {
    /// Writes and reads the channel and handles what arrived; returns whether anything arrived.
    pub(super) fn exchange(&mut self, cx: &mut Context<'_>, host: &mut dyn Host) -> bool {
        if !self.machine.reads_frames() {
            return false;
        }
        let expects = self.machine.expects_reply();
        let Some(channel) = self.channel() else { return false };
        match channel.poll_exchange(cx, expects) {
            Poll::Ready(arrived) => self.handle_arrived(arrived, host),
            Poll::Pending => false,
        }
    }

    /// Returns whether the channel is looked at again at once, so that nothing else has to wake this task.
    pub(super) fn looks_again(&mut self) -> bool {
        self.machine.reads_frames() && self.channel().is_some_and(|channel| channel.looks_again())
    }

    pub(super) fn handle_arrived(&mut self, arrived: Arrived, host: &mut dyn Host) -> bool {
        let event = match arrived {
            Arrived::Some => {
                self.take_replies(host);
                return true;
            }
            Arrived::Nothing => return false,
            Arrived::End => Event::ChannelEnded,
            Arrived::Corrupt => Event::ProtocolBroken("it wrote invalid counters to its channel".into()),
        };
        self.handle(event, Instant::now(), host);
        true
    }

    /// Reads what has arrived, without asking the reactor; returns whether anything has.
    pub(super) fn read_now(&mut self, host: &mut dyn Host) -> bool {
        let arrived = self.channel().map_or(Arrived::Nothing, |channel| channel.read_now());
        self.handle_arrived(arrived, host)
    }

    /// Handles every whole frame that has arrived.
    fn take_replies(&mut self, host: &mut dyn Host) {
        // Frames that are read at once count as arrived at once.
        let now = Instant::now();
        while self.machine.reads_frames() {
            match self.next_event(now) {
                Some(Some(event)) => {
                    self.machine.on(event, now, &mut self.actions);
                    // Ahead of the answer, so that what is shown is true once that has arrived.
                    self.show_running(now);
                    self.show_holding();
                    self.carry_out(host);
                }
                Some(None) => {}
                None => return,
            }
        }
    }

    /// Shows which call the worker is to answer next, after a reply of its.
    fn show_running(&self, now: Instant) {
        let Some(LeasedWorker { lease, .. }) = &self.worker else { return };
        if !self.machine.reads_frames() {
            return;
        }
        let running = self.machine.first().filter(|_| self.machine.has_running());
        let activity = &lease.worker.activity;
        activity.show_running(running.map(|call| (call.method.index, now)));
        activity.set_calls_served(self.machine.calls_served());
    }

    /// Takes the next frame; the result in a reply is decoded in place. The inner `None` is a frame that means nothing to
    /// the machine.
    fn next_event(&mut self, now: Instant) -> Option<Option<Event<PendingCall>>> {
        let LeasedWorker { lease, reader } = self.worker.as_mut()?;
        let (message, payload) = match next_message(lease.channel()?)? {
            Ok(message) => message,
            Err(violation) => return Some(Some(Event::ProtocolBroken(violation))),
        };
        Some(match message {
            FromWorker::Reply(ReplyHeader { id, outcome, keep, stop }) => {
                let call = match self.machine.due(id) {
                    Some(DueReply::Call(call)) => Some(call),
                    Some(DueReply::AlreadyCleared) => None,
                    // The machine finds that it is not due.
                    None => {
                        let meaning = ReplyMeaning::Cleared;
                        return Some(Some(Event::Replied { id, meaning, keep, stop }));
                    }
                };
                if let Some(call) = call {
                    let ran = self.machine.times_of_first(now).and_then(|times| times.ran);
                    Answering(&self.scheduler).count_run(call, ran.unwrap_or_default(), &self.tally);
                }
                let max_depth = self.scheduler.options.max_depth;
                let meaning = reader.read_reply(call, outcome, payload, max_depth, now);
                self.lent.drop_up_to(id);
                Some(Event::Replied { id, meaning, keep, stop })
            }
            FromWorker::Released(Released { stop, private_bytes }) => {
                Some(Event::Released(ReleaseReport { stop, private_bytes, checkouts: None }))
            }
            FromWorker::Logged(logged) => self.forward_log(*logged).err().map(Event::ProtocolBroken),
            FromWorker::Lent(lending) => self.receive_lending(lending).err().map(Event::ProtocolBroken),
            // `next_message` refuses them.
            FromWorker::Ready(_) | FromWorker::SetupFailed(_) => None,
        })
    }

    fn receive_lending(&mut self, lending: Lending) -> Result<(), Violation> {
        let next = self.machine.next_reply();
        let is_due = next.is_some() || lending.lent.is_empty() && !self.machine.holds_worker();
        if !is_due {
            return Err("it reported blobs while no reply was due".into());
        }
        let Some(LeasedWorker { lease, reader }) = &mut self.worker else { return Ok(()) };
        let result_arena = lease.channel().and_then(|channel| channel.result_arena());
        let given = next.map_or(&[][..], |id| self.lent.of_first(id));
        reader.receive_lending(&lease.worker, result_arena.as_ref(), lending, given)
    }

    fn forward_log(&mut self, logged: Logged) -> Result<(), Violation> {
        let log_sink = match self.machine.due(logged.call) {
            Some(DueReply::Call(call)) => call.origin.log_sink(),
            Some(DueReply::AlreadyCleared) => None,
            None => return Err("it sent a log record for a call that is not running".into()),
        };
        let Some(LeasedWorker { reader, .. }) = &mut self.worker else { return Ok(()) };
        reader.forward(log_sink, logged)
    }

    /// Reads what a worker that has ended still sent, and then awaits the report on how it ended.
    pub(super) fn take_last_replies(&mut self, host: &mut dyn Host) {
        let mut reads = 0;
        while self.machine.reads_frames() {
            reads += 1;
            if !self.read_now(host) || reads == MAX_LAST_READS {
                // A process that the worker forked keeps the channel open, but does not answer on it.
                self.handle(Event::ChannelEnded, Instant::now(), host);
            }
        }
    }

    /// Handles the worker's exit, after what the worker still sent. Without an exit report the worker has closed its
    /// channel and may still be alive.
    pub(super) fn handle_exit(&mut self, report: Option<ExitReport>, host: &mut dyn Host) {
        self.take_last_replies(host);
        let seen_begun = self.channel().and_then(|channel| channel.has_begun());
        let exit = Exit { report, seen_begun, is_connected: host.is_connected() };
        self.handle(Event::Exited(exit), Instant::now(), host);
    }
}
