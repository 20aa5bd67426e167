//! The host's end of a worker's channel, registered with the tokio reactor of the thread that uses it.

pub(crate) mod blobs;
mod retry_timer;
mod rings;
mod stream;
pub(crate) mod watching;

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::thread::ThreadId;

use crate::blob::{ResultArena, ResultMemory};
use crate::channel::{CorruptGate, HostGate, Inbox, Outbox, SocketLayer, StatusPage, WorkerEnd};
use crate::config::{Options, Transport};
use crate::sys::arena::PAGE;
use crate::sys::memory_file::UnmappedFile;
use crate::sys::{descriptors, memory_file};
use crate::wire::control::ToServer;
use crate::wire::frame;
use crate::wire::frame::FrameError;
use rings::Rings;
use stream::Stream;

/// Rounds of reading and writing after which one channel lets the other tasks of its thread run.
const ROUNDS_BEFORE_YIELD: u32 = 64;

/// Messages behind others after which they are published to a worker that is awake, although more may follow at once.
const MESSAGES_PER_PUBLICATION: u32 = 16;

/// The same for a worker that has to be woken for them, or a system call made: it takes the processor from this end if they
/// share one, so it is to have more to do then.
const MESSAGES_PER_WAKE: u32 = 64;

/// Most reads of what a worker that has exited has left in its channel: a ring or a socket holds less than they take.
/// What comes after them is from a process that the worker has forked, and has no end.
pub(crate) const MAX_LAST_READS: u32 = 1024;

/// The outcome of a read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Arrived {
    /// Bytes were read.
    Some,
    /// No bytes have arrived.
    Nothing,
    /// The worker closed its end of the channel.
    End,
    /// The worker wrote an impossible value to the counters of its rings.
    Corrupt,
}

/// The host's end of a worker's channel.
pub(crate) struct HostChannel {
    io: HostIo,
    /// `None` if the worker is on another machine.
    status_page: Option<StatusPage>,
    /// The memory in which the worker keeps large results.
    results: Option<Arc<UnmappedFile>>,
    /// The host's side of the worker's gate.
    gate: HostGate,
    registered_on: ThreadId,
    max_body: usize,
    buffers: Buffers,
}

/// Bytes that have arrived and were not taken yet, and bytes to be written.
#[derive(Default)]
struct Buffers {
    incoming: Inbox,
    outgoing: Outbox,
    /// Messages behind others that were written since bytes were published last.
    unpublished: u32,
}

/// How bytes reach the worker.
enum HostIo {
    Rings(Rings),
    Stream(Stream),
}

/// Creates the memory for a worker's large results: this side's view of it, and the worker's descriptor. `None` if there
/// is to be none.
fn results(blob_memory: usize) -> io::Result<Option<(Arc<UnmappedFile>, OwnedFd)>> {
    if blob_memory == 0 {
        return Ok(None);
    }
    let length = blob_memory.next_multiple_of(PAGE);
    let ours = memory_file::of_length(c"forkpool-results", length)?;
    let theirs = descriptors::duplicate(ours.as_fd())?;
    Ok(Some((Arc::new(UnmappedFile::new(ours, length)), theirs)))
}

impl HostChannel {
    /// Creates a channel, with memory for the worker's large results, and registers this end with the current
    /// thread's reactor.
    ///
    /// # Errors
    ///
    /// The error of the system call that failed; nothing is left behind.
    pub(crate) fn new(options: &Options) -> io::Result<(Self, WorkerEnd)> {
        let (results, theirs) = results(options.blob_memory)?.unzip();
        let (io, status_page, end) = match options.transport {
            Transport::SharedMemory => {
                let (rings, status_page, end) = Rings::new(theirs)?;
                (HostIo::Rings(rings), status_page, end)
            }
            Transport::Socket => {
                let (stream, status_page, end) = Stream::pair(theirs)?;
                (HostIo::Stream(stream), status_page, end)
            }
        };
        let channel = Self::of(io, Some(status_page), options.max_payload);
        Ok((HostChannel { results, ..channel }, end))
    }

