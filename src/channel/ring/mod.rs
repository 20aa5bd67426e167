//! Two rings in memory that host and worker share, one for each direction, and the flags by which each side wakes the
//! other.
//!
//! Each side advances its own counters and reads its peer's. The host does not trust anything that a worker can write:
//! an impossible counter is an error, bytes are copied out before they are examined, and the host never reads back its
//! own counters. A side sets its flag before it sleeps; only then the peer wakes it, by a byte in one of the two
//! doorbell pipes. The worker's status page lies in the same memory.

#[cfg(all(any(test, fuzzing), feature = "actors"))]
mod hostile;
mod side;
mod worker_io;

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering, fence};

#[cfg(all(any(test, fuzzing), feature = "actors"))]
pub use hostile::hostile_rings;
pub(crate) use side::{CorruptCounters, WakeCondition};
use side::{Counters, Side, SideWords, Word, Words};
pub(crate) use worker_io::RingIo;

#[cfg(any(feature = "actors", test))]
use super::status_page::MEMORY_NAME;
use super::status_page::{CACHE_LINE, PAGE_LENGTH, StatusPage};
use crate::blob::{ResultArena, ResultMemory, TABLE_LENGTH};
use crate::sys::process;
use crate::sys::shared_memory::SharedMemory;

/// Capacity of one ring in bytes, a power of two: somewhat more than a socket buffers by default.
const CAPACITY: u32 = 256 << 10;

/// Bytes of the status page, which also holds the counters (each on a cache line of its own), and of both rings.
const RINGS_LENGTH: usize = PAGE_LENGTH + 2 * CAPACITY as usize;

/// Bytes of the memory of a channel with rings.
pub(super) const MEMORY_LENGTH: usize = RINGS_LENGTH + TABLE_LENGTH;

impl Word for AtomicU32 {
    fn load(&self, order: Ordering) -> u32 {
        self.load(order)
    }

    fn store(&self, number: u32, order: Ordering) {
        self.store(number, order);
    }

    fn full_fence() {
        fence(Ordering::SeqCst);
    }
}

impl Words for Arc<SharedMemory> {
    type Word = AtomicU32;

    fn word(&self, at: usize) -> &AtomicU32 {
        self.atomic_u32(at)
    }
}

/// Offsets of one direction's counters and bytes in the shared memory.
struct RingLayout {
    counters: Counters,
    /// The processor that the writer runs on, counted from 1; 0 if unknown.
    processor: usize,
    bytes: usize,
}

const TO_WORKER: RingLayout =
    RingLayout { counters: Counters { written: 0, read: CACHE_LINE }, processor: 8, bytes: PAGE_LENGTH };
const TO_HOST: RingLayout = RingLayout {
    counters: Counters { written: 2 * CACHE_LINE, read: 3 * CACHE_LINE },
    processor: 2 * CACHE_LINE + 8,
    bytes: PAGE_LENGTH + CAPACITY as usize,
};
const HOST_WAIT_FLAG: usize = 4 * CACHE_LINE;
/// Not zero once the host has closed the channel, which its doorbell does not show while another process holds it.
const CLOSED: usize = HOST_WAIT_FLAG + 4;
const WORKER_WAIT_FLAG: usize = 5 * CACHE_LINE;

#[cfg(any(feature = "actors", test))]
const HOST_WORDS: SideWords = SideWords {
    outgoing: TO_WORKER.counters,
    incoming: TO_HOST.counters,
    own_wait_flag: HOST_WAIT_FLAG,
    peer_wait_flag: WORKER_WAIT_FLAG,
};
const WORKER_WORDS: SideWords = SideWords {
    outgoing: TO_HOST.counters,
    incoming: TO_WORKER.counters,
    own_wait_flag: WORKER_WAIT_FLAG,
    peer_wait_flag: HOST_WAIT_FLAG,
};

/// One side's view of both rings.
pub(crate) struct Ring {
    side: Side<Arc<SharedMemory>>,
    outgoing: &'static RingLayout,
    incoming: &'static RingLayout,
    /// The processor that this side published last, counted from 1; 0 if none.
    recorded_processor: u32,
}

impl Ring {
    /// Creates rings. Returns the host's side and the descriptor with which the worker opens its own.
    #[cfg(any(feature = "actors", test))]
    pub(crate) fn create() -> rustix::io::Result<(Self, OwnedFd)> {
        let (memory, file) = SharedMemory::create(MEMORY_NAME, MEMORY_LENGTH)?;
        memory.populate_if_strict()?;
        let side = Side::new(Arc::new(memory), &HOST_WORDS, CAPACITY);
        Ok((Ring { side, outgoing: &TO_WORKER, incoming: &TO_HOST, recorded_processor: 0 }, file))
    }

