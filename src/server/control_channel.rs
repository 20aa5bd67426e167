//! The server's end of the control channel.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use crate::channel::{Inbox, SendQueue, SocketLayer};
use crate::sys::arena::ReadOnlyArena;
use crate::sys::descriptors;
use crate::sys::descriptors::Bundle;
use crate::wire::control::{BODY_LIMIT, FromServer, HELLO_LIMIT, Hello, Origin, STRANGER_LIMIT, ToServer};
use crate::wire::frame;

/// Most bytes that wait for a client that does not read.
const MOST_UNSENT: usize = 4 << 20;

/// Bytes beyond which what workers print is no longer passed on to a client until it reads again.
const MUCH_UNSENT: usize = 256 << 10;

/// Why the conversation is over.
#[derive(Debug)]
pub(super) enum Disconnect {
    /// The application is gone or has had enough.
    Closed,
    /// What arrived is not this conversation, or what was said is not read.
    Broken,
    /// It could not show who it is, or did not believe who this is.
    Untrusted(String),
}

/// What a stranger says first.
pub(super) enum FirstWord {
    Message(ToServer),
    /// A hello of another version.
    Foreign(Origin),
}

/// The control channel: frames with, here and there, descriptors.
pub(super) struct ControlChannel {
    socket: OwnedFd,
    security: SocketLayer,
    inbox: Inbox,
    unsent: SendQueue,
    /// Descriptors that arrived; they belong to the messages that need some, in their order.
    passed: VecDeque<Bundle>,
    limit: usize,
}

impl ControlChannel {
    pub(super) fn new(socket: OwnedFd) -> Self {
        ControlChannel {
            socket,
            security: SocketLayer::default(),
            inbox: Inbox::default(),
            unsent: SendQueue::default(),
            passed: VecDeque::new(),
            limit: HELLO_LIMIT,
        }
    }

    /// The channel to whoever comes to a server that listens; its hello has nothing to carry.
    pub(super) fn to_stranger(socket: OwnedFd, security: SocketLayer) -> Self {
        ControlChannel { limit: STRANGER_LIMIT, security, ..ControlChannel::new(socket) }
    }

    /// The connection itself, for somebody else to go on with; `None` where more has arrived than was taken.
    pub(super) fn into_connection(self) -> Option<(OwnedFd, SocketLayer)> {
        (self.inbox.is_empty() && self.unsent.is_empty()).then_some((self.socket, self.security))
    }

    /// Leaves it to the server that this process was forked from. Memory is not given back, which would touch pages for
    /// nothing.
    pub(super) fn close_in_child(self) {
        let ControlChannel { socket, security, inbox, unsent, passed, .. } = self;
        drop(socket);
        if unsent.is_empty() && passed.is_empty() {
            std::mem::forget((security, inbox, unsent, passed));
        }
    }

    /// Waits for one message, as the server does before it has anything else to do.
    pub(super) fn wait(&mut self) -> Result<ToServer, Disconnect> {
        loop {
            if let Some(message) = self.next()? {
                self.is_known();
                return Ok(message);
            }
            self.read()?;
        }
    }

    /// It has said who it is.
    pub(super) fn is_known(&mut self) {
        self.limit = BODY_LIMIT;
    }

    /// From now on reads and writes return instead of waiting.
    pub(super) fn stop_waiting(&self) -> rustix::io::Result<()> {
        descriptors::set_nonblocking(self.socket.as_fd())
    }

