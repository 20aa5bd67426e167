//! The worker's end of a channel that is a stream socket and nothing else.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use super::blocking::Link;
use super::notes::{Doing, Notes};
use crate::sys::{Errno, descriptors};

/// A stream socket whose reads and writes wait.
pub(crate) struct StreamLink {
    socket: Arc<OwnedFd>,
    notes: Notes,
}

impl StreamLink {
    pub(super) fn new(socket: OwnedFd, notes: Notes) -> Self {
        StreamLink { socket: Arc::new(socket), notes }
    }

    pub(super) fn twin(&self) -> Self {
        StreamLink { socket: self.socket.clone(), notes: self.notes.clone() }
    }

    pub(super) fn notes(&self) -> Notes {
        self.notes.clone()
    }
}

impl Link for StreamLink {
    fn receive(&mut self, bytes: &mut Vec<u8>) -> io::Result<usize> {
        match descriptors::receive(self.socket.as_fd(), bytes) {
            // What a socket says whose peer was closed before it had read everything.
            Err(Errno::CONNRESET) => Ok(0),
            received => Ok(received?),
        }
    }

    fn send(&mut self, bytes: &[u8]) -> io::Result<usize> {
        Ok(descriptors::send(self.socket.as_fd(), bytes)?)
    }

    fn note(&self, doing: Doing) {
        self.notes.write(doing);
    }
}
