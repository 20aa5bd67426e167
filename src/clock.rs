//! The clock that limits and durations are measured with, in one word.
//!
//! The path of a call compares and adds instants dozens of times. Those of the standard library are two numbers, seconds
//! and nanoseconds, and their arithmetic is code of another crate that the compiler calls. These are one number.

use std::ops::{Add, AddAssign, Sub};
use std::time::Duration;

use crate::sys::clock;

/// A reading of the kernel's monotonic clock, in nanoseconds. It has the methods of [`std::time::Instant`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Instant(u64);

impl Instant {
    #[inline]
    pub(crate) fn now() -> Self {
        Instant(clock::monotonic_nanos())
    }

    /// Returns the nanoseconds since the clock's start, which is the same for all processes of a machine.
    #[cfg(feature = "actors")]
    #[inline]
    pub(crate) fn nanos(self) -> u64 {
        self.0
    }

    #[inline]
    pub(crate) fn elapsed(self) -> Duration {
        Instant::now().saturating_duration_since(self)
    }

    #[cfg(feature = "actors")]
    #[inline]
    pub(crate) fn checked_duration_since(self, earlier: Instant) -> Option<Duration> {
        self.0.checked_sub(earlier.0).map(Duration::from_nanos)
    }

    #[inline]
    pub(crate) fn saturating_duration_since(self, earlier: Instant) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }

    /// Returns `None` for what is some centuries away.
    #[inline]
    pub(crate) fn checked_add(self, time: Duration) -> Option<Instant> {
        self.0.checked_add(nanos_of(time)?).map(Instant)
    }

    /// Returns `None` for what is before the clock's start.
    #[inline]
    pub(crate) fn checked_sub(self, time: Duration) -> Option<Instant> {
        self.0.checked_sub(nanos_of(time)?).map(Instant)
    }

    /// Returns this instant as the standard library and the runtime have it, at most some microseconds later.
    #[cfg(feature = "actors")]
    pub(crate) fn to_std(self) -> std::time::Instant {
        let (now, std_now) = (Instant::now(), std::time::Instant::now());
        let at = match self.checked_duration_since(now) {
            Some(left) => std_now.checked_add(left),
            None => std_now.checked_sub(now.saturating_duration_since(self)),
        };
        at.unwrap_or(std_now)
    }
}

/// Returns a time in nanoseconds; `None` if one word does not hold it.
#[inline]
fn nanos_of(time: Duration) -> Option<u64> {
    time.as_secs().checked_mul(1_000_000_000)?.checked_add(u64::from(time.subsec_nanos()))
}

/// Beyond the range of the clock, its end.
impl Add<Duration> for Instant {
    type Output = Instant;

    #[inline]
    fn add(self, time: Duration) -> Instant {
        self.checked_add(time).unwrap_or(Instant(u64::MAX))
    }
}

impl AddAssign<Duration> for Instant {
    #[inline]
    fn add_assign(&mut self, time: Duration) {
        *self = *self + time;
    }
}

/// Before the start of the clock, its start.
impl Sub<Duration> for Instant {
    type Output = Instant;

    #[inline]
    fn sub(self, time: Duration) -> Instant {
        self.checked_sub(time).unwrap_or(Instant(0))
    }
}

/// Zero if the other one is later.
impl Sub for Instant {
    type Output = Duration;

    #[inline]
    fn sub(self, earlier: Instant) -> Duration {
        self.saturating_duration_since(earlier)
    }
}

#[cfg(all(test, feature = "actors"))]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn it_is_the_clock_of_the_standard_library() {
        for _ in 0..100 {
            let before = std::time::Instant::now();
            let now = Instant::now();
            let after = std::time::Instant::now();
            let wait = Duration::from_millis(5);
            assert!(before + wait <= (now + wait).to_std() && before <= now.to_std());
            assert!((now - wait).to_std() < after + SECOND);
        }
    }

    #[test]
    fn what_the_clock_cannot_hold_is_none_or_its_end() {
        let now = Instant::now();
        assert_eq!(now.checked_add(Duration::MAX), None);
        assert_eq!(now.checked_sub(Duration::MAX), None);
        assert_eq!(now.checked_duration_since(now + SECOND), None);
        assert_eq!(now + SECOND - now, SECOND);
        assert_eq!(now - (now + SECOND), Duration::ZERO);
        assert!(now + Duration::MAX > now && now - Duration::MAX < now);
    }
}
