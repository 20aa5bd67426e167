//! The host's end of a worker's channel, registered with whichever reactor its holder runs on.

pub(crate) mod blobs;
mod rings;
mod stream;

use std::io;
use std::os::fd::OwnedFd;
use std::task::{Context, Poll};
use std::thread::ThreadId;

use crate::blob::{LENGTH_OF_TABLE, ResultArena};
use crate::channel::{Inbox, Outbox, SocketLayer, StatusPage, WorkerEnd};
use crate::config::{Options, Transport};
use crate::sys::arena::PAGE;
use crate::wire::control::ToServer;
use crate::wire::frame;
use crate::wire::frame::FrameError;
use rings::Rings;
use stream::Stream;

/// Looks in a row until the other tasks of this thread have their turn.
const LOOKS: u32 = 64;

/// What a read brought.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Arrived {
    /// Bytes.
    Some,
    /// Nothing yet.
    Nothing,
    /// The worker's end is closed.
    End,
    /// The worker wrote nonsense where its channel's counters lie.
    Corrupt,
}

/// One end of a worker's channel.
pub(crate) struct HostChannel {
    line: HostIo,
    /// `None` where the worker is on another machine.
    status_page: Option<StatusPage>,
    /// Calls that the worker has answered, as far as its last holder told.
    pub(crate) calls_served: u64,
    home: ThreadId,
    limit: usize,
    boxes: Mailboxes,
}

/// What has arrived and was not taken, and what is to be written.
#[derive(Default)]
struct Mailboxes {
    incoming: Inbox,
    outgoing: Outbox,
}

/// How bytes move.
enum HostIo {
    Rings(Rings),
    Stream(Stream),
}

impl HostChannel {
    /// Makes a channel, with memory for the worker's large results, and registers this end with the current thread's
    /// reactor.
    ///
    /// # Errors
    ///
    /// What the system said; nothing is left behind.
    pub(crate) fn new(options: &Options) -> io::Result<(Self, WorkerEnd)> {
        let result_arena = match options.blob_memory {
            0 => 0,
            bytes => LENGTH_OF_TABLE + bytes.next_multiple_of(PAGE),
        };
        let (line, status_page, end) = match options.transport {
            Transport::SharedMemory => {
                let (rings, status_page, end) = Rings::new(result_arena)?;
                (HostIo::Rings(rings), status_page, end)
            }
            Transport::Socket => {
                let (stream, status_page, end) = Stream::pair(result_arena)?;
                (HostIo::Stream(stream), status_page, end)
            }
        };
        Ok((Self::of(line, Some(status_page), options.max_payload), end))
    }

    /// A channel to another machine, over a connection that may still be on its way, on which this is said first.
    ///
    /// # Errors
    ///
    /// What the system said; nothing is left behind.
    pub(crate) fn over(
        (socket, security): (OwnedFd, SocketLayer),
        first: &ToServer,
        max_payload: usize,
    ) -> io::Result<Self> {
        let mut channel = Self::of(HostIo::Stream(Stream::over(socket, security)?), None, max_payload);
        frame::append(channel.outbox().buffer(), first);
        Ok(channel)
    }

    fn of(line: HostIo, status_page: Option<StatusPage>, max_payload: usize) -> Self {
        HostChannel {
            line,
            status_page,
            calls_served: 0,
            home: std::thread::current().id(),
            limit: frame::body_limit(max_payload),
            boxes: Mailboxes::default(),
        }
    }

    /// Moves the registration to the current thread's reactor, if it is with another's.
    pub(crate) fn settle_here(&mut self) -> io::Result<()> {
        let here = std::thread::current().id();
        if self.home != here {
            match &mut self.line {
                HostIo::Rings(rings) => rings.settle_here()?,
                HostIo::Stream(stream) => stream.settle_here()?,
            }
            self.home = here;
        }
        Ok(())
    }

    pub(crate) fn outbox(&mut self) -> &mut Outbox {
        &mut self.boxes.outgoing
    }

    /// The worker is set up: how long that took says nothing about how long its calls take.
    pub(crate) fn is_set_up(&mut self) {
        if let HostIo::Rings(rings) = &mut self.line {
            rings.is_set_up();
        }
    }

    /// Whether the worker had begun a call of the checkout at hand, now or before it died; `None` where that cannot be
    /// seen from here.
    pub(crate) fn begun(&self) -> Option<bool> {
        self.status_page.as_ref().map(StatusPage::begun)
    }

    /// Where the worker keeps large results.
    pub(crate) fn result_arena(&self) -> Option<ResultArena> {
        match &self.line {
            HostIo::Rings(rings) => rings.result_arena(),
            HostIo::Stream(_) => self.status_page.as_ref()?.result_arena(),
        }
    }

    /// What the worker notes for whoever looks at it, where that can be seen from here.
    pub(crate) fn status_page(&self) -> Option<StatusPage> {
        self.status_page.clone()
    }

    /// Writes what fits and takes in what has arrived, or registers the task to be woken when there is more to do.
    ///
    /// What a worker said before it ended arrives before its end. `expects`: the worker has something to answer.
    pub(crate) fn poll_exchange(&mut self, cx: &mut Context<'_>, expects: bool) -> Poll<Arrived> {
        match &mut self.line {
            HostIo::Rings(rings) => rings.poll_exchange(&mut self.boxes, cx, expects),
            HostIo::Stream(stream) => stream.poll_exchange(&mut self.boxes, cx),
        }
    }

    /// Whether the worker has said anything that was not taken out yet, or nonsense.
    pub(crate) fn holds_bytes(&mut self) -> bool {
        match &mut self.line {
            HostIo::Rings(rings) if rings.has_bytes() => return true,
            HostIo::Rings(_) => {}
            // Its end is found by whoever reads next.
            HostIo::Stream(stream) => drop(stream.read_now(&mut self.boxes)),
        }
        !self.boxes.incoming.is_empty()
    }

    /// Takes in what has arrived, whatever the reactor knows of it.
    pub(crate) fn read_now(&mut self) -> Arrived {
        match &mut self.line {
            HostIo::Rings(rings) => rings.read_now(&mut self.boxes),
            HostIo::Stream(stream) => stream.read_now(&mut self.boxes),
        }
    }

    /// Writes what fits, and leaves the rest for [`poll_exchange`](Self::poll_exchange).
    pub(crate) fn write_now(&mut self) {
        match &mut self.line {
            HostIo::Rings(rings) => rings.write_now(&mut self.boxes),
            HostIo::Stream(stream) => stream.write_now(&mut self.boxes),
        }
    }

    /// The next whole frame's body, if one has arrived.
    ///
    /// # Errors
    ///
    /// [`FrameError::TooLong`]; the channel is of no use any more.
    pub(crate) fn next(&mut self) -> Result<Option<&[u8]>, FrameError> {
        self.boxes.incoming.next(self.limit)
    }
}
