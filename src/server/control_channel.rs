//! The server's end of the control channel.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use serde::de::DeserializeOwned;

use crate::channel::{Inbox, SendQueue, SocketLayer};
use crate::clock::Instant;
use crate::config::MAX_BLOB_MEMORY;
use crate::sys::arena::ReadOnlyArena;
use crate::sys::descriptors;
use crate::sys::descriptors::PassedDescriptors;
use crate::sys::passing::{RETRY_WAIT, is_passing};
use crate::sys::sockets;
use crate::wire::control::{
    FIRST_MESSAGE_LIMIT, FromServer, HELLO_LIMIT, HelloPrefix, REQUEST_LIMIT, ToServer,
};
use crate::wire::frame;
use crate::wire::handover;
use crate::wire::handover::{TakeOverPrefix, ToPredecessor, ToSuccessor};

/// Most bytes that wait for a client that does not read; beyond that it is disconnected.
const MAX_UNSENT: usize = 4 << 20;

/// Bytes that wait for a client beyond which its workers' output is no longer read.
const SLOW_UNSENT: usize = 256 << 10;

/// Why a connection ends.
#[derive(Debug)]
pub(super) enum Disconnect {
    /// The peer has closed the connection, or the connection failed.
    Closed,
    /// The peer has violated the protocol, or too many bytes wait for it to read.
    Broken,
    /// TLS authentication failed, at either side: what the peer did, as a text whose subject is the peer.
    Untrusted(String),
}

/// The first message of a pending peer.
pub(super) enum FirstMessage {
    Message(ToServer),
    /// A hello of another protocol version.
    OtherVersion(HelloPrefix),
    /// A take-over in another format of its messages.
    OtherFormat(TakeOverPrefix),
}

/// A control socket: frames, some of which come with descriptors.
pub(super) struct ControlChannel {
    socket: OwnedFd,
    socket_layer: SocketLayer,
    inbox: Inbox,
    unsent: SendQueue,
    /// Descriptors that have arrived. They belong, in order, to the messages that need some.
    passed: VecDeque<PassedDescriptors>,
    /// Longest message that is accepted, in bytes.
    limit: usize,
    /// Whether the peer has identified itself. Before that the kernel refuses the descriptors that it passes, or closes
    /// them.
    is_known: bool,
    /// Whether any bytes have arrived.
    has_received: bool,
    /// After an error that passes: when the channel is read and written again.
    paused_until: Option<Instant>,
}

impl ControlChannel {
    pub(super) fn new(socket: OwnedFd) -> Self {
        ControlChannel {
            socket,
            socket_layer: SocketLayer::default(),
            inbox: Inbox::default(),
            unsent: SendQueue::default(),
            passed: VecDeque::new(),
            limit: HELLO_LIMIT,
            is_known: false,
            has_received: false,
            paused_until: None,
        }
    }

    /// Makes a channel for a peer of a standalone server, whose first message is short.
    pub(super) fn to_pending_peer(socket: OwnedFd, socket_layer: SocketLayer) -> Self {
        ControlChannel { limit: FIRST_MESSAGE_LIMIT, socket_layer, ..ControlChannel::new(socket) }
    }

    /// Returns the connection for another use; `None` if bytes are unread or unsent.
    pub(super) fn into_connection(self) -> Option<(OwnedFd, SocketLayer)> {
        (self.inbox.is_empty() && self.unsent.is_empty()).then_some((self.socket, self.socket_layer))
    }

    /// Closes, in a forked child, the server's socket. Buffers are leaked on purpose: freeing them would touch pages
    /// that the child shares with the server.
    pub(super) fn close_in_child(self) {
        let ControlChannel { socket, socket_layer, inbox, unsent, passed, .. } = self;
        drop(socket);
        if unsent.is_empty() && passed.is_empty() {
            std::mem::forget((socket_layer, inbox, unsent, passed));
        }
    }

    /// Waits for one message, before the event loop runs.
    pub(super) fn wait_for_message(&mut self) -> Result<ToServer, Disconnect> {
        loop {
            if let Some(message) = self.next()? {
                self.mark_known();
                return Ok(message);
            }
            self.read()?;
            self.wait_out_pause();
        }
    }

    /// Leaves the channel alone for a moment, so that an error that passes has time to pass.
    fn pause(&mut self) {
        self.paused_until = Instant::now().checked_add(RETRY_WAIT);
    }

