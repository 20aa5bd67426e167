//! The worker's end of a channel that is a stream socket and nothing else.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::blocking::Link;
use super::notes::{Doing, Notes};
use super::security::Security;

/// A stream socket whose reads and writes wait.
pub(crate) struct StreamLink {
    socket: Arc<OwnedFd>,
    /// Shared with twins: one at a time has something to say, and only the one that waits for calls reads.
    security: Arc<Mutex<Security>>,
    notes: Notes,
}

impl StreamLink {
    pub(super) fn new(socket: OwnedFd, security: Security, notes: Notes) -> Self {
        StreamLink { socket: Arc::new(socket), security: Arc::new(Mutex::new(security)), notes }
    }

    pub(super) fn twin(&self) -> Self {
        let (socket, security) = (self.socket.clone(), self.security.clone());
        StreamLink { socket, security, notes: self.notes.clone() }
    }

    pub(super) fn notes(&self) -> Notes {
        self.notes.clone()
    }

    fn security(&self) -> MutexGuard<'_, Security> {
        self.security.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Link for StreamLink {
    fn receive(&mut self, bytes: &mut Vec<u8>) -> io::Result<usize> {
        match self.security().receive(self.socket.as_fd(), bytes) {
            // What a socket says whose peer was closed before it had read everything.
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => Ok(0),
            received => received,
        }
    }

    fn send(&mut self, bytes: &[u8], _: bool) -> io::Result<usize> {
        self.security().send(self.socket.as_fd(), bytes)
    }

    fn note(&self, doing: Doing) {
        self.notes.write(doing);
    }
}
