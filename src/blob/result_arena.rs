//! A worker's arena for results, and the host's view of it.
//!
//! In the memory of the worker's channel lies a table with one entry for each allocation that the worker has lent. The
//! worker marks an entry as lent, and later as used by the host only; the host marks it as free when it has dropped the
//! blob. These entries are all that both sides write to. The arena is a memory file of its own. The host checks every
//! range that a worker names and reads it through a descriptor, because the worker may write to it, or take its pages
//! away, at any time.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::sys::arena::{Arena, PAGE};
use crate::sys::memory_file::UnmappedFile;
use crate::sys::shared_memory::SharedMemory;
#[cfg(feature = "actors")]
use crate::wire::call::ArenaSpan;

/// Bytes of the table.
pub(crate) const TABLE_LENGTH: usize = PAGE;

/// Most allocations that a worker can have lent at a time.
pub(super) const MAX_LOANS: usize = TABLE_LENGTH / 4;

/// Most free bytes of the arena that stay with the worker, so that results of this size are created without taking
/// memory from the system each time.
pub(super) const MAX_KEPT: usize = 32 << 20;

/// The entry is unused, or the host has dropped the blob.
const FREE: u32 = 0;
/// The host reads the allocation, and the worker's code may use it, too.
const LENT: u32 = 1;
/// The host reads the allocation, and the worker's code has dropped it.
const HOST_ONLY: u32 = 2;

/// The table of a worker's loans, and the memory of its results.
#[derive(Clone, Debug)]
pub(crate) struct ResultArena {
    /// The memory that the table lies in.
    memory: Arc<SharedMemory>,
    /// Offset of the table in it.
    at: usize,
    results: ResultMemory,
}

/// The memory of a worker's results, as one side sees it.
#[derive(Clone, Debug)]
pub(crate) enum ResultMemory {
    /// The worker maps it.
    Mapped(Arc<SharedMemory>),
    /// The host reads it through a descriptor.
    #[cfg_attr(not(feature = "actors"), expect(dead_code, reason = "only the host reads results"))]
    Unmapped(Arc<UnmappedFile>),
}

impl ResultArena {
    /// The arena whose table is at this offset of `memory`.
    pub(crate) fn new(memory: Arc<SharedMemory>, at: usize, results: ResultMemory) -> Self {
        ResultArena { memory, at, results }
    }

    /// Creates the arena itself, in the worker; `None` if it was created before.
    pub(super) fn create_arena(&self) -> Option<Arc<Arena>> {
        match &self.results {
            ResultMemory::Mapped(memory) => Arena::new_in(memory.clone(), MAX_KEPT),
            ResultMemory::Unmapped(_) => None,
        }
    }

    /// Marks an entry as lent; called by the worker.
    pub(super) fn mark_lent(&self, slot: usize) {
        self.slot(slot).store(LENT, Ordering::Relaxed);
    }

    /// Marks a lent entry as used by the host only; called by the worker.
    pub(super) fn mark_host_only(&self, slot: usize) {
        // Fails if the host has freed it meanwhile.
        let _ = self.slot(slot).compare_exchange(LENT, HOST_ONLY, Ordering::Relaxed, Ordering::Relaxed);
    }

    /// Whether the worker's code has dropped the allocation.
    fn is_host_only(&self, slot: usize) -> bool {
        self.slot(slot).load(Ordering::Relaxed) == HOST_ONLY
    }

    /// Marks an entry as free: the allocation is not read any more.
    pub(super) fn release(&self, slot: usize) {
        // Release: all reads of the allocation happen before this.
        self.slot(slot).store(FREE, Ordering::Release);
    }

    /// Whether an entry is free.
    pub(super) fn is_free(&self, slot: usize) -> bool {
        self.slot(slot).load(Ordering::Acquire) == FREE
    }

    fn slot(&self, slot: usize) -> &AtomicU32 {
        self.memory.atomic_u32(self.at + slot * 4)
    }

    /// The allocation that a worker claims to have lent; `None` if the entry or the range cannot exist.
    #[cfg(feature = "actors")]
    pub(super) fn allocation(&self, slot: u32, span: &ArenaSpan) -> Option<ResultAllocation> {
        let slot = usize::try_from(slot).ok().filter(|&slot| slot < MAX_LOANS)?;
        let (start, length) = (usize::try_from(span.start).ok()?, usize::try_from(span.length).ok()?);
        let ResultMemory::Unmapped(file) = &self.results else { return None };
        let most = file.length();
        let fits = start.is_multiple_of(PAGE) && start <= most && length <= most - start;
        let (file, table) = (file.clone(), self.clone());
        fits.then(|| ResultAllocation { table, file, slot, start, length })
    }
}

/// Memory that a worker has lent to the host. Dropping it frees the entry.
#[derive(Debug)]
pub(super) struct ResultAllocation {
    table: ResultArena,
    file: Arc<UnmappedFile>,
    slot: usize,
    /// Offset of the bytes in the file.
    start: usize,
    length: usize,
}

impl ResultAllocation {
    pub(super) fn len(&self) -> usize {
        self.length
    }

    /// Copies out the current bytes from offset `at` on; the range must lie within the allocation.
    pub(super) fn read_at(&self, at: usize, into: &mut [u8]) {
        assert!(at <= self.length && into.len() <= self.length - at, "the range lies within the allocation");
        self.file.copy_to(self.start + at, into);
    }

    pub(super) fn to_vec(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        self.file.read(self.start, self.length, &mut bytes);
        bytes
    }
}

impl Drop for ResultAllocation {
    fn drop(&mut self) {
        if self.length > MAX_KEPT && self.table.is_host_only(self.slot) {
            // The worker may sleep for long before it learns of this.
            self.file.return_pages(self.start, self.length.next_multiple_of(PAGE));
        }
        self.table.release(self.slot);
    }
}
