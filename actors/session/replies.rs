//! Frames from the worker. The host trusts none of them: it checks ids, order and outcomes.

use std::time::{Duration, Instant};

use super::call_queue::NextReply;
use super::{CallTimes, Host, PendingCall, Scheduler, Session, SessionState};
use crate::actors::scheduler::state::ReleaseReport;
use crate::actors::scheduler::worker_state::RetireReason;
use crate::blob;
use crate::failure::{BacktraceStyle, Failure, FailureKind, PanicReport, Phase, WorkerFacts};
use crate::wire::call::{FromWorker, Lending, Outcome, Released, ReplyHeader};
use crate::wire::frame;
use crate::wire::log_record::Logged;

/// The content of one frame, independent of the buffer that the frame lies in.
enum WorkerFrame {
    Reply(ReplyHeader, Option<DecodedReply>),
    Released(Released),
    Logged(Logged),
    Lent(Lending),
    Invalid(String),
}

/// The call that a reply belongs to, the error in decoding its result, if any, and the times of the call.
struct DecodedReply {
    call: PendingCall,
    problem: Option<Box<frame::PayloadError>>,
    times: CallTimes,
}

impl Session {
    /// Handles every whole frame that has arrived.
    pub(super) fn take_replies(&mut self, host: &mut dyn Host) {
        // Frames that are read at once count as arrived at once.
        let now = Instant::now();
        while let Some(frame) = self.next_frame(now) {
            match frame {
                WorkerFrame::Reply(reply, decoded) => self.handle_reply(reply, decoded, host),
                WorkerFrame::Released(released) => self.handle_released(released, host),
                WorkerFrame::Logged(logged) => self.handle_logged(logged, host),
                WorkerFrame::Lent(lending) => self.handle_lending(lending, host),
                WorkerFrame::Invalid(what) => self.fail_on_protocol_error(&what, host),
            }
        }
    }

    /// Takes the next frame; the result in a reply is decoded in place.
    fn next_frame(&mut self, now: Instant) -> Option<WorkerFrame> {
        let (SessionState::Held(lease) | SessionState::Releasing { lease, .. }) = &mut self.state else {
            return None;
        };
        let body = match lease.channel()?.next() {
            Ok(body) => body?,
            Err(error) => return Some(WorkerFrame::Invalid(error.to_string())),
        };
        let reply = match FromWorker::read(body) {
            Ok((FromWorker::Reply(reply), payload)) => (reply, payload),
            Ok((FromWorker::Released(released), [])) => return Some(WorkerFrame::Released(released)),
            Ok((FromWorker::Logged(logged), [])) => return Some(WorkerFrame::Logged(logged)),
            Ok((FromWorker::Lent(lending), [])) => return Some(WorkerFrame::Lent(lending)),
            Ok(_) => return Some(WorkerFrame::Invalid("it sent an unexpected message".to_owned())),
            Err(error) => return Some(WorkerFrame::Invalid(error.to_string())),
        };
        let (reply, payload) = reply;
        let times = CallTimes::of_first(&self.calls, self.waited, now);
        let lent = self.reply_blobs.take().unwrap_or_default();
        let max_depth = self.scheduler.options.max_depth;
        let decoded = match self.calls.take_answered(reply.id, now) {
            None => {
                return Some(WorkerFrame::Invalid(format!("it replied to call {} out of order", reply.id)));
            }
            Some(NextReply::AlreadyCleared) => None,
            Some(NextReply::Call(call)) => {
                self.waited = Duration::ZERO;
                self.scheduler.totals.add_run(times.ran);
                let has_result = matches!(reply.outcome, Outcome::Done | Outcome::Failed);
                let decode = || blob::decode_with(lent, || call.slot.decode(payload, max_depth));
                let problem = has_result.then(|| decode().err().map(Box::new)).flatten();
                Some(DecodedReply { call, problem, times })
            }
        };
        Some(WorkerFrame::Reply(reply, decoded))
    }

    fn handle_lending(&mut self, lending: Lending, host: &mut dyn Host) {
        let replies = !lending.lent.is_empty() || matches!(self.state, SessionState::Held(_));
        if replies && !self.calls.expects_reply() {
            return self.fail_on_protocol_error("it reported blobs while no reply was due", host);
        }
        if self.reply_blobs.is_some() {
            return self.fail_on_protocol_error("it reported blobs twice for one reply", host);
        }
        let (SessionState::Held(lease) | SessionState::Releasing { lease, .. }) = &mut self.state else {
            return;
        };
        let result_arena = lease.channel().and_then(|channel| channel.result_arena());
        let given = self.calls.blobs_of_first();
        match lease.worker.borrowed.receive_lending(lending, given, result_arena.as_ref()) {
            Ok(lent) => self.reply_blobs = Some(lent),
            Err(what) => self.fail_on_protocol_error(what, host),
        }
    }

    /// Keeps the argument blobs of all written calls until the worker exits. The worker may read them until then,
    /// whether or not the calls are answered.
    pub(super) fn keep_blobs_until_exit(&mut self) {
        if let SessionState::Held(lease)
        | SessionState::Releasing { lease, .. }
        | SessionState::AwaitingExit { lease, .. } = &self.state
        {
            lease.worker.borrowed.keep_until_exit(self.calls.take_blobs());
        }
    }

    fn handle_logged(&mut self, logged: Logged, host: &mut dyn Host) {
        let forwarded = match self.calls.log_sink_of(logged.call) {
            Some(log_sink) => self.forwarder.forward(log_sink, logged),
            None => {
                return self
                    .fail_on_protocol_error("it sent a log record for a call that is not running", host);
            }
        };
        if !forwarded {
            self.fail_on_protocol_error("it sent too many log records in one call", host);
        }
    }

