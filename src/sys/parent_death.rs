//! A clock for the code of a process whose parent is dead, which nobody else would end.

use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU64, Ordering};
use std::time::Duration;

use rustix::process::Pid;

use super::descriptors::last_errno;

/// Longest time that code may run at a stretch once the parent is dead, in nanoseconds; 0 is no limit.
static LIMIT: AtomicU64 = AtomicU64::new(0);

/// Whether the parent is dead.
static ORPHANED: AtomicBool = AtomicBool::new(false);

/// Whether code runs that is to be bounded.
static RUNNING: AtomicBool = AtomicBool::new(false);

/// The kernel's number of the timer; -1 is none.
static TIMER: AtomicI32 = AtomicI32::new(-1);

/// Bounds code of this process by `limit` from the moment on at which `parent`, which has just forked it, is dead.
///
/// What runs then is killed after that time, and so is whatever begins to run later; the kernel does it, whatever
/// signals the code blocks, unless it blocks the one that tells of the death: the last real-time signal but one.
///
/// # References
///
/// - [PR_SET_PDEATHSIG(2const)](https://man7.org/linux/man-pages/man2/PR_SET_PDEATHSIG.2const.html)
/// - [timer_create(2)](https://man7.org/linux/man-pages/man2/timer_create.2.html)
pub(crate) fn bound(limit: Duration, parent: Pid) -> rustix::io::Result<()> {
    LIMIT.store(u64::try_from(limit.as_nanos()).unwrap_or(u64::MAX), Ordering::Relaxed);
    let signal = libc::SIGRTMAX() - 1;
    // SAFETY: zeroed demands that zero bytes are a valid sigaction; it is integers, a set and null pointers.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_sigaction = on_death as *const () as libc::sighandler_t;
    action.sa_flags = libc::SA_RESTART;
    // SAFETY: sigaction demands a valid action and lets the old one be null; the handler it names makes raw system calls
    // and touches atomics, which is async-signal-safe.
    if unsafe { libc::sigaction(signal, &action, std::ptr::null_mut()) } != 0 {
        return Err(last_errno());
    }
    // SAFETY: prctl with PR_SET_PDEATHSIG demands a valid signal, which this is.
    if unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, signal) } != 0 {
        return Err(last_errno());
    }
    // It may have died before anybody was to be told.
    if rustix::process::getppid() != Some(parent) {
        orphaned();
    }
    Ok(())
}

/// Code begins to run that is to be bounded.
pub(crate) fn begins() {
    RUNNING.store(true, Ordering::Relaxed);
    if ORPHANED.load(Ordering::Relaxed) {
        set_timer(LIMIT.load(Ordering::Relaxed));
    }
}

/// It is over.
pub(crate) fn ends() {
    RUNNING.store(false, Ordering::Relaxed);
    if ORPHANED.load(Ordering::Relaxed) {
        set_timer(0);
    }
}

extern "C" fn on_death(_: libc::c_int) {
    orphaned();
}

fn orphaned() {
    if ORPHANED.swap(true, Ordering::Relaxed) {
        return;
    }
    // SAFETY: zeroed demands that zero bytes are a valid sigevent; it is integers and a null pointer.
    let mut event: libc::sigevent = unsafe { std::mem::zeroed() };
    event.sigev_notify = libc::SIGEV_SIGNAL;
    event.sigev_signo = libc::SIGKILL;
    let mut timer: libc::c_int = -1;
    // SAFETY: timer_create demands a valid event and a valid place for the number of the timer; both live on this frame.
    // It is the system call itself, for the C library's function may allocate.
    let made = unsafe {
        libc::syscall(libc::SYS_timer_create, libc::CLOCK_MONOTONIC, &raw mut event, &raw mut timer)
    };
    if made == 0 {
        TIMER.store(timer, Ordering::Relaxed);
        if RUNNING.load(Ordering::Relaxed) {
            set_timer(LIMIT.load(Ordering::Relaxed));
        }
    }
}

/// Has the timer run out after so many nanoseconds, or not at all.
fn set_timer(nanos: u64) {
    let (timer, none) = (TIMER.load(Ordering::Relaxed), std::ptr::null_mut::<libc::itimerspec>());
    if timer < 0 {
        return;
    }
    let zero = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    let value = libc::timespec {
        tv_sec: i64::try_from(nanos / 1_000_000_000).unwrap_or(i64::MAX),
        // Below a thousand million.
        tv_nsec: (nanos % 1_000_000_000) as i64,
    };
    let time = libc::itimerspec { it_interval: zero, it_value: value };
    // SAFETY: timer_settime demands the number of a timer, a valid time, and a valid place for the old one or null. The
    // number was made in this process; one that is no timer any more is refused.
    unsafe { libc::syscall(libc::SYS_timer_settime, timer, 0, &raw const time, none) };
}
