//! A pool's histogram as it is exported.

use std::time::Duration;

use crate::actors::api::snapshot::Histogram;

/// Upper ends of the buckets that are exported, in microseconds: every second power of two from 16 µs to 67 s, and then
/// 134 s. A pool counts in powers of two, so no count is split; all of them would be 32 lines for each message.
const ENDS: [u64; 13] = [
    1 << 4,
    1 << 6,
    1 << 8,
    1 << 10,
    1 << 12,
    1 << 14,
    1 << 16,
    1 << 18,
    1 << 20,
    1 << 22,
    1 << 24,
    1 << 26,
    1 << 27,
];

/// Returns the upper end of each bucket in seconds, the last of which has none, and how many durations are in this bucket
/// alone.
pub(super) fn exported(histogram: &Histogram) -> Vec<(f64, u64)> {
    let ends = ENDS.map(|micros| Some(Duration::from_micros(micros)));
    let mut buckets: Vec<(Option<Duration>, u64)> =
        ends.into_iter().chain([None]).map(|end| (end, 0)).collect();
    for (upper, count) in histogram.buckets() {
        let fits = |end: Option<Duration>| end.is_none() || upper.is_some_and(|upper| end >= Some(upper));
        if let Some((_, sum)) = buckets.iter_mut().find(|(end, _)| fits(*end)) {
            *sum += count;
        }
    }
    buckets
        .into_iter()
        .map(|(end, count)| (end.map_or(f64::INFINITY, |end| end.as_secs_f64()), count))
        .collect()
}

/// Returns the middle of each of the pool's own buckets, in seconds, and how many durations are in it.
#[cfg(feature = "metrics")]
pub(super) fn middles(histogram: &Histogram) -> Vec<(f64, u64)> {
    let mut lower = 0.0;
    let middle = |(end, count): (Option<Duration>, u64)| {
        let upper = end.map_or(2.0 * lower, |end| end.as_secs_f64());
        let middle = f64::midpoint(lower, upper);
        lower = upper;
        (middle, count)
    };
    histogram.buckets().map(middle).collect()
}
