//! One server takes another's place: the listening sockets and the locks of their paths are passed on, so that whoever
//! comes in between waits in line and is let in by the new one.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

use super::children::ClientId;
use super::clients::HandshakeState;
use super::control_channel::Disconnect;
use super::event_loop::ForkServer;
use super::listener::{Access, ListenError, Listener, Peer};
use super::socket_lock::SocketLock;
use crate::address::Address;
use crate::channel::{Inbox, SendQueue, SocketLayer};
use crate::sys::descriptors;
use crate::sys::descriptors::Bundle;
use crate::sys::sockets;
use crate::wire::control::{BODY_LIMIT, FromServer, ToServer};
use crate::wire::frame;

/// How long the server that is to be replaced may take to answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// The server that is to be replaced, as its successor sees it.
pub(super) struct Predecessor {
    socket: OwnedFd,
    inbox: Inbox,
    passed: VecDeque<Bundle>,
}

impl Predecessor {
    /// Asks the server at this path for its place.
    ///
    /// # Errors
    ///
    /// What the system said.
    pub(super) fn at(path: &Path) -> io::Result<Self> {
        let socket = sockets::connect_waiting(path, PATIENCE)?;
        let peer = sockets::peer(socket.as_fd())?;
        if peer.user != sockets::own_user() && peer.user != 0 {
            return Err(io::Error::other(format!("it is of user {}", peer.user)));
        }
        let predecessor = Predecessor { socket, inbox: Inbox::default(), passed: VecDeque::new() };
        predecessor.say()?;
        Ok(predecessor)
    }

    /// The doors that it has. It keeps them as well, until [`thank`](Self::thank).
    ///
    /// # Errors
    ///
    /// What it said, or the system did.
    pub(super) fn listeners(&mut self, access: &Access) -> io::Result<Vec<Listener>> {
        let mut listeners = Vec::new();
        loop {
            let (address, more) = match self.next()? {
                FromServer::HandedOver { address, more } => (address, more),
                FromServer::Refused { reason } => return Err(io::Error::other(reason)),
                _ => return Err(io::Error::other("it said something else")),
            };
            let mut passed = self.passed.pop_front().unwrap_or_default().into_iter();
            let listener = passed.next().ok_or_else(|| io::Error::other("it passed nothing"))?;
            let lock = match (Address::parse(&address), passed.next()) {
                (Ok(Address::Unix(path)), Some(lock)) => Some(SocketLock::inherited(path, lock)),
                _ => None,
            };
            let listener = Listener::inherited(address, listener, access.clone(), lock);
            listeners.push(listener.map_err(io::Error::other)?);
            if !more {
                return Ok(listeners);
            }
        }
    }

    /// Has it give up its place, which is ours from now on.
    pub(super) fn thank(self) {
        // One that is gone meanwhile has given it up as well.
        let _ = self.say();
    }

    fn say(&self) -> io::Result<()> {
        let mut parcels = SendQueue::default();
        parcels.put(&ToServer::TakeOver, Vec::new());
        parcels.send(self.socket.as_fd(), &mut SocketLayer::None)
    }

    fn next(&mut self) -> io::Result<FromServer> {
        loop {
            let invalid = |_| io::Error::from(io::ErrorKind::InvalidData);
            if let Some(body) = self.inbox.next(BODY_LIMIT).map_err(invalid)? {
                return frame::whole(body).map_err(invalid);
            }
            let (socket, passed) = (&self.socket, &mut self.passed);
            let filled = self.inbox.fill(|bytes| descriptors::receive_with(socket.as_fd(), bytes, passed))?;
            if filled.0 == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
    }
}

impl Predecessor {
    /// What is wrong with a path whose server does not give it away.
    pub(super) fn refusal(path: &Path, error: &io::Error) -> ListenError {
        let reason = match error.kind() {
            io::ErrorKind::WouldBlock => format!("it did not answer within {PATIENCE:?}"),
            _ => error.to_string(),
        };
        ListenError::NotHandedOver { path: path.to_owned(), reason }
    }
}

impl ForkServer<'_> {
    /// A stranger wants to take this server's place.
    pub(super) fn hand_over(&mut self, id: ClientId) -> Result<(), Disconnect> {
        let Some(pending_peer) = self.clients.pending_peer(id) else { return Ok(()) };
        let own = sockets::own_user();
        let is_own = matches!(&pending_peer.peer, Peer::Local(peer) if peer.user == own || peer.user == 0);
        if !is_own {
            let peer = pending_peer.peer.clone();
            return self.refuse(id, format!("only its own user may take its place, and not {peer}"));
        }
        if self.is_draining() {
            return self.refuse(id, "it is ending already".to_owned());
        }
        let passed: io::Result<Vec<_>> = self
            .listeners
            .iter()
            .map(|listener| Ok((listener.address.clone(), listener.duplicates()?)))
            .collect();
        let Ok(passed) = passed else {
            return self.refuse(id, "it may have no more descriptors".to_owned());
        };
        let Some(pending_peer) = self.clients.pending_peer(id) else { return Ok(()) };
        let count = passed.len();
        for (at, (address, descriptors)) in passed.into_iter().enumerate() {
            let message = FromServer::HandedOver { address, more: at + 1 < count };
            pending_peer.control.say_with(&message, descriptors);
        }
        pending_peer.handshake = HandshakeState::TakesOver;
        pending_peer.control.flush()
    }

    /// A stranger has been given this server's place, and may have taken it.
    pub(super) fn await_successor(&mut self, id: ClientId) -> Result<(), Disconnect> {
        let Some(pending_peer) = self.clients.pending_peer(id) else { return Ok(()) };
        match pending_peer.control.next()? {
            None => pending_peer.control.flush(),
            Some(ToServer::TakeOver) => {
                tracing::info!(target: "forkpool::server", by = %pending_peer.peer, "another server takes over");
                self.clients.remove_pending_peer(id);
                // They are the other's now, with the locks: nothing is taken away.
                self.listeners.clear();
                self.drain(true);
                Ok(())
            }
            Some(_) => Err(Disconnect::Broken),
        }
    }
}
