//! The host's end of a worker's pipe, registered with whichever reactor its holder runs on.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::task::{Context, Poll, ready};
use std::thread::ThreadId;

use tokio::io::unix::AsyncFd;

use crate::channel::{Inbox, Outbox};
use crate::sys::{Errno, descriptors, reactor};
use crate::wire::frame::{self, FrameError};

/// What a read brought.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Arrived {
    /// Bytes.
    Some,
    /// Nothing yet.
    Nothing,
    /// The worker's end is closed. `unread`: it had not read all that was written to it.
    End { unread: bool },
}

/// One end of a worker's pipe.
pub(super) struct HostChannel {
    /// `None` only where it could not be registered anew.
    socket: Option<AsyncFd<OwnedFd>>,
    /// Whether it is watched for room to write, too.
    writing: bool,
    home: ThreadId,
    limit: usize,
    inbox: Inbox,
    outbox: Outbox,
}

impl HostChannel {
    /// Registers a fresh channel with the current thread's reactor.
    pub(super) fn new(socket: OwnedFd, max_payload: usize) -> io::Result<Self> {
        descriptors::set_nonblocking(socket.as_fd())?;
        Ok(HostChannel {
            socket: Some(reactor::register(socket, false)?),
            writing: false,
            home: std::thread::current().id(),
            limit: frame::body_limit(max_payload),
            inbox: Inbox::default(),
            outbox: Outbox::default(),
        })
    }

    /// Moves the registration to the current thread's reactor, if it is with another's.
    pub(super) fn settle_here(&mut self) -> io::Result<()> {
        if self.home != std::thread::current().id() {
            self.register(false)?;
        }
        Ok(())
    }

    /// Registers the socket anew with the current thread's reactor.
    fn register(&mut self, writing: bool) -> io::Result<()> {
        if let Some(socket) = self.socket.take() {
            self.socket = Some(reactor::register(socket.into_inner(), writing)?);
            self.writing = writing;
            self.home = std::thread::current().id();
        }
        Ok(())
    }

    pub(super) fn outbox(&mut self) -> &mut Outbox {
        &mut self.outbox
    }

    /// Takes in what has arrived, or registers the task to be woken when something does.
    pub(super) fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<Arrived> {
        let Some(socket) = &self.socket else {
            return Poll::Ready(Arrived::End { unread: false });
        };
        loop {
            let Ok(mut guard) = ready!(socket.poll_read_ready(cx)) else {
                return Poll::Ready(Arrived::End { unread: false });
            };
            match read(&mut self.inbox, socket) {
                (Arrived::Nothing, _) => guard.clear_ready(),
                // Room left over says that the socket is empty: what comes later makes it ready again.
                (arrived, filled) => {
                    if !filled {
                        guard.clear_ready();
                    }
                    return Poll::Ready(arrived);
                }
            }
        }
    }

    /// Takes in what has arrived, whatever the reactor knows of it.
    pub(super) fn fill_now(&mut self) -> Arrived {
        match &self.socket {
            Some(socket) => read(&mut self.inbox, socket).0,
            None => Arrived::End { unread: false },
        }
    }

    /// Writes what fits; registers the task to be woken for the rest.
    ///
    /// A peer that is gone is told by the next read, not here: what it said before it went is read first.
    pub(super) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        while !self.outbox.is_empty() {
            let Some(socket) = &self.socket else {
                return Poll::Ready(());
            };
            match descriptors::send(socket.as_fd(), self.outbox.unsent()) {
                Ok(count) => self.outbox.wrote(count),
                Err(Errno::AGAIN) if self.writing => match ready!(socket.poll_write_ready(cx)) {
                    Ok(mut guard) => guard.clear_ready(),
                    Err(_) => return Poll::Ready(()),
                },
                // Where it cannot be watched the socket is gone, which the next read tells.
                Err(Errno::AGAIN) => drop(self.register(true)),
                Err(_) => return Poll::Ready(()),
            }
        }
        if self.writing {
            drop(self.register(false));
        }
        Poll::Ready(())
    }

    /// Writes what fits, and leaves the rest for [`poll_flush`](Self::poll_flush).
    pub(super) fn flush_now(&mut self) {
        while let Some(socket) = self.socket.as_ref().filter(|_| !self.outbox.is_empty()) {
            match descriptors::send(socket.as_fd(), self.outbox.unsent()) {
                Ok(count) => self.outbox.wrote(count),
                Err(_) => return,
            }
        }
    }

    /// The next whole frame's body, if one has arrived.
    ///
    /// # Errors
    ///
    /// [`FrameError::TooLong`]; the channel is of no use any more.
    pub(super) fn next(&mut self) -> Result<Option<&[u8]>, FrameError> {
        self.inbox.next(self.limit)
    }
}

/// One read, and whether it filled all the room there was.
fn read(inbox: &mut Inbox, socket: &AsyncFd<OwnedFd>) -> (Arrived, bool) {
    match inbox.fill(|buffer| descriptors::receive(socket.as_fd(), buffer)) {
        Ok((0, _)) => (Arrived::End { unread: false }, true),
        Ok((_, filled)) => (Arrived::Some, filled),
        Err(Errno::AGAIN) => (Arrived::Nothing, false),
        // What a Unix socket says when its peer closes with bytes still unread.
        Err(Errno::CONNRESET) => (Arrived::End { unread: true }, true),
        Err(_) => (Arrived::End { unread: false }, true),
    }
}
