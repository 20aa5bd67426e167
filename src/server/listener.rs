//! Where applications come to a server of its own.

use std::fmt;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::PathBuf;

use super::socket_lock::SocketLock;
use crate::address::AddressError;
use crate::certificates::Certificates;
use crate::channel::SocketLayer;
use crate::sys::sockets;
use crate::sys::sockets::PeerCredentials;

/// Why a server cannot listen. Nothing is left behind, and a server that is there is not disturbed.
#[derive(thiserror::Error)]
#[non_exhaustive]
pub enum ListenError {
    /// An address is none.
    #[error(transparent)]
    Address(#[from] AddressError),
    /// Another server listens there.
    #[error(
        "{path:?} belongs to a server that is alive, process {pid}; one that is to replace it takes over"
    )]
    Taken {
        /// The path.
        path: PathBuf,
        /// The server's process, as it says; 0 where it does not.
        pid: u32,
    },
    /// The server there does not give its place away.
    #[error("{path:?} is not handed over by the server that is alive there: {reason}")]
    NotHandedOver {
        /// The path.
        path: PathBuf,
        /// What it said.
        reason: String,
    },
    /// What the system said: no such directory, no permission.
    #[error("a socket cannot be made at {path:?}")]
    Io {
        /// The path.
        path: PathBuf,
        /// What it said.
        source: io::Error,
    },
    /// What the system said of a port: it is in use, say, or there is no such host.
    #[error("one cannot listen at {address}")]
    Net {
        /// As it was given.
        address: String,
        /// What it said.
        source: io::Error,
    },
    /// Others than this machine's could come, and nobody would have to show who it is.
    #[error(
        "{address} can be reached from other machines, and on plain TCP nobody shows who it is: listen at tls:host:port \
         with certificates, or at 127.0.0.1, or say allow_unauthenticated_beyond_loopback(true)"
    )]
    Unauthenticated {
        /// As it was given.
        address: String,
    },
    /// The service manager has passed nothing that fits.
    #[error("{address} is where the service manager listens, and it has passed {passed}")]
    NotInherited {
        /// As it was given.
        address: String,
        /// What it has passed.
        passed: String,
    },
}

/// For people: what an unhandled `?` in `main` prints is what is wrong and what to do.
impl fmt::Debug for ListenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        crate::failure::for_people(f, self)
    }
}

/// Who may come in.
#[derive(Clone, Debug)]
pub(super) struct Access {
    /// The group whose members may by a Unix socket, beside processes of the server's own user and of root.
    pub(super) group: Option<u32>,
    /// Whether plain TCP may be listened at where other machines could come.
    pub(super) unauthenticated_beyond_loopback: bool,
    /// What whoever comes by TLS has to match.
    pub(super) certificates: Option<Certificates>,
}

impl Access {
    fn admits(&self, peer: &PeerCredentials, own_user: u32) -> bool {
        let is_member = self.group.is_some_and(|group| peer.groups.contains(&group));
        peer.user == own_user || peer.user == 0 || is_member
    }
}

/// An open door.
pub(super) struct Listener {
    /// What it was asked for as.
    pub(super) address: String,
    socket: ListeningSocket,
    access: Access,
    /// `None` where the service manager holds the place, or the system does.
    pub(super) lock: Option<SocketLock>,
}

enum ListeningSocket {
    Unix(UnixListener),
    /// And what certificate whoever comes has to match.
    Net(TcpListener, Option<Certificates>),
}

/// Whoever is at the other end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Peer {
    Local(PeerCredentials),
    Remote(SocketAddr),
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Peer::Local(peer) => write!(f, "process {} of user {}", peer.pid, peer.user),
            Peer::Remote(address) => write!(f, "{address}"),
        }
    }
}

/// Somebody who has come.
pub(super) struct Arrival {
    pub(super) socket: OwnedFd,
    pub(super) security: SocketLayer,
    pub(super) peer: Peer,
}

impl Listener {
    /// A Unix socket that listens.
    pub(super) fn unix(
        address: String,
        socket: UnixListener,
        access: Access,
        lock: Option<SocketLock>,
    ) -> Self {
        Listener { address, socket: ListeningSocket::Unix(socket), access, lock }
    }

    /// A port that is listened at; `tls`: whoever comes shows a certificate.
    ///
    /// # Errors
    ///
    /// [`ListenError::Unauthenticated`] for one that others than this machine's may come to, and nobody shows anything.
    pub(super) fn net(
        address: String,
        socket: TcpListener,
        access: Access,
        tls: bool,
    ) -> Result<Self, ListenError> {
        let told = |source| ListenError::Net { address: address.clone(), source };
        socket.set_nonblocking(true).map_err(told)?;
        let is_local = socket.local_addr().map_err(told)?.ip().is_loopback();
        let certificates = access.certificates.clone().filter(|_| tls);
        if tls && certificates.is_none() {
            return Err(AddressError::NoCertificates { address }.into());
        }
        if !(tls || is_local || access.unauthenticated_beyond_loopback) {
            return Err(ListenError::Unauthenticated { address });
        }
        Ok(Listener { address, socket: ListeningSocket::Net(socket, certificates), access, lock: None })
    }

