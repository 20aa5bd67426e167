//! Two rings in memory that host and worker share, one for each direction, and who of the two sleeps.
//!
//! Each side advances its own counters and reads its peer's. The host takes nothing for granted that a worker can
//! write: a counter that cannot be is an error, bytes are copied out before they are looked at, and what the host
//! itself knows it never reads back. A side that is about to sleep says so; only then a byte in one of the two
//! pipes beside the rings wakes it. Beside the rings the worker keeps notes for whoever looks at it from outside.

#[cfg(all(any(test, fuzzing), feature = "actors"))]
mod hostile;
mod worker_io;

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{Ordering, fence};

#[cfg(all(any(test, fuzzing), feature = "actors"))]
pub use hostile::hostile_rings;
pub(crate) use worker_io::RingIo;

#[cfg(any(feature = "actors", test))]
use super::status_page::MEMORY_NAME;
use super::status_page::{HEAD, LINE, StatusPage};
use crate::blob::ResultArena;
use crate::sys::process;
use crate::sys::shared_memory::SharedMemory;

/// Bytes one ring holds, a power of two: somewhat more than a socket buffers by default.
const CAPACITY: u32 = 256 << 10;

/// Bytes of the whole: a page for the counters, each on a cache line of its own, and for the notes, then the rings.
const LENGTH: usize = HEAD + 2 * CAPACITY as usize;

/// What a side sleeps for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Need {
    /// Something to be read.
    Bytes = 1,
    /// Room to write.
    Room = 2,
    /// One of the two; a worker sleeps for one at a time.
    #[cfg(any(feature = "actors", test))]
    Either = 3,
}

/// A peer's counter that cannot be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the counters of its ring make no sense")]
pub(crate) struct Corrupt;

/// Where one direction's counters and bytes lie.
#[derive(Clone, Copy)]
struct Lane {
    written: usize,
    /// On which processor its writer runs, counted from 1; 0 is not known.
    processor: usize,
    read: usize,
    bytes: usize,
}

const TO_WORKER: Lane = Lane { written: 0, processor: 8, read: LINE, bytes: HEAD };
const TO_HOST: Lane =
    Lane { written: 2 * LINE, processor: 2 * LINE + 8, read: 3 * LINE, bytes: HEAD + CAPACITY as usize };
const HOST_WAITS: usize = 4 * LINE;
const WORKER_WAITS: usize = 5 * LINE;

/// One side's view of both rings.
pub(crate) struct Ring {
    memory: Arc<SharedMemory>,
    outgoing: Lane,
    incoming: Lane,
    own_sleep: usize,
    peer_sleep: usize,
    /// Bytes written and read so far, modulo 2³².
    written: u32,
    read: u32,
}

impl Ring {
    /// The host's side of new rings with so much memory behind them, and what the worker opens its own with.
    #[cfg(any(feature = "actors", test))]
    pub(crate) fn create(result_arena: usize) -> rustix::io::Result<(Self, OwnedFd)> {
        let (memory, file) = SharedMemory::create(MEMORY_NAME, LENGTH + result_arena)?;
        let ring = Ring {
            memory: Arc::new(memory),
            outgoing: TO_WORKER,
            incoming: TO_HOST,
            own_sleep: HOST_WAITS,
            peer_sleep: WORKER_WAITS,
            written: 0,
            read: 0,
        };
        Ok((ring, file))
    }

    /// The worker's side.
    pub(crate) fn open(file: &OwnedFd) -> rustix::io::Result<Self> {
        let memory = SharedMemory::open(file.as_fd(), LENGTH)?;
        let ring = Self::worker_side(Arc::new(memory));
        ring.note_processor();
        Ok(ring)
    }

    /// The worker's side once more, for what is said in the middle of something.
    pub(crate) fn twin(&self) -> Self {
        Self::worker_side(self.memory.clone())
    }

    /// Goes on writing behind what twins of this side have written.
    pub(crate) fn write_behind_twins(&mut self) {
        self.written = self.memory.number(self.outgoing.written).load(Ordering::Relaxed);
    }

    fn worker_side(memory: Arc<SharedMemory>) -> Self {
        let written = memory.number(TO_HOST.written).load(Ordering::Relaxed);
        let read = memory.number(TO_WORKER.read).load(Ordering::Relaxed);
        Ring {
            memory,
            outgoing: TO_HOST,
            incoming: TO_WORKER,
            own_sleep: WORKER_WAITS,
            peer_sleep: HOST_WAITS,
            written,
            read,
        }
    }

