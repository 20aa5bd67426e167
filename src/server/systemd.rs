//! The service manager: sockets that it passes to this server, and notifications to it.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::io::ErrorKind;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use super::errors::ListenError;
use super::listener::{Access, Listener};
use crate::address::Address;
use crate::clock::Instant;
use crate::sys::passing::is_passing;
use crate::sys::{descriptors, sockets};

/// The descriptors that a service manager has passed to this process, with their names.
#[derive(Default)]
pub(super) struct Inherited(Vec<(String, OwnedFd)>);

impl Inherited {
    /// Takes the passed descriptors; none without a service manager.
    ///
    /// # References
    ///
    /// - [sd_listen_fds(3)](https://man7.org/linux/man-pages/man3/sd_listen_fds.3.html)
    pub(super) fn take() -> Self {
        let passed = sd_notify::listen_fds_with_names();
        let passed = passed.into_iter().flatten();
        Inherited(
            passed.filter_map(|(number, name)| Some((name, descriptors::take_inherited(number)?))).collect(),
        )
    }

    /// Takes the listeners with this name, or all of them without a name.
    ///
    /// # Errors
    ///
    /// - [`ListenError::NotInherited`]: no socket has that name, or one of them is not a listening stream socket.
    /// - [`ListenError::Io`]: a socket cannot be made nonblocking.
    /// - The errors of [`Listener::inherited`].
    pub(super) fn listeners(
        &mut self,
        name: Option<&str>,
        access: &Access,
    ) -> Result<Vec<Listener>, ListenError> {
        let address = Address::Inherited(name.map(str::to_owned)).to_string();
        let fits = |passed: &(String, OwnedFd)| name.is_none_or(|name| passed.0 == name);
        let (fitting, others): (Vec<_>, Vec<_>) = std::mem::take(&mut self.0).into_iter().partition(fits);
        let names: Vec<&str> = others.iter().map(|(name, _)| name.as_str()).collect();
        let passed =
            if names.is_empty() { "nothing".to_owned() } else { format!("only {}", names.join(", ")) };
        let refused = |passed: String| ListenError::NotInherited { address: address.clone(), passed };
        if fitting.is_empty() {
            return Err(refused(passed));
        }
        self.0 = others;
        let listener = |(name, socket): (String, OwnedFd)| {
            if !sockets::is_listener(socket.as_fd()) {
                return Err(refused(format!("{name}, which is not a listening stream socket")));
            }
            let failed = |source: rustix::io::Errno| ListenError::Io {
                path: name.clone().into(),
                source: source.into(),
            };
            descriptors::set_nonblocking(socket.as_fd()).map_err(failed)?;
            Listener::inherited(format!("systemd:{name}"), socket, access.clone(), None)
        };
        fitting.into_iter().map(listener).collect()
    }
}

/// The state of a server that accepts clients.
pub(super) const READY: &str = "READY=1";

/// The state of a server that takes no more work and is about to stop.
pub(super) const STOPPING: &str = "STOPPING=1";

/// How long after an attempt a notice is sent again that the service manager had no room for (100 ms).
const SEND_AGAIN: Duration = Duration::from_millis(100);

/// The state of a server that is alive, for a manager that watches it.
const ALIVE: &str = "WATCHDOG=1";

/// The notices to the service manager: those that are not sent yet, and those that it is to get again and again. Sending
/// them never waits.
///
/// # References
///
/// - [sd_notify(3)](https://man7.org/linux/man-pages/man3/sd_notify.3.html)
/// - [sd_watchdog_enabled(3)](https://man7.org/linux/man-pages/man3/sd_watchdog_enabled.3.html)
#[derive(Default)]
pub(super) struct Notices {
    /// `None` without a service manager: there is nothing to notify.
    manager: Option<OsString>,
    unsent: VecDeque<&'static str>,
    /// How long the manager waits for a sign of life before it restarts this server; `None` if it does not.
    watchdog: Option<Duration>,
    /// When it last got one.
    fed: Option<Instant>,
}

impl Notices {
    /// Notices to the service manager that has started this process, if there is one.
    pub(super) fn to_manager() -> Self {
        let number = |name| std::env::var(name).ok()?.parse::<u64>().ok();
        let is_for_this_process = match std::env::var_os("WATCHDOG_PID") {
            None => true,
            Some(_) => number("WATCHDOG_PID") == Some(u64::from(std::process::id())),
        };
        let watchdog = number("WATCHDOG_USEC").filter(|&limit| is_for_this_process && limit > 0);
        Notices {
            manager: std::env::var_os("NOTIFY_SOCKET"),
            watchdog: watchdog.map(Duration::from_micros),
            ..Notices::default()
        }
    }

    pub(super) fn send(&mut self, state: &'static str, now: Instant) {
        self.unsent.push_back(state);
        self.flush(now);
    }

    /// Sends what is left and what is due, as far as there is room.
    pub(super) fn flush(&mut self, now: Instant) {
        if self.until_fed(now) == Some(Duration::ZERO) {
            self.fed = Some(now);
            if !self.unsent.contains(&ALIVE) {
                self.unsent.push_back(ALIVE);
            }
        }
        while let Some(state) = self.unsent.front() {
            let sent = self
                .manager
                .as_ref()
                .map_or(Ok(()), |manager| sockets::send_datagram(manager, state.as_bytes()));
            if sent.is_err_and(|error| error.kind() == ErrorKind::WouldBlock || is_passing(&error)) {
                return;
            }
            self.unsent.pop_front();
        }
    }

    /// Returns how long until the next notice is to be sent; `None` if none waits.
    pub(super) fn next(&self, now: Instant) -> Option<Duration> {
        let again = (!self.unsent.is_empty()).then_some(SEND_AGAIN);
        again.into_iter().chain(self.until_fed(now)).min()
    }

    /// Returns how long until the manager is to get a sign of life: two in the time that it waits for one.
    fn until_fed(&self, now: Instant) -> Option<Duration> {
        let pause = self.manager.as_ref().and(self.watchdog)? / 2;
        Some(self.fed.map_or(Duration::ZERO, |fed| pause.saturating_sub(now.saturating_duration_since(fed))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_manager_gets_two_signs_of_life_in_the_time_that_it_waits_for_one() {
        let watchdog = Some(Duration::from_secs(10));
        // No such socket: what is sent there is lost, and not kept.
        let manager = Some(OsString::from("/no/such/socket"));
        let mut notices = Notices { manager, watchdog, ..Notices::default() };
        let start = Instant::now();
        let after = |seconds| start + Duration::from_secs(seconds);
        assert_eq!(notices.next(start), Some(Duration::ZERO));
        notices.flush(start);
        assert_eq!(notices.next(after(2)), Some(Duration::from_secs(3)));
        notices.flush(after(2));
        assert_eq!(notices.next(after(2)), Some(Duration::from_secs(3)), "it was too early");
        notices.flush(after(6));
        assert_eq!(notices.next(after(6)), Some(Duration::from_secs(5)));
        let unwatched = Notices { manager: None, ..notices };
        assert_eq!(unwatched.next(after(60)), None);
    }
}
