//! How a worker exited, as reported by its server, its process handle and its output.

use std::time::Duration;

use super::worker_handle::WorkerHandle;
use super::worker_state::RetireReason;
use crate::actors::api::snapshot::EndReason;
use crate::actors::telemetry::stdio::OutputPipe;
use crate::failure::{Ending, Failure, MemoryVerdict, WorkerFacts};
use crate::wire::control::Ended;
use crate::worker::EXIT_PANICKED;

/// How long a worker's exit report is awaited after the worker has closed its channel (500 ms). A worker without a
/// report by then has closed its channel without exiting, or its server does not report its exit: see
/// [`unreported_end`].
pub(crate) const EXIT_REPORT_TIMEOUT: Duration = Duration::from_millis(500);

/// How a worker exited, as far as this is known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum ExitReport {
    /// The fork server has reaped the worker.
    Known(Ended),
    /// The worker's fork server was gone before the worker exited.
    Unknown,
    /// A user has had the worker killed. Its process may not have ended yet.
    Killed,
}

impl ExitReport {
    /// Adds to a failure which worker it concerns and how that worker exited.
    ///
    /// `memory_limit` is the worker's memory limit in bytes, if it has one.
    pub(crate) fn add_to(
        &self,
        failure: Failure,
        worker: &WorkerHandle,
        calls_served: Option<u64>,
        memory_limit: Option<u64>,
    ) -> Failure {
        let facts = worker.facts(calls_served);
        let failure =
            if self.is_kill() { failure } else { failure.with_last_words(worker.output.last_words()) };
        match self {
            ExitReport::Known(ended) => {
                let facts = WorkerFacts {
                    peak_memory: Some(ended.peak_memory),
                    cpu_time: Some(ended.cpu_time),
                    killed_for_memory: memory_verdict(ended, &worker.output, memory_limit),
                    ..facts
                };
                failure.on_worker(facts).with_ending(ended.ending)
            }
            ExitReport::Unknown => failure.on_worker(facts).with_ending(Ending::Unknown),
            ExitReport::Killed => failure.on_worker(facts),
        }
    }

    /// Returns whether SIGKILL ended the worker, so that nothing in it is known to be the cause.
    fn is_kill(&self) -> bool {
        matches!(
            self,
            ExitReport::Known(Ended { ending: Ending::Signaled { signal: libc::SIGKILL, .. }, .. })
        )
    }

    /// Returns the CPU time that the worker has used, if that was reported.
    pub(crate) fn cpu_time(&self) -> Option<Duration> {
        match self {
            ExitReport::Known(ended) => Some(ended.cpu_time),
            ExitReport::Unknown | ExitReport::Killed => None,
        }
    }

    /// Returns why the worker has ended; `retired` is why it was retired or killed, if it was.
    pub(crate) fn reason(&self, retired: Option<RetireReason>) -> EndReason {
        match retired.and_then(RetireReason::end_reason) {
            Some(reason) => reason,
            // Its holder found it broken, and the kill that followed is no reason.
            None if retired == Some(RetireReason::Broken) && self.is_kill() && !self.was_hung() => {
                EndReason::Protocol
            }
            None => match self {
                ExitReport::Unknown => EndReason::Unknown,
                ExitReport::Killed => EndReason::Killed,
                ExitReport::Known(Ended { hung: true, .. }) => EndReason::Hung,
                // It may have exited before its holder has read of the panic.
                ExitReport::Known(Ended { ending: Ending::Exited { code: EXIT_PANICKED }, .. }) => {
                    EndReason::Panic
                }
                ExitReport::Known(Ended { ending: Ending::Exited { .. }, .. }) => EndReason::Exit,
                ExitReport::Known(Ended { ending: Ending::Signaled { .. }, .. }) => EndReason::Signal,
                ExitReport::Known(Ended { ending: Ending::Unknown, .. }) => EndReason::Unknown,
            },
        }
    }

    /// Returns whether the server's watchdog killed the worker because its call ran for too long.
    pub(crate) fn was_hung(&self) -> bool {
        matches!(self, ExitReport::Known(Ended { hung: true, .. }))
    }

