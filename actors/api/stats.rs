//! The live view of a pool.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::failure::{FailureKind, KIND_NAMES};

/// Buckets of a histogram: one for every power of two microseconds up to about 36 minutes, and one above.
const BUCKETS: usize = 32;

/// What a pool is doing at one moment, and what it has done since its start.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stats {
    /// Workers being forked or set up.
    pub starting: usize,
    /// Workers nobody holds.
    pub idle: usize,
    /// Workers held by checkouts.
    pub leased: usize,
    /// Workers that are ending and not yet gone.
    pub ending: usize,
    /// Checkouts waiting for a worker.
    pub waiting: usize,
    /// Bytes of `blob_memory` that blobs of calls have, in whole pages; those of results are not counted.
    pub blob_bytes: usize,
    /// Process ids of the living workers, by number.
    pub pids: Vec<u32>,
    /// Workers forked since the start.
    pub forked: u64,
    /// Checkouts that were given a worker since the start.
    pub checkouts: u64,
    /// Calls that were answered `Ok`.
    pub succeeded: u64,
    /// Calls that were answered with an `Err` of the handler's own.
    pub errors: u64,
    /// Calls that were answered with a failure, by its kind; kinds that never occurred are left out.
    pub failures: Vec<(FailureKind, u64)>,
    /// Replies that nobody waited for any more.
    pub unheard: u64,
    /// Time from a call's first place in its queue until a worker had it.
    pub waited: Histogram,
    /// Time from then until it was answered.
    pub ran: Histogram,
}

impl Stats {
    /// Worker processes there are, whatever their state.
    pub fn workers(&self) -> usize {
        self.starting + self.idle + self.leased + self.ending
    }

    /// How many calls were answered with a failure of this kind.
    pub fn failures_of(&self, kind: FailureKind) -> u64 {
        self.failures.iter().find(|(known, _)| *known == kind).map_or(0, |(_, count)| *count)
    }
}

/// How often durations fell between two powers of two microseconds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Histogram {
    counts: Vec<u64>,
}

impl Histogram {
    /// How many durations were counted.
    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// The buckets as their upper ends (exclusive; `None` for the last, which has none) and counts.
    pub fn buckets(&self) -> impl Iterator<Item = (Option<Duration>, u64)> {
        let last = self.counts.len().saturating_sub(1);
        let end = move |at: usize| (at < last).then(|| Duration::from_micros(1 << at));
        self.counts.iter().enumerate().map(move |(at, &count)| (end(at), count))
    }

    /// The upper end of the bucket in which this part (0 to 1) of all durations is reached, or `None` where
    /// nothing was counted or the last bucket is meant.
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

/// A histogram that any thread may add to.
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

/// What is counted as it happens, by whichever thread it happens on.
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
    pub(crate) fn forked(&self) {
        self.forked.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn granted(&self) {
        self.checkouts.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn succeeded(&self) {
        self.succeeded.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn erred(&self) {
        self.errors.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn answered_with(&self, kind: FailureKind) {
        if let Some(at) = KIND_NAMES.iter().position(|(known, _)| *known == kind) {
            self.failures[at].fetch_add(1, Ordering::Relaxed);
        }
    }

    pub(crate) fn unheard(&self) {
        self.unheard.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn waited(&self, duration: Duration) {
        self.waited.add(duration);
    }

    pub(crate) fn ran(&self, duration: Duration) {
        self.ran.add(duration);
    }

    /// A checkout gave its worker back after this long.
    pub(crate) fn held(&self, duration: Duration) {
        let micros = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
        // A moving average over about eight checkouts; a lost update among threads does no harm to an estimate.
        let before = self.held_micros.load(Ordering::Relaxed);
        let after = if before == 0 { micros } else { before - before / 8 + micros / 8 };
        self.held_micros.store(after, Ordering::Relaxed);
    }

    /// How long a checkout has held its worker of late.
    pub(crate) fn usual_hold(&self) -> Duration {
        Duration::from_micros(self.held_micros.load(Ordering::Relaxed))
    }

    /// Everything counted here; what the ledger knows is left at its default.
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
