//! What a pool is doing, in full: [`Snapshot`] and its parts.
//!
//! All parts are plain data. They serialize with durations as seconds: those of workers to the millisecond, all others to the
//! microsecond.

mod end_reason;
mod failure_summary;
mod histogram;
mod holder;
mod seconds;
mod stats;
#[cfg(test)]
mod tests;

use std::time::Duration;

use serde::Serialize;

use crate::failure::FailureKind;
pub use end_reason::EndReason;
pub use failure_summary::FailureSummary;
pub(crate) use histogram::BUCKETS;
pub use histogram::Histogram;
pub use holder::Holder;
pub use stats::Stats;

/// What a pool is doing at one moment, and its totals since its start.
/// [`PoolHandle::snapshot`](crate::PoolHandle::snapshot) returns it.
///
/// Numbers that count never fall. While calls run, they may be of slightly different moments; once all answers have
/// arrived, they are exact. As JSON it has less than 64 KiB for 200 workers and eight messages, of which each adds up to 1 KiB.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Snapshot {
    /// The pool's name.
    pub pool: String,
    /// Whether the pool serves, or comes to its end.
    pub status: PoolStatus,
    /// How long ago the pool was started.
    #[serde(serialize_with = "seconds::duration")]
    pub uptime: Duration,
    /// The workers that are forked and not reaped, by number.
    pub workers: Vec<WorkerSnapshot>,
    /// How many workers are in which state, those among them that are requested and not forked yet.
    pub counts: WorkerCounts,
    /// The pool's limits.
    pub limits: Limits,
    /// What waits for a worker.
    pub queue: QueueSnapshot,
    /// Whether the pool is [paused](crate::PoolHandle::pause).
    pub paused: bool,
    /// Totals since the start.
    pub totals: Totals,
    /// Totals of each message of the interface that was called at least once, in the order of the interface.
    pub calls: Vec<CallTotals>,
    /// How long checkouts held their worker; a call to the pool holds its worker while it runs.
    pub hold: Histogram,
    /// How long workers took from the request for them until they were set up.
    pub start: Histogram,
    /// Who holds a worker: the 32 that have held one for longest, these first.
    pub holders: Vec<Holder>,
    /// Bytes of `blob_memory` that the blobs of calls occupy, in whole pages; blobs of results do not count.
    pub blob_bytes: usize,
    /// The last 32 failures of calls, the oldest first.
    pub failures: Vec<FailureSummary>,
    /// The pool's fork server, if it is known: a server on another machine is not.
    pub servers: Vec<ServerSnapshot>,
}

/// Whether a pool serves, or comes to its end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum PoolStatus {
    /// It takes checkouts and calls; it may be [paused](crate::PoolHandle::pause).
    #[default]
    Open,
    /// Its last handle was dropped: it serves the checkouts that it has, and takes no others.
    Closing,
    /// It was stopped, or what ran it has ended: no checkout gets a worker any more.
    Stopping,
    /// It takes nothing, and its last worker is reaped.
    Stopped,
}

/// Where a worker is in its life.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum WorkerStatus {
    /// It is being set up.
    #[default]
    Starting,
    /// No checkout holds it.
    Idle,
    /// A checkout holds it.
    Leased,
    /// It is to exit, and is not reaped yet.
    Ending,
}

/// One worker.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[non_exhaustive]
pub struct WorkerSnapshot {
    /// Its number in the pool, counted from 1.
    pub number: u64,
    /// Its process id; for a worker on another machine or in another PID namespace it is an id there.
    pub pid: u32,
    /// Where it is in its life.
    pub state: WorkerStatus,
    /// How long ago it was forked.
    #[serde(serialize_with = "seconds::rough")]
    pub age: Duration,
    /// Checkouts that it has served, the current one included; each call to the pool counts as one. Those of a thread that
    /// makes calls to the pool are counted when it gives the worker back.
    pub checkouts: u64,
    /// Calls that it has answered.
    pub calls: u64,
    /// The name of the message that it is to answer next, if it has a call.
    pub call: Option<&'static str>,
    /// How long it has had that call as the next.
    #[serde(serialize_with = "seconds::optional_rough")]
    pub running_for: Option<Duration>,
    /// Its private memory in bytes at its last release. Workers measure it in a pool with `max_memory`.
    pub private_bytes: Option<u64>,
    /// CPU time that its process has used; `None` if this process cannot see it, for example on another machine.
    #[serde(serialize_with = "seconds::optional_rough")]
    pub cpu_time: Option<Duration>,
}

