//! The application's end of the control channel, and the server process behind it.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::task::{Context, Poll, ready};

use tokio::io::unix::AsyncFd;

use super::source::{Launched, Remote};
use crate::channel::{Inbox, SendQueue, SocketLayer};
use crate::sys::descriptors::Bundle;
use crate::sys::server_process::ServerProcess;
use crate::sys::{descriptors, reactor};
use crate::wire::control::{BODY_LIMIT, FromServer, ToServer};
use crate::wire::frame;

/// A server that was started and not yet taken leave of.
pub(crate) struct ServerConnection {
    // The channel goes before the process: its end is what tells the server to end.
    socket: AsyncFd<OwnedFd>,
    security: SocketLayer,
    /// Where it is, if over a network.
    remote: Option<Remote>,
    /// What it knows us by there.
    ticket: Option<u128>,
    /// What was wrong with the conversation, if it was not just the end of it.
    complaint: Option<String>,
    /// Where it is ours.
    process: Option<ServerProcess>,
    inbox: Inbox,
    unsent: SendQueue,
    passed: VecDeque<Bundle>,
}

impl ServerConnection {
    /// Registers with the current reactor.
    pub(crate) fn new(launched: Launched) -> io::Result<Self> {
        Ok(ServerConnection {
            socket: reactor::register_both_ways(launched.socket)?,
            security: launched.security,
            remote: launched.remote,
            ticket: None,
            complaint: None,
            process: launched.process,
            inbox: Inbox::default(),
            unsent: SendQueue::default(),
            passed: VecDeque::new(),
        })
    }

    /// The server's process, where it is ours.
    pub(crate) fn pid(&self) -> Option<u32> {
        self.process.as_ref().map(ServerProcess::pid)
    }

    /// Says it at once, as far as it fits; the rest is left for [`poll_flush`](Self::poll_flush).
    pub(crate) fn say(&mut self, message: &ToServer, passed: Vec<OwnedFd>) {
        self.unsent.put(message, passed);
        // What it says is looked at by whoever flushes.
        let _ = self.send();
    }

    /// Says bytes that are a frame already.
    pub(crate) fn say_frame(&mut self, bytes: Vec<u8>, passed: Vec<OwnedFd>) {
        self.unsent.put_frame(bytes, passed);
    }

    fn send(&mut self) -> io::Result<()> {
        let socket = self.socket.as_fd();
        self.unsent.send(socket, &mut self.security)?;
        self.security.flush(socket)
    }

    /// It knows us by this.
    pub(crate) fn is_known_as(&mut self, ticket: Option<u128>) {
        self.ticket = ticket;
    }

    /// Where the channels of its workers go, and what they name us by, if that is over a network.
    pub(crate) fn remote(&self) -> Option<(Remote, u128)> {
        Some((self.remote.clone()?, self.ticket?))
    }

    /// Whether the channels of its workers are connections to it.
    pub(crate) fn is_remote(&self) -> bool {
        self.remote.is_some()
    }

    /// What was wrong with the conversation, if it was not just the end of it.
    pub(crate) fn take_complaint(&mut self) -> Option<String> {
        self.complaint.take()
    }

    /// The descriptors that came with the message at hand.
    pub(crate) fn take_passed(&mut self) -> Bundle {
        self.passed.pop_front().unwrap_or_default()
    }

    /// Writes what fits; registers the task for the rest. A server that is gone is told by the next read.
    pub(crate) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        while let Err(error) = self.send() {
            if error.kind() != io::ErrorKind::WouldBlock {
                self.unsent.clear();
                return Poll::Ready(());
            }
            match ready!(self.socket.poll_write_ready(cx)) {
                Ok(mut guard) => guard.clear_ready(),
                Err(_) => return Poll::Ready(()),
            }
        }
        Poll::Ready(())
    }

    /// The server's next message; `None` once the conversation is over.
    pub(crate) fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<FromServer>> {
        loop {
            match self.inbox.next(BODY_LIMIT) {
                Ok(Some(body)) => return Poll::Ready(frame::whole(body).ok()),
                Ok(None) => {}
                Err(_) => return Poll::Ready(None),
            }
            let Ok(mut guard) = ready!(self.socket.poll_read_ready(cx)) else {
                return Poll::Ready(None);
            };
            let (socket, security, passed) = (&self.socket, &mut self.security, &mut self.passed);
            let filled = self.inbox.fill(|buffer| match security {
                // Descriptors come along only where nothing stands between.
                SocketLayer::None => {
                    descriptors::receive_with(socket.as_fd(), buffer, passed).map_err(io::Error::from)
                }
                #[cfg(feature = "tls")]
                secured @ SocketLayer::Tls(_) => secured.receive(socket.as_fd(), buffer),
            });
            match filled {
                Ok((0, _)) => return Poll::Ready(None),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => guard.clear_ready(),
                Err(error) => {
                    let is_known = error.kind() == io::ErrorKind::InvalidData;
                    self.complaint = is_known.then(|| error.to_string());
                    return Poll::Ready(None);
                }
            }
        }
    }

    /// Ends the conversation, which ends a server of ours; its process is left to be waited for.
    pub(crate) fn hang_up(self) -> Option<ServerProcess> {
        self.process
    }
}
