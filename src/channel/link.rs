//! The worker's end of its channel, whichever way its bytes move.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use super::bell::WorkerBells;
use super::blocking::Link;
use super::notes::{Doing, Notes};
use super::ring::RingLink;
use super::security::Security;
use super::stream::StreamLink;
use crate::blob::Annex;

/// What a worker's end is made of.
pub(crate) enum WorkerEnd {
    /// Rings in shared memory, and the bells that wake.
    Rings { bells: WorkerBells, memory: OwnedFd },
    /// A socket, and memory for the worker's notes alone.
    Stream { socket: OwnedFd, security: Security, memory: OwnedFd },
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
            WorkerEnd::Rings { bells: WorkerBells { ear, hammer }, memory } => {
                WorkerEnd::Rings { bells: WorkerBells { ear: raise(ear), hammer: raise(hammer) }, memory }
            }
            WorkerEnd::Stream { socket, security, memory } => {
                WorkerEnd::Stream { socket: raise(socket), security, memory }
            }
        }
    }
}

/// A worker's end that is in use.
pub(crate) enum WorkerLink {
    Ring(RingLink),
    Stream(StreamLink),
}

impl WorkerLink {
    /// # Errors
    ///
    /// What the system said of its memory.
    pub(crate) fn open(end: WorkerEnd) -> io::Result<Self> {
        Ok(match end {
            WorkerEnd::Rings { bells, memory } => WorkerLink::Ring(RingLink::open(&memory, bells)?),
            WorkerEnd::Stream { socket, security, memory } => {
                WorkerLink::Stream(StreamLink::new(socket, security, Notes::open_all(memory.as_fd())?))
            }
        })
    }

    /// Another link to the same host, for what is said in the middle of something. Each says whole frames.
    pub(crate) fn twin(&self) -> Self {
        match self {
            WorkerLink::Ring(link) => WorkerLink::Ring(link.twin()),
            WorkerLink::Stream(link) => WorkerLink::Stream(link.twin()),
        }
    }

    /// Where this worker keeps large results, if it has such a place.
    pub(crate) fn annex(&self) -> Option<Annex> {
        match self {
            WorkerLink::Ring(link) => link.annex(),
            WorkerLink::Stream(link) => link.notes().annex(),
        }
    }

    /// Where this worker notes what it does.
    pub(crate) fn notes(&self) -> Notes {
        match self {
            WorkerLink::Ring(link) => link.notes(),
            WorkerLink::Stream(link) => link.notes(),
        }
    }
}

impl Link for WorkerLink {
    fn receive(&mut self, bytes: &mut Vec<u8>) -> io::Result<usize> {
        match self {
            WorkerLink::Ring(link) => link.receive(bytes),
            WorkerLink::Stream(link) => link.receive(bytes),
        }
    }

    fn send(&mut self, bytes: &[u8], more: bool) -> io::Result<usize> {
        match self {
            WorkerLink::Ring(link) => link.send(bytes, more),
            WorkerLink::Stream(link) => link.send(bytes, more),
        }
    }

    fn note(&self, doing: Doing) {
        match self {
            WorkerLink::Ring(link) => link.note(doing),
            WorkerLink::Stream(link) => link.note(doing),
        }
    }
}
