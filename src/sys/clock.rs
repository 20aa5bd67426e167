//! Clocks whose readings are comparable between the processes of a machine.

#[cfg(feature = "actors")]
use std::sync::LazyLock;
#[cfg(feature = "actors")]
use std::time::{Duration, Instant};

/// Nanoseconds of the kernel's monotonic clock, which is the same for all processes of a machine.
///
/// # References
///
/// - [clock_gettime(2)](https://man7.org/linux/man-pages/man2/clock_gettime.2.html), `CLOCK_MONOTONIC`
pub(crate) fn monotonic_nanos() -> u64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    seconds * 1_000_000_000 + u64::try_from(time.tv_nsec).unwrap_or(0)
}

/// The reading of that clock at `instant`, accurate to about a microsecond, and always the same for the same instant.
#[cfg(feature = "actors")]
pub(crate) fn monotonic_nanos_at(instant: Instant) -> u64 {
    static ANCHOR: LazyLock<(Instant, u64)> = LazyLock::new(|| {
        // Takes a few readings and uses the one with the shortest interruption.
        let reading = |_| {
            let (before, instant, after) = (monotonic_nanos(), Instant::now(), monotonic_nanos());
            (after - before, (instant, before))
        };
        (0..8).map(reading).min().map_or_else(|| (Instant::now(), monotonic_nanos()), |(_, best)| best)
    });
    let (anchor, nanos) = *ANCHOR;
    let to_nanos = |time: Duration| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
    match instant.checked_duration_since(anchor) {
        Some(since) => nanos.saturating_add(to_nanos(since)),
        None => nanos.saturating_sub(to_nanos(anchor.duration_since(instant))),
    }
}

/// Milliseconds of the kernel's coarse monotonic clock, modulo 2³², and never 0.
///
/// It is read from memory without a system call, costs a few nanoseconds, and lags by at most a tick of the kernel,
/// 10 ms.
///
/// # References
///
/// - [clock_gettime(2)](https://man7.org/linux/man-pages/man2/clock_gettime.2.html), `CLOCK_MONOTONIC_COARSE`
pub(crate) fn coarse_millis() -> u32 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: clock_gettime demands a valid pointer for its result; `time` lives on this frame.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC_COARSE, &mut time) };
    // Only the low bits are used, so the casts may cut the rest.
    let millis = (time.tv_sec as u32).wrapping_mul(1000).wrapping_add((time.tv_nsec / 1_000_000) as u32);
    millis.max(1)
}

/// Returns the CPU time that all threads of the process with this number have used; `None` if there is no such process.
///
/// # References
///
/// - [clock_getcpuclockid(3)](https://man7.org/linux/man-pages/man3/clock_getcpuclockid.3.html)
#[cfg(feature = "actors")]
pub(crate) fn cpu_time_of(process: u32) -> Option<Duration> {
    let process = libc::pid_t::try_from(process).ok()?;
    let mut clock = libc::CLOCK_MONOTONIC;
    // SAFETY: clock_getcpuclockid demands a valid pointer for its result; `clock` lives on this frame.
    let error = unsafe { libc::clock_getcpuclockid(process, &mut clock) };
    if error != 0 {
        return None;
    }
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: clock_gettime demands a valid pointer for its result; `time` lives on this frame.
    let result = unsafe { libc::clock_gettime(clock, &mut time) };
    let (seconds, nanos) = (u64::try_from(time.tv_sec).ok()?, u32::try_from(time.tv_nsec).ok()?);
    (result == 0).then(|| Duration::new(seconds, nanos))
}

#[cfg(all(test, feature = "actors"))]
mod tests {
    use super::*;

    #[test]
    fn an_instant_is_converted_to_the_clock_of_all_processes() {
        monotonic_nanos_at(Instant::now());
        for _ in 0..100 {
            let (before, instant, after) = (monotonic_nanos(), Instant::now(), monotonic_nanos());
            let converted = monotonic_nanos_at(instant);
            // The anchor itself is no more exact than the gap between two readings.
            assert!(
                before <= converted + 100_000 && converted <= after + 100_000,
                "{before} {converted} {after}"
            );
        }
        let earlier = Instant::now() - Duration::from_secs(1);
        assert!(monotonic_nanos_at(earlier) + 900_000_000 < monotonic_nanos());
    }
}