    /// Opens the worker's side.
    pub(crate) fn open(file: &OwnedFd) -> rustix::io::Result<Self> {
        let memory = SharedMemory::open(file.as_fd(), MEMORY_LENGTH)?;
        let mut ring = Self::worker_side(Arc::new(memory));
        ring.record_processor();
        Ok(ring)
    }

    /// Returns another handle on the worker's side, for frames that are sent in the middle of a call.
    pub(crate) fn duplicate(&self) -> Self {
        Self::worker_side(self.memory().clone())
    }

    /// Continues writing after what duplicates of this side have written.
    pub(crate) fn resume_after_duplicates(&mut self) {
        self.side.resume_writing();
    }

    fn worker_side(memory: Arc<SharedMemory>) -> Self {
        let side = Side::resume(memory, &WORKER_WORDS, CAPACITY);
        Ring { side, outgoing: &TO_HOST, incoming: &TO_WORKER, recorded_processor: 0 }
    }

    /// Writes as many of the bytes as fit; returns how many.
    ///
    /// # Errors
    ///
    /// [`CorruptCounters`]; the rings are unusable then.
    pub(crate) fn write(&mut self, bytes: &[u8]) -> Result<usize, CorruptCounters> {
        let wanted = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
        let space = self.side.space_for(wanted)? as usize;
        let (now, _) = bytes.split_at(space.min(bytes.len()));
        let at = (self.side.written() % CAPACITY) as usize;
        let (first, wrapped) = now.split_at(now.len().min(CAPACITY as usize - at));
        self.memory().write(self.outgoing.bytes + at, first);
        self.memory().write(self.outgoing.bytes, wrapped);
        // At most CAPACITY, so the cast loses nothing.
        self.side.publish_written(now.len() as u32);
        Ok(now.len())
    }

    /// Appends the bytes that have arrived to `into`, as far as its capacity allows; returns how many.
    ///
    /// # Errors
    ///
    /// [`CorruptCounters`]; the rings are unusable then.
    pub(crate) fn read(&mut self, into: &mut Vec<u8>) -> Result<usize, CorruptCounters> {
        let count = (self.side.unread()? as usize).min(into.capacity() - into.len());
        let at = (self.side.read() % CAPACITY) as usize;
        let first = count.min(CAPACITY as usize - at);
        self.memory().read(self.incoming.bytes + at, first, into);
        self.memory().read(self.incoming.bytes, count - first, into);
        self.side.publish_read(count as u32);
        Ok(count)
    }

    /// Sets this side's flag before it sleeps; see [`Side::arm`].
    ///
    /// # Errors
    ///
    /// [`CorruptCounters`]; the rings are unusable then.
    pub(crate) fn arm(&self, condition: WakeCondition) -> Result<bool, CorruptCounters> {
        self.side.arm(condition)
    }

    /// Clears this side's flag: it is awake.
    pub(crate) fn disarm(&self) {
        self.side.disarm();
    }

    /// Whether the peer sleeps until `condition` and must be woken; see [`Side::take_wake_request`].
    pub(crate) fn take_wake_request(&self, condition: WakeCondition) -> bool {
        self.side.take_wake_request(condition)
    }

    /// Whether the peer is seen to sleep until there are bytes. It may have gone to sleep just now, or been woken.
    pub(crate) fn peer_sleeps(&self) -> bool {
        self.side.sees_flag(WakeCondition::Bytes)
    }

    /// Whether the peer sleeps until there is space; see [`Side::take_wake_request_for_space`].
    ///
    /// # Errors
    ///
    /// [`CorruptCounters`]; the rings are unusable then.
    pub(crate) fn take_wake_request_for_space(&self) -> Result<bool, CorruptCounters> {
        self.side.take_wake_request_for_space()
    }

    /// Whether there is free space to write to.
    ///
    /// # Errors
    ///
    /// [`CorruptCounters`]; the rings are unusable then.
    pub(crate) fn has_space(&self) -> Result<bool, CorruptCounters> {
        self.side.space().map(|space| space > 0)
    }

    /// Whether there are bytes to read.
    ///
    /// # Errors
    ///
    /// [`CorruptCounters`]; the rings are unusable then.
    pub(crate) fn has_bytes(&self) -> Result<bool, CorruptCounters> {
        self.side.unread().map(|unread| unread > 0)
    }

    /// Tells the worker that the host closes the channel. It reads that when it is woken.
    #[cfg(any(feature = "actors", test))]
    pub(crate) fn close(&self) {
        self.memory().atomic_u32(CLOSED).store(1, Ordering::Release);
    }

    /// Whether the host has closed the channel.
    fn is_closed(&self) -> bool {
        self.memory().atomic_u32(CLOSED).load(Ordering::Acquire) != 0
    }

