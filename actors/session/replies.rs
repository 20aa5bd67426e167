//! What a worker says, which nobody here takes its word for.

use std::time::{Duration, Instant};

use super::call_queue::NextReply;
use super::{CallTimes, Host, PendingCall, Scheduler, Session, SessionState};
use crate::actors::scheduler::state::ReleaseReport;
use crate::actors::scheduler::worker_state::RetireReason;
use crate::blob;
use crate::failure::{Failure, FailureKind, PanicReport, Phase, WorkerFacts};
use crate::wire::call::{FromWorker, Lending, Outcome, Released, ReplyHeader};
use crate::wire::frame;
use crate::wire::log_record::Logged;

/// What one frame asks for, once the buffer it lies in is given up.
enum Said {
    Reply(ReplyHeader, Option<Decoded>),
    Released(Released),
    Logged(Logged),
    Lent(Lending),
    Nonsense(String),
}

/// The call a reply belongs to, how the decoding of its result went, and how long it took.
struct Decoded {
    call: PendingCall,
    problem: Option<Box<frame::PayloadError>>,
    times: CallTimes,
}

impl Session {
    /// Handles every whole frame that has arrived.
    pub(super) fn take_replies(&mut self, host: &mut dyn Host) {
        // What is read at once has arrived at once.
        let now = Instant::now();
        while let Some(said) = self.next_said(now) {
            match said {
                Said::Reply(reply, decoded) => self.replied(reply, decoded, host),
                Said::Released(released) => self.was_released(released, host),
                Said::Logged(logged) => self.logged(logged, host),
                Said::Lent(lending) => self.was_lent(lending, host),
                Said::Nonsense(what) => self.broke_protocol(&what, host),
            }
        }
    }

    /// Takes the next frame; a result is decoded where it lies.
    fn next_said(&mut self, now: Instant) -> Option<Said> {
        let (SessionState::Held(lease) | SessionState::Releasing { lease, .. }) = &mut self.stage else {
            return None;
        };
        let body = match lease.channel()?.next() {
            Ok(body) => body?,
            Err(error) => return Some(Said::Nonsense(error.to_string())),
        };
        let reply = match frame::split(body) {
            Ok((FromWorker::Reply(reply), payload)) => (reply, payload),
            Ok((FromWorker::Released(released), [])) => return Some(Said::Released(released)),
            Ok((FromWorker::Logged(logged), [])) => return Some(Said::Logged(logged)),
            Ok((FromWorker::Lent(lending), [])) => return Some(Said::Lent(lending)),
            Ok(_) => return Some(Said::Nonsense("it said what is out of turn".to_owned())),
            Err(error) => return Some(Said::Nonsense(error.to_string())),
        };
        let (reply, payload) = reply;
        let times = CallTimes::of_first(&self.calls, self.waited, now);
        let lent = std::mem::take(&mut self.lent);
        let decoded = match self.calls.answered(reply.id, now) {
            None => return Some(Said::Nonsense(format!("it answered call {}, which is not due", reply.id))),
            Some(NextReply::AlreadyCleared) => None,
            Some(NextReply::Call(call)) => {
                self.waited = Duration::ZERO;
                self.scheduler.totals.ran(times.ran);
                let has_result = matches!(reply.outcome, Outcome::Done | Outcome::Failed);
                let decode = || blob::receive(lent, || call.slot.decode(payload));
                let problem = has_result.then(|| decode().err().map(Box::new)).flatten();
                Some(Decoded { call, problem, times })
            }
        };
        Some(Said::Reply(reply, decoded))
    }

    fn was_lent(&mut self, lending: Lending, host: &mut dyn Host) {
        let replies = !lending.lent.is_empty() || matches!(self.stage, SessionState::Held(_));
        if replies && self.calls.pipe_is_empty() {
            return self.broke_protocol("it lends out of turn", host);
        }
        let (SessionState::Held(lease) | SessionState::Releasing { lease, .. }) = &mut self.stage else {
            return;
        };
        let result_arena = lease.channel().and_then(|channel| channel.result_arena());
        let given = self.calls.blobs_of_first();
        match lease.worker.borrowed.take_in(lending, given, result_arena.as_ref()) {
            Ok(lent) => self.lent = lent,
            Err(what) => self.broke_protocol(what, host),
        }
    }

    /// The worker may read what it was lent until it has ended, whatever becomes of its calls.
    pub(super) fn leave_blobs(&mut self) {
        if let SessionState::Held(lease)
        | SessionState::Releasing { lease, .. }
        | SessionState::AwaitingExit { lease, .. } = &self.stage
        {
            lease.worker.borrowed.keep_to_its_end(self.calls.take_blobs());
        }
    }

    fn logged(&mut self, logged: Logged, host: &mut dyn Host) {
        let heard = match self.calls.logging(logged.call) {
            Some(log_sink) => self.forwarder.take_in(log_sink, logged),
            None => return self.broke_protocol("it logged for a call that does not run", host),
        };
        if !heard {
            self.broke_protocol("it logged more in one call than it may", host);
        }
    }

