//! What is still to be sent on a control channel: frames and the descriptors that go with them, in order.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use serde::Serialize;

use super::SocketLayer;
use crate::sys::descriptors;
use crate::wire::frame;

/// Frames that wait for room in a socket.
#[derive(Default)]
pub(crate) struct SendQueue {
    queue: VecDeque<QueuedFrame>,
    /// Bytes of all that are queued.
    bytes: usize,
}

struct QueuedFrame {
    bytes: Vec<u8>,
    sent: usize,
    /// Descriptors that go with the first byte.
    passed: Vec<OwnedFd>,
}

impl SendQueue {
    /// Queues a message with the descriptors that go with it.
    pub(crate) fn put<M: Serialize>(&mut self, message: &M, passed: Vec<OwnedFd>) {
        let mut bytes = Vec::new();
        frame::append(&mut bytes, message);
        self.bytes += bytes.len();
        self.queue.push_back(QueuedFrame { bytes, sent: 0, passed });
    }

    /// Queues bytes that are a frame already, with the descriptors that go with them.
    #[cfg(feature = "actors")]
    pub(crate) fn put_frame(&mut self, bytes: Vec<u8>, passed: Vec<OwnedFd>) {
        self.bytes += bytes.len();
        self.queue.push_back(QueuedFrame { bytes, sent: 0, passed });
    }

    /// Sends what fits.
    ///
    /// # Errors
    ///
    /// `WouldBlock` where there is no room, with the rest still queued; anything else is the end of the channel.
    pub(crate) fn send(&mut self, socket: BorrowedFd<'_>, security: &mut SocketLayer) -> io::Result<()> {
        while let Some(next) = self.queue.front_mut() {
            next.send(socket, security)?;
            if next.sent == next.bytes.len() {
                self.bytes -= next.bytes.len();
                self.queue.pop_front();
            }
        }
        Ok(())
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// Bytes of all frames that were not sent whole.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Gives up what was not sent.
    #[cfg(feature = "actors")]
    pub(crate) fn clear(&mut self) {
        self.queue.clear();
        self.bytes = 0;
    }
}

impl QueuedFrame {
    fn send(&mut self, socket: BorrowedFd<'_>, security: &mut SocketLayer) -> io::Result<()> {
        let rest = &self.bytes[self.sent..];
        let count = if self.passed.is_empty() {
            security.send(socket, rest)?
        } else {
            let passed: Vec<BorrowedFd<'_>> = self.passed.iter().map(AsFd::as_fd).collect();
            descriptors::send_with(socket, rest, &passed)?
        };
        self.passed.clear();
        self.sent += count;
        Ok(())
    }
}
