//! What happens to a checkout when a call fails: who is told what, and when.
//!
//! An error clears the calls behind it, and behind means sent before the caller could know of the error. Calls
//! that were sent by then may still lie in the mailbox. So the checkout sends a mark, a fence, through its own
//! mailbox right before it tells the caller: what arrives ahead of the mark was sent before, and is cleared; what
//! arrives behind it runs.

use std::time::Instant;

use super::{CallTimes, Encode, Encoded, Host, PayloadError, PendingCall, Session};
use crate::failure::{Failure, FailureKind, Phase};

/// An error whose caller was told, and whose mark has not come back.
pub(super) struct ErrorRecord {
    /// The source that cleared calls name.
    cause: Option<Failure>,
    fatal: Option<Failure>,
}

impl ErrorRecord {
    /// What a call is told that was sent before the error was.
    pub(super) fn clearance(&self) -> Failure {
        cleared(self.cause.clone())
    }
}

fn cleared(cause: Option<Failure>) -> Failure {
    let cleared = Failure::of(FailureKind::Cleared, "");
    match cause {
        Some(cause) => cleared.because_of(cause),
        None => cleared,
    }
}

impl Session {
    /// A call's own error: its slot keeps the handler's `Err`, or gets a failure.
    pub(super) fn error(&mut self, call: PendingCall, failure: Option<Failure>, host: &mut dyn Host) {
        self.errors_seen += 1;
        let behind = self.calls.clear();
        self.raise(Some((call, failure)), behind, None, None, host);
    }

    /// The first call in the queue could not be run, and those behind it are cleared.
    pub(super) fn first_fails(&mut self, failure: Failure, host: &mut dyn Host) {
        let mut calls = self.calls.clear().into_iter();
        self.forget_pipe();
        self.unread = None;
        let first = calls.next().map(|call| (call, Some(failure.clone())));
        self.raise(first, calls.collect(), Some(failure), None, host);
    }

    /// What ends the checkout for good: the call that ran is told, those behind it are cleared, and every later
    /// one is told the same.
    pub(super) fn fatal_fault(&mut self, failure: Failure, host: &mut dyn Host) {
        let failure = failure.in_pool(&self.scheduler.options.name);
        self.note_kill(&failure);
        let failure = match self.calls.first() {
            Some((call, _)) if failure.call().is_none() => {
                let times = CallTimes::of_first(&self.calls, self.waited, Instant::now());
                let ran = (self.calls.open() > 0).then_some(times.ran);
                let failure = if ran.is_some() { failure.in_phase(Phase::Running) } else { failure };
                failure.during(call.kind.name).after(times.waited, ran)
            }
            _ => failure,
        };
        let mut calls = self.calls.clear().into_iter();
        self.forget_pipe();
        let first = calls.next().map(|call| (call, Some(failure.clone())));
        self.raise(first, calls.collect(), Some(failure.clone()), Some(failure), host);
    }

    /// Takes in a call of a pool that keeps count of what its calls have done to workers.
    pub(super) fn take_suspect(&mut self, mut call: PendingCall, encode: Encode<'_>, host: &mut dyn Host) {
        let most = self.scheduler.options.max_payload;
        let message = match Encoded::of(self.scheduler.blobs.as_ref(), |out| encode(out, most)) {
            Ok(message) => message,
            Err(problem) => return self.refuse_payload(&call, &problem),
        };
        let mark = self.scheduler.mark(call.kind.method, &message);
        if let Some(refusal) = self.scheduler.quarantined(mark) {
            return self.answer(&call, refusal);
        }
        call.mark = Some(mark);
        let mut encode = |out: &mut Vec<u8>, _: usize| {
            message.write(out);
            Ok(())
        };
        self.put_in(call, &mut encode, host);
    }

    /// Counts a worker that was lost to the call that ran on it.
    fn note_kill(&self, failure: &Failure) {
        let running = self.calls.open() > 0;
        let by_its_call = matches!(
            failure.kind(),
            FailureKind::Died
                | FailureKind::Panic
                | FailureKind::Hung
                | FailureKind::Timeout
                | FailureKind::Protocol
        );
        if let Some(mark) =
            self.calls.first().and_then(|(call, _)| call.mark).filter(|_| running && by_its_call)
        {
            self.scheduler.note_kill(mark);
        }
    }

