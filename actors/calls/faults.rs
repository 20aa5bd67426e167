//! What costs a call its worker, as a failure with all that is known of the worker and its end.

use std::time::Duration;

use super::payload::Payload;
use super::reading::{Usage, Violation};
use super::{CallTimes, MethodInfo, PendingCall};
use crate::actors::reply::AnswerSlot;
use crate::actors::scheduler::exit::{ExitReport, unreported_end};
use crate::actors::scheduler::worker_handle::WorkerHandle;
use crate::actors::scheduler::worker_state::RetireReason;
use crate::actors::scheduler::{Scheduler, WaitOutcome};
use crate::failure::{Failure, FailureKind, PanicReport, Phase, WorkerFacts};
use crate::wire::frame::PayloadError;

/// Why a worker is lost while a call runs on it, or has to be killed.
#[derive(Debug)]
pub(crate) enum Fault {
    /// The call's time limit has passed.
    TimedOut(Duration),
    /// The requester gave up the call.
    Cancelled,
    Panicked(Box<PanicReport>, Usage),
    BrokeProtocol(Violation),
    /// The worker has exited; `None` if no exit was reported, and it may still be alive.
    Exited(Option<ExitReport>),
}

impl Fault {
    /// Returns why the worker is killed.
    pub(crate) fn retire_reason(&self) -> RetireReason {
        match self {
            Fault::TimedOut(_) => RetireReason::TimedOut,
            Fault::Cancelled => RetireReason::Cancelled,
            Fault::Panicked(..) => RetireReason::Panicked,
            Fault::Exited(Some(ExitReport::Killed)) => RetireReason::Killed,
            Fault::BrokeProtocol(_) | Fault::Exited(_) => RetireReason::Broken,
        }
    }

    /// Returns the failure of the call that ran. What the process does is looked at, so it must not be killed yet.
    pub(crate) fn failure(self, scheduler: &Scheduler, worker: &WorkerHandle, calls_served: u64) -> Failure {
        let facts = || worker.facts_and_usage(Some(calls_served));
        let failure = match self {
            Fault::TimedOut(limit) => {
                let stuck = worker.stuck_text().unwrap_or_default();
                let failure = Failure::of(FailureKind::Timeout, stuck).in_phase(Phase::Running);
                failure.on_worker(facts()).at_limit(limit)
            }
            Fault::Cancelled => {
                Failure::of(FailureKind::Cancelled, "").in_phase(Phase::Running).on_worker(facts())
            }
            Fault::Panicked(report, Usage { peak_memory, cpu_time }) => {
                let (peak_memory, cpu_time) = (Some(peak_memory), Some(cpu_time));
                let facts = WorkerFacts { peak_memory, cpu_time, ..facts() };
                Failure::of(FailureKind::Panic, "").with_panic(*report).on_worker(facts)
            }
            Fault::BrokeProtocol(what) => Failure::of(FailureKind::Protocol, what).on_worker(facts()),
            Fault::Exited(exit_report) => exit_failure(scheduler, exit_report, worker, calls_served),
        };
        failure.in_pool(&scheduler.options.name)
    }
}

fn exit_failure(
    scheduler: &Scheduler,
    exit_report: Option<ExitReport>,
    worker: &WorkerHandle,
    calls_served: u64,
) -> Failure {
    let (options, calls_served) = (&scheduler.options, Some(calls_served));
    let Some(exit_report) = exit_report else {
        let text = format!("it {}", unreported_end(worker.is_running()));
        return Failure::of(FailureKind::Died, text).on_worker(worker.facts_and_usage(calls_served));
    };
    if exit_report == ExitReport::Killed {
        let facts = worker.facts_and_usage(calls_served);
        return Failure::of(FailureKind::Aborted, "kill_worker killed its worker").on_worker(facts);
    }
    let death = match options.hung_worker_timeout.filter(|_| exit_report.was_hung()) {
        Some(limit) => Failure::of(FailureKind::Hung, "").at_limit(limit),
        None => Failure::of(FailureKind::Died, ""),
    };
    exit_report.add_to(death, worker, calls_served, options.memory_limit)
}