    /// Copies in what fits; returns how much did.
    ///
    /// # Errors
    ///
    /// [`Corrupt`]; the rings are of no use any more.
    pub(crate) fn write(&mut self, bytes: &[u8]) -> Result<usize, Corrupt> {
        let room = self.room()? as usize;
        let (now, _) = bytes.split_at(room.min(bytes.len()));
        let at = (self.written % CAPACITY) as usize;
        let (first, wrapped) = now.split_at(now.len().min(CAPACITY as usize - at));
        self.memory.write(self.outgoing.bytes + at, first);
        self.memory.write(self.outgoing.bytes, wrapped);
        // At most CAPACITY, so nothing is cut.
        self.written = self.written.wrapping_add(now.len() as u32);
        self.memory.number(self.outgoing.written).store(self.written, Ordering::Release);
        Ok(now.len())
    }

    /// Copies out what is there, as far as `into` has room without growing; returns how much that was.
    ///
    /// # Errors
    ///
    /// [`Corrupt`]; the rings are of no use any more.
    pub(crate) fn read(&mut self, into: &mut Vec<u8>) -> Result<usize, Corrupt> {
        let count = (self.unread()? as usize).min(into.capacity() - into.len());
        let at = (self.read % CAPACITY) as usize;
        let first = count.min(CAPACITY as usize - at);
        self.memory.read(self.incoming.bytes + at, first, into);
        self.memory.read(self.incoming.bytes, count - first, into);
        self.read = self.read.wrapping_add(count as u32);
        self.memory.number(self.incoming.read).store(self.read, Ordering::Release);
        Ok(count)
    }

    /// Says that this side is about to sleep; `false` if it must not, since what it would sleep for has come.
    ///
    /// # Errors
    ///
    /// [`Corrupt`]; the rings are of no use any more.
    pub(crate) fn arm(&self, need: Need) -> Result<bool, Corrupt> {
        self.memory.number(self.own_sleep).store(need as u32, Ordering::Relaxed);
        // Either our peer sees that we sleep, or we see what it has just done.
        fence(Ordering::SeqCst);
        let wants = |one: Need| need as u32 & one as u32 != 0;
        Ok(!(wants(Need::Bytes) && self.unread()? > 0 || wants(Need::Room) && self.room()? > 0))
    }

    /// Says that this side is awake.
    pub(crate) fn disarm(&self) {
        self.memory.number(self.own_sleep).store(0, Ordering::Relaxed);
    }

    /// Whether the peer sleeps until what was just done. Whoever is told so wakes it: it is told once.
    pub(crate) fn must_wake(&self, need: Need) -> bool {
        fence(Ordering::SeqCst);
        let sleep = self.memory.number(self.peer_sleep);
        let sleeps = sleep.load(Ordering::Relaxed) & need as u32 != 0;
        if sleeps {
            sleep.store(0, Ordering::Relaxed);
        }
        sleeps
    }

    /// Whether the peer sleeps until there is room, and there is enough of it by now: one that is woken for every piece
    /// that was read would sleep again at once. Whoever is told so wakes it.
    ///
    /// # Errors
    ///
    /// [`Corrupt`]; the rings are of no use any more.
    pub(crate) fn must_wake_for_room(&self) -> Result<bool, Corrupt> {
        Ok(self.unread()? <= CAPACITY / 2 && self.must_wake(Need::Room))
    }

    /// Whether there is room.
    ///
    /// # Errors
    ///
    /// [`Corrupt`]; the rings are of no use any more.
    pub(crate) fn has_room(&self) -> Result<bool, Corrupt> {
        self.room().map(|room| room > 0)
    }

    /// Whether there is something to be read.
    ///
    /// # Errors
    ///
    /// [`Corrupt`]; the rings are of no use any more.
    pub(crate) fn has_bytes(&self) -> Result<bool, Corrupt> {
        self.unread().map(|unread| unread > 0)
    }

    /// Notes on which processor this side runs.
    pub(crate) fn note_processor(&self) {
        let here = process::current_processor() + 1;
        self.memory.number(self.outgoing.processor).store(here, Ordering::Relaxed);
    }

    /// Whether the peer last noted another processor than this side runs on: whoever spins must not do so where the
    /// peer would have to run. One that has noted none yet is taken to run elsewhere if there is an elsewhere.
    pub(crate) fn peer_is_elsewhere(&self) -> bool {
        match self.memory.number(self.incoming.processor).load(Ordering::Relaxed) {
            0 => process::may_use_several_processors(),
            peer => peer != process::current_processor() + 1,
        }
    }

    /// What lies behind the rings.
    pub(crate) fn result_arena(&self) -> Option<ResultArena> {
        ResultArena::of(&self.memory, LENGTH)
    }