    /// Returns how long the channel is to be left alone.
    pub(super) fn remaining_pause(&self, now: Instant) -> Option<Duration> {
        let left = self.paused_until?.saturating_duration_since(now);
        Some(left).filter(|left| !left.is_zero())
    }

    /// Waits until the pause is over, outside of the event loop.
    fn wait_out_pause(&self) {
        if let Some(left) = self.remaining_pause(Instant::now()) {
            std::thread::sleep(left);
        }
    }

    /// From now on the peer may pass descriptors, and each of its messages is short.
    pub(super) fn mark_known(&mut self) {
        sockets::let_pass_descriptors(self.socket.as_fd(), true);
        self.is_known = true;
        self.limit = REQUEST_LIMIT;
    }

    /// Returns whether bytes go to the socket as they are.
    pub(super) fn is_plain(&self) -> bool {
        matches!(self.socket_layer, SocketLayer::None)
    }

    /// Returns whether the peer has identified itself.
    pub(super) fn is_known(&self) -> bool {
        self.is_known
    }

    /// Returns whether the peer has sent anything.
    pub(super) fn has_received(&self) -> bool {
        self.has_received
    }

    /// Makes reads and writes return instead of waiting.
    pub(super) fn set_nonblocking(&self) -> rustix::io::Result<()> {
        descriptors::set_nonblocking(self.socket.as_fd())
    }

    /// Reads what has arrived; returns `false` if nothing has.
    pub(super) fn read(&mut self) -> Result<bool, Disconnect> {
        let (socket, socket_layer, passed) = (&self.socket, &mut self.socket_layer, &mut self.passed);
        let is_known = self.is_known;
        let filled = self.inbox.fill(|buffer| match socket_layer {
            SocketLayer::None if !is_known => {
                descriptors::receive(socket.as_fd(), buffer).map_err(io::Error::from)
            }
            // Only a plain socket can pass descriptors.
            SocketLayer::None => {
                descriptors::receive_with_descriptors(socket.as_fd(), buffer, passed).map_err(io::Error::from)
            }
            #[cfg(feature = "tls")]
            secured @ SocketLayer::Tls(_) => secured.receive(socket.as_fd(), buffer),
        });
        match filled {
            Ok((0, _)) => Err(Disconnect::Closed),
            Ok(_) => {
                self.has_received = true;
                Ok(true)
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(false),
            Err(error) if is_passing(&error) => {
                self.pause();
                Ok(false)
            }
            Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                Err(Disconnect::Untrusted(error.to_string()))
            }
            Err(_) => Err(Disconnect::Closed),
        }
    }

    /// Returns the next complete message.
    ///
    /// # Errors
    ///
    /// [`Disconnect::Broken`] if the bytes are no message, or descriptors have arrived without the whole message that
    /// they belong to: nothing would bound how long they are held.
    pub(super) fn next(&mut self) -> Result<Option<ToServer>, Disconnect> {
        self.next_of()
    }

    /// The same for a server that is to replace this one.
    pub(super) fn next_of_successor(&mut self) -> Result<Option<ToPredecessor>, Disconnect> {
        self.next_of()
    }

    fn next_of<M: DeserializeOwned>(&mut self) -> Result<Option<M>, Disconnect> {
        while !self.has_message() {
            if self.passed.is_empty() {
                return Ok(None);
            }
            // The message was sent at once, so the rest of it can be read.
            if !self.read()? {
                let is_paused = self.remaining_pause(Instant::now()).is_some();
                return if is_paused { Ok(None) } else { Err(Disconnect::Broken) };
            }
        }
        let body = self.inbox.next_frame(self.limit).map_err(|_| Disconnect::Broken)?;
        body.map(frame::header_only).transpose().map_err(|_| Disconnect::Broken)
    }

    /// Returns whether [`next`](Self::next) has something to return without another read.
    pub(super) fn has_message(&self) -> bool {
        // What is no message is found by `next` as well.
        self.inbox.has_frame(self.limit).unwrap_or(true)
    }

    /// Returns the first message, which may be of another protocol version.
    pub(super) fn next_first(&mut self) -> Result<Option<FirstMessage>, Disconnect> {
        let Some(body) = self.inbox.next_frame(self.limit).map_err(|_| Disconnect::Broken)? else {
            return Ok(None);
        };
        if let Some(prefix) = TakeOverPrefix::of(body).filter(|prefix| prefix.format != handover::FORMAT) {
            return Ok(Some(FirstMessage::OtherFormat(prefix)));
        }
        match (frame::header_only(body), HelloPrefix::of(body)) {
            (Ok(message), _) => Ok(Some(FirstMessage::Message(message))),
            (Err(_), Some(prefix)) => Ok(Some(FirstMessage::OtherVersion(prefix))),
            (Err(_), None) => Err(Disconnect::Broken),
        }
    }

