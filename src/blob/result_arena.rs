//! A worker's arena for its results, behind its channel's memory, and the host's view of it.
//!
//! In front of the arena lies a table. A worker that lends a room writes a number there, another once it has no use for the
//! room itself, and the host, when it has none any more, writes nothing in its place. That is all that both write to. The host checks every place that
//! a worker names, and reads what lies there by atomic operations alone, since a worker may write to it at any time.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::sys::arena::{Arena, PAGE};
use crate::sys::shared_memory::SharedMemory;
#[cfg(feature = "actors")]
use crate::wire::call::ArenaSpan;

/// Bytes of the table in front of the arena.
pub(crate) const LENGTH_OF_TABLE: usize = PAGE;

/// Most rooms that a worker has lent at a time.
pub(super) const SLOTS: usize = LENGTH_OF_TABLE / 4;

/// Free bytes of such an arena that stay with the worker: enough for results of this size to be made without asking the
/// system for memory each time.
pub(super) const KEPT: usize = 32 << 20;

const FREE: u32 = 0;
const LENT: u32 = 1;
/// Nobody but the host has it.
const LEFT: u32 = 2;

/// Where the table lies.
#[derive(Clone, Debug)]
pub(crate) struct ResultArena {
    memory: Arc<SharedMemory>,
    at: usize,
}

impl ResultArena {
    /// What lies in memory from this page on; `None` where nothing does.
    pub(crate) fn of(memory: &Arc<SharedMemory>, at: usize) -> Option<Self> {
        let has_room = memory.length().checked_sub(at)? > LENGTH_OF_TABLE;
        has_room.then(|| ResultArena { memory: memory.clone(), at })
    }

    /// The arena itself, in the worker.
    pub(super) fn claim(&self) -> Option<Arc<Arena>> {
        Arena::claim(self.memory.clone(), self.at + LENGTH_OF_TABLE, KEPT)
    }

    /// Notes in the worker that a room was lent under this number.
    pub(super) fn lend(&self, slot: usize) {
        self.slot(slot).store(LENT, Ordering::Relaxed);
    }

    /// Notes in the worker that it has no other use for what it has lent under this number.
    pub(super) fn leave(&self, slot: usize) {
        // Unless it was given back meanwhile.
        let _ = self.slot(slot).compare_exchange(LENT, LEFT, Ordering::Relaxed, Ordering::Relaxed);
    }

    /// Whether the worker has no other use for it.
    fn is_left(&self, slot: usize) -> bool {
        self.slot(slot).load(Ordering::Relaxed) == LEFT
    }

    /// Notes that nobody reads what was lent under this number.
    pub(super) fn give_back(&self, slot: usize) {
        // What was read was read before.
        self.slot(slot).store(FREE, Ordering::Release);
    }

    /// Whether what was lent under this number was given back.
    pub(super) fn is_back(&self, slot: usize) -> bool {
        self.slot(slot).load(Ordering::Acquire) == FREE
    }

    fn slot(&self, slot: usize) -> &AtomicU32 {
        self.memory.number(self.at + slot * 4)
    }

    /// A room that the worker says it has lent; `None` where there can be none.
    #[cfg(feature = "actors")]
    pub(super) fn allocation(&self, slot: u32, span: &ArenaSpan) -> Option<ResultAllocation> {
        let slot = usize::try_from(slot).ok().filter(|&slot| slot < SLOTS)?;
        let (start, length) = (usize::try_from(span.start).ok()?, usize::try_from(span.length).ok()?);
        let most = self.memory.length() - self.at - LENGTH_OF_TABLE;
        let fits = start.is_multiple_of(PAGE) && start <= most && length <= most - start;
        let at = self.at + LENGTH_OF_TABLE + start;
        fits.then(|| ResultAllocation { result_arena: self.clone(), slot, at, length })
    }
}

/// What a worker has lent, until the last clone of it is dropped.
#[derive(Debug)]
pub(super) struct ResultAllocation {
    result_arena: ResultArena,
    slot: usize,
    at: usize,
    length: usize,
}

impl ResultAllocation {
    pub(super) fn len(&self) -> usize {
        self.length
    }

    /// Copies out what is there now, which has to be there.
    pub(super) fn read_at(&self, at: usize, into: &mut [u8]) {
        assert!(at <= self.length && into.len() <= self.length - at, "it has so many bytes");
        self.result_arena.memory.copy_to(self.at + at, into);
    }

    pub(super) fn to_vec(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        self.result_arena.memory.read(self.at, self.length, &mut bytes);
        bytes
    }
}

impl Drop for ResultAllocation {
    fn drop(&mut self) {
        if self.length > KEPT && self.result_arena.is_left(self.slot) {
            // The worker may sleep, and not hear of it for long.
            self.result_arena.memory.give_back(self.at, self.length.next_multiple_of(PAGE));
        }
        self.result_arena.give_back(self.slot);
    }
}