    /// The door of a server that has given it to this one.
    pub(super) fn inherited(
        address: String,
        socket: OwnedFd,
        access: Access,
        lock: Option<SocketLock>,
    ) -> Result<Self, ListenError> {
        match sockets::is_unix_listener(socket.as_fd()) {
            true => Ok(Listener::unix(address, UnixListener::from(socket), access, lock)),
            false => {
                // What the service manager listens at has no scheme.
                let is_secured = address.starts_with("systemd:") && access.certificates.is_some();
                let tls = is_secured || address.starts_with("tls:");
                Listener::net(address, TcpListener::from(socket), access, tls)
            }
        }
    }

    /// The next one who has come, if somebody has; those who may not are turned away, which is told.
    ///
    /// # Errors
    ///
    /// What the system said: that this process may have no more descriptors, say.
    pub(super) fn next(&self, mut turned_away: impl FnMut(String)) -> io::Result<Option<Arrival>> {
        loop {
            let accepted = match &self.socket {
                ListeningSocket::Unix(listener) => {
                    listener.accept().map(|(socket, _)| (OwnedFd::from(socket), None))
                }
                ListeningSocket::Net(listener, _) => {
                    listener.accept().map(|(socket, from)| (OwnedFd::from(socket), Some(from)))
                }
            };
            let (socket, from) = match accepted {
                Ok(accepted) => accepted,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
                // It was gone before it was let in, say.
                Err(error) if is_theirs(&error) => continue,
                Err(error) => return Err(error),
            };
            match self.identify(socket, from) {
                Ok(arrival) => return Ok(Some(arrival)),
                Err(why) => turned_away(why),
            }
        }
    }

    fn identify(&self, socket: OwnedFd, from: Option<SocketAddr>) -> Result<Arrival, String> {
        let told = |error: io::Error| format!("a connection is of no use: {error}");
        if let Some(address) = from {
            sockets::set_up_net(socket.as_fd()).map_err(|error| told(error.into()))?;
            let security = self.security().map_err(told)?;
            return Ok(Arrival { socket, security, peer: Peer::Remote(address) });
        }
        let peer = sockets::peer(socket.as_fd()).map_err(|error| told(error.into()))?;
        let (is_admitted, peer) = (self.access.admits(&peer, sockets::own_user()), Peer::Local(peer));
        match is_admitted {
            true => Ok(Arrival { socket, security: SocketLayer::None, peer }),
            false => Err(format!("{peer} may not come in")),
        }
    }

    fn security(&self) -> io::Result<SocketLayer> {
        match &self.socket {
            ListeningSocket::Net(_, Some(certificates)) => certificates.accept(),
            ListeningSocket::Net(_, None) | ListeningSocket::Unix(_) => Ok(SocketLayer::None),
        }
    }

    /// What a successor needs to go on with it.
    pub(super) fn duplicates(&self) -> io::Result<Vec<OwnedFd>> {
        let listener = self.as_fd().try_clone_to_owned()?;
        let lock = self.lock.as_ref().map(|lock| lock.as_fd().try_clone_to_owned()).transpose()?;
        Ok([Some(listener), lock].into_iter().flatten().collect())
    }

    /// Takes it away, so that nobody comes any more.
    pub(super) fn close(self) {
        if let Some(lock) = self.lock {
            lock.give_up();
        }
    }
}

/// Whether it is the connection that failed, and not this process.
///
/// # References
///
/// - [accept(2)](https://man7.org/linux/man-pages/man2/accept.2.html), "Error handling"
fn is_theirs(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionReset, Interrupted, PermissionDenied, TimedOut};
    let kinds = [ConnectionAborted, ConnectionReset, Interrupted, PermissionDenied, TimedOut];
    kinds.contains(&error.kind())
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match &self.socket {
            ListeningSocket::Unix(listener) => listener.as_fd(),
            ListeningSocket::Net(listener, _) => listener.as_fd(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// S10
    #[test]
    fn only_the_own_user_root_and_members_of_the_group_may_come_in() {
        let peer = |user, groups: &[u32]| PeerCredentials { pid: 1, user, groups: groups.to_vec() };
        let table = [
            ("oneself", None, peer(7, &[]), true),
            ("root", None, peer(0, &[0]), true),
            ("somebody else", None, peer(8, &[7]), false),
            ("a member", Some(33), peer(8, &[100, 33]), true),
            ("no member", Some(33), peer(8, &[100]), false),
        ];
        for (who, group, peer, expected) in table {
            let access = Access { group, unauthenticated_beyond_loopback: false, certificates: None };
            assert_eq!(access.admits(&peer, 7), expected, "{who}");
        }
    }
}