    /// Returns whether the worker had begun a call of its current checkout; `None` if the report does not include that.
    pub(crate) fn had_begun(&self) -> Option<bool> {
        match self {
            ExitReport::Known(ended) => ended.status.as_ref().map(|status| status.begun),
            ExitReport::Unknown | ExitReport::Killed => None,
        }
    }
}

/// Says of a worker whose channel has ended, but whose exit was not reported, what is known of its process.
pub(crate) fn unreported_end(is_running: Option<bool>) -> &'static str {
    match is_running {
        Some(true) => "closed its channel and was killed",
        Some(false) => "ended its process, and its server has not reported how",
        None => "ended its channel, and its server has not reported an exit: it was killed in case it ran on",
    }
}

/// What programs in Rust, C++ and C print when an allocation fails.
const OUT_OF_MEMORY: [&str; 4] =
    ["memory allocation of ", "bad_alloc", "Cannot allocate memory", "out of memory"];

/// Returns which memory limit ended a worker, if one did.
///
/// At the worker's own limit an allocation fails, and the program decides what follows. Most programs print a message
/// and abort, so the message is what this looks for. SIGKILL is no such decision.
fn memory_verdict(ended: &Ended, output: &OutputPipe, memory_limit: Option<u64>) -> Option<MemoryVerdict> {
    if ended.out_of_memory {
        return Some(MemoryVerdict::OutOfMemoryKiller);
    }
    let by_itself =
        !matches!(ended.ending, Ending::Signaled { signal: libc::SIGKILL, .. } | Ending::Exited { code: 0 });
    let limit = memory_limit.filter(|_| by_itself)?;
    output.tail_contains(&OUT_OF_MEMORY).then_some(MemoryVerdict::OwnLimit { limit })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// M1: what the pool decided is the reason of an end, and its exit is if that was the worker's own.
    #[test]
    fn an_end_counts_under_the_reason_of_the_pool_or_as_the_exit_that_it_was() {
        let signaled = |signal| Ending::Signaled { signal, core_dumped: false };
        let report = |ending, hung| {
            let (peak_memory, cpu_time) = (0, Duration::from_secs(1));
            let (out_of_memory, status) = (false, None);
            ExitReport::Known(Ended { number: 1, ending, peak_memory, cpu_time, hung, out_of_memory, status })
        };
        let killed = report(signaled(libc::SIGKILL), false);
        let exited = report(Ending::Exited { code: 3 }, false);
        let table = [
            (&exited, None, EndReason::Exit),
            (&killed, None, EndReason::Signal),
            (&report(Ending::Exited { code: EXIT_PANICKED }, false), None, EndReason::Panic),
            (&report(signaled(libc::SIGKILL), true), None, EndReason::Hung),
            (&ExitReport::Unknown, None, EndReason::Unknown),
            (&killed, Some(RetireReason::TimedOut), EndReason::Timeout),
            (&exited, Some(RetireReason::IdleTimeout), EndReason::Idle),
            (&ExitReport::Unknown, Some(RetireReason::PoolEnds), EndReason::Pool),
            (&killed, Some(RetireReason::Died), EndReason::Signal),
            (&killed, Some(RetireReason::Broken), EndReason::Protocol),
            (&exited, Some(RetireReason::Broken), EndReason::Exit),
        ];
        for (report, retired, expected) in table {
            assert_eq!(report.reason(retired), expected, "{report:?}, {retired:?}");
        }
        assert_eq!((killed.cpu_time(), ExitReport::Unknown.cpu_time()), (Some(Duration::from_secs(1)), None));
    }

    /// G8
    #[test]
    fn a_worker_is_said_to_have_closed_its_channel_only_if_its_process_is_still_there() {
        for is_running in [Some(true), Some(false), None] {
            let text = unreported_end(is_running);
            assert_eq!(text.contains("closed its channel"), is_running == Some(true), "{text}");
            assert_eq!(text.contains("has not reported"), is_running != Some(true), "{text}");
        }
    }
}
