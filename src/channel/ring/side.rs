//! One side's counters, and the flags by which each side wakes the other.
//!
//! Everything here is generic over the shared memory: `tests/loom` includes this file and has it run through all
//! interleavings and all results that the memory model allows. So it names nothing else of this crate.

use std::sync::atomic::Ordering;

/// A number that both sides see.
pub(crate) trait Word {
    fn load(&self, order: Ordering) -> u32;
    fn store(&self, number: u32, order: Ordering);
    /// Orders what this thread did before against what it does after, in one order for all threads.
    fn full_fence();
}

/// The memory in which the numbers lie.
pub(crate) trait Words {
    type Word: Word;
    /// Returns the number at this offset.
    fn word(&self, at: usize) -> &Self::Word;
}

/// What a sleeping side waits for. The values are bits of its flag.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum WakeCondition {
    /// Bytes to read.
    Bytes = 1,
    /// Free space to write to.
    Space = 2,
    /// Either of the two. Only the host uses it; a worker waits for one at a time.
    #[cfg(any(feature = "actors", test))]
    Either = 3,
}

/// A counter of the peer has an impossible value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the ring's counters are corrupt")]
pub(crate) struct CorruptCounters;

/// Offsets of one direction's counters.
#[derive(Clone, Copy)]
pub(crate) struct Counters {
    /// Bytes written so far; the writer's counter.
    pub(crate) written: usize,
    /// Bytes read so far; the reader's counter.
    pub(crate) read: usize,
}

/// Offsets of everything by which a side communicates.
#[derive(Clone, Copy)]
pub(crate) struct SideWords {
    pub(crate) outgoing: Counters,
    pub(crate) incoming: Counters,
    pub(crate) own_wait_flag: usize,
    pub(crate) peer_wait_flag: usize,
}

/// One side of both rings. It trusts its own counts, and checks those of its peer.
pub(crate) struct Side<M> {
    memory: M,
    words: &'static SideWords,
    /// Bytes that one ring holds, a power of two.
    capacity: u32,
    /// Bytes written and read by this side so far, modulo 2³².
    written: u32,
    read: u32,
    /// Bytes that the peer had read when this side last looked. It looks again only where it has no space with that: the
    /// peer's counter lies in a cache line that the peer writes to at each read.
    peer_read: u32,
}

impl<M: Words> Side<M> {
    /// A side of new rings.
    #[cfg(any(feature = "actors", test))]
    pub(crate) fn new(memory: M, words: &'static SideWords, capacity: u32) -> Self {
        Side { memory, words, capacity, written: 0, read: 0, peer_read: 0 }
    }

    /// A side of rings that are in use: continues where the shared counters are.
    pub(crate) fn resume(memory: M, words: &'static SideWords, capacity: u32) -> Self {
        let written = memory.word(words.outgoing.written).load(Ordering::Relaxed);
        let read = memory.word(words.incoming.read).load(Ordering::Relaxed);
        let peer_read = memory.word(words.outgoing.read).load(Ordering::Acquire);
        Side { memory, words, capacity, written, read, peer_read }
    }

    /// Continues writing after what other handles of this side have written.
    pub(crate) fn resume_writing(&mut self) {
        self.written = self.memory.word(self.words.outgoing.written).load(Ordering::Relaxed);
    }

    pub(crate) fn memory(&self) -> &M {
        &self.memory
    }

    /// Bytes written by this side so far, modulo 2³².
    pub(crate) fn written(&self) -> u32 {
        self.written
    }

    /// Bytes read by this side so far, modulo 2³².
    pub(crate) fn read(&self) -> u32 {
        self.read
    }

    /// Returns how many bytes may be written: at least `wanted`, or all that there is space for now.
    ///
    /// # Errors
    ///
    /// [`CorruptCounters`]; the rings are unusable then.
    pub(crate) fn space_for(&mut self, wanted: u32) -> Result<u32, CorruptCounters> {
        // Other handles of this side may have written more than there was space for when this one last looked.
        let known = self.capacity.checked_sub(self.written.wrapping_sub(self.peer_read));
        if let Some(space) = known.filter(|&space| space >= wanted) {
            return Ok(space);
        }
        let space = self.space()?;
        self.peer_read = self.written.wrapping_sub(self.capacity - space);
        Ok(space)
    }

