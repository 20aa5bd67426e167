//! The worker's end of a channel that is a stream socket and nothing else.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::blocking_channel::WorkerIo;
use super::socket_layer::SocketLayer;
use super::status_page::{Doing, StatusPage};

/// A stream socket whose reads and writes wait.
pub(crate) struct StreamIo {
    socket: Arc<OwnedFd>,
    /// Shared with twins: one at a time has something to say, and only the one that waits for calls reads.
    security: Arc<Mutex<SocketLayer>>,
    status_page: StatusPage,
}

impl StreamIo {
    pub(super) fn new(socket: OwnedFd, security: SocketLayer, status_page: StatusPage) -> Self {
        StreamIo { socket: Arc::new(socket), security: Arc::new(Mutex::new(security)), status_page }
    }

    pub(super) fn twin(&self) -> Self {
        let (socket, security) = (self.socket.clone(), self.security.clone());
        StreamIo { socket, security, status_page: self.status_page.clone() }
    }

    pub(super) fn status_page(&self) -> StatusPage {
        self.status_page.clone()
    }

    fn security(&self) -> MutexGuard<'_, SocketLayer> {
        self.security.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl WorkerIo for StreamIo {
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
        self.status_page.write(doing);
    }
}
