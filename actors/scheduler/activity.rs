//! What the holder of a worker shows of it to others, without a lock.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::clock::Instant;

/// Bits of a part of a second, in units of 1,024 ns.
const PART_BITS: u32 = 20;

/// Bits of the time since the pool's start, whole seconds and a part: they last for eight years.
const TIME_BITS: u32 = 28 + PART_BITS;

/// What a worker does. The thread of its holder writes, and any thread reads.
pub(crate) struct Activity {
    /// When the pool was started.
    pool_start: Instant,
    /// The index of the message that is the next to be answered, counted from 1, above the time since when that is so; 0
    /// without one. Both in one word, so that no reader sees a message with another one's time.
    running: AtomicU64,
    calls_served: AtomicU64,
    /// Private memory at the last release; `u64::MAX` if it was not measured.
    private_bytes: AtomicU64,
}

impl Activity {
    pub(crate) fn new(pool_start: Instant) -> Self {
        Activity {
            pool_start,
            running: AtomicU64::new(0),
            calls_served: AtomicU64::new(0),
            private_bytes: AtomicU64::new(u64::MAX),
        }
    }

    /// Shows which call is the next to be answered and since when; `None` for a worker without a call.
    #[inline]
    pub(crate) fn show_running(&self, call: Option<(u32, Instant)>) {
        let word = call.map_or(0, |(method, since)| {
            let since = since.saturating_duration_since(self.pool_start);
            let time = since.as_secs() << PART_BITS | u64::from(since.subsec_nanos() >> 10);
            // An interface has fewer messages than fit: each is a line of source text.
            (u64::from(method) + 1) << TIME_BITS | time & ((1 << TIME_BITS) - 1)
        });
        self.running.store(word, Ordering::Relaxed);
    }

    /// Returns the index of the message that is the next to be answered, and how long it has been that.
    pub(crate) fn running(&self, now: Instant) -> Option<(usize, Duration)> {
        let word = self.running.load(Ordering::Relaxed);
        let method = (word >> TIME_BITS).checked_sub(1)?;
        let time = word & ((1 << TIME_BITS) - 1);
        // The cast takes the part of a second alone.
        let part = (time & ((1 << PART_BITS) - 1)) as u32;
        let since = Duration::new(time >> PART_BITS, part << 10);
        let running_for = now.saturating_duration_since(self.pool_start).saturating_sub(since);
        Some((usize::try_from(method).ok()?, running_for))
    }

    /// Returns how many calls the worker has answered.
    #[inline]
    pub(crate) fn calls_served(&self) -> u64 {
        self.calls_served.load(Ordering::Relaxed)
    }

    #[inline]
    pub(crate) fn set_calls_served(&self, calls: u64) {
        self.calls_served.store(calls, Ordering::Relaxed);
    }

    pub(crate) fn private_bytes(&self) -> Option<u64> {
        Some(self.private_bytes.load(Ordering::Relaxed)).filter(|&bytes| bytes != u64::MAX)
    }

    /// Notes what the worker has measured at its release.
    pub(crate) fn set_private_bytes(&self, bytes: Option<u64>) {
        if let Some(bytes) = bytes {
            self.private_bytes.store(bytes, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// M1
    #[test]
    fn the_running_call_is_read_back_with_its_time() {
        let start = Instant::now();
        let activity = Activity::new(start);
        let at = |nanos| start + Duration::from_nanos(nanos);
        assert_eq!(activity.running(start), None);
        for (method, since) in [(0, 0), (3, 999_999_999), (65_534, 86_400_000_000_001)] {
            activity.show_running(Some((method, at(since))));
            let found = activity.running(at(since + 5_000_000));
            let Some((index, running_for)) = found else { panic!("{found:?}") };
            assert_eq!(index, method as usize);
            let rounded = running_for.saturating_sub(Duration::from_millis(5));
            assert!(
                running_for >= Duration::from_millis(5) && rounded < Duration::from_micros(2),
                "{found:?}"
            );
        }
        activity.show_running(None);
        assert_eq!(activity.running(start), None);
    }
}
