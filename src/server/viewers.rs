//! A Unix socket at which an application shows its pools. It is made, guarded and removed as that of a standalone server,
//! so that the two never take each other's path.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

use super::errors::ListenError;
use super::listener::{AcceptedPeer, Access, Incoming, Listener};
use super::socket_lock::SocketLock;
use crate::sys::sockets;

/// The listening socket.
pub(crate) struct ViewerListener(Listener);

/// The path of the socket, which is this process's until it is given up.
#[derive(Debug)]
pub(crate) struct OwnPath(SocketLock);

/// What has come of one attempt to accept a viewer.
#[derive(Debug)]
pub(crate) enum Visit {
    /// No viewer is waiting.
    Nothing,
    /// The one that was waiting has left again.
    Left,
    /// A process of this process's user, of root, or of the group that may look.
    Admitted(OwnedFd),
    /// The peer is not admitted, for this reason.
    Rejected(String),
}

/// Creates a listening socket for viewers, in place of that of a dead process. With `for_group`, members of this process's
/// group may connect as well.
///
/// # Errors
///
/// [`ListenError::Taken`], [`ListenError::Occupied`] and [`ListenError::Io`], as for a server; the path is as before then.
pub(crate) fn listen(path: &Path, for_group: bool) -> Result<(ViewerListener, OwnPath), ListenError> {
    let group = for_group.then(sockets::own_group);
    let mut lock = SocketLock::new(path)?;
    let socket = lock.listen(group)?;
    let access = Access {
        group,
        unauthenticated_beyond_loopback: false,
        certificates: None,
        client_dead_after: Duration::ZERO,
    };
    let listener = Listener::unix(format!("unix:{}", path.display()), socket, access, None);
    Ok((ViewerListener(listener), OwnPath(lock)))
}

impl ViewerListener {
    /// Accepts the next viewer that is waiting. It does not wait.
    ///
    /// # Errors
    ///
    /// The error of `accept` if it concerns this process: it has reached its descriptor limit, for example.
    pub(crate) fn next(&self) -> io::Result<Visit> {
        Ok(match self.0.next()? {
            Incoming::Nothing => Visit::Nothing,
            Incoming::Failed => Visit::Left,
            Incoming::Admitted(AcceptedPeer { socket, .. }) => Visit::Admitted(socket),
            Incoming::Rejected(reason) => Visit::Rejected(reason),
        })
    }
}

impl AsFd for ViewerListener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl OwnPath {
    /// Removes the socket from the path, so that no more viewers connect and another process may take the path.
    pub(crate) fn give_up(self) {
        self.0.remove();
    }
}
