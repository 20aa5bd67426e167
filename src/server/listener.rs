//! The listening sockets of a standalone server, and which peers they admit.

use std::fmt;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::time::Duration;

use super::adoption::AdoptionKey;
use super::errors::ListenError;
use super::socket_lock::SocketLock;
use crate::address::AddressError;
use crate::certificates::Certificates;
use crate::channel::SocketLayer;
use crate::sys::Errno;
use crate::sys::descriptors;
use crate::sys::sockets;
use crate::sys::sockets::PeerCredentials;

/// Which peers are admitted.
#[derive(Clone, Debug)]
pub(super) struct Access {
    /// The group whose members may connect to a Unix socket, besides processes of the server's own user and of root.
    pub(super) group: Option<u32>,
    /// Whether a plain TCP listener may be reachable from other machines.
    pub(super) unauthenticated_beyond_loopback: bool,
    /// The server's certificate, and the authorities that must have signed the certificates of TLS clients.
    pub(super) certificates: Option<Certificates>,
    /// How long a client at a port may be silent.
    pub(super) client_dead_after: Duration,
}

impl Access {
    fn admits(&self, peer: &PeerCredentials, own_user: u32) -> bool {
        let is_member = self.group.is_some_and(|group| peer.groups.contains(&group));
        peer.user.is_some_and(|user| user == own_user || user == 0) || is_member
    }
}

/// A listening socket.
pub(super) struct Listener {
    /// The address as it was given.
    pub(super) address: String,
    socket: ListeningSocket,
    access: Access,
    /// `None` for a port, and where the service manager owns the socket.
    pub(super) lock: Option<SocketLock>,
}

enum ListeningSocket {
    Unix(UnixListener),
    /// With certificates, clients have to authenticate by TLS.
    Net(TcpListener, Option<Certificates>),
}

/// The process or host at the other end of a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Peer {
    Local(PeerCredentials),
    Remote(SocketAddr),
}

impl Peer {
    /// Whether the peer runs as the user of this server and its workers, or as root, so that it can do to the workers
    /// whatever it likes.
    pub(super) fn owns_workers(&self) -> bool {
        match self {
            Peer::Local(peer) => peer.user == Some(sockets::own_user()) || peer.user == Some(0),
            Peer::Remote(_) => false,
        }
    }
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Peer::Local(peer) => {
                match peer.pid {
                    Some(pid) => write!(f, "process {pid} of ")?,
                    None => write!(f, "a process of another PID namespace and ")?,
                }
                match peer.user {
                    Some(user) => write!(f, "user {user}"),
                    None => write!(f, "a user of another user namespace"),
                }
            }
            Peer::Remote(address) => write!(f, "{address}"),
        }
    }
}

/// A connection that was accepted and admitted.
pub(super) struct AcceptedPeer {
    pub(super) socket: OwnedFd,
    pub(super) socket_layer: SocketLayer,
    pub(super) peer: Peer,
    /// The secret of the path at which it has connected.
    pub(super) key: Option<AdoptionKey>,
}

/// What has come of one attempt to accept a connection.
pub(super) enum Incoming {
    /// No connection is waiting.
    Nothing,
    Admitted(AcceptedPeer),
    /// The peer is not admitted, for this reason.
    Rejected(String),
    /// The peer has disconnected before it was accepted, for example.
    Failed,
}

impl Listener {
    /// Makes a listener of a Unix socket.
    pub(super) fn unix(
        address: String,
        socket: UnixListener,
        access: Access,
        lock: Option<SocketLock>,
    ) -> Self {
        // Of a service manager's socket as well.
        sockets::let_pass_descriptors(socket.as_fd(), false);
        Listener { address, socket: ListeningSocket::Unix(socket), access, lock }
    }

    /// Makes a listener of a TCP socket. With `tls`, clients have to show a certificate.
    ///
    /// # Errors
    ///
    /// - [`ListenError::Unauthenticated`]: other machines could connect without authentication, and the options do
    ///   not allow that.
    /// - [`ListenError::Address`]: `tls` without certificates.
    /// - [`ListenError::Net`]: a system call failed.
    pub(super) fn net(
        address: String,
        socket: TcpListener,
        access: Access,
        tls: bool,
    ) -> Result<Self, ListenError> {
        let failed = |source| ListenError::Net { address: address.clone(), source };
        socket.set_nonblocking(true).map_err(failed)?;
        let is_local = socket.local_addr().map_err(failed)?.ip().is_loopback();
        let certificates = access.certificates.clone().filter(|_| tls);
        if tls && certificates.is_none() {
            return Err(AddressError::NoCertificates { address }.into());
        }
        if !(tls || is_local || access.unauthenticated_beyond_loopback) {
            return Err(ListenError::Unauthenticated { address });
        }
        Ok(Listener { address, socket: ListeningSocket::Net(socket, certificates), access, lock: None })
    }

    /// Makes a listener of a socket that a predecessor or the service manager has passed.
    pub(super) fn inherited(
        address: String,
        socket: OwnedFd,
        access: Access,
        lock: Option<SocketLock>,
    ) -> Result<Self, ListenError> {
        match sockets::is_unix_listener(socket.as_fd()) {
            true => Ok(Listener::unix(address, UnixListener::from(socket), access, lock)),
            false => {
                // The address of a socket from the service manager has no scheme.
                let is_secured = address.starts_with("systemd:") && access.certificates.is_some();
                let tls = is_secured || address.starts_with("tls:");
                Listener::net(address, TcpListener::from(socket), access, tls)
            }
        }
    }

