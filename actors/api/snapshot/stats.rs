//! The cheap part of a snapshot.

use serde::Serialize;

use super::Histogram;
use crate::failure::FailureKind;

/// What a pool is doing at one moment, and its totals since its start, in few numbers.
/// [`PoolHandle::stats`](crate::PoolHandle::stats) returns it; a [`Snapshot`](crate::Snapshot) has all that is known.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Stats {
    /// Workers being forked or set up.
    pub starting: usize,
    /// Workers that no checkout holds.
    pub idle: usize,
    /// Workers held by checkouts.
    pub leased: usize,
    /// Workers that are to exit and are not reaped yet.
    pub ending: usize,
    /// Checkouts that wait for a worker, and calls to the pool that no worker has begun.
    pub waiting: usize,
    /// Bytes of `blob_memory` that the blobs of calls occupy, in whole pages; blobs of results do not count.
    pub blob_bytes: usize,
    /// Process ids of the living workers, by number.
    pub pids: Vec<u32>,
    /// Workers forked since the start.
    pub forked: u64,
    /// Checkouts that received a worker since the start. Each call to the pool counts as one, once it is the first of its
    /// worker.
    pub checkouts: u64,
    /// Calls answered `Ok`.
    pub succeeded: u64,
    /// Calls answered with an `Err` of their handler.
    pub errors: u64,
    /// Calls answered with a failure, by kind; kinds that never occurred are left out.
    pub failures: Vec<(FailureKind, u64)>,
    /// Replies whose requester had stopped waiting.
    pub unheard: u64,
    /// Time from when a call is first in its queue until a worker has it.
    pub waited: Histogram,
    /// Time from when a worker has a call until it is answered.
    pub ran: Histogram,
}

impl Stats {
    /// Returns the number of worker processes in any state.
    pub fn workers(&self) -> usize {
        self.starting + self.idle + self.leased + self.ending
    }

    /// Returns how many calls were answered with a failure of this kind.
    pub fn failures_of(&self, kind: FailureKind) -> u64 {
        self.failures.iter().find(|(known, _)| *known == kind).map_or(0, |(_, count)| *count)
    }
}
