//! A channel through shared memory, with bells that wake and whose end says that the worker is gone.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use tokio::io::unix::AsyncFd;

use super::{Arrived, LOOKS, Mailboxes};
use crate::blob::ResultArena;
use crate::channel::{
    AdaptiveSpin, DoorbellSender, HostDoorbells, Need, Ring, StatusPage, WorkerEnd, doorbells,
};
use crate::sys::{descriptors, reactor};

/// Sleeps between two looks into the bell: the worker rings at most once for each, and a pipe takes more bytes than that
/// before it refuses one.
const UNHEARD_RINGS: u32 = 16;

/// Longest time for which a reply is looked for again and again, between the turns of other tasks.
const LONGEST_SPIN: Duration = Duration::from_micros(20);

/// Longest time for which a worker that was forked is looked for to be ready, in the same way.
const SETUP_SPIN: Duration = Duration::from_micros(100);

/// The host's end of both rings.
pub(super) struct Rings {
    ring: Ring,
    /// What this end hears; `None` only where it could not be registered anew, or the worker cannot be rung for.
    rx: Option<AsyncFd<OwnedFd>>,
    tx: DoorbellSender,
    /// Times this end may have been rung for since that was last emptied.
    unheard: u32,
    spin: AdaptiveSpin,
    /// Looks since this end last gave way.
    looks: u32,
    /// Whether anything moved since this end last had nothing to do.
    moved: bool,
}

impl Rings {
    pub(super) fn new(result_arena: usize) -> io::Result<(Self, StatusPage, WorkerEnd)> {
        let (HostDoorbells { rx, tx }, doorbells) = doorbells()?;
        let (ring, memory) = Ring::create(result_arena)?;
        let status_page = ring.status_page();
        let rings = Rings {
            ring,
            rx: Some(reactor::register(rx)?),
            tx,
            unheard: 0,
            spin: AdaptiveSpin::new(SETUP_SPIN),
            looks: 0,
            moved: false,
        };
        Ok((rings, status_page, WorkerEnd::Rings { doorbells, memory }))
    }

    pub(super) fn result_arena(&self) -> Option<ResultArena> {
        self.ring.result_arena()
    }

    pub(super) fn settle_here(&mut self) -> io::Result<()> {
        if let Some(rx) = self.rx.take() {
            self.rx = Some(reactor::register(rx.into_inner())?);
        }
        Ok(())
    }

    pub(super) fn is_set_up(&mut self) {
        self.spin = AdaptiveSpin::new(LONGEST_SPIN);
    }

    pub(super) fn poll_exchange(
        &mut self,
        boxes: &mut Mailboxes,
        cx: &mut Context<'_>,
        expects: bool,
    ) -> Poll<Arrived> {
        let polled = self.exchange(boxes, cx, expects);
        if polled.is_pending() {
            self.looks = 0;
        }
        polled
    }

    fn exchange(&mut self, boxes: &mut Mailboxes, cx: &mut Context<'_>, expects: bool) -> Poll<Arrived> {
        loop {
            self.looks += 1;
            if self.looks > LOOKS {
                // However much a worker has to say.
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            self.write_now(boxes);
            match self.read_now(boxes) {
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
                self.empty_ear();
            }
            let need = if boxes.outgoing.is_empty() { Need::Bytes } else { Need::Either };
            match self.ring.arm(need) {
                Ok(true) => {}
                Ok(false) => continue,
                Err(_) => return Poll::Ready(Arrived::Corrupt),
            }
            let Some(rx) = &self.rx else {
                return Poll::Ready(Arrived::End);
            };
            let Ok(mut guard) = ready!(rx.poll_read_ready(cx)) else {
                return Poll::Ready(Arrived::End);
            };
            let closed = guard.ready().is_read_closed();
            guard.clear_ready();
            if closed {
                return Poll::Ready(match self.read_now(boxes) {
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

    /// Whether there is anything to be read, or nonsense.
    pub(super) fn has_bytes(&self) -> bool {
        self.ring.has_bytes() != Ok(false)
    }

    pub(super) fn read_now(&mut self, boxes: &mut Mailboxes) -> Arrived {
        let ring = &mut self.ring;
        match boxes.incoming.fill(|buffer| ring.read(buffer)) {
            Ok((0, _)) => Arrived::Nothing,
            Ok(_) => {
                self.moved = true;
                self.spin.is_over();
                match self.ring.must_wake_for_room() {
                    Ok(true) => self.ring_the_bell(),
                    Ok(false) => {}
                    Err(_) => return Arrived::Corrupt,
                }
                Arrived::Some
            }
            Err(_) => Arrived::Corrupt,
        }
    }

    pub(super) fn write_now(&mut self, boxes: &mut Mailboxes) {
        if !boxes.outgoing.is_empty() {
            self.ring.note_processor();
        }
        while !boxes.outgoing.is_empty() {
            match self.ring.write(boxes.outgoing.unsent()) {
                Ok(count) if count > 0 => {
                    self.moved = true;
                    self.spin.begins_anew();
                    boxes.outgoing.wrote(count);
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
        if self.tx.ring().is_err() {
            // Out of memory, say. It would sleep for ever.
            self.rx = None;
        }
    }

    /// Takes the bytes that have woken us; that they came is all they say.
    fn empty_ear(&mut self) {
        self.unheard = 0;
        if let Some(rx) = &self.rx {
            let mut rings = Vec::with_capacity(4 * UNHEARD_RINGS as usize);
            // Empty, or closed, which the reactor tells.
            let _ = descriptors::read(rx.as_fd(), &mut rings);
        }
    }
}
