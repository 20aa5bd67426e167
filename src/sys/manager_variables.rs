//! The variables with which a service manager talks to the one process that it has started. A process that inherits them
//! by accident takes another's sockets for its own, or reports in its name.

use super::threads;

/// The names, as systemd has them.
///
/// # References
///
/// - [sd_notify(3)](https://man7.org/linux/man-pages/man3/sd_notify.3.html),
///   [sd_watchdog_enabled(3)](https://man7.org/linux/man-pages/man3/sd_watchdog_enabled.3.html),
///   [sd_listen_fds(3)](https://man7.org/linux/man-pages/man3/sd_listen_fds.3.html)
pub(super) const NAMES: [&str; 7] = [
    "NOTIFY_SOCKET",
    "WATCHDOG_USEC",
    "WATCHDOG_PID",
    "LISTEN_FDS",
    "LISTEN_FDNAMES",
    "LISTEN_PID",
    "LISTEN_PIDFDID",
];

/// Removes the variables from the environment, for workers and all that they execute. In a process with several threads
/// it does nothing.
pub(crate) fn remove() {
    if threads::others().is_none() {
        for name in NAMES {
            // SAFETY: remove_var demands that no other thread reads or writes the environment; the process has one thread, as was just
            // found, and this one starts none meanwhile.
            unsafe { std::env::remove_var(name) };
        }
    }
}
