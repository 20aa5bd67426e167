//! The server that this one is to replace; [`handover`](super::handover) is the other side.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

use super::errors::ListenError;
use super::listener::{Access, Listener, Peer};
use super::socket_lock::SocketLock;
use crate::address::Address;
use crate::channel::{Inbox, SendQueue, SocketLayer};
use crate::clock::Instant;
use crate::sys::descriptors;
use crate::sys::descriptors::PassedDescriptors;
use crate::sys::sockets;
use crate::wire::control::{BODY_LIMIT, ToServer};
use crate::wire::frame;
use crate::wire::handover::{TakeOver, ToPredecessor, ToSuccessor};

/// How long the predecessor may take to answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// The connection to a server that hands over.
pub(super) struct Predecessor {
    socket: OwnedFd,
    inbox: Inbox,
    passed: VecDeque<PassedDescriptors>,
    /// Its pidfd, once it has passed its sockets.
    process: Option<OwnedFd>,
}

/// What a server has answered that was asked to hand over.
pub(super) enum Offer {
    /// Its listeners. It keeps them as well, and serves.
    Listeners(Predecessor, Vec<Listener>),
    /// Another server has replaced it in the meantime.
    Replaced,
}

impl Predecessor {
    /// Asks the server at this path to hand over, and waits until `deadline` while it hands over to another one.
    ///
    /// # Errors
    ///
    /// The reason of a refusal, a server that runs as another user and not as root, a wrong or incomplete answer, or the
    /// system's error. `WouldBlock` means that the predecessor did not answer in time. It then continues to serve.
    pub(super) fn ask(
        path: &Path,
        request: &TakeOver,
        access: &Access,
        deadline: Instant,
    ) -> io::Result<Offer> {
        let socket = sockets::connect_with_timeout(path, ANSWER_TIMEOUT)?;
        let peer = sockets::peer_credentials(socket.as_fd())?;
        if !peer.user.is_some_and(is_own_or_root) {
            return Err(io::Error::other(format!("it is {}", Peer::Local(peer))));
        }
        let (inbox, passed) = (Inbox::default(), VecDeque::new());
        let mut predecessor = Predecessor { socket, inbox, passed, process: None };
        predecessor.send(&ToServer::TakeOver(request.clone()))?;
        let mut listeners = Vec::new();
        loop {
            match predecessor.next()? {
                ToSuccessor::Socket { address } => {
                    listeners.push(predecessor.take_listener(address, access)?);
                }
                ToSuccessor::Offered => {
                    predecessor.process =
                        predecessor.passed.pop_front().and_then(|passed| passed.into_iter().next());
                    return Ok(Offer::Listeners(predecessor, listeners));
                }
                ToSuccessor::Wait { behind } => predecessor.wait_until(deadline, &behind)?,
                ToSuccessor::Replaced => return Ok(Offer::Replaced),
                ToSuccessor::Refused { reason } => return Err(io::Error::other(reason)),
                ToSuccessor::Yours => return Err(io::Error::other("it sent an unexpected message")),
            }
        }
    }

    /// Waits for the next message while another server has its turn.
    fn wait_until(&self, deadline: Instant, behind: &str) -> io::Result<()> {
        if self.inbox.has_frame(BODY_LIMIT).unwrap_or(true) {
            return Ok(());
        }
        let left = deadline.saturating_duration_since(Instant::now());
        match descriptors::wait_until_readable_for(self.socket.as_fd(), left)? {
            true => Ok(()),
            false => Err(io::Error::other(format!("{behind} is replacing it, and take_over_wait is over"))),
        }
    }

    fn take_listener(&mut self, address: String, access: &Access) -> io::Result<Listener> {
        let mut passed = self.passed.pop_front().unwrap_or_default().into_iter();
        let listener = passed.next().ok_or_else(|| io::Error::other("it passed no socket"))?;
        let lock = match (Address::parse(&address), passed.next()) {
            (Ok(Address::Unix(path)), Some(lock)) => Some(SocketLock::inherited(path, lock)),
            _ => None,
        };
        Listener::inherited(address, listener, access.clone(), lock).map_err(io::Error::other)
    }

    /// Tells the predecessor that nothing can fail any more, and waits until the sockets are this server's alone: the
    /// predecessor has stopped accepting connections, or has ended.
    ///
    /// # Errors
    ///
    /// The reason of a refusal, or the system's error; the predecessor serves on.
    pub(super) fn commit(&mut self) -> io::Result<()> {
        let answer = self.send(&ToPredecessor::Ready).and_then(|()| self.next());
        match answer {
            Ok(ToSuccessor::Yours) => Ok(()),
            Ok(ToSuccessor::Refused { reason }) => Err(io::Error::other(reason)),
            Ok(_) => Err(io::Error::other("it sent an unexpected message")),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Err(error),
            // Its descriptors are closed, and it is about to end. One that is alive does not close the connection here.
            Err(error) => match &self.process {
                Some(process) if descriptors::wait_until_readable_for(process.as_fd(), ANSWER_TIMEOUT)? => {
                    Ok(())
                }
                _ => Err(error),
            },
        }
    }

    /// Tells the predecessor that this server serves.
    pub(super) fn finish(self) {
        // A predecessor that has ended in the meantime serves no more either.
        let _ = self.send(&ToPredecessor::Serving);
    }

    fn send<M: serde::Serialize>(&self, message: &M) -> io::Result<()> {
        let mut send_queue = SendQueue::default();
        send_queue.push(message, Vec::new());
        send_queue.send(self.socket.as_fd(), &mut SocketLayer::None)
    }

    fn next(&mut self) -> io::Result<ToSuccessor> {
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

    /// Returns the error for a path whose server does not hand over.
    pub(super) fn refusal(path: &Path, error: &io::Error) -> ListenError {
        let reason = match error.kind() {
            io::ErrorKind::WouldBlock => format!("it did not answer within {ANSWER_TIMEOUT:?}"),
            _ => error.to_string(),
        };
        ListenError::NotHandedOver { path: path.to_owned(), reason }
    }
}

pub(super) fn is_own_or_root(user: u32) -> bool {
    user == sockets::own_user() || user == 0
}
