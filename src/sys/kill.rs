//! Signals to workers: to the process, whatever it has done to itself, and to the process group that it was given.
//!
//! A worker may leave its group and leave others in it, so a signal to the group may not reach the worker. Both are sent.
//! Nothing else can have the group's number: it is the worker's process id, which is taken until the worker is reaped and
//! the last member of its group is gone.

use std::os::fd::{AsRawFd, BorrowedFd};

use rustix::io::Errno;
use rustix::process::{Pid, Signal};

use super::descriptors::last_errno;
use super::faults;
use super::faults::Call;
use super::stop_signals;

/// Sends the signal to the process group of which the process is the leader, or was; supported since Linux 6.9.
///
/// # References
///
/// - [pidfd_send_signal(2)](https://man7.org/linux/man-pages/man2/pidfd_send_signal.2.html)
const PIDFD_SIGNAL_PROCESS_GROUP: libc::c_uint = 1 << 2;

/// Kills a child that was not reaped yet, and the rest of its group.
pub(crate) fn kill_child(child: Pid) {
    // A child that has ended is a zombie, which no signal harms. A refused signal is sent again, see `Children`.
    let _ = faults::point(Call::Kill).and_then(|()| rustix::process::kill_process(child, Signal::KILL));
    kill_group_of_child(child);
}

/// Kills the rest of the group of a child that was not reaped yet.
pub(crate) fn kill_group_of_child(child: Pid) {
    // Mostly the worker was alone in it.
    let _ = faults::point(Call::Kill).and_then(|()| rustix::process::kill_process_group(child, Signal::KILL));
}

/// Sends SIGTERM to a worker that was not reaped yet, which ends it unless the worker has a handler of its own.
pub(crate) fn terminate_child(child: Pid) {
    if faults::point(Call::Kill).and_then(|()| stop_signals::terminate_child(child)).is_err() {
        // A filter of system calls may refuse it. An ordinary signal reaches a handler of the worker's own; it fails only
        // for a child that has exited and waits to be reaped, as intended.
        let _ = rustix::process::kill_process(child, Signal::TERM);
    }
}

/// Kills a process that need not be a child of this one, and the rest of its group if the kernel supports that. A process
/// that is gone already is not an error.
///
/// # Errors
///
/// `PERM` for a process of another user, `INVAL` for one in another pid namespace; it goes on running then.
pub(crate) fn kill(process: BorrowedFd<'_>) -> rustix::io::Result<()> {
    let killed = send_kill(process, 0);
    kill_group_of(process);
    killed
}

/// Kills the rest of the group of a process, which may be gone, if the kernel supports that.
pub(crate) fn kill_group_of(process: BorrowedFd<'_>) {
    // Its members are the worker's own, of the same user unless they have changed it.
    let _ = send_kill(process, PIDFD_SIGNAL_PROCESS_GROUP);
}

/// Sends SIGTERM to a worker, which ends it unless the worker has a handler of its own. A process that is gone already is
/// not an error.
///
/// # Errors
///
/// Those of [`kill`].
#[cfg(feature = "actors")]
pub(crate) fn terminate(process: BorrowedFd<'_>) -> rustix::io::Result<()> {
    faults::point(Call::PidfdSendSignal)?;
    unless_gone(stop_signals::terminate(process))
}

fn send_kill(process: BorrowedFd<'_>, flags: libc::c_uint) -> rustix::io::Result<()> {
    faults::point(Call::PidfdSendSignal)?;
    let info = std::ptr::null::<libc::siginfo_t>();
    // SAFETY: pidfd_send_signal demands a descriptor, and for the siginfo a valid pointer or null, in which case the
    // kernel fills it in as for kill.
    let sent = unsafe {
        libc::syscall(libc::SYS_pidfd_send_signal, process.as_raw_fd(), libc::SIGKILL, info, flags)
    };
    unless_gone(if sent == 0 { Ok(()) } else { Err(last_errno()) })
}

fn unless_gone(sent: rustix::io::Result<()>) -> rustix::io::Result<()> {
    match sent {
        Err(Errno::SRCH) => Ok(()),
        sent => sent,
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;
    use std::os::unix::process::{CommandExt, ExitStatusExt};
    use std::process::{Child, Command};

    use super::*;
    use crate::sys::process;

    fn sleeper(group: i32) -> std::io::Result<Child> {
        Command::new("sleep").arg("1000").process_group(group).spawn()
    }

    fn pid_of(child: &Child) -> std::io::Result<Pid> {
        let number = i32::try_from(child.id()).map_err(|_| std::io::ErrorKind::NotFound)?;
        Ok(Pid::from_raw(number).ok_or(std::io::ErrorKind::NotFound)?)
    }

    fn killed(child: &mut Child) -> std::io::Result<bool> {
        Ok(child.wait()?.signal() == Some(libc::SIGKILL))
    }

    /// G5
    #[test]
    fn a_child_is_killed_with_its_group() -> std::io::Result<()> {
        let mut leader = sleeper(0)?;
        let mut rest = sleeper(pid_of(&leader)?.as_raw_nonzero().get())?;
        kill_child(pid_of(&leader)?);
        assert!(killed(&mut leader)? && killed(&mut rest)?);
        Ok(())
    }

    /// G5: a process that is in another group than its own, which does not exist.
    #[test]
    fn a_child_in_another_group_is_killed_and_the_group_is_not() -> std::io::Result<()> {
        let mut other = sleeper(0)?;
        let mut member = sleeper(pid_of(&other)?.as_raw_nonzero().get())?;
        kill_child(pid_of(&member)?);
        assert!(killed(&mut member)?);
        let pidfd = process::open_pidfd(pid_of(&other)?)?;
        assert_eq!(other.try_wait()?, None);
        assert_eq!(kill(pidfd.as_fd()), Ok(()));
        assert!(killed(&mut other)?);
        assert_eq!(kill(pidfd.as_fd()), Ok(()), "it is gone");
        Ok(())
    }
}
