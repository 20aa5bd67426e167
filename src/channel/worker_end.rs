//! The worker's end of its channel, over rings or a socket.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use super::blocking_channel::WorkerIo;
use super::doorbell::WorkerDoorbells;
use super::ring::RingIo;
use super::socket_layer::SocketLayer;
use super::status_page::{Activity, StatusPage};
use super::stream::StreamIo;
use crate::blob::{ResultArena, ResultMemory};
use crate::sys::shared_memory::SharedMemory;
use crate::sys::{Errno, memory_file};

/// The parts of a worker's end, before the worker opens it.
pub(crate) enum WorkerEnd {
    /// Rings in shared memory, and the doorbells that wake a sleeping side.
    Rings { doorbells: WorkerDoorbells, memory: WorkerMemory },
    /// A socket, and memory for the status page alone.
    Stream { socket: OwnedFd, socket_layer: SocketLayer, memory: WorkerMemory },
}

/// The memory files of a worker.
pub(crate) struct WorkerMemory {
    /// The rings, if there are any, the status page, and the table of its loans.
    pub(crate) channel: OwnedFd,
    /// Its arena for results; `None` if its results carry their blobs.
    pub(crate) results: Option<OwnedFd>,
}

impl WorkerEnd {
    /// The memory that holds the worker's status page.
    pub(crate) fn memory(&self) -> &OwnedFd {
        match self {
            WorkerEnd::Rings { memory, .. } | WorkerEnd::Stream { memory, .. } => &memory.channel,
        }
    }

    /// Moves the descriptors to numbers that code which closes and opens descriptors by number does not hit.
    pub(crate) fn with_raised_descriptors(self, raise: impl Fn(OwnedFd) -> OwnedFd) -> Self {
        match self {
            WorkerEnd::Rings { doorbells: WorkerDoorbells { rx, tx }, memory } => {
                WorkerEnd::Rings { doorbells: WorkerDoorbells { rx: raise(rx), tx: raise(tx) }, memory }
            }
            WorkerEnd::Stream { socket, socket_layer, memory } => {
                WorkerEnd::Stream { socket: raise(socket), socket_layer, memory }
            }
        }
    }
}

/// The I/O of a running worker.
pub(crate) enum AnyWorkerIo {
    Ring(RingIo),
    Stream(StreamIo),
}

impl AnyWorkerIo {
    /// Opens the end, and the arena for results if there is one.
    ///
    /// From then on the memory of the channel is written to only through what host and worker have mapped by now, and
    /// its pages stay: if the worker could take them away, an access by the host could end the application.
    ///
    /// # Errors
    ///
    /// The system's error, or `INVAL` if the memory is too short or not sealed against shrinking.
    pub(crate) fn open(end: WorkerEnd) -> io::Result<(Self, Option<ResultArena>)> {
        let (io, WorkerMemory { channel, results }) = match end {
            WorkerEnd::Rings { doorbells, memory } => {
                (AnyWorkerIo::Ring(RingIo::open(&memory.channel, doorbells)?), memory)
            }
            WorkerEnd::Stream { socket, socket_layer, memory } => {
                let status_page = StatusPage::open_all(memory.channel.as_fd())?;
                (AnyWorkerIo::Stream(StreamIo::new(socket, socket_layer, status_page)), memory)
            }
        };
        // The kernel knows this seal since 5.1.
        memory_file::seal_for_present_mappings(channel.as_fd())?;
        let results = match results.map(|results| SharedMemory::open(results.as_fd(), 1)).transpose() {
            // There is no address space for it (`RLIMIT_AS`): results carry their blobs.
            Err(Errno::NOMEM) => None,
            results => results?,
        };
        let result_arena =
            |memory: SharedMemory| io.result_arena(ResultMemory::Mapped(Arc::new(memory.kept_from_dumps())));
        let results = results.map(result_arena);
        Ok((io, results))
    }

    /// Returns another handle on the same channel, for frames that are sent in the middle of a call. Each handle sends
    /// whole frames.
    pub(crate) fn duplicate(&self) -> Self {
        match self {
            AnyWorkerIo::Ring(io) => AnyWorkerIo::Ring(io.duplicate()),
            AnyWorkerIo::Stream(io) => AnyWorkerIo::Stream(io.duplicate()),
        }
    }

    fn result_arena(&self, results: ResultMemory) -> ResultArena {
        match self {
            AnyWorkerIo::Ring(io) => io.result_arena(results),
            AnyWorkerIo::Stream(io) => io.status_page().result_arena(results),
        }
    }

    /// Returns this worker's status page.
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

    fn set_activity(&self, activity: Activity) {
        match self {
            AnyWorkerIo::Ring(io) => io.set_activity(activity),
            AnyWorkerIo::Stream(io) => io.set_activity(activity),
        }
    }

    fn begin(&self, epoch: u16) -> bool {
        match self {
            AnyWorkerIo::Ring(io) => io.begin(epoch),
            AnyWorkerIo::Stream(io) => io.begin(epoch),
        }
    }
}