/// Returns the failure of a call whose message cannot be encoded. No worker has it.
pub(crate) fn unencodable(problem: &PayloadError) -> Failure {
    let too_large = matches!(problem, PayloadError::TooLarge { .. } | PayloadError::NoRoom { .. });
    Failure::of(FailureKind::Payload, problem.to_string()).of_large_message(too_large)
}

/// Returns the failure of a call whose result or message could not be encoded or decoded by this worker.
pub(crate) fn payload_failure(
    text: &str,
    method: &MethodInfo,
    worker: &WorkerHandle,
    calls_served: u64,
) -> Failure {
    let failure = Failure::of(FailureKind::Payload, text).during(method.name);
    failure.on_worker(worker.facts_and_usage(Some(calls_served)))
}

/// Returns the failure of a call whose time limit passed while it waited for a worker: why no worker came, as far as the
/// scheduler knows, and who holds the workers if all of them are in use.
pub(crate) fn wait_failure(scheduler: &Scheduler, mut outcome: WaitOutcome, limit: Duration) -> Failure {
    let knows =
        outcome.setup_failure.is_some() || outcome.outage.is_some() || outcome.full_bulkhead.is_some();
    if !knows && !outcome.is_paused {
        outcome.outage = scheduler.stopped_server_text();
    }
    let kind = if outcome.outage.is_some() { FailureKind::NoServer } else { FailureKind::Timeout };
    let is_in_use = outcome.phase == Phase::Waiting && outcome.setup_failure.is_none();
    let held = if is_in_use && kind == FailureKind::Timeout { outcome.held } else { String::new() };
    let paused = outcome.is_paused.then(|| "the pool is paused".to_owned());
    let why = paused.or(outcome.full_bulkhead).unwrap_or(held);
    let failure = Failure::of(kind, why).in_pool(&scheduler.options.name).in_phase(outcome.phase);
    let failure = failure.at_limit(limit);
    match (outcome.setup_failure, outcome.outage) {
        (Some(setup_failure), _) => failure.caused_by(setup_failure),
        (None, Some(outage)) => failure.with_chain(&[outage]),
        (None, None) => failure,
    }
}

/// Returns the failure of a call whose limit is zero. The call takes no worker and does not end the checkout.
pub(crate) fn no_time_left() -> Failure {
    Failure::of(FailureKind::Timeout, "").in_phase(Phase::Waiting).at_limit(Duration::ZERO)
}

/// Adds to the failure of a call which call it is, and how long that has waited and run, unless the failure says so
/// already.
pub(crate) fn with_times(failure: Failure, method: &MethodInfo, times: CallTimes) -> Failure {
    if failure.call().is_some() { failure } else { times.add_to(failure, method) }
}

/// Notes how the quarantine recognizes a call, in a pool that has one.
///
/// # Errors
///
/// The answer to a call that cannot be encoded or has killed too many workers.
pub(crate) fn check_quarantine<'a, S: AnswerSlot>(
    scheduler: &Scheduler,
    call: &mut PendingCall<S>,
    payload: Payload<'a>,
) -> Result<Payload<'a>, Failure> {
    if scheduler.quarantine.is_none() {
        return Ok(payload);
    }
    let baggage = call.origin.baggage().len();
    let message = payload.into_encoded(scheduler, baggage).map_err(|problem| unencodable(&problem))?;
    let call_hash = scheduler.call_hash(call.method.index, &message);
    if let Some(refusal) = scheduler.check_quarantine(call_hash) {
        return Err(refusal);
    }
    call.call_hash = Some(call_hash);
    Ok(Payload::Encoded(message))
}

/// Counts a worker that was lost to this call, for the quarantine. `call_hash` is that of the call that ran, if one did.
pub(crate) fn count_kill(scheduler: &Scheduler, failure: &Failure, call_hash: Option<u64>) {
    let by_its_call = matches!(
        failure.kind(),
        FailureKind::Died
            | FailureKind::Panic
            | FailureKind::Hung
            | FailureKind::Timeout
            | FailureKind::Protocol
    );
    if let Some(call_hash) = call_hash.filter(|_| by_its_call) {
        scheduler.record_kill(call_hash);
    }
}
