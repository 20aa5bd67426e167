//! Frames that wait to be sent on a control channel, with the descriptors that are passed along, in order.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use serde::Serialize;

use super::SocketLayer;
use crate::sys::descriptors;
use crate::wire::frame;

/// Frames that wait for space in a socket.
#[derive(Default)]
pub(crate) struct SendQueue {
    queue: VecDeque<QueuedFrame>,
    /// Bytes of all queued frames.
    bytes: usize,
}

struct QueuedFrame {
    bytes: Vec<u8>,
    sent: usize,
    /// Descriptors to be passed along with the first byte.
    passed: Vec<OwnedFd>,
}

impl SendQueue {
    /// Queues a message and the descriptors to be passed along.
    pub(crate) fn push<M: Serialize>(&mut self, message: &M, passed: Vec<OwnedFd>) {
        let mut bytes = Vec::new();
        frame::append(&mut bytes, message);
        self.bytes += bytes.len();
        self.queue.push_back(QueuedFrame { bytes, sent: 0, passed });
    }

    /// Queues an encoded frame.
    #[cfg(feature = "actors")]
    pub(crate) fn push_frame(&mut self, bytes: Vec<u8>) {
        self.bytes += bytes.len();
        self.queue.push_back(QueuedFrame { bytes, sent: 0, passed: Vec::new() });
    }

    /// Sends as much as the socket accepts.
    ///
    /// # Errors
    ///
    /// `WouldBlock` if the socket is full; the rest stays queued. Any other error is the end of the channel.
    pub(crate) fn send(&mut self, socket: BorrowedFd<'_>, socket_layer: &mut SocketLayer) -> io::Result<()> {
        while let Some(next) = self.queue.front_mut() {
            next.send(socket, socket_layer)?;
            if next.sent == next.bytes.len() {
                self.bytes -= next.bytes.len();
                self.queue.pop_front();
            }
        }
        Ok(())
    }

    /// Whether all frames were sent.
    pub(crate) fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// Bytes of all frames that were not sent completely.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Discards all queued frames.
    #[cfg(feature = "actors")]
    pub(crate) fn clear(&mut self) {
        self.queue.clear();
        self.bytes = 0;
    }
}

impl QueuedFrame {
    fn send(&mut self, socket: BorrowedFd<'_>, socket_layer: &mut SocketLayer) -> io::Result<()> {
        let rest = &self.bytes[self.sent..];
        let count = if self.passed.is_empty() {
            socket_layer.send(socket, rest)?
        } else {
            let passed: Vec<BorrowedFd<'_>> = self.passed.iter().map(AsFd::as_fd).collect();
            descriptors::send_with_descriptors(socket, rest, &passed)?
        };
        self.passed.clear();
        self.sent += count;
        Ok(())
    }
}
