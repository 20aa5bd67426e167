//! A timer that is exact to microseconds, where those of a runtime are exact to a millisecond.

use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime,
};

use super::faults;
use super::faults::Call;

/// Creates a timer that does not run. Its descriptor is readable once it has fired.
///
/// # Errors
///
/// The system's error, for want of descriptors or memory.
///
/// # References
///
/// - [timerfd_create(2)](https://man7.org/linux/man-pages/man2/timerfd_create.2.html)
pub(crate) fn create() -> rustix::io::Result<OwnedFd> {
    faults::point(Call::TimerfdCreate)?;
    timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK)
}

/// Has a timer fire once after this time, and forgets when it was to fire before.
///
/// # Errors
///
/// The system's error; the timer is unchanged then.
pub(crate) fn set(timer: &OwnedFd, after: Duration) -> rustix::io::Result<()> {
    // Zero would stop it.
    let after = after.max(Duration::from_nanos(1));
    let zero = Timespec { tv_sec: 0, tv_nsec: 0 };
    let it_value = Timespec {
        tv_sec: i64::try_from(after.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: after.subsec_nanos().into(),
    };
    faults::point(Call::TimerfdSettime)?;
    timerfd_settime(timer.as_fd(), TimerfdTimerFlags::empty(), &Itimerspec { it_interval: zero, it_value })?;
    Ok(())
}
