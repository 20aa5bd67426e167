//! The service manager: sockets that it passes to this server, and notifications to it.

use std::collections::VecDeque;
use std::io::ErrorKind;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use super::errors::ListenError;
use super::listener::{Access, Listener};
use crate::address::Address;
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

/// The notices to the service manager that are not sent yet. Sending them never waits.
///
/// # References
///
/// - [sd_notify(3)](https://man7.org/linux/man-pages/man3/sd_notify.3.html)
#[derive(Default)]
pub(super) struct Notices(VecDeque<&'static str>);

impl Notices {
    pub(super) fn send(&mut self, state: &'static str) {
        self.0.push_back(state);
        self.flush();
    }

    /// Sends what is left, as far as there is room.
    pub(super) fn flush(&mut self) {
        // Without a service manager there is nothing to notify.
        let manager = std::env::var_os("NOTIFY_SOCKET");
        while let Some(state) = self.0.front() {
            let sent =
                manager.as_ref().map_or(Ok(()), |manager| sockets::send_datagram(manager, state.as_bytes()));
            if sent.is_err_and(|error| error.kind() == ErrorKind::WouldBlock || is_passing(&error)) {
                return;
            }
            self.0.pop_front();
        }
    }

    /// Returns how long until notices are to be sent again; `None` if all are sent.
    pub(super) fn next(&self) -> Option<Duration> {
        (!self.0.is_empty()).then_some(SEND_AGAIN)
    }
}