    fn handle_reply(&mut self, reply: ReplyHeader, decoded: Option<DecodedReply>, host: &mut dyn Host) {
        self.confirm_read();
        self.forwarder.end_call(false);
        if self.calls.is_empty() && self.options.idle_checkout_timeout.is_some() {
            self.idle_since = Instant::now();
        }
        if self.releases_itself {
            self.await_release();
        }
        let Some(DecodedReply { call, problem, times }) = decoded else {
            if reply.outcome != Outcome::Cleared {
                self.fail_on_protocol_error("it ran a call that it had to clear", host);
            }
            return;
        };
        if call.slot.is_abandoned() {
            self.scheduler.totals.count_unheard();
        }
        let failed = matches!(reply.outcome, Outcome::Failed | Outcome::Payload { error: true, .. });
        // A single call keeps no state in the worker that an error could leave in doubt.
        let keep = self.options.single || self.options.keep_after_error || reply.keep;
        self.in_doubt |= failed && !keep;
        self.stop_requested |= reply.stop;
        let problem = problem.map(|problem| self.payload_failure(&call, &problem.to_string()));
        match (reply.outcome, problem) {
            (Outcome::Done, None) => {
                self.scheduler.totals.count_success();
                call.slot.deliver();
            }
            (Outcome::Done, Some(failure)) => self.answer(&call, failure),
            (Outcome::Failed, failure) => self.fail_call(call, failure, host),
            (Outcome::Payload { text, error }, _) => {
                let failure = self.payload_failure(&call, &text);
                if error {
                    self.fail_call(call, Some(failure), host);
                } else {
                    self.answer(&call, failure);
                }
            }
            (Outcome::Panicked { report, peak_memory, cpu_time }, _) => {
                let usage = (Some(peak_memory), Some(cpu_time));
                self.handle_panic(call, report.received(BacktraceStyle::here()), times, usage, host);
            }
            (Outcome::Cleared, _) => {
                self.calls.put_back(call);
                self.fail_on_protocol_error("it cleared a call that it had to run", host);
            }
        }
        self.calls_served += 1;
    }

    /// Notes that the worker has read the first call, so that no other worker needs to get it.
    fn confirm_read(&mut self) {
        if !self.has_replied
            && let SessionState::Held(lease) = &mut self.state
            && let Some(channel) = lease.channel()
        {
            channel.outbox().confirm();
            self.has_replied = true;
            self.false_starts = 0;
        }
    }

    /// Starts to wait for `Released`: behind a single call the worker releases itself.
    fn await_release(&mut self) {
        match std::mem::replace(&mut self.state, SessionState::NoWorker) {
            SessionState::Held(lease) => self.state = self.releasing_state(lease),
            other => self.state = other,
        }
    }

    fn payload_failure(&self, call: &PendingCall, text: &str) -> Failure {
        let failure = Failure::of(FailureKind::Payload, text).during(call.method.name);
        match &self.state {
            SessionState::Held(lease) | SessionState::Releasing { lease, .. } => {
                failure.on_worker(lease.worker.facts_and_usage(Some(self.calls_served)))
            }
            SessionState::NoWorker | SessionState::Waiting | SessionState::AwaitingExit { .. } => failure,
        }
    }

    fn handle_panic(
        &mut self,
        call: PendingCall,
        report: PanicReport,
        times: CallTimes,
        (peak_memory, cpu_time): (Option<u64>, Option<Duration>),
        host: &mut dyn Host,
    ) {
        let failure = Failure::of(FailureKind::Panic, "").with_panic(report).during(call.method.name);
        self.calls.put_back(call);
        if let Some(facts) = self.kill_worker(RetireReason::Panicked) {
            let failure = failure.with_times(times.waited, Some(times.ran)).in_phase(Phase::Running);
            let facts = WorkerFacts { peak_memory, cpu_time, ..facts };
            self.fail_checkout(failure.on_worker(facts), host);
        }
    }

    pub(super) fn fail_on_protocol_error(&mut self, what: &str, host: &mut dyn Host) {
        if let Some(facts) = self.kill_worker(RetireReason::Broken) {
            self.fail_checkout(Failure::of(FailureKind::Protocol, what).on_worker(facts), host);
        }
    }

    /// Kills the worker, if there is one; returns what is known of it for a failure.
    pub(super) fn kill_worker(&mut self, reason: RetireReason) -> Option<WorkerFacts> {
        self.keep_blobs_until_exit();
        match std::mem::replace(&mut self.state, SessionState::NoWorker) {
            SessionState::Held(lease)
            | SessionState::Releasing { lease, .. }
            | SessionState::AwaitingExit { lease, .. } => {
                let facts = lease.worker.facts_and_usage(Some(self.calls_served));
                self.count_hold();
                drop(lease.kill(reason));
                Some(facts)
            }
            other => {
                self.state = other;
                None
            }
        }
    }

    fn handle_released(&mut self, released: Released, host: &mut dyn Host) {
        let due = matches!(self.state, SessionState::Releasing { .. }) && !self.calls.expects_reply();
        if !due {
            return self.fail_on_protocol_error("it reported a release that was not due", host);
        }
        let SessionState::Releasing { mut lease, .. } =
            std::mem::replace(&mut self.state, SessionState::NoWorker)
        else {
            return;
        };
        if let Some(channel) = lease.channel() {
            channel.calls_served = self.calls_served;
        }
        self.count_hold();
        lease.give_back(ReleaseReport {
            stop: released.stop,
            private_bytes: released.private_bytes,
            checkouts: None,
        });
        if self.calls.has_queued() {
            // These calls came through an address that was upgraded from a weak one meanwhile.
            self.request_worker(Scheduler::acquire);
        }
    }
}