/// How many workers are in which state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct WorkerCounts {
    /// Workers that are requested, being forked or being set up.
    pub starting: usize,
    /// Workers that no checkout holds.
    pub idle: usize,
    /// Workers held by checkouts.
    pub leased: usize,
    /// Workers that are to exit and are not reaped yet.
    pub ending: usize,
}

/// The limits of a pool, as its options set them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Limits {
    /// The fewest workers.
    pub min_workers: usize,
    /// The most workers.
    pub max_workers: usize,
    /// Workers kept ready beside those in use.
    pub spare_workers: usize,
    /// How many checkouts and calls may wait; `None` is no limit.
    pub max_waiting: Option<usize>,
    /// How many checkouts a worker serves; `None` is no limit.
    pub max_checkouts: Option<u64>,
    /// How much private memory a worker may have after a checkout, in bytes; `None` is no limit.
    pub max_memory: Option<u64>,
    /// How old a worker may become; `None` is no limit.
    #[serde(serialize_with = "seconds::optional")]
    pub max_lifetime: Option<Duration>,
    /// How long a call may take; `None` is no limit.
    #[serde(serialize_with = "seconds::optional")]
    pub timeout: Option<Duration>,
    /// Bytes for the blobs of calls; 0 if blobs are copied into their messages.
    pub blob_memory: usize,
}

/// What waits for a worker.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[non_exhaustive]
pub struct QueueSnapshot {
    /// Checkouts that wait for a worker, and calls to the pool that no worker has begun.
    pub length: usize,
    /// How long the one has waited that is served first, of all threads' calls and the checkouts.
    #[serde(serialize_with = "seconds::optional")]
    pub oldest: Option<Duration>,
}

/// Totals of a pool since its start.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Totals {
    /// Workers forked.
    pub forked: u64,
    /// Checkouts that received a worker. Each call to the pool counts as one, once it is the first of its worker.
    pub checkouts: u64,
    /// How often a fork server was there for the pool: started, or connected to.
    pub server_starts: u64,
    /// How often a message was put into quarantine, see [`max_kills`](crate::PoolBuilder::max_kills).
    pub quarantined: u64,
    /// Replies whose requester had stopped waiting.
    pub unheard: u64,
    /// Workers that have ended, by reason; reasons that never occurred are left out. Together with the living workers they
    /// are all that were forked.
    pub ends: Vec<(EndReason, u64)>,
    /// CPU time of the workers that have ended, as far as their server has reported it.
    #[serde(serialize_with = "seconds::duration")]
    pub cpu_time: Duration,
}

impl Totals {
    /// Returns how many workers have ended for this reason.
    pub fn ends_of(&self, reason: EndReason) -> u64 {
        self.ends.iter().find(|(known, _)| *known == reason).map_or(0, |(_, count)| *count)
    }
}

/// Totals of one message of the interface.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[non_exhaustive]
pub struct CallTotals {
    /// The message's name.
    pub name: String,
    /// Calls answered `Ok`.
    pub succeeded: u64,
    /// Calls answered with an `Err` of their handler.
    pub errors: u64,
    /// Calls answered with a failure, by kind; kinds that never occurred are left out.
    pub failures: Vec<(FailureKind, u64)>,
    /// Time from when a call is first in its queue until a worker has it.
    pub wait: Histogram,
    /// Time from when a worker has a call until it is answered.
    pub run: Histogram,
}

/// The fork server of a pool.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct ServerSnapshot {
    /// The process id of the pool's own server while it is up.
    pub pid: Option<u32>,
    /// Why the server is missing; `None` while it is there.
    pub outage: Option<String>,
}