    /// Creates a channel to another machine over a connection that may not be established yet, and queues `first`
    /// as the first message on it.
    ///
    /// # Errors
    ///
    /// The error of the system call that failed; the connection is closed then.
    pub(crate) fn over(
        (socket, socket_layer): (OwnedFd, SocketLayer),
        first: &ToServer,
        max_payload: usize,
    ) -> io::Result<Self> {
        let mut channel = Self::of(HostIo::Stream(Stream::over(socket, socket_layer)?), None, max_payload);
        frame::append(channel.outbox().buffer(), first);
        Ok(channel)
    }

    fn of(io: HostIo, status_page: Option<StatusPage>, max_payload: usize) -> Self {
        HostChannel {
            io,
            status_page,
            results: None,
            gate: HostGate::default(),
            registered_on: std::thread::current().id(),
            max_body: frame::body_limit(max_payload),
            buffers: Buffers::default(),
        }
    }

    /// Moves the registration to the current thread's reactor, if it is with another thread's.
    ///
    /// # Errors
    ///
    /// The error of the registration. The channel is unusable then: it reports [`Arrived::End`].
    pub(crate) fn register_here(&mut self) -> io::Result<()> {
        let here = std::thread::current().id();
        if self.registered_on != here {
            match &mut self.io {
                HostIo::Rings(rings) => rings.register_here()?,
                HostIo::Stream(stream) => stream.register_here()?,
            }
            self.registered_on = here;
        }
        Ok(())
    }

    pub(crate) fn outbox(&mut self) -> &mut Outbox {
        &mut self.buffers.outgoing
    }

    /// Notes that the worker is set up. The time that the set-up took tells nothing about the time of its calls, so
    /// spinning adapts anew.
    pub(crate) fn finish_setup(&mut self) {
        if let HostIo::Rings(rings) = &mut self.io {
            rings.finish_setup();
        }
    }

    /// Returns whether the worker has begun a call of the current checkout, also after it died; `None` if the
    /// worker is on another machine.
    pub(crate) fn has_begun(&self) -> Option<bool> {
        self.status_page.as_ref().map(StatusPage::call_begun)
    }

    /// Returns the epoch for a call that may be taken back; `None` if the worker is on another machine, which has no gate.
    pub(crate) fn epoch(&self) -> Option<u16> {
        self.status_page.as_ref().map(|_| self.gate.epoch())
    }

    /// Notes that a call was written behind the gate.
    pub(crate) fn add_gated(&mut self) {
        self.gate.add_written();
    }

    /// Notes that the first call behind the gate was answered.
    pub(crate) fn answer_gated(&mut self) {
        self.gate.add_answered();
    }

    /// Returns how many of the open calls behind the gate have begun, or had begun when the worker died; `None` if the worker
    /// is on another machine.
    ///
    /// # Errors
    ///
    /// [`CorruptGate`]; the worker is not to be used any more.
    pub(crate) fn begun(&self) -> Result<Option<usize>, CorruptGate> {
        self.status_page.as_ref().map(|status_page| status_page.begun(&self.gate)).transpose()
    }

    /// Takes back the open calls that have not begun; returns how many have. `None` if the worker is on another machine:
    /// nothing is taken back there.
    ///
    /// # Errors
    ///
    /// [`CorruptGate`]; the worker is not to be used any more.
    pub(crate) fn take_back(&mut self) -> Result<Option<usize>, CorruptGate> {
        self.status_page.as_ref().map(|status_page| status_page.take_back(&mut self.gate)).transpose()
    }

    /// Looks some times for bytes from the worker, where that costs the worker nothing and replies have usually come as
    /// soon; returns whether any have arrived.
    pub(crate) fn look(&mut self) -> bool {
        match &mut self.io {
            HostIo::Rings(rings) => self.buffers.unpublished == 0 && rings.look(),
            HostIo::Stream(_) => false,
        }
    }

    /// Returns the memory in which the worker keeps large results.
    pub(crate) fn result_arena(&self) -> Option<ResultArena> {
        let results = ResultMemory::Unmapped(self.results.clone()?);
        match &self.io {
            HostIo::Rings(rings) => Some(rings.result_arena(results)),
            HostIo::Stream(_) => {
                self.status_page.as_ref().map(|status_page| status_page.result_arena(results))
            }
        }
    }

