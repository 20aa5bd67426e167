//! Clocks whose readings are comparable between the processes of a machine.

#[cfg(feature = "actors")]
use std::time::Duration;

/// Nanoseconds of the kernel's monotonic clock, which is the same for all processes of a machine.
///
/// The C library finds the kernel's code for it also where that is hidden, as by valgrind.
///
/// # References
///
/// - [clock_gettime(2)](https://man7.org/linux/man-pages/man2/clock_gettime.2.html), `CLOCK_MONOTONIC`
pub(crate) fn monotonic_nanos() -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: clock_gettime demands a valid pointer for its result; `time` lives on this frame. It cannot fail: each kernel
    // has this clock.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &mut time) };
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    seconds * 1_000_000_000 + u64::try_from(time.tv_nsec).unwrap_or(0)
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
