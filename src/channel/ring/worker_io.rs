//! The worker's end of its rings: it waits without a runtime, and sleeps only when looking does not pay.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{Corrupt, Need, Ring};
use crate::blob::ResultArena;
use crate::channel::adaptive_spin::AdaptiveSpin;
use crate::channel::blocking_channel::WorkerIo;
use crate::channel::doorbell::WorkerDoorbells;
use crate::channel::status_page::{Doing, StatusPage};
use crate::sys::{descriptors, process};

/// Looks between two readings of the clock, by a worker that spins.
const LOOKS: usize = 30;

/// Longest time that a worker spins for its next call: about what it would take to be woken.
const LONGEST_SPIN: Duration = Duration::from_micros(100);

/// Short waits in a row beside the host after which a worker looks for another processor; where there is none for it,
/// as many again and again, up to the most.
const TOO_CLOSE: u32 = 32;
const MOST_CLOSE: u32 = 8192;

/// Of those, the last ones, at which it looks whether another one is idle: the host may be about to sleep at any of
/// them.
const SURVEYS: u32 = 4;

/// The worker's end of its channel: the rings, and the bells that wake and whose end says that the host is gone.
pub(crate) struct RingIo {
    ring: Ring,
    status_page: StatusPage,
    doorbells: Arc<WorkerDoorbells>,
    spin: AdaptiveSpin,
    /// How often somebody else had had this processor when that was last asked for: it costs more than a look.
    turns: Option<u64>,
    /// Short waits in a row on the processor on which the host runs.
    close: u32,
    /// How many are too many.
    too_close: u32,
    /// Whether another processor was seen to be idle since they became many.
    has_way_out: bool,
}

impl RingIo {
    pub(crate) fn open(memory: &OwnedFd, doorbells: WorkerDoorbells) -> io::Result<Self> {
        Ok(RingIo::new(Ring::open(memory)?, Arc::new(doorbells)))
    }

    /// Another link to the same host, for what is said in the middle of something. Each says whole frames.
    pub(crate) fn twin(&self) -> Self {
        RingIo::new(self.ring.twin(), self.doorbells.clone())
    }

    fn new(ring: Ring, doorbells: Arc<WorkerDoorbells>) -> Self {
        RingIo {
            status_page: ring.status_page(),
            ring,
            doorbells,
            spin: AdaptiveSpin::new(LONGEST_SPIN),
            turns: None,
            close: 0,
            too_close: TOO_CLOSE,
            has_way_out: false,
        }
    }

    /// Where this worker notes what it does.
    pub(crate) fn status_page(&self) -> StatusPage {
        self.ring.status_page()
    }

    /// Where this worker keeps large results.
    pub(crate) fn result_arena(&self) -> Option<ResultArena> {
        self.ring.result_arena()
    }

    /// Waits until there is something to be read; `false` if the host is gone.
    fn wait(&mut self) -> io::Result<bool> {
        let there = match self.ring.peer_is_elsewhere() {
            true => self.wait_apart()?,
            false => self.wait_beside_the_host()?,
        };
        self.ring.note_processor();
        Ok(there)
    }

    fn wait_apart(&mut self) -> io::Result<bool> {
        while !self.ring.has_bytes().map_err(invalid)? {
            if self.is_to_look() {
                self.look_for_a_while();
            } else if !self.sleep(Need::Bytes)? {
                return Ok(false);
            }
        }
        self.spin.is_over();
        Ok(true)
    }

    /// Whether to look again: on a processor that nobody else wants.
    fn is_to_look(&mut self) -> bool {
        let RingIo { ring, spin, turns, .. } = self;
        let others = |_| {
            let (now, before) = (process::turns_of_others(), *turns);
            *turns = Some(now);
            before.is_some_and(|before| before != now)
        };
        ring.peer_is_elsewhere() && spin.goes_on_unless(Instant::now(), others)
    }

