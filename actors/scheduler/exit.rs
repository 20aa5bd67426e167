//! How a worker exited, as reported by its server, its process handle and its output.

use std::time::Duration;

use super::worker_handle::WorkerHandle;
use crate::actors::telemetry::stdio::OutputPipe;
use crate::failure::{Ending, Failure, MemoryVerdict, WorkerFacts};
use crate::wire::control::Ended;

/// How long a worker's exit report is awaited after the worker has closed its channel (500 ms). A worker without a
/// report by then has closed its channel without exiting.
pub(crate) const EXIT_REPORT_TIMEOUT: Duration = Duration::from_millis(500);

/// How a worker exited, as far as this is known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum ExitReport {
    /// The fork server has reaped the worker.
    Known(Ended),
    /// The worker's fork server was gone before the worker exited.
    Unknown,
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
            ExitReport::Unknown => None,
        }
    }
}

/// What programs in Rust, C++ and C print when an allocation fails.
const OUT_OF_MEMORY: [&str; 4] =
    ["memory allocation of ", "bad_alloc", "Cannot allocate memory", "out of memory"];

/// Returns which memory limit ended a worker, if one did.
///
/// At the worker's own limit an allocation fails, and the program decides what follows. Most programs print a message
/// and abort, so the message is what this looks for.
fn memory_verdict(ended: &Ended, output: &OutputPipe, memory_limit: Option<u64>) -> Option<MemoryVerdict> {
    if ended.out_of_memory {
        return Some(MemoryVerdict::OutOfMemoryKiller);
    }
    let limit = memory_limit.filter(|_| ended.ending != Ending::Exited { code: 0 })?;
    output.tail_contains(&OUT_OF_MEMORY).then_some(MemoryVerdict::OwnLimit { limit })
}
