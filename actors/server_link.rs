//! The application's end of the control channel, and the server process behind it.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::task::{Context, Poll, ready};

use tokio::io::unix::AsyncFd;

use crate::channel::Inbox;
use crate::sys::launch::ServerProcess;
use crate::sys::{Errno, descriptors, reactor};
use crate::wire::control::{BODY_LIMIT, FromServer, ToServer};
use crate::wire::frame;

/// A server that was started and not yet taken leave of.
pub(super) struct ServerLink {
    // The channel goes before the process: its end is what tells the server to end.
    socket: AsyncFd<OwnedFd>,
    process: ServerProcess,
    inbox: Inbox,
    unsent: VecDeque<Unsent>,
    passed: VecDeque<OwnedFd>,
}

struct Unsent {
    bytes: Vec<u8>,
    sent: usize,
    /// Descriptors that go with the first byte.
    passed: Vec<OwnedFd>,
}

/// A server process and our end of its control channel, not yet registered with a reactor.
pub(super) struct Launched {
    socket: OwnedFd,
    process: ServerProcess,
}

/// Starts this program again as a fork server.
///
/// # Errors
///
/// What the system said; nothing is left behind.
pub(super) fn launch(arguments: &[String]) -> io::Result<Launched> {
    let (ours, theirs) = descriptors::socket_pair()?;
    descriptors::set_nonblocking(ours.as_fd())?;
    Ok(Launched { socket: ours, process: ServerProcess::launch(arguments, theirs)? })
}

impl ServerLink {
    /// Registers with the current reactor.
    pub(super) fn new(launched: Launched) -> io::Result<Self> {
        Ok(ServerLink {
            socket: reactor::register_both_ways(launched.socket)?,
            process: launched.process,
            inbox: Inbox::default(),
            unsent: VecDeque::new(),
            passed: VecDeque::new(),
        })
    }

    pub(super) fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// Says it at once, as far as it fits; the rest is left for [`poll_flush`](Self::poll_flush).
    pub(super) fn say(&mut self, message: &ToServer, passed: Vec<OwnedFd>) {
        let mut bytes = Vec::new();
        frame::append(&mut bytes, message);
        self.unsent.push_back(Unsent { bytes, sent: 0, passed });
        // What it says is looked at by whoever flushes.
        let _ = self.send_now();
    }

    /// Says bytes that are a frame already.
    pub(super) fn say_frame(&mut self, bytes: Vec<u8>) {
        self.unsent.push_back(Unsent { bytes, sent: 0, passed: Vec::new() });
    }

    /// The descriptor that came with the message at hand.
    pub(super) fn take_passed(&mut self) -> Option<OwnedFd> {
        self.passed.pop_front()
    }

    /// Writes what fits; registers the task for the rest. A server that is gone is told by the next read.
    pub(super) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        while let Err(error) = self.send_now() {
            match error {
                Errno::AGAIN => match ready!(self.socket.poll_write_ready(cx)) {
                    Ok(mut guard) => guard.clear_ready(),
                    Err(_) => return Poll::Ready(()),
                },
                _ => self.unsent.clear(),
            }
        }
        Poll::Ready(())
    }

    fn send_now(&mut self) -> Result<(), Errno> {
        while let Some(next) = self.unsent.front_mut() {
            next.send(&self.socket)?;
            if next.sent == next.bytes.len() {
                self.unsent.pop_front();
            }
        }
        Ok(())
    }

    /// The server's next message; `None` once the conversation is over.
    pub(super) fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<FromServer>> {
        loop {
            match self.inbox.next(BODY_LIMIT) {
                Ok(Some(body)) => return Poll::Ready(frame::whole(body).ok()),
                Ok(None) => {}
                Err(_) => return Poll::Ready(None),
            }
            let Ok(mut guard) = ready!(self.socket.poll_read_ready(cx)) else {
                return Poll::Ready(None);
            };
            let (socket, passed) = (&self.socket, &mut self.passed);
            let filled = self.inbox.fill(|buffer| descriptors::receive_with(socket.as_fd(), buffer, passed));
            match filled {
                Ok((0, _)) => return Poll::Ready(None),
                Ok(_) => {}
                Err(Errno::AGAIN) => guard.clear_ready(),
                Err(_) => return Poll::Ready(None),
            }
        }
    }

    /// Ends the conversation, which ends the server; the process is left to be waited for.
    pub(super) fn hang_up(self) -> ServerProcess {
        self.process
    }
}

impl Unsent {
    fn send(&mut self, socket: &AsyncFd<OwnedFd>) -> Result<(), Errno> {
        let rest = &self.bytes[self.sent..];
        let count = if self.passed.is_empty() {
            descriptors::send(socket.as_fd(), rest)?
        } else {
            let passed: Vec<BorrowedFd<'_>> = self.passed.iter().map(AsFd::as_fd).collect();
            descriptors::send_with(socket.as_fd(), rest, &passed)?
        };
        self.passed.clear();
        self.sent += count;
        Ok(())
    }
}