    /// Takes the descriptors of the message at hand; `Ok(None)` if their number differs because this process has
    /// reached its descriptor limit.
    ///
    /// # Errors
    ///
    /// [`Disconnect::Broken`] if none were passed.
    pub(super) fn take_passed<const COUNT: usize>(&mut self) -> Result<Option<[OwnedFd; COUNT]>, Disconnect> {
        Ok(self.take_all_passed()?.try_into().ok())
    }

    /// Takes all descriptors of the message at hand.
    ///
    /// # Errors
    ///
    /// [`Disconnect::Broken`] if none were passed.
    pub(super) fn take_all_passed(&mut self) -> Result<PassedDescriptors, Disconnect> {
        self.passed.pop_front().ok_or(Disconnect::Broken)
    }

    /// Maps the arena that was passed with the message at hand, and returns its descriptor as well. `is_trusted` tells
    /// whether the application may do to the workers what their own code may.
    ///
    /// # Errors
    ///
    /// The reason why it cannot be mapped, as a text for the client.
    pub(super) fn take_arena(&mut self, is_trusted: bool) -> Result<(Arc<ReadOnlyArena>, OwnedFd), String> {
        let failed =
            |reason: &str| format!("the memory for the application's blobs cannot be mapped: {reason}");
        match self.take_passed() {
            Ok(Some([file])) => match ReadOnlyArena::open(file.as_fd(), MAX_BLOB_MEMORY, is_trusted) {
                Ok(arena) => Ok((Arc::new(arena), file)),
                Err(error) => Err(failed(&io::Error::from(error).to_string())),
            },
            Ok(None) => Err(failed("the server has reached its limit of descriptors")),
            Err(_) => Err(failed("it was not passed along")),
        }
    }

    pub(super) fn queue(&mut self, message: &FromServer) {
        self.unsent.push(message, Vec::new());
    }

    /// Queues a message for a server that is to replace this one, with descriptors.
    pub(super) fn queue_for_successor(&mut self, message: &ToSuccessor, passed: Vec<OwnedFd>) {
        self.unsent.push(message, passed);
    }

    /// Queues a message with descriptors.
    pub(super) fn queue_with(&mut self, message: &FromServer, passed: Vec<OwnedFd>) {
        self.unsent.push(message, passed);
    }

    /// Writes as much as the socket takes.
    ///
    /// # Errors
    ///
    /// [`Disconnect::Closed`] if the connection failed, [`Disconnect::Broken`] if too many bytes wait for the client
    /// to read.
    pub(super) fn flush(&mut self) -> Result<(), Disconnect> {
        if self.remaining_pause(Instant::now()).is_some() {
            return Ok(());
        }
        let sent = self.unsent.send(self.socket.as_fd(), &mut self.socket_layer);
        match sent.and_then(|()| self.socket_layer.flush(self.socket.as_fd())) {
            Ok(()) => Ok(()),
            Err(error) if is_passing(&error) && self.unsent.bytes() <= MAX_UNSENT => {
                self.pause();
                Ok(())
            }
            Err(error) if error.kind() != io::ErrorKind::WouldBlock => Err(Disconnect::Closed),
            Err(_) if self.unsent.bytes() <= MAX_UNSENT => Ok(()),
            Err(_) => Err(Disconnect::Broken),
        }
    }

    /// Writes everything, waiting for the client to read.
    pub(super) fn flush_all(&mut self) -> Result<(), Disconnect> {
        loop {
            self.flush()?;
            if !self.has_unsent() {
                return Ok(());
            }
            self.wait_out_pause();
            self.wait_until_writable()?;
        }
    }

    pub(super) fn has_unsent(&self) -> bool {
        !self.unsent.is_empty() || self.socket_layer.has_unsent()
    }

    /// Returns whether so many bytes wait that the output of workers is to wait as well.
    pub(super) fn is_slow(&self) -> bool {
        self.unsent.bytes() > SLOW_UNSENT
    }

    fn wait_until_writable(&self) -> Result<(), Disconnect> {
        descriptors::wait_until_writable(self.socket.as_fd()).map_err(|_| Disconnect::Closed)
    }
}

impl AsFd for ControlChannel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}
