//! A channel over a stream socket.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::task::{Context, Poll, ready};

use tokio::io::unix::AsyncFd;

use super::retry_timer::RetryTimer;
use super::{Arrived, Buffers, ROUNDS_BEFORE_YIELD};
use crate::channel::{SocketLayer, StatusPage, WorkerEnd, WorkerMemory};
use crate::sys::passing::is_passing;
use crate::sys::process::Owner;
use crate::sys::{descriptors, reactor, sockets};

/// The host's end of a socket.
pub(super) struct Stream {
    /// `None` only if it could not be registered anew.
    socket: Option<AsyncFd<OwnedFd>>,
    socket_layer: SocketLayer,
    /// A copy of the socket that is watched for writability, present only while unsent bytes wait for space. It is
    /// not watched otherwise, because a peer that reads would wake this end each time.
    writable: Option<AsyncFd<OwnedFd>>,
    /// Runs after an error that passes, until the read or write is tried again.
    retry: RetryTimer,
    /// Whether nothing more can be written. What the peer has sent is still read.
    is_broken: bool,
    /// Rounds since this end last let other tasks run.
    rounds: u32,
    /// The application's process. A copy of it that is forked closes the channel for itself alone.
    owner: Owner,
}

/// Closes the channel, also where another process holds this end of it.
impl Drop for Stream {
    fn drop(&mut self) {
        if let Some(socket) = &self.socket {
            sockets::hang_up(socket.as_fd(), self.owner);
        }
    }
}

impl Stream {
    pub(super) fn pair(results: Option<OwnedFd>) -> io::Result<(Self, StatusPage, WorkerEnd)> {
        let (ours, socket) = sockets::socket_pair()?;
        descriptors::set_nonblocking(ours.as_fd())?;
        let (status_page, channel) = StatusPage::create()?;
        let memory = WorkerMemory { channel, results };
        let end = WorkerEnd::Stream { socket, socket_layer: SocketLayer::None, memory };
        Ok((Stream::over(ours, SocketLayer::None)?, status_page, end))
    }

    /// Creates a channel over a connection that may not be established yet.
    pub(super) fn over(socket: OwnedFd, socket_layer: SocketLayer) -> io::Result<Self> {
        Ok(Stream {
            socket: Some(reactor::register(socket)?),
            socket_layer,
            writable: None,
            retry: RetryTimer::default(),
            is_broken: false,
            rounds: 0,
            owner: Owner::this(),
        })
    }

    pub(super) fn register_here(&mut self) -> io::Result<()> {
        self.writable = None;
        if let Some(socket) = self.socket.take() {
            self.socket = Some(reactor::register(socket.into_inner())?);
        }
        Ok(())
    }

    pub(super) fn poll_exchange(&mut self, buffers: &mut Buffers, cx: &mut Context<'_>) -> Poll<Arrived> {
        let polled = self.exchange(buffers, cx);
        if polled.is_pending() {
            self.rounds = 0;
        }
        polled
    }

    fn exchange(&mut self, buffers: &mut Buffers, cx: &mut Context<'_>) -> Poll<Arrived> {
        loop {
            self.rounds += 1;
            if self.rounds > ROUNDS_BEFORE_YIELD {
                // However much the worker sends, other tasks get their turn.
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            if !self.retry.poll_over(cx) {
                return Poll::Pending;
            }
            self.write_now(buffers);
            if self.retry.is_started() {
                continue;
            }
            if self.is_broken {
                return Poll::Ready(match self.read_now(buffers) {
                    Arrived::Nothing => Arrived::End,
                    arrived => arrived,
                });
            }
            let has_unsent = !buffers.outgoing.is_empty() || self.socket_layer.has_unsent();
            if has_unsent && self.poll_writable(cx).is_ready() {
                continue;
            }
            let Some(socket) = &self.socket else { return Poll::Ready(Arrived::End) };
            let Ok(mut guard) = ready!(socket.poll_read_ready(cx)) else {
                return Poll::Ready(Arrived::End);
            };
            match read(socket, &mut self.socket_layer, buffers) {
                None => self.retry.start(),
                Some(Arrived::Nothing) => guard.clear_ready(),
                Some(arrived) => return Poll::Ready(arrived),
            }
        }
    }

    /// Returns ready if the socket may be writable by now.
    fn poll_writable(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.writable.is_none() {
            let socket = self.socket.as_ref().map(|socket| descriptors::duplicate(socket.as_fd()));
            // Without a free descriptor the socket is not watched, and the write is tried again when something
            // arrives.
            self.writable =
                socket.and_then(Result::ok).and_then(|socket| reactor::register_read_write(socket).ok());
        }
        let Some(writable) = &self.writable else { return Poll::Pending };
        if let Ok(mut guard) = ready!(writable.poll_write_ready(cx)) {
            guard.clear_ready();
        }
        Poll::Ready(())
    }

    pub(super) fn read_now(&mut self, buffers: &mut Buffers) -> Arrived {
        let Some(socket) = &self.socket else { return Arrived::End };
        read(socket, &mut self.socket_layer, buffers).unwrap_or_else(|| {
            self.retry.start();
            Arrived::Nothing
        })
    }

    pub(super) fn write_now(&mut self, buffers: &mut Buffers) {
        let Some(socket) = &self.socket else { return };
        let (socket, layer) = (socket.as_fd(), &mut self.socket_layer);
        let mut write = || {
            while !buffers.outgoing.is_empty() {
                let count = layer.send(socket, buffers.outgoing.unsent())?;
                buffers.outgoing.mark_sent(count);
            }
            layer.flush(socket)
        };
        match write() {
            Ok(()) => self.writable = None,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) if is_passing(&error) => self.retry.start(),
            // A connection that is not established yet is awaited; if it fails, the read reports it.
            Err(error) if error.kind() == io::ErrorKind::NotConnected => {}
            Err(_) => self.is_broken = true,
        }
    }
}

/// Reads what has arrived; `None` after an error that passes.
fn read(socket: &AsyncFd<OwnedFd>, socket_layer: &mut SocketLayer, buffers: &mut Buffers) -> Option<Arrived> {
    Some(match buffers.incoming.fill(|buffer| socket_layer.receive(socket.as_fd(), buffer)) {
        Ok((0, _)) => Arrived::End,
        Ok(_) => Arrived::Some,
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Arrived::Nothing,
        Err(error) if is_passing(&error) => return None,
        Err(_) => Arrived::End,
    })
}