    /// What the worker notes beside the rings.
    pub(crate) fn status_page(&self) -> StatusPage {
        StatusPage::of(self.memory.clone())
    }

    fn room(&self) -> Result<u32, Corrupt> {
        let read = self.memory.number(self.outgoing.read).load(Ordering::Acquire);
        CAPACITY.checked_sub(self.written.wrapping_sub(read)).ok_or(Corrupt)
    }

    fn unread(&self) -> Result<u32, Corrupt> {
        let written = self.memory.number(self.incoming.written).load(Ordering::Acquire);
        Some(written.wrapping_sub(self.read)).filter(|&unread| unread <= CAPACITY).ok_or(Corrupt)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair() -> std::io::Result<(Ring, Ring)> {
        let (host, file) = Ring::create(0)?;
        let worker = Ring::open(&file)?;
        Ok((host, worker))
    }

    #[test]
    fn bytes_go_round_in_pieces_of_every_size() -> Result<(), Box<dyn std::error::Error>> {
        let (mut host, mut worker) = pair()?;
        let mut sent = 0;
        for size in (1..4000).chain([CAPACITY as usize]) {
            let bytes: Vec<u8> = (sent..).take(size).map(|count| (count * 7) as u8).collect();
            sent += size;
            assert_eq!(host.write(&bytes)?, size);
            let mut read = Vec::with_capacity(size);
            while read.len() < size {
                assert!(worker.read(&mut read)? > 0, "it is all there");
            }
            assert!(read == bytes, "{size} bytes");
            assert_eq!(worker.write(&bytes)?, size);
            read.clear();
            assert_eq!(host.read(&mut read)?, size);
            assert!(read == bytes, "{size} bytes back");
        }
        Ok(())
    }

    #[test]
    fn a_full_ring_takes_nothing_and_room_is_told_of_once() -> Result<(), Box<dyn std::error::Error>> {
        let (mut host, mut worker) = pair()?;
        assert_eq!(host.write(&vec![1; CAPACITY as usize + 1])?, CAPACITY as usize);
        assert_eq!(host.write(&[1])?, 0);
        assert!(host.arm(Need::Either)?, "it may sleep");
        assert!(!worker.must_wake(Need::Bytes) || !worker.must_wake(Need::Bytes), "told at most once");
        assert!(host.arm(Need::Room)?);
        assert_eq!(worker.read(&mut Vec::with_capacity(10))?, 10);
        assert!(!worker.must_wake(Need::Bytes));
        assert!(worker.must_wake(Need::Room));
        assert!(!worker.must_wake(Need::Room));
        assert!(!host.arm(Need::Room)?, "there is room now");
        assert_eq!(host.write(&[1; 20])?, 10);
        Ok(())
    }

    #[test]
    fn a_twin_goes_on_where_the_other_stands() -> Result<(), Box<dyn std::error::Error>> {
        let (mut host, mut worker) = pair()?;
        let mut twin = worker.twin();
        assert_eq!(worker.write(b"one ")?, 4);
        twin = twin.twin();
        assert_eq!(twin.write(b"two")?, 3);
        let mut read = Vec::with_capacity(16);
        assert_eq!(host.read(&mut read)?, 7);
        assert_eq!(read, b"one two");
        Ok(())
    }

    #[test]
    fn a_counter_that_cannot_be_is_an_error_at_the_host() -> Result<(), Box<dyn std::error::Error>> {
        let (mut host, worker) = pair()?;
        worker.memory.number(TO_HOST.written).store(CAPACITY + 1, Ordering::Relaxed);
        assert_eq!(host.read(&mut Vec::with_capacity(10)), Err(Corrupt));
        assert_eq!(host.arm(Need::Bytes), Err(Corrupt));
        worker.memory.number(TO_WORKER.read).store(1, Ordering::Relaxed);
        assert_eq!(host.write(&[1]), Err(Corrupt), "read more than was written");
        Ok(())
    }

    #[test]
    fn what_a_worker_writes_over_the_host_s_own_counters_changes_nothing()
    -> Result<(), Box<dyn std::error::Error>> {
        let (mut host, worker) = pair()?;
        for own in [TO_WORKER.written, TO_HOST.read] {
            worker.memory.number(own).store(12_345, Ordering::Relaxed);
        }
        assert_eq!(host.write(b"abc")?, 3);
        assert_eq!(worker.memory.number(TO_WORKER.written).load(Ordering::Relaxed), 3);
        assert_eq!(host.read(&mut Vec::with_capacity(10))?, 0);
        Ok(())
    }
}
