//! The worker's end of its channel, whichever way its bytes move.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use super::blocking_channel::WorkerIo;
use super::doorbell::WorkerDoorbells;
use super::ring::RingIo;
use super::socket_layer::SocketLayer;
use super::status_page::{Doing, StatusPage};
use super::stream::StreamIo;
use crate::blob::ResultArena;

/// What a worker's end is made of.
pub(crate) enum WorkerEnd {
    /// Rings in shared memory, and the bells that wake.
    Rings { doorbells: WorkerDoorbells, memory: OwnedFd },
    /// A socket, and memory for the worker's notes alone.
    Stream { socket: OwnedFd, security: SocketLayer, memory: OwnedFd },
}

impl WorkerEnd {
    /// The memory in which the worker keeps its notes.
    pub(crate) fn memory(&self) -> &OwnedFd {
        match self {
            WorkerEnd::Rings { memory, .. } | WorkerEnd::Stream { memory, .. } => memory,
        }
    }

    /// The same end, out of the way of descriptors that other code opens and closes by number.
    pub(crate) fn raised(self, raise: impl Fn(OwnedFd) -> OwnedFd) -> Self {
        match self {
            WorkerEnd::Rings { doorbells: WorkerDoorbells { rx, tx }, memory } => {
                WorkerEnd::Rings { doorbells: WorkerDoorbells { rx: raise(rx), tx: raise(tx) }, memory }
            }
            WorkerEnd::Stream { socket, security, memory } => {
                WorkerEnd::Stream { socket: raise(socket), security, memory }
            }
        }
    }
}

/// A worker's end that is in use.
pub(crate) enum AnyWorkerIo {
    Ring(RingIo),
    Stream(StreamIo),
}

impl AnyWorkerIo {
    /// # Errors
    ///
    /// What the system said of its memory.
    pub(crate) fn open(end: WorkerEnd) -> io::Result<Self> {
        Ok(match end {
            WorkerEnd::Rings { doorbells, memory } => AnyWorkerIo::Ring(RingIo::open(&memory, doorbells)?),
            WorkerEnd::Stream { socket, security, memory } => {
                AnyWorkerIo::Stream(StreamIo::new(socket, security, StatusPage::open_all(memory.as_fd())?))
            }
        })
    }

    /// Another link to the same host, for what is said in the middle of something. Each says whole frames.
    pub(crate) fn twin(&self) -> Self {
        match self {
            AnyWorkerIo::Ring(io) => AnyWorkerIo::Ring(io.twin()),
            AnyWorkerIo::Stream(io) => AnyWorkerIo::Stream(io.twin()),
        }
    }

    /// Where this worker keeps large results, if it has such a place.
    pub(crate) fn result_arena(&self) -> Option<ResultArena> {
        match self {
            AnyWorkerIo::Ring(io) => io.result_arena(),
            AnyWorkerIo::Stream(io) => io.status_page().result_arena(),
        }
    }

    /// Where this worker notes what it does.
    pub(crate) fn status_page(&self) -> StatusPage {
        match self {
            AnyWorkerIo::Ring(io) => io.status_page(),
            AnyWorkerIo::Stream(io) => io.status_page(),
        }
    }
}

impl WorkerIo for AnyWorkerIo {
    fn receive(&mut self, bytes: &mut Vec<u8>) -> io::Result<usize> {
        match self {
            AnyWorkerIo::Ring(io) => io.receive(bytes),
            AnyWorkerIo::Stream(io) => io.receive(bytes),
        }
    }

    fn send(&mut self, bytes: &[u8], more: bool) -> io::Result<usize> {
        match self {
            AnyWorkerIo::Ring(io) => io.send(bytes, more),
            AnyWorkerIo::Stream(io) => io.send(bytes, more),
        }
    }

    fn note(&self, doing: Doing) {
        match self {
            AnyWorkerIo::Ring(io) => io.note(doing),
            AnyWorkerIo::Stream(io) => io.note(doing),
        }
    }
}
