//! How a call is answered: counted, written into its request log, delivered, and reported to its error context.

use std::time::Duration;

use super::{MethodInfo, PendingCall};
use crate::actors::reply::AnswerSlot;
use crate::actors::scheduler::Scheduler;
use crate::actors::scheduler::tallies::ThreadTally;
use crate::failure::{Failure, FailureKind};

/// Answers calls of one pool.
#[derive(Clone, Copy)]
pub(crate) struct Answering<'a>(pub(crate) &'a Scheduler);

impl Answering<'_> {
    /// Counts how long a call has run to which a reply has arrived, and whether its requester still waits.
    pub(crate) fn count_run<S: AnswerSlot>(self, call: &PendingCall<S>, ran: Duration, here: &ThreadTally) {
        here.add_run(call.method, ran);
        if call.slot.is_abandoned() {
            self.0.tallies.count_unheard();
        }
    }

    /// Delivers the handler's own `Ok`, which the call's slot has decoded.
    pub(crate) fn deliver_value<S: AnswerSlot>(self, call: &PendingCall<S>, here: &ThreadTally) {
        here.count_success(call.method);
        call.slot.deliver();
    }

    /// Delivers the handler's own `Err`, which the call's slot has decoded. Returns it as a failure if it must be
    /// [reported](Self::report) to the call's context.
    #[must_use = "the call's context is to be notified"]
    pub(crate) fn deliver_error<S: AnswerSlot>(
        self,
        call: &PendingCall<S>,
        here: &ThreadTally,
    ) -> Option<Failure> {
        here.count_error(call.method);
        let is_reported = call.is_reported();
        let needed = is_reported || call.timer.is_some();
        let failure = if needed { call.slot.error_as_failure(call.method.describe) } else { None };
        call.slot.deliver();
        let failure = failure.map(|failure| self.with_names(call.method, failure));
        failure.iter().for_each(|failure| call.log_failure(failure));
        failure.filter(|_| is_reported)
    }

    /// Answers a call with a failure. Returns the failure if it must be [reported](Self::report) to the call's
    /// context.
    #[must_use = "the call's context is to be notified"]
    pub(crate) fn deliver_failure<S: AnswerSlot>(
        self,
        call: &PendingCall<S>,
        failure: Failure,
    ) -> Option<Failure> {
        let failure = self.with_names(call.method, failure);
        self.0.tallies.count_failure(call.method, &failure);
        call.log_failure(&failure);
        let reported = call.is_reported().then(|| failure.clone());
        call.slot.fail(failure);
        reported
    }

    /// Reports a failure to the call's context. A handler there may be slow, so other calls that await an answer are
    /// answered first.
    pub(crate) fn report<S>(self, call: &PendingCall<S>, failure: Failure) {
        let name = format!("{} -> {}", self.0.options.name, call.method.name);
        call.origin.report_failure(&name, failure);
    }

    /// Answers one call with a failure and reports it to the call's context.
    pub(crate) fn fail<S: AnswerSlot>(self, call: &PendingCall<S>, failure: Failure) {
        if let Some(failure) = self.deliver_failure(call, failure) {
            self.report(call, failure);
        }
    }

    fn with_names(self, method: &MethodInfo, failure: Failure) -> Failure {
        match (failure.pool(), failure.call()) {
            (Some(_), Some(_)) => failure,
            _ => failure.in_pool(&self.0.options.name).during(method.name),
        }
    }
}

/// Returns the failure of a call that was sent before its sender could know of an error ahead of it.
pub(crate) fn cleared(cause: Option<Failure>) -> Failure {
    let cleared = Failure::of(FailureKind::Cleared, "");
    match cause {
        Some(cause) => cleared.caused_by(cause),
        None => cleared,
    }
}
