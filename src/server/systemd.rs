//! The service manager: sockets that it passes to this server, and notifications to it.

use std::os::fd::{AsFd, OwnedFd};

use sd_notify::NotifyState;

use super::errors::ListenError;
use super::listener::{Access, Listener};
use crate::address::Address;
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

/// Notifies the service manager that clients are accepted now.
///
/// # References
///
/// - [sd_notify(3)](https://man7.org/linux/man-pages/man3/sd_notify.3.html)
pub(super) fn notify_ready() {
    // Without a service manager there is nothing to notify.
    let _ = sd_notify::notify(&[NotifyState::Ready]);
}

/// Notifies the service manager that this server takes no more work and is about to stop.
pub(super) fn notify_stopping() {
    let _ = sd_notify::notify(&[NotifyState::Stopping]);
}