    /// Waits until the host has read some; `false` if it is gone.
    fn wait_for_room(&mut self) -> io::Result<bool> {
        let until = Instant::now() + LONGEST_SPIN;
        while !self.ring.has_room().map_err(invalid)? {
            // A host that is reading will be done soon, and one that is not sleeps, or does something else.
            if self.ring.peer_is_elsewhere() && Instant::now() < until {
                std::hint::spin_loop();
            } else if !self.sleep(Need::Room)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Waits on the processor on which the host runs. Each wake takes that processor from it, so where wakes follow
    /// each other closely this worker moves on to another.
    fn wait_beside_the_host(&mut self) -> io::Result<bool> {
        let began = Instant::now();
        while !self.ring.has_bytes().map_err(invalid)? {
            if !self.sleep(Need::Bytes)? {
                return Ok(false);
            }
        }
        self.close = if began.elapsed() < LONGEST_SPIN { self.close + 1 } else { 0 };
        if self.close + SURVEYS > self.too_close {
            self.look_for_a_way_out();
        }
        Ok(true)
    }

    /// Moves on to another processor if one has nothing to do. Where there is none, somebody would have to make room.
    fn look_for_a_way_out(&mut self) {
        self.has_way_out |= process::some_processor_is_idle();
        if self.close < self.too_close {
            return;
        }
        self.close = 0;
        if std::mem::take(&mut self.has_way_out) {
            self.too_close = TOO_CLOSE;
            process::leave_processor();
        } else {
            self.too_close = (self.too_close * 2).min(MOST_CLOSE);
        }
    }

    fn look_for_a_while(&self) {
        for _ in 0..LOOKS {
            if self.ring.has_bytes() != Ok(false) {
                return;
            }
            std::hint::spin_loop();
        }
        // Another worker on this processor has its turn; one that keeps it for long makes us stop.
        std::thread::yield_now();
    }

    /// Sleeps until the host has done something; `false` if it is gone.
    fn sleep(&mut self, need: Need) -> io::Result<bool> {
        if !self.ring.arm(need).map_err(invalid)? {
            self.ring.disarm();
            return Ok(true);
        }
        let heard = self.doorbells.hear()?;
        self.ring.disarm();
        // Code that closed what it does not own while this waited has ended its own channel; no call is begun then.
        descriptors::check_open(self.doorbells.rx.as_fd())?;
        Ok(heard)
    }

    fn wake_for(&self, need: Need) -> io::Result<()> {
        if self.ring.must_wake(need) {
            self.doorbells.ring()?;
        }
        Ok(())
    }
}

impl WorkerIo for RingIo {
    fn receive(&mut self, bytes: &mut Vec<u8>) -> io::Result<usize> {
        if !self.ring.has_bytes().map_err(invalid)? && !self.wait()? {
            return Ok(0);
        }
        let count = self.ring.read(bytes).map_err(invalid)?;
        if self.ring.must_wake_for_room().map_err(invalid)? {
            self.doorbells.ring()?;
        }
        Ok(count)
    }

    fn send(&mut self, bytes: &[u8], more: bool) -> io::Result<usize> {
        // Code that closed what it does not own has ended its own channel, and is not heard on it any more. That costs a
        // system call, so of replies that follow each other closely only the last one is held back by it.
        if !more {
            descriptors::check_open(self.doorbells.tx.as_fd())?;
        }
        self.ring.write_behind_twins();
        loop {
            let count = self.ring.write(bytes).map_err(invalid)?;
            if count > 0 {
                self.wake_for(Need::Bytes)?;
                return Ok(count);
            }
            if !self.wait_for_room()? {
                return Ok(0);
            }
        }
    }

    fn note(&self, doing: Doing) {
        self.status_page.write(doing);
    }
}

fn invalid(error: Corrupt) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::channel::doorbell::doorbells;

    #[test]
    fn a_host_that_is_gone_before_it_has_heard_a_ring_is_the_end_and_no_error()
    -> Result<(), Box<dyn std::error::Error>> {
        let (host, file) = Ring::create(0)?;
        let (ours, theirs) = doorbells()?;
        let mut worker = RingIo::open(&file, theirs)?;
        assert!(host.arm(Need::Bytes)?);
        assert_eq!(worker.send(b"unheard", false)?, 7);
        drop(ours);
        assert_eq!(worker.receive(&mut Vec::with_capacity(10))?, 0);
        Ok(())
    }

    #[test]
    fn two_sides_that_sleep_whenever_they_can_lose_no_wake() -> Result<(), Box<dyn std::error::Error>> {
        let (host, file) = Ring::create(0)?;
        let ((rx, their_hammer), (their_ear, tx)) =
            (descriptors::blocking_pipe()?, descriptors::blocking_pipe()?);
        let mut host = RingIo::new(host, Arc::new(WorkerDoorbells { rx, tx }));
        let mut worker = RingIo::open(&file, WorkerDoorbells { rx: their_ear, tx: their_hammer })?;
        let echo = std::thread::spawn(move || -> io::Result<()> {
            let mut bytes = Vec::with_capacity(100_000);
            while worker.receive(&mut bytes)? > 0 {
                let mut unsent = bytes.as_slice();
                while !unsent.is_empty() {
                    let count = worker.send(unsent, false)?;
                    unsent = &unsent[count..];
                }
                bytes.clear();
            }
            Ok(())
        });
        for round in 0..20_000_usize {
            let size = 1 + round * 7 % 300;
            host.send(&vec![round as u8; size], false)?;
            let mut back = Vec::with_capacity(size);
            while back.len() < size {
                assert!(host.receive(&mut back)? > 0);
            }
            assert!(back.iter().all(|&byte| byte == round as u8));
        }
        drop(host);
        assert!(echo.join().is_ok_and(|ended| ended.is_ok()));
        Ok(())
    }
}