    fn replied(&mut self, reply: ReplyHeader, decoded: Option<Decoded>, host: &mut dyn Host) {
        self.confirm();
        self.forwarder.end(false);
        if self.calls.is_empty() && self.options.idle_checkout_timeout.is_some() {
            self.idle_since = Instant::now();
        }
        if self.releases_itself {
            self.await_release();
        }
        let Some(Decoded { call, problem, times }) = decoded else {
            if reply.outcome != Outcome::Cleared {
                self.broke_protocol("it ran a call that it was to clear", host);
            }
            return;
        };
        if call.slot.is_abandoned() {
            self.scheduler.totals.unheard();
        }
        let failed = matches!(reply.outcome, Outcome::Failed | Outcome::Payload { error: true, .. });
        // A single call holds nothing that an error could leave in doubt.
        let keep = self.options.single || self.options.keep_after_error || reply.keep;
        self.in_doubt |= failed && !keep;
        self.asked_to_stop |= reply.stop;
        let problem = problem.map(|problem| self.payload_failure(&call, &problem.to_string()));
        match (reply.outcome, problem) {
            (Outcome::Done, None) => {
                self.scheduler.totals.succeeded();
                call.slot.deliver();
            }
            (Outcome::Done, Some(failure)) => self.answer(&call, failure),
            (Outcome::Failed, failure) => self.error(call, failure, host),
            (Outcome::Payload { text, error }, _) => {
                let failure = self.payload_failure(&call, &text);
                if error {
                    self.error(call, Some(failure), host);
                } else {
                    self.answer(&call, failure);
                }
            }
            (Outcome::Panicked { report, peak_memory, cpu_time }, _) => {
                let usage = (Some(peak_memory), Some(cpu_time));
                self.panicked(call, report, times, usage, host);
            }
            (Outcome::Cleared, _) => {
                self.calls.put_back(call);
                self.broke_protocol("it cleared a call that it was to run", host);
            }
        }
        self.calls_served += 1;
    }

    /// The worker has read what was written, so nobody else will have to.
    fn confirm(&mut self) {
        if !self.heard
            && let SessionState::Held(lease) = &mut self.stage
            && let Some(channel) = lease.channel()
        {
            channel.outbox().confirm();
            self.heard = true;
            self.false_starts = 0;
        }
    }

    /// A single call's worker releases itself.
    fn await_release(&mut self) {
        match std::mem::replace(&mut self.stage, SessionState::Out) {
            SessionState::Held(lease) => self.stage = self.releasing(lease),
            other => self.stage = other,
        }
    }

    fn payload_failure(&self, call: &PendingCall, text: &str) -> Failure {
        let failure = Failure::of(FailureKind::Payload, text).during(call.kind.name);
        match &self.stage {
            SessionState::Held(lease) | SessionState::Releasing { lease, .. } => {
                failure.on_worker(lease.worker.facts_and_usage(Some(self.calls_served)))
            }
            SessionState::Out | SessionState::Waiting | SessionState::AwaitingExit { .. } => failure,
        }
    }

    fn panicked(
        &mut self,
        call: PendingCall,
        report: PanicReport,
        times: CallTimes,
        (peak_memory, cpu_time): (Option<u64>, Option<Duration>),
        host: &mut dyn Host,
    ) {
        let failure = Failure::of(FailureKind::Panic, "").with_panic(report).during(call.kind.name);
        self.calls.put_back(call);
        if let Some(facts) = self.give_up(RetireReason::Panicked) {
            let failure = failure.after(times.waited, Some(times.ran)).in_phase(Phase::Running);
            let facts = WorkerFacts { peak_memory, cpu_time, ..facts };
            self.fatal_fault(failure.on_worker(facts), host);
        }
    }

    pub(super) fn broke_protocol(&mut self, what: &str, host: &mut dyn Host) {
        if let Some(facts) = self.give_up(RetireReason::Broken) {
            self.fatal_fault(Failure::of(FailureKind::Protocol, what).on_worker(facts), host);
        }
    }

    /// Kills the worker; returns what was known of it.
    pub(super) fn give_up(&mut self, reason: RetireReason) -> Option<WorkerFacts> {
        self.leave_blobs();
        match std::mem::replace(&mut self.stage, SessionState::Out) {
            SessionState::Held(lease)
            | SessionState::Releasing { lease, .. }
            | SessionState::AwaitingExit { lease, .. } => {
                let facts = lease.worker.facts_and_usage(Some(self.calls_served));
                drop(lease.kill(reason));
                Some(facts)
            }
            other => {
                self.stage = other;
                None
            }
        }
    }

    fn was_released(&mut self, released: Released, host: &mut dyn Host) {
        let due = matches!(self.stage, SessionState::Releasing { .. }) && self.calls.pipe_is_empty();
        if !due {
            return self.broke_protocol("it released itself out of turn", host);
        }
        let SessionState::Releasing { mut lease, .. } = std::mem::replace(&mut self.stage, SessionState::Out)
        else {
            return;
        };
        if let Some(channel) = lease.channel() {
            channel.calls_served = self.calls_served;
        }
        self.scheduler.totals.held(self.held_since.elapsed());
        lease.give_back(ReleaseReport { stop: released.stop, private_bytes: released.private_bytes });
        if self.calls.has_queued() {
            // Sent through an address that was made of a weak one meanwhile.
            self.ask(Scheduler::ask);
        }
    }
}
