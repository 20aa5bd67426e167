//! The host's end of a worker's channel, registered with whichever reactor its holder runs on.

mod rings;
mod stream;

use std::io;
use std::os::fd::OwnedFd;
use std::task::{Context, Poll};
use std::thread::ThreadId;

use crate::blob::{Annex, LENGTH_OF_TABLE};
use crate::channel::{Inbox, Notes, Outbox, Security, WorkerEnd};
use crate::config::{Options, Transport};
use crate::sys::arena::PAGE;
use crate::wire::control::ToServer;
use crate::wire::frame::{self, FrameError};
use rings::Rings;
use stream::Stream;

/// Looks in a row until the other tasks of this thread have their turn.
const LOOKS: u32 = 64;

/// What a read brought.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Arrived {
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
pub(super) struct HostChannel {
    line: Line,
    /// `None` where the worker is on another machine.
    notes: Option<Notes>,
    /// Calls that the worker has answered, as far as its last holder told.
    pub(super) calls_served: u64,
    home: ThreadId,
    limit: usize,
    boxes: Boxes,
}

/// What has arrived and was not taken, and what is to be written.
#[derive(Default)]
struct Boxes {
    incoming: Inbox,
    outgoing: Outbox,
}

/// How bytes move.
enum Line {
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
    pub(super) fn new(options: &Options) -> io::Result<(Self, WorkerEnd)> {
        let annex = match options.blob_memory {
            0 => 0,
            bytes => LENGTH_OF_TABLE + bytes.next_multiple_of(PAGE),
        };
        let (line, notes, end) = match options.transport {
            Transport::SharedMemory => {
                let (rings, notes, end) = Rings::new(annex)?;
                (Line::Rings(rings), notes, end)
            }
            Transport::Socket => {
                let (stream, notes, end) = Stream::pair(annex)?;
                (Line::Stream(stream), notes, end)
            }
        };
        Ok((Self::of(line, Some(notes), options.max_payload), end))
    }

    /// A channel to another machine, over a connection that may still be on its way, on which this is said first.
    ///
    /// # Errors
    ///
    /// What the system said; nothing is left behind.
    pub(super) fn over(
        (socket, security): (OwnedFd, Security),
        first: &ToServer,
        max_payload: usize,
    ) -> io::Result<Self> {
        let mut channel = Self::of(Line::Stream(Stream::over(socket, security)?), None, max_payload);
        frame::append(channel.outbox().buffer(), first);
        Ok(channel)
    }

    fn of(line: Line, notes: Option<Notes>, max_payload: usize) -> Self {
        HostChannel {
            line,
            notes,
            calls_served: 0,
            home: std::thread::current().id(),
            limit: frame::body_limit(max_payload),
            boxes: Boxes::default(),
        }
    }

    /// Moves the registration to the current thread's reactor, if it is with another's.
    pub(super) fn settle_here(&mut self) -> io::Result<()> {
        let here = std::thread::current().id();
        if self.home != here {
            match &mut self.line {
                Line::Rings(rings) => rings.settle_here()?,
                Line::Stream(stream) => stream.settle_here()?,
            }
            self.home = here;
        }
        Ok(())
    }

    pub(super) fn outbox(&mut self) -> &mut Outbox {
        &mut self.boxes.outgoing
    }

    /// The worker is set up: how long that took says nothing about how long its calls take.
    pub(super) fn is_set_up(&mut self) {
        if let Line::Rings(rings) = &mut self.line {
            rings.is_set_up();
        }
    }

    /// Whether the worker had begun a call of the checkout at hand, now or before it died; `None` where that cannot be
    /// seen from here.
    pub(super) fn begun(&self) -> Option<bool> {
        self.notes.as_ref().map(Notes::begun)
    }

    /// Where the worker keeps large results.
    pub(super) fn annex(&self) -> Option<Annex> {
        match &self.line {
            Line::Rings(rings) => rings.annex(),
            Line::Stream(_) => self.notes.as_ref()?.annex(),
        }
    }

    /// What the worker notes for whoever looks at it, where that can be seen from here.
    pub(super) fn notes(&self) -> Option<Notes> {
        self.notes.clone()
    }

    /// Writes what fits and takes in what has arrived, or registers the task to be woken when there is more to do.
    ///
    /// What a worker said before it ended arrives before its end. `expects`: the worker has something to answer.
    pub(super) fn poll_exchange(&mut self, cx: &mut Context<'_>, expects: bool) -> Poll<Arrived> {
        match &mut self.line {
            Line::Rings(rings) => rings.poll_exchange(&mut self.boxes, cx, expects),
            Line::Stream(stream) => stream.poll_exchange(&mut self.boxes, cx),
        }
    }

    /// Whether the worker has said anything that was not taken out yet, or nonsense.
    pub(super) fn holds_bytes(&mut self) -> bool {
        match &mut self.line {
            Line::Rings(rings) if rings.has_bytes() => return true,
            Line::Rings(_) => {}
            // Its end is found by whoever reads next.
            Line::Stream(stream) => drop(stream.read_now(&mut self.boxes)),
        }
        !self.boxes.incoming.is_empty()
    }

    /// Takes in what has arrived, whatever the reactor knows of it.
    pub(super) fn read_now(&mut self) -> Arrived {
        match &mut self.line {
            Line::Rings(rings) => rings.read_now(&mut self.boxes),
            Line::Stream(stream) => stream.read_now(&mut self.boxes),
        }
    }

    /// Writes what fits, and leaves the rest for [`poll_exchange`](Self::poll_exchange).
    pub(super) fn write_now(&mut self) {
        match &mut self.line {
            Line::Rings(rings) => rings.write_now(&mut self.boxes),
            Line::Stream(stream) => stream.write_now(&mut self.boxes),
        }
    }

    /// The next whole frame's body, if one has arrived.
    ///
    /// # Errors
    ///
    /// [`FrameError::TooLong`]; the channel is of no use any more.
    pub(super) fn next(&mut self) -> Result<Option<&[u8]>, FrameError> {
        self.boxes.incoming.next(self.limit)
    }
}
