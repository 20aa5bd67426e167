//! One server replaces another: it receives the listening sockets and the locks of their paths. Peers that connect in
//! the meantime wait in the sockets' backlog, and the new server accepts them.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

use super::children::ClientId;
use super::clients::HandshakeState;
use super::control_channel::Disconnect;
use super::errors::ListenError;
use super::event_loop::ForkServer;
use super::listener::{Access, Listener, Peer};
use super::socket_lock::SocketLock;
use crate::address::Address;
use crate::channel::{Inbox, SendQueue, SocketLayer};
use crate::sys::descriptors;
use crate::sys::descriptors::PassedDescriptors;
use crate::sys::sockets;
use crate::telling::log_event;
use crate::wire::control::{BODY_LIMIT, FromServer, ToServer};
use crate::wire::frame;

/// How long the predecessor may take to answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// The connection to the server that is to be replaced.
pub(super) struct Predecessor {
    socket: OwnedFd,
    inbox: Inbox,
    passed: VecDeque<PassedDescriptors>,
}

impl Predecessor {
    /// Connects to the server at this path and asks it for its sockets.
    ///
    /// # Errors
    ///
    /// The system's error, or a server that runs as another user and not as root.
    pub(super) fn at(path: &Path) -> io::Result<Self> {
        let socket = sockets::connect_with_timeout(path, ANSWER_TIMEOUT)?;
        let peer = sockets::peer_credentials(socket.as_fd())?;
        if !peer.user.is_some_and(is_own_or_root) {
            return Err(io::Error::other(format!("it is {}", Peer::Local(peer))));
        }
        let predecessor = Predecessor { socket, inbox: Inbox::default(), passed: VecDeque::new() };
        predecessor.send_take_over()?;
        Ok(predecessor)
    }

    /// Receives the predecessor's listeners. It keeps them as well until [`confirm`](Self::confirm).
    ///
    /// # Errors
    ///
    /// The reason of a refusal, a wrong or incomplete answer, or the system's error. `WouldBlock` means that the
    /// predecessor did not answer in time. It then continues to serve.
    pub(super) fn listeners(&mut self, access: &Access) -> io::Result<Vec<Listener>> {
        let mut listeners = Vec::new();
        loop {
            let (address, more) = match self.next()? {
                FromServer::HandedOver { address, more } => (address, more),
                FromServer::Refused { reason } => return Err(io::Error::other(reason)),
                _ => return Err(io::Error::other("it sent an unexpected message")),
            };
            let mut passed = self.passed.pop_front().unwrap_or_default().into_iter();
            let listener = passed.next().ok_or_else(|| io::Error::other("it passed no socket"))?;
            let lock = match (Address::parse(&address), passed.next()) {
                (Ok(Address::Unix(path)), Some(lock)) => {
                    // Peers see the process that has listened last. If it fails, they see the predecessor.
                    let _ = sockets::listen_again(listener.as_fd());
                    Some(SocketLock::inherited(path, lock))
                }
                _ => None,
            };
            let listener = Listener::inherited(address, listener, access.clone(), lock);
            listeners.push(listener.map_err(io::Error::other)?);
            if !more {
                return Ok(listeners);
            }
        }
    }

    /// Tells the predecessor to stop listening; this server owns the sockets from now on.
    pub(super) fn confirm(self) {
        // A predecessor that has exited in the meantime has stopped listening as well.
        let _ = self.send_take_over();
    }

    fn send_take_over(&self) -> io::Result<()> {
        let mut send_queue = SendQueue::default();
        send_queue.push(&ToServer::TakeOver, Vec::new());
        send_queue.send(self.socket.as_fd(), &mut SocketLayer::None)
    }

    fn next(&mut self) -> io::Result<FromServer> {
        loop {
            let invalid = |_| io::Error::from(io::ErrorKind::InvalidData);
            if let Some(body) = self.inbox.next_frame(BODY_LIMIT).map_err(invalid)? {
                return frame::header_only(body).map_err(invalid);
            }
            let (socket, passed) = (&self.socket, &mut self.passed);
            let filled = self
                .inbox
                .fill(|bytes| descriptors::receive_with_descriptors(socket.as_fd(), bytes, passed))?;
            if filled.0 == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
    }
}

impl Predecessor {
    /// Returns the error for a path whose server does not hand over.
    pub(super) fn refusal(path: &Path, error: &io::Error) -> ListenError {
        let reason = match error.kind() {
            io::ErrorKind::WouldBlock => format!("it did not answer within {ANSWER_TIMEOUT:?}"),
            _ => error.to_string(),
        };
        ListenError::NotHandedOver { path: path.to_owned(), reason }
    }
}

fn is_own_or_root(user: u32) -> bool {
    user == sockets::own_user() || user == 0
}

impl ForkServer<'_> {
    /// Passes this server's listeners to a pending peer that asks to replace it. The peer must run as the same user
    /// or as root.
    pub(super) fn hand_over(&mut self, id: ClientId) -> Result<(), Disconnect> {
        let Some(pending_peer) = self.clients.pending_peer(id) else { return Ok(()) };
        let is_own = matches!(&pending_peer.peer, Peer::Local(peer) if peer.user.is_some_and(is_own_or_root));
        if !is_own {
            let peer = pending_peer.peer.clone();
            return self
                .refuse(id, format!("only a process of its own user or of root may replace it, not {peer}"));
        }
        if self.is_draining() {
            return self.refuse(id, "it is already stopping".to_owned());
        }
        let passed: io::Result<Vec<_>> = self
            .listeners
            .iter()
            .map(|listener| Ok((listener.address.clone(), listener.duplicate_descriptors()?)))
            .collect();
        let Ok(passed) = passed else {
            return self.refuse(id, "it has reached its limit of descriptors".to_owned());
        };
        let Some(pending_peer) = self.clients.pending_peer(id) else { return Ok(()) };
        let count = passed.len();
        for (at, (address, descriptors)) in passed.into_iter().enumerate() {
            let message = FromServer::HandedOver { address, more: at + 1 < count };
            pending_peer.control.queue_with(&message, descriptors);
        }
        pending_peer.handshake = HandshakeState::TakingOver;
        pending_peer.control.flush()
    }

    /// Waits for the successor to confirm; then stops listening and drains.
    pub(super) fn await_successor(&mut self, id: ClientId) -> Result<(), Disconnect> {
        let Some(pending_peer) = self.clients.pending_peer(id) else { return Ok(()) };
        match pending_peer.control.next()? {
            None => pending_peer.control.flush(),
            Some(ToServer::TakeOver) => {
                log_event!(info, by = %pending_peer.peer, "another server takes over");
                self.clients.remove_pending_peer(id);
                // The sockets and locks belong to the successor now, so their paths are not removed.
                self.listeners.clear();
                self.drain(true);
                Ok(())
            }
            Some(_) => Err(Disconnect::Broken),
        }
    }
}
