//! What a server and its successor send each other, one message at a time.

use std::io::{IoSlice, IoSliceMut, Read as _};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags,
};

use crate::Place;
use crate::harness::*;

/// A message with what is passed along.
pub struct Relayed {
    body: Vec<u8>,
    passed: Vec<OwnedFd>,
}

impl Relayed {
    /// The index of the message among those of its sender.
    pub fn kind(&self) -> u8 {
        self.body[0]
    }
}

/// Receives the next message; `None` at the end of the connection.
pub fn receive(socket: &mut UnixStream) -> Option<Relayed> {
    let mut length = [0; 4];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(8))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let received = rustix::net::recvmsg(
        &mut *socket,
        &mut [IoSliceMut::new(&mut length)],
        &mut control,
        RecvFlags::CMSG_CLOEXEC | RecvFlags::WAITALL,
    );
    if received.map_or(0, |received| received.bytes) < length.len() {
        return None;
    }
    let passed = control
        .drain()
        .filter_map(|message| match message {
            RecvAncillaryMessage::ScmRights(passed) => Some(passed),
            _ => None,
        })
        .flatten()
        .collect();
    let mut body = vec![0; u32::from_le_bytes(length) as usize];
    socket.read_exact(&mut body).ok()?;
    Some(Relayed { body, passed })
}

/// Passes a message on. A peer that is gone does not get it.
pub fn send(socket: &UnixStream, Relayed { body, passed }: Relayed) {
    let bytes = crate::raw_client::framed(&body);
    let passed: Vec<_> = passed.iter().map(|passed| passed.as_fd()).collect();
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(8))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !passed.is_empty() {
        assert!(control.push(SendAncillaryMessage::ScmRights(&passed)), "there is space");
    }
    let _ = rustix::net::sendmsg(socket, &[IoSlice::new(&bytes)], &mut control, SendFlags::NOSIGNAL);
}

/// Stands at a server's path in its place, until it is dropped.
pub struct Detour {
    path: PathBuf,
    hidden: PathBuf,
    listener: UnixListener,
}

impl Detour {
    pub fn at(place: &Place) -> Self {
        let (path, hidden) = (place.0.clone(), place.0.with_extension("hidden"));
        std::fs::rename(&path, &hidden).expect("a socket");
        let listener = UnixListener::bind(&path).expect("a socket");
        Detour { path, hidden, listener }
    }

    /// The connections to the next peer and to the server.
    pub fn accept(&self) -> (UnixStream, UnixStream) {
        let (peer, _) = self.listener.accept().expect("a peer");
        let server = UnixStream::connect(&self.hidden).expect("the server");
        for socket in [&peer, &server] {
            socket.set_read_timeout(Some(PATIENCE)).expect("a socket");
        }
        (peer, server)
    }
}

impl Drop for Detour {
    fn drop(&mut self) {
        std::fs::rename(&self.hidden, &self.path).expect("a socket");
    }
}
