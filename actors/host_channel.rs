//! The host's end of a worker's channel, registered with whichever reactor its holder runs on.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::task::{Context, Poll, ready};
use std::thread::ThreadId;
use std::time::{Duration, Instant};

use tokio::io::unix::AsyncFd;

use crate::channel::{Inbox, Need, Notes, Outbox, Ring, Spin};
use crate::sys::{Errno, descriptors, reactor};
use crate::wire::frame::{self, FrameError};

/// Sleeps between two looks into the socket: the worker rings at most once for each, and the smallest socket takes
/// more bytes than that before it refuses one.
const UNHEARD_RINGS: u32 = 16;

/// Reads in a row until the other tasks of this thread have their turn.
const READS: u32 = 64;

/// Longest time for which a reply is looked for again and again, between the turns of other tasks.
const LONGEST_SPIN: Duration = Duration::from_micros(20);

/// Longest time for which a worker that was forked is looked for to be ready, in the same way.
const SETUP_SPIN: Duration = Duration::from_micros(100);

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

/// One end of a worker's channel: the rings, and the socket whose bytes wake and whose end says that the worker is
/// gone.
pub(super) struct HostChannel {
    ring: Ring,
    notes: Notes,
    /// Calls that the worker has answered, as far as its last holder told.
    pub(super) calls_served: u64,
    /// `None` only where it could not be registered anew, or cannot be rung.
    doorbell: Option<AsyncFd<OwnedFd>>,
    /// Times this end may have been rung for since the socket was last emptied.
    unheard: u32,
    spin: Spin,
    /// Looks since this end last gave way.
    looks: u32,
    /// Whether anything moved since this end last had nothing to do.
    moved: bool,
    home: ThreadId,
    limit: usize,
    inbox: Inbox,
    outbox: Outbox,
}

/// What the worker's end of a new channel is made of.
pub(super) struct WorkerEnd {
    pub(super) doorbell: OwnedFd,
    pub(super) memory: OwnedFd,
}

impl HostChannel {
    /// Makes a channel and registers this end with the current thread's reactor.
    ///
    /// # Errors
    ///
    /// What the system said; nothing is left behind.
    pub(super) fn new(max_payload: usize) -> io::Result<(Self, WorkerEnd)> {
        let (ours, doorbell) = descriptors::socket_pair()?;
        descriptors::set_nonblocking(ours.as_fd())?;
        let (ring, memory) = Ring::create()?;
        let channel = HostChannel {
            notes: ring.notes(),
            ring,
            calls_served: 0,
            doorbell: Some(reactor::register(ours)?),
            unheard: 0,
            spin: Spin::new(SETUP_SPIN),
            looks: 0,
            moved: false,
            home: std::thread::current().id(),
            limit: frame::body_limit(max_payload),
            inbox: Inbox::default(),
            outbox: Outbox::default(),
        };
        Ok((channel, WorkerEnd { doorbell, memory }))
    }

    /// Moves the registration to the current thread's reactor, if it is with another's.
    pub(super) fn settle_here(&mut self) -> io::Result<()> {
        let here = std::thread::current().id();
        if self.home != here
            && let Some(doorbell) = self.doorbell.take()
        {
            self.doorbell = Some(reactor::register(doorbell.into_inner())?);
            self.home = here;
        }
        Ok(())
    }

    pub(super) fn outbox(&mut self) -> &mut Outbox {
        &mut self.outbox
    }

    /// The worker is set up: how long that took says nothing about how long its calls take.
    pub(super) fn is_set_up(&mut self) {
        self.spin = Spin::new(LONGEST_SPIN);
    }

    /// Whether the worker had begun a call of the checkout at hand, now or before it died.
    pub(super) fn begun(&self) -> bool {
        self.notes.begun()
    }

    /// What the worker notes for whoever looks at it.
    pub(super) fn notes(&self) -> Notes {
        self.ring.notes()
    }

    /// Writes what fits and takes in what has arrived, or registers the task to be woken when there is more to do.
    ///
    /// What a worker said before it ended arrives before its end. `expects`: the worker has something to answer.
    pub(super) fn poll_exchange(&mut self, cx: &mut Context<'_>, expects: bool) -> Poll<Arrived> {
        let polled = self.exchange(cx, expects);
        if polled.is_pending() {
            self.looks = 0;
        }
        polled
    }