    /// Takes in what has arrived; `false` if nothing had.
    pub(super) fn read(&mut self) -> Result<bool, Disconnect> {
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
            Ok((0, _)) => Err(Disconnect::Closed),
            Ok(_) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(false),
            Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                Err(Disconnect::Untrusted(error.to_string()))
            }
            Err(_) => Err(Disconnect::Closed),
        }
    }

    /// The next message that is there in full.
    pub(super) fn next(&mut self) -> Result<Option<ToServer>, Disconnect> {
        match self.inbox.next(self.limit) {
            Ok(Some(body)) => frame::whole(body).map(Some).map_err(|_| Disconnect::Broken),
            // Descriptors come with the first byte of the message that they belong to, and at most one has begun.
            Ok(None) if self.passed.len() > 1 => Err(Disconnect::Broken),
            Ok(None) => Ok(None),
            Err(_) => Err(Disconnect::Broken),
        }
    }

    /// The first message of somebody who may be of another version.
    pub(super) fn first(&mut self) -> Result<Option<FirstWord>, Disconnect> {
        let Some(body) = self.inbox.next(self.limit).map_err(|_| Disconnect::Broken)? else {
            return Ok(None);
        };
        match (frame::whole(body), Origin::of(body)) {
            (Ok(message), _) => Ok(Some(FirstWord::Message(message))),
            (Err(_), Some(origin)) => Ok(Some(FirstWord::Foreign(origin))),
            (Err(_), None) => Err(Disconnect::Broken),
        }
    }

    /// The descriptors that came with the message at hand, if as many as there have to be.
    ///
    /// # Errors
    ///
    /// [`Disconnect::Broken`] where none were passed. `Ok(None)`: some were, for which this process had no room.
    pub(super) fn take_passed<const COUNT: usize>(&mut self) -> Result<Option<[OwnedFd; COUNT]>, Disconnect> {
        Ok(self.take_bundle()?.try_into().ok())
    }

    /// All of them, however many there are.
    ///
    /// # Errors
    ///
    /// [`Disconnect::Broken`] where none were passed.
    pub(super) fn take_bundle(&mut self) -> Result<Bundle, Disconnect> {
        self.passed.pop_front().ok_or(Disconnect::Broken)
    }

    /// The arena that came with a hello, if that says that one did.
    ///
    /// # Errors
    ///
    /// Why it cannot be used, for whoever has passed it.
    pub(super) fn take_arena(&mut self, hello: &Hello) -> Result<Option<Arc<ReadOnlyArena>>, String> {
        if !hello.arena {
            return Ok(None);
        }
        let told = |why: &str| format!("the memory for the application's blobs cannot be mapped: {why}");
        match self.take_passed() {
            Ok(Some([file])) => match ReadOnlyArena::open(file.as_fd()) {
                Ok(arena) => Ok(Some(Arc::new(arena))),
                Err(error) => Err(told(&io::Error::from(error).to_string())),
            },
            Ok(None) => Err(told("the server may have no more descriptors")),
            Err(_) => Err(told("it was not passed along")),
        }
    }

    pub(super) fn say(&mut self, message: &FromServer) {
        self.unsent.put(message, Vec::new());
    }

    /// Says a message that descriptors go with.
    pub(super) fn say_with(&mut self, message: &FromServer, passed: Vec<OwnedFd>) {
        self.unsent.put(message, passed);
    }

    /// Writes what fits.
    ///
    /// # Errors
    ///
    /// [`Disconnect::Closed`], or [`Disconnect::Broken`] where too much waits to be read.
    pub(super) fn flush(&mut self) -> Result<(), Disconnect> {
        let sent = self.unsent.send(self.socket.as_fd(), &mut self.security);
        match sent.and_then(|()| self.security.flush(self.socket.as_fd())) {
            Ok(()) => Ok(()),
            Err(error) if error.kind() != io::ErrorKind::WouldBlock => Err(Disconnect::Closed),
            Err(_) if self.unsent.bytes() <= MOST_UNSENT => Ok(()),
            Err(_) => Err(Disconnect::Broken),
        }
    }

    /// Writes everything, waiting for room.
    pub(super) fn flush_all(&mut self) -> Result<(), Disconnect> {
        loop {
            self.flush()?;
            if !self.has_unsent() {
                return Ok(());
            }
            self.wait_for_room()?;
        }
    }

    pub(super) fn has_unsent(&self) -> bool {
        !self.unsent.is_empty() || self.security.has_unsent()
    }

    /// Whether so much waits to be read that less important things had better wait as well.
    pub(super) fn is_slow(&self) -> bool {
        self.unsent.bytes() > MUCH_UNSENT
    }

    fn wait_for_room(&self) -> Result<(), Disconnect> {
        use rustix::event::{PollFd, PollFlags};
        let mut entries = [PollFd::new(&self.socket, PollFlags::OUT)];
        rustix::io::retry_on_intr(|| rustix::event::poll(&mut entries, None))
            .map(|_| ())
            .map_err(|_| Disconnect::Closed)
    }
}

impl AsFd for ControlChannel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}
