//! The worker's end of a channel over a stream socket alone.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::blocking_channel::WorkerIo;
use super::socket_layer::SocketLayer;
use super::status_page::{Activity, StatusPage};
use crate::sys::passing::retry;

/// A stream socket with blocking reads and writes.
pub(crate) struct StreamIo {
    socket: Arc<OwnedFd>,
    /// Shared with duplicates. One of them at a time sends, and only the one that waits for calls receives.
    socket_layer: Arc<Mutex<SocketLayer>>,
    status_page: StatusPage,
}

impl StreamIo {
    pub(super) fn new(socket: OwnedFd, socket_layer: SocketLayer, status_page: StatusPage) -> Self {
        StreamIo { socket: Arc::new(socket), socket_layer: Arc::new(Mutex::new(socket_layer)), status_page }
    }

    pub(super) fn duplicate(&self) -> Self {
        let (socket, socket_layer) = (self.socket.clone(), self.socket_layer.clone());
        StreamIo { socket, socket_layer, status_page: self.status_page.clone() }
    }

    pub(super) fn status_page(&self) -> StatusPage {
        self.status_page.clone()
    }

    fn socket_layer(&self) -> MutexGuard<'_, SocketLayer> {
        self.socket_layer.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl WorkerIo for StreamIo {
    fn receive(&mut self, bytes: &mut Vec<u8>) -> io::Result<usize> {
        match retry(|| self.socket_layer().receive(self.socket.as_fd(), bytes)) {
            // The error of a socket whose peer closed it with unread bytes.
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => Ok(0),
            received => received,
        }
    }

    fn send(&mut self, bytes: &[u8], _: bool) -> io::Result<usize> {
        retry(|| self.socket_layer().send(self.socket.as_fd(), bytes))
    }

    fn set_activity(&self, activity: Activity) {
        self.status_page.set_activity(activity);
    }

    fn begin(&self, epoch: u16) -> bool {
        self.status_page.begin(epoch)
    }
}
