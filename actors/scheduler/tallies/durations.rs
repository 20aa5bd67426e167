//! A histogram that is counted without a lock.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::tally::bump;
use crate::actors::api::snapshot::{BUCKETS, Histogram};

/// Durations, counted in buckets, with their sum.
pub(super) struct DurationTally {
    buckets: [AtomicU64; BUCKETS],
    nanos: AtomicU64,
}

impl Default for DurationTally {
    fn default() -> Self {
        DurationTally { buckets: [const { AtomicU64::new(0) }; BUCKETS], nanos: AtomicU64::new(0) }
    }
}

impl DurationTally {
    /// Adds a duration. Only one thread at a time may call this.
    #[inline]
    pub(super) fn add(&self, duration: Duration) {
        let nanos = nanos(duration);
        bump(&self.buckets[bucket_of(nanos)], 1);
        bump(&self.nanos, nanos);
    }

    /// Adds a duration, from any thread.
    pub(super) fn add_contended(&self, duration: Duration) {
        let nanos = nanos(duration);
        self.buckets[bucket_of(nanos)].fetch_add(1, Ordering::Relaxed);
        self.nanos.fetch_add(nanos, Ordering::Relaxed);
    }

    /// Adds what another tally has counted, from any thread.
    pub(super) fn absorb(&self, other: &Self) {
        for (own, other) in self.buckets.iter().zip(&other.buckets) {
            own.fetch_add(other.load(Ordering::Relaxed), Ordering::Relaxed);
        }
        self.nanos.fetch_add(other.nanos.load(Ordering::Relaxed), Ordering::Relaxed);
    }

    pub(super) fn add_to(&self, histogram: &mut Histogram) {
        let counts = self.buckets.iter().map(|count| count.load(Ordering::Relaxed));
        histogram.add(counts, Duration::from_nanos(self.nanos.load(Ordering::Relaxed)));
    }

    pub(super) fn read(&self) -> Histogram {
        let mut histogram = Histogram::default();
        self.add_to(&mut histogram);
        histogram
    }
}

/// Returns the nanoseconds of a duration; one of more than five centuries counts as that.
#[inline]
pub(super) fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[inline]
fn bucket_of(nanos: u64) -> usize {
    let micros = nanos / 1000;
    ((u64::BITS - micros.leading_zeros()) as usize).min(BUCKETS - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_falls_below_the_end_of_its_bucket() {
        let tally = DurationTally::default();
        [0, 1, 3, 1000].into_iter().for_each(|micros| tally.add(Duration::from_micros(micros)));
        let histogram = tally.read();
        assert_eq!((histogram.count(), histogram.sum()), (4, Duration::from_micros(1004)));
        assert_eq!(histogram.quantile(0.25), Some(Duration::from_micros(1)));
        assert_eq!(histogram.quantile(0.5), Some(Duration::from_micros(2)));
        assert_eq!(histogram.quantile(0.75), Some(Duration::from_micros(4)));
        assert_eq!(histogram.quantile(1.0), Some(Duration::from_micros(1024)));
    }

    #[test]
    fn an_endless_duration_falls_into_the_last_bucket() {
        let tally = DurationTally::default();
        tally.add_contended(Duration::MAX);
        assert_eq!(tally.read().buckets().last(), Some((None, 1)));
    }
}