    /// Accepts the next connection that is waiting.
    ///
    /// # Errors
    ///
    /// The error of `accept` if it concerns this process: it has reached its descriptor limit, for example.
    pub(super) fn next(&self) -> io::Result<Incoming> {
        let accepted = match &self.socket {
            ListeningSocket::Unix(listener) => sockets::accept_unix(listener).map(|socket| (socket, None)),
            ListeningSocket::Net(listener, _) => {
                sockets::accept_tcp(listener).map(|(socket, from)| (socket, Some(from)))
            }
        };
        match accepted {
            Ok((socket, from)) => {
                Ok(self.identify(socket, from).map_or_else(Incoming::Rejected, Incoming::Admitted))
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(Incoming::Nothing),
            Err(error) if is_connection_error(&error) => Ok(Incoming::Failed),
            Err(error) => Err(error),
        }
    }

    fn identify(&self, socket: OwnedFd, from: Option<SocketAddr>) -> Result<AcceptedPeer, String> {
        let failed = |error: io::Error| format!("a connection failed: {error}");
        if let Some(address) = from {
            sockets::configure_tcp(socket.as_fd(), self.access.client_dead_after)
                .map_err(|error| failed(error.into()))?;
            let socket_layer = self.socket_layer().map_err(failed)?;
            return Ok(AcceptedPeer { socket, socket_layer, peer: Peer::Remote(address), key: None });
        }
        let peer = sockets::peer_credentials(socket.as_fd()).map_err(|error| failed(error.into()))?;
        let (is_admitted, peer) = (self.access.admits(&peer, sockets::own_user()), Peer::Local(peer));
        match is_admitted {
            true => {
                let key = self.lock.as_ref().and_then(SocketLock::key).cloned();
                Ok(AcceptedPeer { socket, socket_layer: SocketLayer::None, peer, key })
            }
            false => Err(format!("{peer} is not admitted")),
        }
    }

    fn socket_layer(&self) -> io::Result<SocketLayer> {
        match &self.socket {
            ListeningSocket::Net(_, Some(certificates)) => certificates.accept(),
            ListeningSocket::Net(_, None) | ListeningSocket::Unix(_) => Ok(SocketLayer::None),
        }
    }

    /// Duplicates the socket, and its lock if it has one, for a successor.
    pub(super) fn duplicate_descriptors(&self) -> io::Result<Vec<OwnedFd>> {
        let listener = descriptors::duplicate(self.as_fd())?;
        let lock = self.lock.as_ref().map(|lock| descriptors::duplicate(lock.as_fd())).transpose()?;
        Ok([Some(listener), lock].into_iter().flatten().collect())
    }

    /// Overwrites what a worker is not to know, in a forked process.
    pub(super) fn forget_in_child(&self) {
        self.lock.iter().filter_map(SocketLock::key).for_each(AdoptionKey::forget);
    }

    /// Has peers of a Unix socket see this process again, and the lock name it, after another server has failed to take
    /// over.
    pub(super) fn reclaim(&self) {
        if let ListeningSocket::Unix(socket) = &self.socket {
            // If it fails, peers see the process that has listened last.
            let _ = sockets::listen_again(socket.as_fd());
        }
        // The pid in the lock file is for people, so a failure is harmless.
        let _ = self.lock.as_ref().map(SocketLock::write);
    }

    /// Closes the listener and removes the socket's path, so that no more peers connect.
    pub(super) fn close(self) {
        if let Some(lock) = self.lock {
            lock.remove();
        }
    }
}

/// Returns whether the error concerns the connection and not this process.
///
/// # References
///
/// - [accept(2)](https://man7.org/linux/man-pages/man2/accept.2.html), "Error handling"
fn is_connection_error(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionReset, Interrupted, PermissionDenied, TimedOut};
    let kinds = [ConnectionAborted, ConnectionReset, Interrupted, PermissionDenied, TimedOut];
    // Errors of the network that were pending on the new socket.
    let errors = [
        Errno::PROTO,
        Errno::NOPROTOOPT,
        Errno::NETDOWN,
        Errno::NETUNREACH,
        Errno::HOSTDOWN,
        Errno::HOSTUNREACH,
        Errno::NONET,
        Errno::OPNOTSUPP,
    ];
    kinds.contains(&error.kind()) || Errno::from_io_error(error).is_some_and(|error| errors.contains(&error))
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

    const UNMAPPED: u32 = 9;

    /// S10
    #[test]
    fn only_the_own_user_root_and_members_of_the_group_may_come_in() {
        let peer = |user: u32, groups: &[u32]| PeerCredentials {
            pid: None,
            user: Some(user).filter(|&user| user != UNMAPPED),
            groups: groups.to_vec(),
        };
        let table = [
            ("own user", None, peer(7, &[]), true),
            ("root", None, peer(0, &[0]), true),
            ("another user", None, peer(8, &[7]), false),
            ("a member", Some(33), peer(8, &[100, 33]), true),
            ("not a member", Some(33), peer(8, &[100]), false),
            ("unmapped", None, peer(UNMAPPED, &[7]), false),
            ("an unmapped member", Some(33), peer(UNMAPPED, &[33]), true),
        ];
        for (who, group, peer, expected) in table {
            let access = Access {
                group,
                unauthenticated_beyond_loopback: false,
                certificates: None,
                client_dead_after: Duration::ZERO,
            };
            assert_eq!(access.admits(&peer, 7), expected, "{who}");
        }
    }
}
