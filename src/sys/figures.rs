//! What `/proc` shows of another process, and of no other one in its place.
//!
//! A number is not enough to name a process: it may be that of another PID namespace, or belong to another process by
//! now. So a figure is read by the number that this process's own `/proc` has for a pidfd, and only used if the pidfd
//! still has that number afterwards.

use std::os::fd::{AsRawFd, BorrowedFd};
#[cfg(feature = "actors")]
use std::time::Duration;

#[cfg(feature = "actors")]
use super::clock;
use super::faults;
use super::faults::Call;

/// Returns the number that this process's `/proc` has for a process; `None` if it does not see the process, or the
/// process was reaped.
///
/// # References
///
/// - [pidfd_open(2)](https://man7.org/linux/man-pages/man2/pidfd_open.2.html), [proc_pid_fdinfo(5)](https://man7.org/linux/man-pages/man5/proc_pid_fdinfo.5.html)
fn number(process: BorrowedFd<'_>) -> Option<u32> {
    faults::point(Call::Open).ok()?;
    let info = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", process.as_raw_fd())).ok()?;
    // It is 0 for a process of a namespace outside of this one, and -1 for one that was reaped.
    let number = info.lines().find_map(|line| line.strip_prefix("Pid:"))?.trim().parse().ok()?;
    Some(number).filter(|&number| number != 0)
}

/// Reads of a process what `read` finds by its number.
fn figure<T>(process: BorrowedFd<'_>, read: impl FnOnce(u32) -> Option<T>) -> Option<T> {
    let before = number(process)?;
    let found = read(before)?;
    // As long as the process was not reaped, no other process has its number.
    (number(process) == Some(before)).then_some(found)
}

fn file(number: u32, name: &str) -> Option<String> {
    faults::point(Call::Open).ok()?;
    std::fs::read_to_string(format!("/proc/{number}/{name}")).ok()
}

/// The fields of `/proc/PID/stat` from the third on, the state.
///
/// # References
///
/// - [proc_pid_stat(5)](https://man7.org/linux/man-pages/man5/proc_pid_stat.5.html)
fn stat(number: u32) -> Option<Vec<String>> {
    // The name of the program is in parentheses and may contain any character.
    let stat = file(number, "stat")?;
    Some(stat.rsplit_once(") ")?.1.split_whitespace().map(str::to_owned).collect())
}

/// Returns what identifies a process for as long as the machine runs: its number, and when it was started, in clock
/// ticks.
pub(crate) fn identity(process: BorrowedFd<'_>) -> Option<(u32, u64)> {
    figure(process, |number| Some((number, stat(number)?.get(22 - 3)?.parse().ok()?)))
}

/// The most resident memory a running process has had, in bytes, and the CPU time it has used; `None` if unknown.
///
/// # References
///
/// - [proc_pid_status(5)](https://man7.org/linux/man-pages/man5/proc_pid_status.5.html), `VmHWM`
/// - [proc_pid_schedstat](https://docs.kernel.org/scheduler/sched-stats.html)
#[cfg(feature = "actors")]
pub(crate) fn usage(process: BorrowedFd<'_>) -> (Option<u64>, Option<Duration>) {
    let found = figure(process, |number| {
        let peak = file(number, "status").and_then(|status| {
            let line = status.lines().find(|line| line.starts_with("VmHWM:"))?.to_owned();
            line.split_whitespace().nth(1)?.parse::<u64>().ok()
        });
        let ran = file(number, "schedstat").and_then(|stat| stat.split_whitespace().next()?.parse().ok());
        Some((peak.map(|kib| kib * 1024), ran.map(Duration::from_nanos)))
    });
    found.unwrap_or_default()
}

/// Returns the CPU time that all threads of a running process have used, in user and in kernel mode together; `None` if
/// unknown.
#[cfg(feature = "actors")]
pub(crate) fn cpu_time(process: BorrowedFd<'_>) -> Option<Duration> {
    figure(process, clock::cpu_time_of)
}

