//! The service manager that may have started this server: what it listens at for it, and what it is told.

use std::os::fd::{AsFd, OwnedFd};

use sd_notify::NotifyState;

use super::listener::{Access, ListenError, Listener};
use crate::address::Address;
use crate::sys::{descriptors, sockets};

/// What a service manager has passed to this process: descriptors and their names.
#[derive(Default)]
pub(super) struct Inherited(Vec<(String, OwnedFd)>);

impl Inherited {
    /// Takes what was passed; nothing where there is no service manager.
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

    /// Doors of those that have this name, or of all.
    ///
    /// # Errors
    ///
    /// [`ListenError::NotInherited`] where there is none, or one that nobody could come to.
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
            if !sockets::listens(socket.as_fd()) {
                return Err(refused(format!("{name}, which is no stream socket that listens")));
            }
            let told = |source: rustix::io::Errno| ListenError::Io {
                path: name.clone().into(),
                source: source.into(),
            };
            descriptors::set_nonblocking(socket.as_fd()).map_err(told)?;
            Listener::inherited(format!("systemd:{name}"), socket, access.clone(), None)
        };
        fitting.into_iter().map(listener).collect()
    }
}

/// Tells the service manager that whoever comes is let in.
///
/// # References
///
/// - [sd_notify(3)](https://man7.org/linux/man-pages/man3/sd_notify.3.html)
pub(super) fn notify_ready() {
    // Where there is none, nobody is told.
    let _ = sd_notify::notify(&[NotifyState::Ready]);
}

/// Tells it that this server is about to end.
pub(super) fn notify_stopping() {
    let _ = sd_notify::notify(&[NotifyState::Stopping]);
}