    /// Tells the failed call what it is to be told, its own result where there is no failure, clears those behind
    /// it, and marks the place in the mailbox up to which calls were sent before they were told.
    fn raise(
        &mut self,
        first: Option<(PendingCall, Option<Failure>)>,
        behind: Vec<PendingCall>,
        cause: Option<Failure>,
        fatal: Option<Failure>,
        host: &mut dyn Host,
    ) {
        // A mark that is still out belongs to what ended; the new one comes behind it.
        self.settle_fault();
        self.last_fence += 1;
        let has_mailbox = host.send_fence(self.last_fence);
        self.fault = Some(ErrorRecord { cause: cause.clone(), fatal });
        // Contexts hear of it when all have their answers: a handler that takes its time is not to stand between the
        // mark and the telling.
        let mut heard = Vec::new();
        if let Some((call, failure)) = first {
            let failure = match failure {
                Some(failure) => self.tell(&call, failure),
                None => self.tell_own_error(&call),
            };
            heard.extend(failure.map(|failure| (call, failure)));
        }
        for call in behind {
            let failure = self.tell(&call, cleared(cause.clone()));
            heard.extend(failure.map(|failure| (call, failure)));
        }
        if !has_mailbox {
            self.settle_fault();
        }
        for (call, failure) in heard {
            self.tell_context(&call, failure);
        }
    }

    /// The mark has come back: from now on calls are taken again, unless the error was fatal.
    pub(crate) fn fence_passed(&mut self, number: u64) {
        if number == self.last_fence {
            self.settle_fault();
        }
    }

    pub(super) fn settle_fault(&mut self) {
        if let Some(fault) = self.fault.take() {
            self.fatal = self.fatal.take().or(fault.fatal);
        }
    }

    /// Answers one call with a failure, and tells the context it was made in.
    pub(super) fn answer(&self, call: &PendingCall, failure: Failure) {
        if let Some(failure) = self.tell(call, failure) {
            self.tell_context(call, failure);
        }
    }

    /// Tells a caller of a failure; returns it if the call's context is to hear of it.
    fn tell(&self, call: &PendingCall, failure: Failure) -> Option<Failure> {
        self.scheduler.totals.answered_with(failure.kind());
        let failure = self.named(call, failure);
        call.note_failure(&failure);
        let heard = self.is_heard(call).then(|| failure.clone());
        call.slot.fail(failure);
        heard
    }

    /// Tells a caller of its handler's own `Err`; returns that as a failure if the call's context is to hear of it.
    fn tell_own_error(&self, call: &PendingCall) -> Option<Failure> {
        self.scheduler.totals.erred();
        let heard = self.is_heard(call);
        let asked = heard || call.timer.is_some();
        let failure = if asked { call.slot.own_failure(call.kind.describe) } else { None };
        call.slot.deliver();
        let failure = failure.map(|failure| self.named(call, failure));
        failure.iter().for_each(|failure| call.note_failure(failure));
        failure.filter(|_| heard)
    }

    /// Whether anybody beside the caller is to hear of the failure; nobody is if a caller has given its call up.
    fn is_heard(&self, call: &PendingCall) -> bool {
        call.origin.is_heard(call.slot.is_awaited()) && !call.slot.is_abandoned()
    }

    fn named(&self, call: &PendingCall, failure: Failure) -> Failure {
        match (failure.pool(), failure.call()) {
            (Some(_), Some(_)) => failure,
            _ => failure.in_pool(&self.scheduler.options.name).during(call.kind.name),
        }
    }

    fn tell_context(&self, call: &PendingCall, failure: Failure) {
        let name = format!("{} -> {}", self.scheduler.options.name, call.kind.name);
        call.origin.failed(&name, failure);
    }

    pub(super) fn refuse_payload(&self, call: &PendingCall, problem: &PayloadError) {
        self.answer(call, Failure::of(FailureKind::Payload, problem.to_string()));
    }

    /// The desk will not give this checkout a worker, for now or for good.
    pub(super) fn refused(&mut self, refusal: Failure, host: &mut dyn Host) {
        match refusal.kind() {
            FailureKind::Stopped => {
                self.closing = true;
                for call in self.calls.clear() {
                    self.answer(&call, refusal.clone());
                }
                self.forget_pipe();
                self.unread = None;
            }
            FailureKind::Setup if self.calls.is_empty() => self.ask(super::Scheduler::ask_again),
            _ if self.calls.is_empty() => self.refusal = Some(refusal),
            _ => self.first_fails(refusal, host),
        }
    }
}
