//! What a pool is doing, in numbers.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::failure::{FailureKind, KIND_NAMES};

/// Buckets of a histogram: one for every power of two microseconds up to about 36 minutes, and one above.
const BUCKETS: usize = 32;

/// What a pool is doing at one moment, and its totals since its start. [`PoolHandle::stats`](crate::PoolHandle::stats)
/// returns it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
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
    /// Checkouts that received a worker since the start; each call to the pool counts as one.
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

/// Durations, counted in buckets that end at powers of two microseconds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Histogram {
    counts: Vec<u64>,
}

impl Histogram {
    /// Returns how many durations were counted.
    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// Returns the upper end (exclusive; `None` for the last bucket, which has none) and the count of each bucket.
    pub fn buckets(&self) -> impl Iterator<Item = (Option<Duration>, u64)> {
        let last = self.counts.len().saturating_sub(1);
        let end = move |at: usize| (at < last).then(|| Duration::from_micros(1 << at));
        self.counts.iter().enumerate().map(move |(at, &count)| (end(at), count))
    }

    /// Returns the upper end of the bucket in which this part (0 to 1) of all durations is reached; `None` if nothing was
    /// counted, or if it is the last bucket.
    pub fn quantile(&self, part: f64) -> Option<Duration> {
        let wanted = (self.count() as f64 * part.clamp(0.0, 1.0)).ceil().max(1.0) as u64;
        let mut seen = 0;
        self.buckets()
            .find(|(_, count)| {
                seen += count;
                seen >= wanted
            })
            .and_then(|(end, _)| end)
    }
}

/// A histogram to which any thread may add.
struct BucketCounts([AtomicU64; BUCKETS]);

impl Default for BucketCounts {
    fn default() -> Self {
        BucketCounts([const { AtomicU64::new(0) }; BUCKETS])
    }
}

impl BucketCounts {
    fn add(&self, duration: Duration) {
        let micros = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
        let bucket = (u64::BITS - micros.leading_zeros()) as usize;
        self.0[bucket.min(BUCKETS - 1)].fetch_add(1, Ordering::Relaxed);
    }

    fn snapshot(&self) -> Histogram {
        Histogram { counts: self.0.iter().map(|count| count.load(Ordering::Relaxed)).collect() }
    }
}

/// The totals of a pool, counted by any thread.
#[derive(Default)]
pub(crate) struct Totals {
    forked: AtomicU64,
    checkouts: AtomicU64,
    succeeded: AtomicU64,
    errors: AtomicU64,
    failures: [AtomicU64; KIND_NAMES.len()],
    unheard: AtomicU64,
    waited: BucketCounts,
    ran: BucketCounts,
    held_micros: AtomicU64,
}

impl Totals {
    pub(crate) fn count_fork(&self) {
        self.forked.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn count_checkout(&self) {
        self.checkouts.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn add_checkouts(&self, count: usize) {
        self.checkouts.fetch_add(count as u64, Ordering::Relaxed);
    }

    /// Takes back what was counted too much.
    pub(crate) fn take_checkouts(&self, count: usize) {
        self.checkouts.fetch_sub(count as u64, Ordering::Relaxed);
    }

    pub(crate) fn count_success(&self) {
        self.succeeded.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn count_error(&self) {
        self.errors.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn count_failure(&self, kind: FailureKind) {
        if let Some(at) = KIND_NAMES.iter().position(|(known, _)| *known == kind) {
            self.failures[at].fetch_add(1, Ordering::Relaxed);
        }
    }

    pub(crate) fn count_unheard(&self) {
        self.unheard.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn add_wait(&self, duration: Duration) {
        self.waited.add(duration);
    }

    pub(crate) fn add_run(&self, duration: Duration) {
        self.ran.add(duration);
    }

    /// Counts a checkout that held its worker for this long, however that ended.
    pub(crate) fn add_hold(&self, duration: Duration) {
        let micros = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
        // A moving average over about eight checkouts; a lost update among threads does no harm to an estimate.
        let before = self.held_micros.load(Ordering::Relaxed);
        let after = if before == 0 { micros } else { before - before / 8 + micros / 8 };
        self.held_micros.store(after, Ordering::Relaxed);
    }

    /// Returns how long recent checkouts held their worker.
    pub(crate) fn usual_hold(&self) -> Duration {
        Duration::from_micros(self.held_micros.load(Ordering::Relaxed))
    }

    /// Returns everything that is counted here; what the pool state knows is left at its default.
    pub(crate) fn snapshot(&self) -> Stats {
        let load = |count: &AtomicU64| count.load(Ordering::Relaxed);
        let failures = KIND_NAMES.into_iter().map(|(kind, _)| kind).zip(self.failures.iter().map(load));
        Stats {
            forked: load(&self.forked),
            checkouts: load(&self.checkouts),
            succeeded: load(&self.succeeded),
            errors: load(&self.errors),
            failures: failures.filter(|(_, count)| *count > 0).collect(),
            unheard: load(&self.unheard),
            waited: self.waited.snapshot(),
            ran: self.ran.snapshot(),
            ..Stats::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_falls_below_the_end_of_its_bucket() {
        let counts = BucketCounts::default();
        [0, 1, 3, 1000].into_iter().for_each(|micros| counts.add(Duration::from_micros(micros)));
        let histogram = counts.snapshot();
        assert_eq!(histogram.count(), 4);
        assert_eq!(histogram.quantile(0.25), Some(Duration::from_micros(1)));
        assert_eq!(histogram.quantile(0.5), Some(Duration::from_micros(2)));
        assert_eq!(histogram.quantile(0.75), Some(Duration::from_micros(4)));
        assert_eq!(histogram.quantile(1.0), Some(Duration::from_micros(1024)));
    }

    #[test]
    fn an_endless_duration_falls_into_the_last_bucket() {
        let counts = BucketCounts::default();
        counts.add(Duration::MAX);
        assert_eq!(counts.snapshot().buckets().last(), Some((None, 1)));
    }
}