    /// Publishes the processor that this side runs on, if it has changed: the number lies beside the counter that the
    /// peer looks at, and each store takes that cache line away from the peer.
    pub(crate) fn record_processor(&mut self) {
        let here = process::current_processor() + 1;
        if here != self.recorded_processor {
            self.recorded_processor = here;
            self.memory().atomic_u32(self.outgoing.processor).store(here, Ordering::Relaxed);
        }
    }

    /// Whether the peer last published another processor than the one this side runs on. A side must not spin on the
    /// processor that its peer needs. A peer that has published none is assumed to run on another one if this process
    /// may use several.
    pub(crate) fn peer_is_on_other_processor(&self) -> bool {
        match self.memory().atomic_u32(self.incoming.processor).load(Ordering::Relaxed) {
            0 => process::may_use_several_processors(),
            peer => peer != process::current_processor() + 1,
        }
    }

    /// Returns the worker's arena for results, whose table lies behind the rings.
    pub(crate) fn result_arena(&self, results: ResultMemory) -> ResultArena {
        ResultArena::new(self.memory().clone(), RINGS_LENGTH, results)
    }

    /// Returns the worker's status page.
    pub(crate) fn status_page(&self) -> StatusPage {
        StatusPage::new(self.memory().clone())
    }

    fn memory(&self) -> &Arc<SharedMemory> {
        self.side.memory()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair() -> std::io::Result<(Ring, Ring)> {
        let (host, file) = Ring::create()?;
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
                assert!(worker.read(&mut read)? > 0, "all bytes are there");
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
    fn a_full_ring_takes_nothing_and_its_peer_is_woken_once_for_space()
    -> Result<(), Box<dyn std::error::Error>> {
        let (mut host, mut worker) = pair()?;
        assert_eq!(host.write(&vec![1; CAPACITY as usize + 1])?, CAPACITY as usize);
        assert_eq!(host.write(&[1])?, 0);
        assert!(host.arm(WakeCondition::Either)?, "the host may sleep");
        assert!(
            !worker.take_wake_request(WakeCondition::Bytes)
                || !worker.take_wake_request(WakeCondition::Bytes),
            "the request is taken at most once"
        );
        assert!(host.arm(WakeCondition::Space)?);
        assert_eq!(worker.read(&mut Vec::with_capacity(10))?, 10);
        assert!(!worker.take_wake_request(WakeCondition::Bytes));
        assert!(worker.take_wake_request(WakeCondition::Space));
        assert!(!worker.take_wake_request(WakeCondition::Space));
        assert!(!host.arm(WakeCondition::Space)?, "there is free space now");
        assert_eq!(host.write(&[1; 20])?, 10);
        Ok(())
    }

    #[test]
    fn a_duplicate_continues_after_what_the_original_has_written() -> Result<(), Box<dyn std::error::Error>> {
        let (mut host, mut worker) = pair()?;
        let mut duplicate = worker.duplicate();
        assert_eq!(worker.write(b"one ")?, 4);
        duplicate = duplicate.duplicate();
        assert_eq!(duplicate.write(b"two")?, 3);
        let mut read = Vec::with_capacity(16);
        assert_eq!(host.read(&mut read)?, 7);
        assert_eq!(read, b"one two");
        Ok(())
    }

    #[test]
    fn an_impossible_counter_is_an_error_at_the_host() -> Result<(), Box<dyn std::error::Error>> {
        let (mut host, worker) = pair()?;
        worker.memory().atomic_u32(TO_HOST.counters.written).store(CAPACITY + 1, Ordering::Relaxed);
        assert_eq!(host.read(&mut Vec::with_capacity(10)), Err(CorruptCounters));
        assert_eq!(host.arm(WakeCondition::Bytes), Err(CorruptCounters));
        worker.memory().atomic_u32(TO_WORKER.counters.read).store(2, Ordering::Relaxed);
        assert_eq!(host.write(&[1])?, 1, "there is space, whatever was read");
        assert_eq!(host.write(&[1; CAPACITY as usize]), Err(CorruptCounters), "more was read than written");
        Ok(())
    }

    #[test]
    fn a_worker_that_overwrites_the_host_s_own_counters_changes_nothing()
    -> Result<(), Box<dyn std::error::Error>> {
        let (mut host, worker) = pair()?;
        for own in [TO_WORKER.counters.written, TO_HOST.counters.read] {
            worker.memory().atomic_u32(own).store(12_345, Ordering::Relaxed);
        }
        assert_eq!(host.write(b"abc")?, 3);
        assert_eq!(worker.memory().atomic_u32(TO_WORKER.counters.written).load(Ordering::Relaxed), 3);
        assert_eq!(host.read(&mut Vec::with_capacity(10))?, 0);
        Ok(())
    }
}
