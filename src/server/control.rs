//! The server's end of the control channel.

use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use crate::channel::{Inbox, Outbox};
use crate::sys::{Errno, descriptors};
use crate::wire::control::{BODY_LIMIT, FromServer, HELLO_LIMIT, ToServer};
use crate::wire::frame;

/// Why the conversation is over.
#[derive(Debug)]
pub(super) enum Over {
    /// The application is gone or has had enough.
    Closed,
    /// What arrived is not this conversation.
    Broken,
}

/// The control channel: frames with, here and there, a descriptor.
pub(super) struct Control {
    socket: OwnedFd,
    inbox: Inbox,
    outbox: Outbox,
    /// Descriptors that arrived; they belong to the fork requests in their order, four to each.
    passed: VecDeque<OwnedFd>,
    limit: usize,
}

impl Control {
    pub(super) fn new(socket: OwnedFd) -> Self {
        Control {
            socket,
            inbox: Inbox::default(),
            outbox: Outbox::default(),
            passed: VecDeque::new(),
            limit: HELLO_LIMIT,
        }
    }

    /// Waits for one message, as the server does before it has anything else to do.
    pub(super) fn wait(&mut self) -> Result<ToServer, Over> {
        loop {
            if let Some(message) = self.next()? {
                self.limit = BODY_LIMIT;
                return Ok(message);
            }
            self.read()?;
        }
    }

    /// From now on reads and writes return instead of waiting.
    pub(super) fn stop_waiting(&self) -> rustix::io::Result<()> {
        descriptors::set_nonblocking(self.socket.as_fd())
    }

    /// Takes in what has arrived; `false` if nothing had.
    pub(super) fn read(&mut self) -> Result<bool, Over> {
        let (socket, passed) = (&self.socket, &mut self.passed);
        let filled = self.inbox.fill(|buffer| descriptors::receive_with(socket.as_fd(), buffer, passed));
        match filled {
            Ok((0, _)) => Err(Over::Closed),
            Ok(_) => Ok(true),
            Err(Errno::AGAIN) => Ok(false),
            Err(_) => Err(Over::Closed),
        }
    }

    /// The next message that is there in full.
    pub(super) fn next(&mut self) -> Result<Option<ToServer>, Over> {
        match self.inbox.next(self.limit) {
            Ok(Some(body)) => frame::whole(body).map(Some).map_err(|_| Over::Broken),
            Ok(None) => Ok(None),
            Err(_) => Err(Over::Broken),
        }
    }

    /// The descriptor that came with the message at hand.
    pub(super) fn take_passed(&mut self) -> Option<OwnedFd> {
        self.passed.pop_front()
    }

    pub(super) fn say(&mut self, message: &FromServer) {
        frame::append(self.outbox.buffer(), message);
    }

    /// Says a message that a descriptor goes with.
    pub(super) fn say_with(&mut self, message: &FromServer, passed: OwnedFd) -> Result<(), Over> {
        // What was said before must be on its way, for the descriptor to go with the right message.
        self.flush_all()?;
        let mut bytes = Vec::new();
        frame::append(&mut bytes, message);
        loop {
            match descriptors::send_with(self.socket.as_fd(), &bytes, &[passed.as_fd()]) {
                Ok(count) => {
                    self.outbox.buffer().extend_from_slice(&bytes[count..]);
                    return Ok(());
                }
                Err(Errno::AGAIN) => self.wait_for_room()?,
                Err(_) => return Err(Over::Closed),
            }
        }
    }

    /// Writes what fits.
    pub(super) fn flush(&mut self) -> Result<(), Over> {
        while !self.outbox.is_empty() {
            match descriptors::send(self.socket.as_fd(), self.outbox.unsent()) {
                Ok(count) => self.outbox.wrote(count),
                Err(Errno::AGAIN) => return Ok(()),
                Err(_) => return Err(Over::Closed),
            }
        }
        Ok(())
    }

    /// Writes everything, waiting for room.
    pub(super) fn flush_all(&mut self) -> Result<(), Over> {
        loop {
            self.flush()?;
            if self.outbox.is_empty() {
                return Ok(());
            }
            self.wait_for_room()?;
        }
    }

    pub(super) fn has_unsent(&self) -> bool {
        !self.outbox.is_empty()
    }

    fn wait_for_room(&self) -> Result<(), Over> {
        use rustix::event::{PollFd, PollFlags};
        let mut entries = [PollFd::new(&self.socket, PollFlags::OUT)];
        rustix::io::retry_on_intr(|| rustix::event::poll(&mut entries, None))
            .map(|_| ())
            .map_err(|_| Over::Closed)
    }
}

impl AsFd for Control {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}
