//! What happens to the calls of a checkout when one of them fails.
//!
//! An error clears the calls behind it. "Behind" means: sent before the caller could know of the error. Such calls
//! may still lie in the mailbox of the checkout. So right before the checkout answers the caller, it sends a
//! marker, the fence, through its own mailbox. A call that arrives ahead of the fence was sent earlier and is
//! cleared; a call that arrives behind it runs.

use std::time::Instant;

use super::{CallTimes, Encode, Encoded, Host, PayloadError, PendingCall, Session};
use crate::failure::{Failure, FailureKind, Phase};

/// An error that its caller has received and whose fence has not come back through the mailbox.
pub(super) struct ErrorRecord {
    /// The cause that the cleared calls name.
    cause: Option<Failure>,
    fatal: Option<Failure>,
}

impl ErrorRecord {
    /// Returns the failure of a call that was sent before the caller received the error.
    pub(super) fn cleared_failure(&self) -> Failure {
        cleared(self.cause.clone())
    }
}

fn cleared(cause: Option<Failure>) -> Failure {
    let cleared = Failure::of(FailureKind::Cleared, "");
    match cause {
        Some(cause) => cleared.caused_by(cause),
        None => cleared,
    }
}

impl Session {
    /// Fails one call and clears those behind it. Without a `failure` the call is answered with the handler's own
    /// `Err`, which its slot has decoded.
    pub(super) fn fail_call(&mut self, call: PendingCall, failure: Option<Failure>, host: &mut dyn Host) {
        self.errors_seen += 1;
        let behind = self.calls.clear();
        self.raise_error(Some((call, failure)), behind, None, None, host);
    }

    /// Fails the first call, which could not be run, and clears those behind it. The checkout goes on.
    pub(super) fn fail_first_call(&mut self, failure: Failure, host: &mut dyn Host) {
        if let Some(failure) = self.resolve_first(failure, false) {
            self.end_first_call(failure, host);
        }
    }

    /// Delivers the failure of a first call.
    pub(super) fn end_first_call(&mut self, failure: Failure, host: &mut dyn Host) {
        let mut calls = self.calls.clear().into_iter();
        self.forget_written_calls();
        self.unread_outbox = None;
        let first = calls.next().map(|call| (call, Some(failure.clone())));
        self.raise_error(first, calls.collect(), Some(failure), None, host);
    }

    /// Ends the checkout for good: the call that ran gets the failure, the calls behind it are cleared, and every
    /// later call is answered with the same failure.
    pub(super) fn fail_checkout(&mut self, failure: Failure, host: &mut dyn Host) {
        let failure = failure.in_pool(&self.scheduler.options.name);
        self.count_kill(&failure);
        let failure = match self.calls.first() {
            Some((call, _)) if failure.call().is_none() => self.with_times(failure, call),
            _ => failure,
        };
        if let Some(failure) = self.resolve_first(failure, true) {
            self.end_checkout(failure, host);
        }
    }

    /// Adds to the failure of the first call how long that has waited and run.
    pub(super) fn with_times(&self, failure: Failure, first: &PendingCall) -> Failure {
        let times = CallTimes::of_first(&self.calls, self.waited, Instant::now());
        let ran = (self.calls.unanswered() > 0).then_some(times.ran);
        let failure = if ran.is_some() { failure.in_phase(Phase::Running) } else { failure };
        failure.during(first.method.name).with_times(times.waited, ran)
    }

    /// Delivers the failure that ends this checkout.
    pub(super) fn end_checkout(&mut self, failure: Failure, host: &mut dyn Host) {
        let mut calls = self.calls.clear().into_iter();
        self.forget_written_calls();
        let first = calls.next().map(|call| (call, Some(failure.clone())));
        self.raise_error(first, calls.collect(), Some(failure.clone()), Some(failure), host);
    }

    /// Writes or queues a call in a pool with a quarantine, or refuses it if the same call killed too many workers.
    pub(super) fn submit_unless_quarantined(
        &mut self,
        mut call: PendingCall,
        encode: Encode<'_>,
        host: &mut dyn Host,
    ) {
        let limits = self.scheduler.message_limits(0);
        let message = match Encoded::of(self.scheduler.blobs.as_ref(), |out| encode(out, limits)) {
            Ok(message) => message,
            Err(problem) => return self.refuse_payload(&call, &problem),
        };
        let call_hash = self.scheduler.call_hash(call.method.index, &message);
        if let Some(refusal) = self.scheduler.check_quarantine(call_hash) {
            return self.answer(&call, refusal);
        }
        call.call_hash = Some(call_hash);
        let mut encode = |out: &mut Vec<u8>, _| {
            message.write(out);
            Ok(())
        };
        self.write_or_queue(call, &mut encode, host);
    }

    /// Counts a worker that was lost because of the call that ran on it, for the quarantine.
    fn count_kill(&self, failure: &Failure) {
        let running = self.calls.unanswered() > 0;
        let by_its_call = matches!(
            failure.kind(),
            FailureKind::Died
                | FailureKind::Panic
                | FailureKind::Hung
                | FailureKind::Timeout
                | FailureKind::Protocol
        );
        if let Some(call_hash) =
            self.calls.first().and_then(|(call, _)| call.call_hash).filter(|_| running && by_its_call)
        {
            self.scheduler.record_kill(call_hash);
        }
    }

