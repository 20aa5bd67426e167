//! How the calls of a lane are answered, counted, logged and reported.

use crate::actors::scheduler::Scheduler;
use crate::actors::session::call_queue::PendingCall;
use crate::failure::{Failure, FailureKind};

/// Answers a call with a failure, and reports it to the call's context.
pub(super) fn fail(scheduler: &Scheduler, call: &PendingCall, failure: Failure) {
    scheduler.totals.count_failure(failure.kind());
    let failure = with_names(scheduler, call, failure);
    call.log_failure(&failure);
    let reported = is_reported(call).then(|| failure.clone());
    call.slot.fail(failure);
    if let Some(failure) = reported {
        report(scheduler, call, failure);
    }
}

/// Answers a call with its handler's own `Err`.
pub(super) fn deliver_error(scheduler: &Scheduler, call: &PendingCall) {
    scheduler.totals.count_error();
    let is_reported = is_reported(call);
    let needed = is_reported || call.timer.is_some();
    let failure = if needed { call.slot.error_as_failure(call.method.describe) } else { None };
    call.slot.deliver();
    let failure = failure.map(|failure| with_names(scheduler, call, failure));
    failure.iter().for_each(|failure| call.log_failure(failure));
    if let Some(failure) = failure.filter(|_| is_reported) {
        report(scheduler, call, failure);
    }
}

/// Counts a worker that was lost because of this call, for the quarantine.
pub(super) fn count_kill(scheduler: &Scheduler, call: &PendingCall, failure: &Failure) {
    let by_its_call = matches!(
        failure.kind(),
        FailureKind::Died
            | FailureKind::Panic
            | FailureKind::Hung
            | FailureKind::Timeout
            | FailureKind::Protocol
    );
    if let Some(call_hash) = call.call_hash.filter(|_| by_its_call) {
        scheduler.record_kill(call_hash);
    }
}

fn is_reported(call: &PendingCall) -> bool {
    call.origin.is_reported(call.slot.is_awaited()) && !call.slot.is_abandoned()
}

fn with_names(scheduler: &Scheduler, call: &PendingCall, failure: Failure) -> Failure {
    match (failure.pool(), failure.call()) {
        (Some(_), Some(_)) => failure,
        _ => failure.in_pool(&scheduler.options.name).during(call.method.name),
    }
}

fn report(scheduler: &Scheduler, call: &PendingCall, failure: Failure) {
    let name = format!("{} -> {}", scheduler.options.name, call.method.name);
    call.origin.report_failure(&name, failure);
}