    /// Returns the status page in which the worker records what it is doing; `None` if the worker is on another
    /// machine.
    pub(crate) fn status_page(&self) -> Option<StatusPage> {
        self.status_page.clone()
    }

    /// Writes what fits and reads what has arrived, or registers the task to be woken when there is more to do.
    ///
    /// Bytes that the worker wrote before it closed its end are read before [`Arrived::End`] is reported. `expects`
    /// tells whether the worker has calls to answer; the host may spin for a short time only then.
    pub(crate) fn poll_exchange(&mut self, cx: &mut Context<'_>, expects: bool) -> Poll<Arrived> {
        self.buffers.unpublished = 0;
        match &mut self.io {
            HostIo::Rings(rings) => rings.poll_exchange(&mut self.buffers, cx, expects),
            HostIo::Stream(stream) => stream.poll_exchange(&mut self.buffers, cx),
        }
    }

    /// Returns whether the last [`poll_exchange`](Self::poll_exchange) has woken its task itself, to look again at once.
    /// Timers and whatever else wakes the task need not be polled then. Once in a while it returns `false` all the same,
    /// so that a worker that never stops sending holds up no timer.
    pub(crate) fn looks_again(&mut self) -> bool {
        match &mut self.io {
            HostIo::Rings(rings) => rings.looks_again(),
            HostIo::Stream(_) => false,
        }
    }

    /// Returns whether bytes from the worker have arrived that were not taken yet, or its counters are impossible.
    pub(crate) fn has_unread_bytes(&mut self) -> bool {
        match &mut self.io {
            HostIo::Rings(rings) if rings.has_bytes() => return true,
            HostIo::Rings(_) => {}
            // A closed end is found by the next read.
            HostIo::Stream(stream) => drop(stream.read_now(&mut self.buffers)),
        }
        !self.buffers.incoming.is_empty()
    }

    /// Reads what has arrived, without asking the reactor.
    pub(crate) fn read_now(&mut self) -> Arrived {
        match &mut self.io {
            HostIo::Rings(rings) => rings.read_now(&mut self.buffers),
            HostIo::Stream(stream) => stream.read_now(&mut self.buffers),
        }
    }

    /// Publishes the first message to a worker that has nothing to do. If others will `follow` and the worker sleeps, it is
    /// left for [`poll_exchange`](Self::poll_exchange) or [`write_soon`](Self::write_soon): a worker that is woken for one
    /// message sleeps again before the next.
    pub(crate) fn write_first(&mut self, follow: bool) {
        match &self.io {
            HostIo::Rings(rings) if follow && rings.worker_sleeps() => self.buffers.unpublished += 1,
            HostIo::Rings(_) | HostIo::Stream(_) => self.write_now(),
        }
    }

    /// Publishes what was written, or leaves it for [`poll_exchange`](Self::poll_exchange), since more may follow at once:
    /// called for each message that stands behind others.
    pub(crate) fn write_soon(&mut self) {
        self.buffers.unpublished += 1;
        let is_due = match &self.io {
            HostIo::Rings(rings) if !rings.worker_sleeps() => {
                self.buffers.unpublished >= MESSAGES_PER_PUBLICATION
            }
            HostIo::Rings(_) | HostIo::Stream(_) => self.buffers.unpublished >= MESSAGES_PER_WAKE,
        };
        if is_due {
            self.write_now();
        }
    }

    /// Writes what fits, and leaves the rest for [`poll_exchange`](Self::poll_exchange).
    pub(crate) fn write_now(&mut self) {
        self.buffers.unpublished = 0;
        match &mut self.io {
            HostIo::Rings(rings) => rings.write_now(&mut self.buffers),
            HostIo::Stream(stream) => stream.write_now(&mut self.buffers),
        }
    }

    /// Returns the body of the next whole frame, if one has arrived.
    ///
    /// # Errors
    ///
    /// [`FrameError::TooLong`]; the channel is unusable from then on.
    pub(crate) fn next(&mut self) -> Result<Option<&[u8]>, FrameError> {
        self.buffers.incoming.next_frame(self.max_body)
    }
}
