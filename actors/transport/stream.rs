//! A channel over a stream socket alone.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::task::{Context, Poll, ready};

use tokio::io::unix::AsyncFd;

use super::{Arrived, LOOKS, Mailboxes};
use crate::channel::{SocketLayer, StatusPage, WorkerEnd};
use crate::sys::{descriptors, reactor, sockets};

/// The host's end of a socket.
pub(super) struct Stream {
    /// `None` only where it could not be registered anew.
    socket: Option<AsyncFd<OwnedFd>>,
    security: SocketLayer,
    /// The same socket, watched for room, since there was none: as long as nothing waits for it, it is not watched,
    /// for a peer that reads would wake this end each time.
    room: Option<AsyncFd<OwnedFd>>,
    /// Reads since this end last gave way.
    looks: u32,
}

impl Stream {
    pub(super) fn pair(result_arena: usize) -> io::Result<(Self, StatusPage, WorkerEnd)> {
        let (ours, socket) = sockets::socket_pair()?;
        descriptors::set_nonblocking(ours.as_fd())?;
        let (status_page, memory) = StatusPage::create(result_arena)?;
        let end = WorkerEnd::Stream { socket, security: SocketLayer::None, memory };
        Ok((Stream::over(ours, SocketLayer::None)?, status_page, end))
    }

    /// A connection that may still be on its way.
    pub(super) fn over(socket: OwnedFd, security: SocketLayer) -> io::Result<Self> {
        Ok(Stream { socket: Some(reactor::register(socket)?), security, room: None, looks: 0 })
    }

    pub(super) fn settle_here(&mut self) -> io::Result<()> {
        self.room = None;
        if let Some(socket) = self.socket.take() {
            self.socket = Some(reactor::register(socket.into_inner())?);
        }
        Ok(())
    }

    pub(super) fn poll_exchange(&mut self, boxes: &mut Mailboxes, cx: &mut Context<'_>) -> Poll<Arrived> {
        let polled = self.exchange(boxes, cx);
        if polled.is_pending() {
            self.looks = 0;
        }
        polled
    }

    fn exchange(&mut self, boxes: &mut Mailboxes, cx: &mut Context<'_>) -> Poll<Arrived> {
        loop {
            self.looks += 1;
            if self.looks > LOOKS {
                // However much a worker has to say.
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            self.write_now(boxes);
            let has_unsent = !boxes.outgoing.is_empty() || self.security.has_unsent();
            if has_unsent && self.poll_room(cx).is_ready() {
                continue;
            }
            let Some(socket) = &self.socket else { return Poll::Ready(Arrived::End) };
            let Ok(mut guard) = ready!(socket.poll_read_ready(cx)) else {
                return Poll::Ready(Arrived::End);
            };
            match read(socket, &mut self.security, boxes) {
                Arrived::Nothing => guard.clear_ready(),
                arrived => return Poll::Ready(arrived),
            }
        }
    }

    /// Ready if there may be room by now.
    fn poll_room(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.room.is_none() {
            let socket = self.socket.as_ref().map(|socket| socket.as_fd().try_clone_to_owned());
            // Out of descriptors, say: then it is tried again whenever something arrives.
            self.room =
                socket.and_then(Result::ok).and_then(|socket| reactor::register_both_ways(socket).ok());
        }
        let Some(room) = &self.room else { return Poll::Pending };
        if let Ok(mut guard) = ready!(room.poll_write_ready(cx)) {
            guard.clear_ready();
        }
        Poll::Ready(())
    }

    pub(super) fn read_now(&mut self, boxes: &mut Mailboxes) -> Arrived {
        self.socket.as_ref().map_or(Arrived::End, |socket| read(socket, &mut self.security, boxes))
    }

    pub(super) fn write_now(&mut self, boxes: &mut Mailboxes) {
        let Some(socket) = &self.socket else { return };
        while !boxes.outgoing.is_empty() {
            match self.security.send(socket.as_fd(), boxes.outgoing.unsent()) {
                Ok(count) => boxes.outgoing.wrote(count),
                // No room, or nobody there any more: what it said before it went is read first.
                Err(_) => return,
            }
        }
        if self.security.flush(socket.as_fd()).is_ok() {
            self.room = None;
        }
    }
}

fn read(socket: &AsyncFd<OwnedFd>, security: &mut SocketLayer, boxes: &mut Mailboxes) -> Arrived {
    match boxes.incoming.fill(|buffer| security.receive(socket.as_fd(), buffer)) {
        Ok((0, _)) => Arrived::End,
        Ok(_) => Arrived::Some,
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Arrived::Nothing,
        Err(_) => Arrived::End,
    }
}
