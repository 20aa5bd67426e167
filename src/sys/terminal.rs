//! The controlling terminal, which servers and workers do without: a program that asks for a password there fails at once
//! and is not stopped, as it would be outside of the terminal's foreground.

use std::os::fd::{AsRawFd, OwnedFd};

use rustix::fs::{Mode, OFlags};

use super::faults;
use super::faults::Call;
use super::process::own_number;

/// Opens the controlling terminal; `None` if this process has none.
fn open() -> Option<OwnedFd> {
    faults::point(Call::Open).ok()?;
    let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    rustix::fs::open("/dev/tty", flags, Mode::empty()).ok()
}

/// Whether this process has a controlling terminal.
pub(crate) fn is_there() -> bool {
    open().is_some()
}

/// Gives the controlling terminal up, for this process and all that it forks. It must not lead its session: all others of
/// the session would lose it too.
///
/// # References
///
/// - [TIOCNOTTY(2const)](https://man7.org/linux/man-pages/man2/TIOCNOTTY.2const.html)
pub(crate) fn give_up() {
    if let Some(terminal) = open().filter(|_| !leads_session()) {
        // SAFETY: ioctl demands a descriptor, and nothing else for TIOCNOTTY. If it fails, the terminal stays.
        unsafe { libc::ioctl(terminal.as_raw_fd(), libc::TIOCNOTTY) };
    }
}

/// Returns whether this process leads its session. In a container the leader may be a process outside, whose number is 0
/// here.
///
/// # References
///
/// - [pid_namespaces(7)](https://man7.org/linux/man-pages/man7/pid_namespaces.7.html)
fn leads_session() -> bool {
    // SAFETY: getsid demands nothing of its number; 0 is this process.
    unsafe { libc::getsid(0) == own_number() }
}