    /// Sends the fence, answers the failed call (with its own result where `failure` is `None`), and clears the
    /// calls behind it. Contexts are notified last.
    fn raise_error(
        &mut self,
        first: Option<(PendingCall, Option<Failure>)>,
        behind: Vec<PendingCall>,
        cause: Option<Failure>,
        fatal: Option<Failure>,
        host: &mut dyn Host,
    ) {
        // A fence that has not come back belongs to an earlier error that is over; the new fence comes behind it.
        self.settle_error();
        self.last_fence += 1;
        let has_mailbox = host.send_fence(self.last_fence);
        self.pending_error = Some(ErrorRecord { cause: cause.clone(), fatal });
        // Contexts are notified once all calls are answered: a slow handler must not delay the answers behind the
        // fence.
        let mut to_report = Vec::new();
        if let Some((call, failure)) = first {
            let failure = match failure {
                Some(failure) => self.deliver_failure(&call, failure),
                None => self.deliver_own_error(&call),
            };
            to_report.extend(failure.map(|failure| (call, failure)));
        }
        for call in behind {
            let failure = self.deliver_failure(&call, cleared(cause.clone()));
            to_report.extend(failure.map(|failure| (call, failure)));
        }
        if !has_mailbox {
            self.settle_error();
        }
        for (call, failure) in to_report {
            self.report_to_context(&call, failure);
        }
    }

    /// Handles a fence that came back: from now on calls are accepted again, unless the error was fatal. An old
    /// fence is ignored.
    pub(crate) fn pass_fence(&mut self, number: u64) {
        if number == self.last_fence {
            self.settle_error();
        }
    }

    /// Ends the time in which calls are cleared because of an error; a fatal error then answers all later calls.
    pub(super) fn settle_error(&mut self) {
        if let Some(pending_error) = self.pending_error.take() {
            self.fatal = self.fatal.take().or(pending_error.fatal);
        }
    }

    /// Answers one call with a failure and reports it to the call's context.
    pub(super) fn answer(&self, call: &PendingCall, failure: Failure) {
        if let Some(failure) = self.deliver_failure(call, failure) {
            self.report_to_context(call, failure);
        }
    }

    /// Answers a call with a failure; returns the failure if it must be reported to the call's context.
    fn deliver_failure(&self, call: &PendingCall, failure: Failure) -> Option<Failure> {
        self.scheduler.totals.count_failure(failure.kind());
        let failure = self.with_names(call, failure);
        call.log_failure(&failure);
        let reported = self.is_reported(call).then(|| failure.clone());
        call.slot.fail(failure);
        reported
    }

    /// Answers a call with its handler's own `Err`; returns that as a failure if it must be reported to the call's
    /// context.
    fn deliver_own_error(&self, call: &PendingCall) -> Option<Failure> {
        self.scheduler.totals.count_error();
        let is_reported = self.is_reported(call);
        let needed = is_reported || call.timer.is_some();
        let failure = if needed { call.slot.error_as_failure(call.method.describe) } else { None };
        call.slot.deliver();
        let failure = failure.map(|failure| self.with_names(call, failure));
        failure.iter().for_each(|failure| call.log_failure(failure));
        failure.filter(|_| is_reported)
    }

    /// Returns whether a failure is reported to the context or the log besides the caller. It is not if the caller
    /// gave the call up.
    fn is_reported(&self, call: &PendingCall) -> bool {
        call.origin.is_reported(call.slot.is_awaited()) && !call.slot.is_abandoned()
    }

    fn with_names(&self, call: &PendingCall, failure: Failure) -> Failure {
        match (failure.pool(), failure.call()) {
            (Some(_), Some(_)) => failure,
            _ => failure.in_pool(&self.scheduler.options.name).during(call.method.name),
        }
    }

    fn report_to_context(&self, call: &PendingCall, failure: Failure) {
        let name = format!("{} -> {}", self.scheduler.options.name, call.method.name);
        call.origin.report_failure(&name, failure);
    }

    pub(super) fn refuse_payload(&self, call: &PendingCall, problem: &PayloadError) {
        self.answer(call, Failure::of(FailureKind::Payload, problem.to_string()));
    }

    /// Handles the scheduler's refusal to lend this checkout a worker, now or ever.
    pub(super) fn handle_refusal(&mut self, refusal: Failure, host: &mut dyn Host) {
        match refusal.kind() {
            FailureKind::Stopped => {
                self.closing = true;
                for call in self.calls.clear() {
                    self.answer(&call, refusal.clone());
                }
                self.forget_written_calls();
                self.unread_outbox = None;
            }
            FailureKind::Setup if self.calls.is_empty() => self.request_worker(super::Scheduler::reacquire),
            _ if self.calls.is_empty() => self.refusal = Some(refusal),
            _ => self.fail_first_call(refusal, host),
        }
    }
}
