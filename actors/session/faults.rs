//! What happens to a checkout when a call fails: who is told what, and when.
//!
//! An error clears the calls behind it, and behind means sent before the caller could know of the error. Calls
//! that were sent by then may still lie in the mailbox. So the checkout sends a mark, a fence, through its own
//! mailbox and tells nobody before it has come back: what arrived ahead of it was sent before. Calls that were
//! sent between the mark and its return are behind the error, too, so the mark goes round until none comes in
//! between; in the usual case once. Then a last mark is sent, the error is told, and what still arrives ahead of
//! that mark was sent before it was told, too: by a thread that was faster than the last round.

use std::time::Instant;

use super::{Call, PayloadError, Session, Surroundings, Times};
use crate::failure::{Failure, FailureKind};

/// What a call is told.
enum Verdict {
    /// The result its slot keeps.
    Kept,
    Failure(Failure),
}

/// An error that was taken in and not yet told.
pub(super) struct Fault {
    verdicts: Vec<(Call, Verdict)>,
    /// The source that cleared calls name.
    cause: Option<Failure>,
    /// Whether the mark goes round until no call comes in between.
    patient: bool,
    /// Whether a call came in since the mark was sent.
    disturbed: bool,
    fatal: Option<Failure>,
    /// Whether everybody was told, and the last mark is on its way.
    told: bool,
}

impl Fault {
    /// Clears a call that was sent before the error was told.
    pub(super) fn clear(&mut self, call: Call) {
        self.disturbed = true;
        self.verdicts.push((call, Verdict::Failure(cleared(self.cause.clone()))));
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
    pub(super) fn error(&mut self, call: Call, failure: Option<Failure>, around: &mut dyn Surroundings) {
        self.errors_seen += 1;
        let verdict = failure.map_or(Verdict::Kept, Verdict::Failure);
        self.raise(Some((call, verdict)), None, None, around);
    }

    /// The first call in the queue could not be run, and those behind it are cleared.
    pub(super) fn first_fails(&mut self, failure: Failure, around: &mut dyn Surroundings) {
        let mut calls = self.calls.clear().into_iter();
        let first = calls.next().map(|call| (call, Verdict::Failure(failure.clone())));
        self.raise_with(first, calls.collect(), Some(failure), None, around);
    }

    /// What ends the checkout for good: the call that ran is told, those behind it are cleared, and every later
    /// one is told the same.
    pub(super) fn fatal_fault(&mut self, failure: Failure, around: &mut dyn Surroundings) {
        let failure = failure.in_pool(&self.desk.options.name);
        let failure = match self.calls.first() {
            Some((call, _)) if failure.call().is_none() => {
                let times = Times::of_first(&self.calls, self.waited, Instant::now());
                let ran = (self.calls.open() > 0).then_some(times.ran);
                failure.during(call.name).after(times.waited, ran)
            }
            _ => failure,
        };
        let mut calls = self.calls.clear().into_iter();
        self.calls.forget_pipe();
        let first = calls.next().map(|call| (call, Verdict::Failure(failure.clone())));
        self.raise_with(first, calls.collect(), Some(failure.clone()), Some(failure), around);
    }

    fn raise(
        &mut self,
        first: Option<(Call, Verdict)>,
        cause: Option<Failure>,
        fatal: Option<Failure>,
        around: &mut dyn Surroundings,
    ) {
        let behind = self.calls.clear();
        self.raise_with(first, behind, cause, fatal, around);
    }

    fn raise_with(
        &mut self,
        first: Option<(Call, Verdict)>,
        behind: Vec<Call>,
        cause: Option<Failure>,
        fatal: Option<Failure>,
        around: &mut dyn Surroundings,
    ) {
        // An error that follows another cannot be told first.
        self.settle_fault();
        // For a call that was sent and forgotten, behind means: sent before its reply was taken in, which is now.
        let patient = first.as_ref().is_some_and(|(call, _)| call.slot.is_awaited());
        let mut fault = Fault {
            verdicts: first.into_iter().collect(),
            cause,
            patient,
            disturbed: false,
            fatal,
            told: false,
        };
        behind.into_iter().for_each(|call| fault.clear(call));
        fault.disturbed = false;
        self.fault = Some(fault);
        self.send_fence(around);
    }

    fn send_fence(&mut self, around: &mut dyn Surroundings) {
        self.last_fence += 1;
        if !around.send_fence(self.last_fence) {
            self.settle_fault();
        }
    }

    /// The mark has come back.
    pub(in crate::actors) fn fence_passed(&mut self, number: u64, around: &mut dyn Surroundings) {
        let Some(fault) = self.fault.as_mut().filter(|_| number == self.last_fence) else {
            return;
        };
        let disturbed = std::mem::take(&mut fault.disturbed);
        if !fault.patient || fault.told {
            return self.settle_fault();
        }
        fault.told = !disturbed;
        self.send_fence(around);
        if !disturbed {
            self.tell();
        }
    }

    /// Tells everybody what they are still to be told; from now on calls are taken again.
    pub(super) fn settle_fault(&mut self) {
        self.tell();
        if let Some(fault) = self.fault.take() {
            self.fatal = self.fatal.take().or(fault.fatal);
        }
    }

    fn tell(&mut self) {
        let verdicts = self.fault.as_mut().map(|fault| std::mem::take(&mut fault.verdicts));
        for (call, verdict) in verdicts.unwrap_or_default() {
            match verdict {
                Verdict::Kept => {
                    self.desk.totals.erred();
                    call.slot.deliver();
                }
                Verdict::Failure(failure) => self.answer(&call, failure),
            }
        }
    }

    /// Answers one call with a failure.
    pub(super) fn answer(&self, call: &Call, failure: Failure) {
        self.desk.totals.answered_with(failure.kind());
        let failure = match (failure.pool(), failure.call()) {
            (Some(_), Some(_)) => failure,
            _ => failure.in_pool(&self.desk.options.name).during(call.name),
        };
        call.slot.fail(failure);
    }

    pub(super) fn refuse_payload(&self, call: &Call, problem: &PayloadError) {
        self.answer(call, Failure::of(FailureKind::Payload, problem.to_string()));
    }

    /// The desk will not give this checkout a worker, for now or for good.
    pub(super) fn refused(&mut self, refusal: Failure, around: &mut dyn Surroundings) {
        match refusal.kind() {
            FailureKind::Stopped => {
                self.closing = true;
                for call in self.calls.clear() {
                    self.answer(&call, refusal.clone());
                }
            }
            FailureKind::Setup if self.calls.is_empty() => self.ask(super::Desk::ask_again),
            _ if self.calls.is_empty() => self.refusal = Some(refusal),
            _ => self.first_fails(refusal, around),
        }
    }
}
