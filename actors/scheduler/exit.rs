//! How a worker ended, as far as its server, its process handle or its output show.

use std::time::Duration;

use super::worker_handle::WorkerHandle;
use crate::actors::telemetry::stdio::OutputPipe;
use crate::failure::{Ending, Failure, MemoryVerdict, WorkerFacts};
use crate::wire::control::Ended;

/// How long after a worker closed its channel news of its death is waited for; one of which there is none by then
/// has closed it and lives on.
pub(crate) const EXIT_REPORT_PATIENCE: Duration = Duration::from_millis(500);

/// How a worker ended, as far as anybody saw.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum ExitReport {
    Seen(Ended),
    /// Its fork server was gone before it.
    Unseen,
}

impl ExitReport {
    /// Notes in a failure whom it is about and how that one ended; `memory_limit` is what it was bound to.
    pub(crate) fn note_in(
        &self,
        failure: Failure,
        worker: &WorkerHandle,
        calls_served: Option<u64>,
        memory_limit: Option<u64>,
    ) -> Failure {
        let facts = worker.facts(calls_served);
        match self {
            ExitReport::Seen(ended) => {
                let facts = WorkerFacts {
                    peak_memory: Some(ended.peak_memory),
                    cpu_time: Some(ended.cpu_time),
                    killed_for_memory: verdict(ended, &worker.output, memory_limit),
                    ..facts
                };
                failure.on_worker(facts).with_ending(ended.ending)
            }
            ExitReport::Unseen => failure.on_worker(facts).with_ending(Ending::Unknown),
        }
    }

    /// Whether its server killed it because its call ran for too long.
    pub(crate) fn was_hung(&self) -> bool {
        matches!(self, ExitReport::Seen(Ended { hung: true, .. }))
    }

    /// Whether a call of the checkout at hand had begun, as far as this tells.
    pub(crate) fn had_begun(&self) -> Option<bool> {
        match self {
            ExitReport::Seen(ended) => ended.remains.as_ref().map(|remains| remains.begun),
            ExitReport::Unseen => None,
        }
    }
}

/// What Rust, C++ and the C library say where there is no memory.
const OUT_OF_MEMORY: [&str; 4] =
    ["memory allocation of ", "bad_alloc", "Cannot allocate memory", "out of memory"];

/// What ended a worker for its memory, if that did. At a limit of its own an allocation fails, and what follows from
/// that is the program's own affair: most say so and abort.
fn verdict(ended: &Ended, output: &OutputPipe, memory_limit: Option<u64>) -> Option<MemoryVerdict> {
    if ended.out_of_memory {
        return Some(MemoryVerdict::OutOfMemoryKiller);
    }
    let limit = memory_limit.filter(|_| ended.ending != Ending::Exited { code: 0 })?;
    output.said_last(&OUT_OF_MEMORY).then_some(MemoryVerdict::OwnLimit { limit })
}
