//! Durations, counted in buckets.

use std::time::Duration;

use serde::ser::SerializeStruct;
use serde::{Serialize, Serializer};

use super::seconds;

/// Buckets of a histogram: one for every power of two microseconds up to about 36 minutes, and one above.
pub(crate) const BUCKETS: usize = 32;

/// Durations, counted in buckets that end at powers of two microseconds, with their sum.
///
/// It is serialized as `count`, `sum` in seconds, and `buckets`: the end of each bucket that is not empty, in seconds, and
/// its count. The last bucket of all has no end.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Histogram {
    counts: Vec<u64>,
    sum: Duration,
}

impl Histogram {
    /// Adds counts, one for each bucket, and the sum of what they count.
    pub(crate) fn add(&mut self, counts: impl ExactSizeIterator<Item = u64>, sum: Duration) {
        self.counts.resize(self.counts.len().max(counts.len()), 0);
        self.counts.iter_mut().zip(counts).for_each(|(total, count)| *total = total.wrapping_add(count));
        self.sum = self.sum.saturating_add(sum);
    }

    /// Adds what another histogram counts.
    pub(crate) fn merge(&mut self, other: &Histogram) {
        self.add(other.counts.iter().copied(), other.sum);
    }

    /// Returns how many durations were counted.
    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// Returns the sum of the durations that were counted.
    pub fn sum(&self) -> Duration {
        self.sum
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

impl Serialize for Histogram {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let filled = self.buckets().filter(|(_, count)| *count > 0);
        let buckets: Vec<_> = filled.map(|(end, count)| (end.map(seconds::of), count)).collect();
        let mut fields = serializer.serialize_struct("Histogram", 3)?;
        fields.serialize_field("count", &self.count())?;
        fields.serialize_field("sum", &seconds::of(self.sum))?;
        fields.serialize_field("buckets", &buckets)?;
        fields.end()
    }
}
