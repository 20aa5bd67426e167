//! A client of a server's own protocol, which may break its rules.

use std::io::{IoSlice, Read as _, Write as _};
use std::mem::MaybeUninit;
use std::os::fd::BorrowedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::time::Duration;

use forkpool::prelude::*;
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags};

use crate::harness::*;

/// A connection that sends what it likes.
pub struct RawClient(pub UnixStream);

impl RawClient {
    pub fn connect(path: &Path) -> Self {
        let socket = UnixStream::connect(path).expect("a connection");
        socket.set_read_timeout(Some(PATIENCE)).expect("a socket");
        RawClient(socket)
    }

    /// Connects and becomes a client; `None` if no server is there, or it ends at this moment.
    pub fn try_identified(path: &Path, hello: &[u8]) -> Option<Self> {
        let socket = UnixStream::connect(path).ok()?;
        socket.set_read_timeout(Some(PATIENCE)).expect("a socket");
        let mut client = RawClient(socket);
        client.0.write_all(&framed(hello)).ok()?;
        (client.next().first() == Some(&WELCOME)).then_some(client)
    }

    /// Connects and becomes a client.
    pub fn identified(path: &Path, hello: &[u8]) -> Self {
        Self::try_identified(path, hello).expect("the server welcomes it")
    }

    /// Sends a message with this body.
    pub fn send(&mut self, body: &[u8]) {
        self.0.write_all(&framed(body)).expect("the server reads");
    }

    /// Sends bytes with descriptors. Returns whether they were sent: the server may have closed the connection, or the
    /// kernel may know that it wants none.
    pub fn pass(&mut self, bytes: &[u8], descriptors: &[BorrowedFd<'_>]) -> bool {
        let mut space = vec![MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(descriptors.len()))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        assert!(control.push(SendAncillaryMessage::ScmRights(descriptors)), "there is space");
        rustix::net::sendmsg(&self.0, &[IoSlice::new(bytes)], &mut control, SendFlags::NOSIGNAL).is_ok()
    }

    /// Returns the body of the next message; empty at the end of the connection.
    pub fn next(&mut self) -> Vec<u8> {
        let mut length = [0; 4];
        if self.0.read_exact(&mut length).is_err() {
            return Vec::new();
        }
        let mut body = vec![0; u32::from_le_bytes(length) as usize];
        self.0.read_exact(&mut body).expect("a whole message");
        body
    }

    /// Waits until the server has closed the connection.
    pub fn is_closed(&mut self) {
        while !self.next().is_empty() {}
    }
}

pub const WELCOME: u8 = 0;
pub const REFUSED: u8 = 1;
pub const FORK: u8 = 1;
pub const END: u8 = 2;
pub const ADOPT: u8 = 3;
pub const INSPECT: u8 = 4;

/// Returns a message with this body.
pub fn framed(body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(body.len()).expect("a short message").to_le_bytes();
    [&length, body].concat()
}

/// The guard of the recorded hello: no other field has these bytes.
pub const GUARD: Duration = Duration::from_secs(7777);
pub const GUARD_ENCODED: [u8; 4] = [1, 0xe1, 0x3c, 0];

/// Records the hello with which a pool of probes begins.
pub async fn hello() -> Vec<u8> {
    let scratch = Scratch::path();
    let listener = UnixListener::bind(scratch.get()).expect("a socket");
    let pool = Pool::<Probe>::connect(format!("unix:{}", scratch.get().display()))
        .workers(1..=1)
        .blob_memory(0)
        .hung_worker_timeout(GUARD)
        .start()
        .expect("the pool starts");
    let recorded = on_a_thread(move || {
        let (socket, _) = listener.accept().expect("the pool connects");
        socket.set_read_timeout(Some(PATIENCE)).expect("a socket");
        RawClient(socket).next()
    })
    .await;
    bounded("the end", pool.stop(Duration::ZERO)).await;
    recorded
}