/// Returns what a process does, as the kernel tells it; `None` if this process does not see it, or it was reaped.
#[cfg(feature = "actors")]
pub(crate) fn state(process: BorrowedFd<'_>) -> Option<&'static str> {
    figure(process, |number| name_of(stat(number)?.first()?))
}

/// Returns what a child of this process does; `None` if there is no child with that pid.
#[cfg(feature = "actors")]
pub(crate) fn state_of_child(pid: u32) -> Option<&'static str> {
    // One read is of one process, so its parent's number tells whether that is a child.
    let stat = stat(pid)?;
    let parent = stat.get(4 - 3)?.parse::<u32>().ok()?;
    if parent == std::process::id() { name_of(stat.first()?) } else { None }
}

/// Returns the state only if a process in it cannot run now, whatever is asked of it: it is stopped or inside the kernel.
#[cfg(feature = "actors")]
pub(crate) fn if_stuck(state: &'static str) -> Option<&'static str> {
    Some(state).filter(|state| state.starts_with("stopped") || state.starts_with("waiting"))
}

/// The state of a process that has ended and is not reaped.
#[cfg(feature = "actors")]
pub(super) const ZOMBIE: &str = "ended and not reaped";

#[cfg(feature = "actors")]
fn name_of(state: &str) -> Option<&'static str> {
    match state.chars().next()? {
        'R' => Some("running"),
        'S' | 'I' => Some("sleeping"),
        'D' => Some("waiting inside the kernel"),
        'T' => Some("stopped"),
        't' => Some("stopped by a debugger"),
        'Z' => Some(ZOMBIE),
        _ => None,
    }
}

#[cfg(all(test, feature = "actors"))]
mod tests {
    use std::os::fd::AsFd;
    use std::process::Command;

    use super::*;
    use crate::sys::process;

    fn pidfd_of(pid: u32) -> std::io::Result<std::os::fd::OwnedFd> {
        let pid =
            i32::try_from(pid).ok().and_then(process::Pid::from_raw).ok_or(std::io::ErrorKind::NotFound)?;
        Ok(process::open_pidfd(pid)?)
    }

    #[test]
    fn a_figure_is_that_of_the_process_and_of_none_after_it() -> std::io::Result<()> {
        let own = pidfd_of(std::process::id())?;
        assert_eq!(identity(own.as_fd()).map(|(number, _)| number), Some(std::process::id()));
        assert!(usage(own.as_fd()).0.is_some_and(|bytes| bytes > 100_000));
        assert!(cpu_time(own.as_fd()).is_some_and(|time| !time.is_zero()));
        let mut child = Command::new("sleep").arg("1000").spawn()?;
        let pidfd = pidfd_of(child.id())?;
        assert_ne!(identity(pidfd.as_fd()), identity(own.as_fd()));
        assert!(state_of_child(child.id()).is_some());
        child.kill()?;
        let _ = child.wait()?;
        // Its number may belong to another process by now.
        assert_eq!((identity(pidfd.as_fd()), state(pidfd.as_fd())), (None, None));
        assert_eq!((usage(pidfd.as_fd()), cpu_time(pidfd.as_fd())), ((None, None), None));
        assert_eq!(figure(own.as_fd(), |number| number.checked_add(0)), Some(std::process::id()));
        Ok(())
    }

    /// The process ends while its figures are read.
    #[test]
    fn a_figure_of_a_process_that_ends_meanwhile_is_not_used() -> std::io::Result<()> {
        let mut child = Command::new("sleep").arg("1000").spawn()?;
        let pidfd = pidfd_of(child.id())?;
        let found = figure(pidfd.as_fd(), |_| {
            child.kill().ok()?;
            child.wait().ok()?;
            Some("another process's")
        });
        assert_eq!(found, None);
        Ok(())
    }

    #[test]
    fn a_process_that_is_no_child_has_no_state_as_one() {
        assert_eq!(state_of_child(1), None);
        assert_eq!(state_of_child(std::process::id()), None);
    }
}