    /// Returns how many bytes may be written now.
    ///
    /// # Errors
    ///
    /// [`CorruptCounters`]; the rings are unusable then.
    pub(crate) fn space(&self) -> Result<u32, CorruptCounters> {
        let read = self.memory.word(self.words.outgoing.read).load(Ordering::Acquire);
        self.capacity.checked_sub(self.written.wrapping_sub(read)).ok_or(CorruptCounters)
    }

    /// Returns how many bytes there are to read.
    ///
    /// # Errors
    ///
    /// [`CorruptCounters`]; the rings are unusable then.
    pub(crate) fn unread(&self) -> Result<u32, CorruptCounters> {
        let written = self.memory.word(self.words.incoming.written).load(Ordering::Acquire);
        Some(written.wrapping_sub(self.read)).filter(|&unread| unread <= self.capacity).ok_or(CorruptCounters)
    }

    /// Publishes bytes that were copied into the outgoing ring.
    pub(crate) fn publish_written(&mut self, count: u32) {
        self.written = self.written.wrapping_add(count);
        self.memory.word(self.words.outgoing.written).store(self.written, Ordering::Release);
    }

    /// Gives back the space of bytes that were copied out of the incoming ring.
    pub(crate) fn publish_read(&mut self, count: u32) {
        self.read = self.read.wrapping_add(count);
        self.memory.word(self.words.incoming.read).store(self.read, Ordering::Release);
    }

    /// Sets this side's flag before it sleeps. Returns `false` if it must not sleep because `condition` holds already.
    /// If it returns `true`, the peer may sleep until there is space, see
    /// [`take_wake_request_for_space`](Self::take_wake_request_for_space).
    ///
    /// A side whose doorbell reports only changes empties it before: some kernels (5.5 to 5.10.55) report no byte that
    /// is written behind others.
    ///
    /// # Errors
    ///
    /// [`CorruptCounters`]; the rings are unusable then.
    pub(crate) fn arm(&self, condition: WakeCondition) -> Result<bool, CorruptCounters> {
        self.memory.word(self.words.own_wait_flag).store(condition as u32, Ordering::Relaxed);
        // Either the peer sees the flag, or this side sees what the peer has just done.
        M::Word::full_fence();
        let wants = |one: WakeCondition| condition as u32 & one as u32 != 0;
        Ok(!(wants(WakeCondition::Bytes) && self.unread()? > 0
            || wants(WakeCondition::Space) && self.space()? > 0))
    }

    /// Clears this side's flag: it is awake.
    pub(crate) fn disarm(&self) {
        self.memory.word(self.words.own_wait_flag).store(0, Ordering::Relaxed);
    }

    /// Clears the peer's flag and returns `true` if the peer sleeps until `condition`, which this side has just made
    /// true. The caller must wake it then; the next call returns `false`.
    pub(crate) fn take_wake_request(&self, condition: WakeCondition) -> bool {
        M::Word::full_fence();
        self.take_flag(condition)
    }

    /// Like [`take_wake_request`](Self::take_wake_request) for [`WakeCondition::Space`], but only once half of the ring
    /// is free: a peer that is woken for each piece that was read would sleep again at once.
    ///
    /// It needs no fence, which would stand between each message and its reader, and so it may miss a flag that the peer
    /// has just set. A side calls it once more when [`arm`](Self::arm) has returned `true`: behind the fence there, either
    /// it sees the flag, or the peer has seen the space.
    ///
    /// # Errors
    ///
    /// [`CorruptCounters`]; the rings are unusable then.
    pub(crate) fn take_wake_request_for_space(&self) -> Result<bool, CorruptCounters> {
        Ok(self.sees_flag(WakeCondition::Space)
            && self.unread()? <= self.capacity / 2
            && self.take_flag(WakeCondition::Space))
    }

    /// Whether the peer's flag is set for `condition`, as far as this side can see without a fence.
    pub(crate) fn sees_flag(&self, condition: WakeCondition) -> bool {
        self.memory.word(self.words.peer_wait_flag).load(Ordering::Relaxed) & condition as u32 != 0
    }

    fn take_flag(&self, condition: WakeCondition) -> bool {
        let is_set = self.sees_flag(condition);
        if is_set {
            self.memory.word(self.words.peer_wait_flag).store(0, Ordering::Relaxed);
        }
        is_set
    }
}
