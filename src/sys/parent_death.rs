//! Limits how long the code of a process may run after its parent died, when no other process would kill it.

use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU64, Ordering};
use std::time::Duration;

use rustix::process::Pid;

use super::descriptors::last_errno;
use super::faults;
use super::faults::Call;

/// Longest time that code may run without a break once the parent is dead, in nanoseconds; 0 means no limit.
static LIMIT: AtomicU64 = AtomicU64::new(0);

/// Whether the parent is dead.
static ORPHANED: AtomicBool = AtomicBool::new(false);

/// Whether code runs that the limit applies to.
static RUNNING: AtomicBool = AtomicBool::new(false);

/// The kernel's number of the timer; -1 if there is none.
static TIMER: AtomicI32 = AtomicI32::new(-1);

/// Limits the code of this process to `limit` once `parent`, which has just forked it, is dead.
///
/// Code that runs at that moment is killed after that time, and so is code that starts later. The kernel kills it by a
/// timer, so signals that the code blocks do not matter, except for the one that reports the parent's death: the last
/// real-time signal but one.
///
/// # Errors
///
/// The system's error; there is no limit then.
///
/// # References
///
/// - [PR_SET_PDEATHSIG(2const)](https://man7.org/linux/man-pages/man2/PR_SET_PDEATHSIG.2const.html)
/// - [timer_create(2)](https://man7.org/linux/man-pages/man2/timer_create.2.html)
pub(crate) fn set_limit(limit: Duration, parent: Pid) -> rustix::io::Result<()> {
    LIMIT.store(u64::try_from(limit.as_nanos()).unwrap_or(u64::MAX), Ordering::Relaxed);
    let signal = libc::SIGRTMAX() - 1;
    // SAFETY: zeroed demands that zero bytes are a valid sigaction; it is integers, a set and null pointers.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_sigaction = on_death as *const () as libc::sighandler_t;
    action.sa_flags = libc::SA_RESTART;
    // SAFETY: sigaction demands a valid action and lets the old one be null; the handler it names makes raw system
    // calls and touches atomics, which is async-signal-safe.
    if unsafe { libc::sigaction(signal, &action, std::ptr::null_mut()) } != 0 {
        return Err(last_errno());
    }
    request_signal(parent)
}

/// Writes what [`set_limit`] writes, and limits nothing.
pub(crate) fn rehearse() {
    LIMIT.store(0, Ordering::Relaxed);
    RUNNING.store(false, Ordering::Relaxed);
}

/// Asks once more for the signal that [`set_limit`] has asked for, if it has: the kernel forgets that when a process changes
/// its user or group, as a set-up may.
///
/// # Errors
///
/// The system's error; there may be no limit then.
pub(crate) fn renew(parent: Pid) -> rustix::io::Result<()> {
    if LIMIT.load(Ordering::Relaxed) == 0 { Ok(()) } else { request_signal(parent) }
}

/// Has the kernel kill this process when `parent` dies, which has just forked it. If the parent has died already, exits. A
/// system that refuses it leaves the process alive.
pub(crate) fn die_with(parent: Pid) {
    let _ = set_signal(libc::SIGKILL);
    if rustix::process::getppid() != Some(parent) {
        super::process::exit_now(0);
    }
}

/// Takes [`die_with`] back.
///
/// # Errors
///
/// The system's error; this process still ends with its parent then.
pub(crate) fn outlive() -> rustix::io::Result<()> {
    set_signal(0)
}

/// Has the kernel send this signal when the parent dies; 0 for none.
fn set_signal(signal: libc::c_int) -> rustix::io::Result<()> {
    faults::point(Call::Prctl)?;
    // SAFETY: prctl with PR_SET_PDEATHSIG demands a valid signal or 0, which the callers pass.
    match unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, signal) } {
        0 => Ok(()),
        _ => Err(last_errno()),
    }
}