    fn exchange(&mut self, cx: &mut Context<'_>, expects: bool) -> Poll<Arrived> {
        loop {
            self.looks += 1;
            if self.looks > READS {
                // However much a worker has to say.
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            self.write_now();
            match self.read_now() {
                Arrived::Nothing => {}
                arrived => return Poll::Ready(arrived),
            }
            if self.looks_again(expects) {
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            // Before we arm: from then on a ring may be what wakes us.
            self.unheard += 1;
            if self.unheard > UNHEARD_RINGS {
                self.empty_socket();
            }
            let need = if self.outbox.is_empty() { Need::Bytes } else { Need::Either };
            match self.ring.arm(need) {
                Ok(true) => {}
                Ok(false) => continue,
                Err(_) => return Poll::Ready(Arrived::Corrupt),
            }
            let Some(doorbell) = &self.doorbell else {
                return Poll::Ready(Arrived::End);
            };
            let Ok(mut guard) = ready!(doorbell.poll_read_ready(cx)) else {
                return Poll::Ready(Arrived::End);
            };
            let closed = guard.ready().is_read_closed();
            guard.clear_ready();
            if closed {
                return Poll::Ready(match self.read_now() {
                    Arrived::Nothing => Arrived::End,
                    arrived => arrived,
                });
            }
        }
    }

    /// Whether to look again after the other tasks of this thread instead of being woken.
    ///
    /// Once after anything has moved, since most likely more will: that is cheaper than one ring of the bell. And
    /// for a short while, if the worker is at work on another processor and replies have usually come in that time.
    /// It keeps no other task from running.
    fn looks_again(&mut self, expects: bool) -> bool {
        if std::mem::take(&mut self.moved) {
            return true;
        }
        expects && self.ring.peer_is_elsewhere() && self.spin.goes_on(Instant::now())
    }

    /// Whether the worker has said anything that was not taken out yet, or nonsense.
    pub(super) fn holds_bytes(&self) -> bool {
        !self.inbox.is_empty() || self.ring.has_bytes() != Ok(false)
    }

    /// Takes in what has arrived, whatever the reactor knows of it.
    pub(super) fn read_now(&mut self) -> Arrived {
        let ring = &mut self.ring;
        match self.inbox.fill(|buffer| ring.read(buffer)) {
            Ok((0, _)) => Arrived::Nothing,
            Ok(_) => {
                self.moved = true;
                self.spin.is_over();
                if self.ring.must_wake(Need::Room) {
                    self.ring_the_bell();
                }
                Arrived::Some
            }
            Err(_) => Arrived::Corrupt,
        }
    }

    /// Writes what fits, and leaves the rest for [`poll_exchange`](Self::poll_exchange).
    pub(super) fn write_now(&mut self) {
        if !self.outbox.is_empty() {
            self.ring.note_processor();
        }
        while !self.outbox.is_empty() {
            match self.ring.write(self.outbox.unsent()) {
                Ok(count) if count > 0 => {
                    self.moved = true;
                    self.spin.begins_anew();
                    self.outbox.wrote(count);
                }
                // Nonsense in the counters is told by whoever reads next.
                Ok(_) | Err(_) => return,
            }
            if self.ring.must_wake(Need::Bytes) {
                self.ring_the_bell();
            }
        }
    }

    fn ring_the_bell(&mut self) {
        let Some(doorbell) = &self.doorbell else { return };
        match descriptors::send(doorbell.as_fd(), &[0]) {
            // Rings that were not heard yet do as well, and a peer that is gone is told by the socket's end: what it
            // said before it went is read first.
            Ok(_) | Err(Errno::AGAIN | Errno::PIPE | Errno::CONNRESET) => {}
            // Out of memory, say. It would sleep for ever.
            Err(_) => self.doorbell = None,
        }
    }

    /// Takes the bytes that have woken us; that they came is all they say.
    fn empty_socket(&mut self) {
        self.unheard = 0;
        if let Some(doorbell) = &self.doorbell {
            let mut rings = Vec::with_capacity(4 * UNHEARD_RINGS as usize);
            // Empty, or closed, which the reactor tells.
            let _ = descriptors::receive(doorbell.as_fd(), &mut rings);
        }
    }

    /// The next whole frame's body, if one has arrived.
    ///
    /// # Errors
    ///
    /// [`FrameError::TooLong`]; the channel is of no use any more.
    pub(super) fn next(&mut self) -> Result<Option<&[u8]>, FrameError> {
        self.inbox.next(self.limit)
    }
}