/// Has the kernel send the signal when the parent dies, or handles its death if it has died.
fn request_signal(parent: Pid) -> rustix::io::Result<()> {
    set_signal(libc::SIGRTMAX() - 1)?;
    // The parent may have died before its death could be reported.
    if rustix::process::getppid() != Some(parent) {
        handle_parent_death();
    }
    Ok(())
}

/// Starts the limit for code that begins to run.
pub(crate) fn enter_user_code() {
    RUNNING.store(true, Ordering::Relaxed);
    if ORPHANED.load(Ordering::Relaxed) && TIMER.load(Ordering::Relaxed) < 0 {
        // There were no resources for it when the parent died.
        create_timer();
    }
    if ORPHANED.load(Ordering::Relaxed) {
        set_timer(LIMIT.load(Ordering::Relaxed));
    }
}

/// Stops the limit, because the code has returned.
pub(crate) fn leave_user_code() {
    RUNNING.store(false, Ordering::Relaxed);
    if ORPHANED.load(Ordering::Relaxed) {
        set_timer(0);
    }
}

extern "C" fn on_death(_: libc::c_int) {
    handle_parent_death();
}

/// Attempts to create the timer in a signal handler, a millisecond apart.
const MAX_ATTEMPTS: u32 = 100;

/// Creates the timer, and starts it if code runs. Async-signal-safe.
fn handle_parent_death() {
    if ORPHANED.swap(true, Ordering::Relaxed) {
        return;
    }
    // The code that was interrupted may never return, so this is the only chance to limit it.
    for _ in 0..MAX_ATTEMPTS {
        if create_timer() {
            break;
        }
        let wait = libc::timespec { tv_sec: 0, tv_nsec: 1_000_000 };
        // SAFETY: nanosleep demands a valid time and lets the remaining one be null. It is async-signal-safe.
        unsafe { libc::nanosleep(&raw const wait, std::ptr::null_mut()) };
    }
    if RUNNING.load(Ordering::Relaxed) {
        set_timer(LIMIT.load(Ordering::Relaxed));
    }
}

/// Creates the timer; returns whether there is one. Async-signal-safe.
fn create_timer() -> bool {
    // SAFETY: zeroed demands that zero bytes are a valid sigevent; it is integers and a null pointer.
    let mut event: libc::sigevent = unsafe { std::mem::zeroed() };
    event.sigev_notify = libc::SIGEV_SIGNAL;
    event.sigev_signo = libc::SIGKILL;
    let mut timer: libc::c_int = -1;
    if faults::point(Call::TimerCreate).is_err() {
        return false;
    }
    // SAFETY: timer_create demands a valid event and a valid pointer for the timer's number; both live on this frame.
    // It is the raw system call, because the C library's function may allocate.
    let made = unsafe {
        libc::syscall(libc::SYS_timer_create, libc::CLOCK_MONOTONIC, &raw mut event, &raw mut timer)
    };
    if made == 0 {
        TIMER.store(timer, Ordering::Relaxed);
    }
    made == 0
}

/// Sets the timer to expire after `nanos` nanoseconds, or stops it if they are 0.
fn set_timer(nanos: u64) {
    let (timer, none) = (TIMER.load(Ordering::Relaxed), std::ptr::null_mut::<libc::itimerspec>());
    if timer < 0 {
        return;
    }
    let zero = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    let value = libc::timespec {
        tv_sec: i64::try_from(nanos / 1_000_000_000).unwrap_or(i64::MAX),
        // Less than 10⁹, so the cast loses nothing.
        tv_nsec: (nanos % 1_000_000_000) as i64,
    };
    let time = libc::itimerspec { it_interval: zero, it_value: value };
    // SAFETY: timer_settime demands the number of a timer, a valid time, and for the old one a valid pointer or null.
    // The number comes from timer_create in this process; for a number without a timer the call fails.
    unsafe { libc::syscall(libc::SYS_timer_settime, timer, 0, &raw const time, none) };
}
