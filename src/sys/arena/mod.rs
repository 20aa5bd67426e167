//! Shared memory in which one process allocates bytes for others to read, and read-only views of it.

mod free_list;

use std::ops::{Deref, DerefMut, Range};
use std::os::fd::BorrowedFd;
#[cfg(feature = "actors")]
use std::os::fd::OwnedFd;
use std::ptr::NonNull;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::mm::{MapFlags, ProtFlags};

use super::Errno;
use super::faults;
use super::faults::Call;
use super::shared_memory::{SharedMemory, sealed_length};
use free_list::FreeList;

/// Bytes of a page, the unit of allocation.
pub(crate) const PAGE: usize = 4096;

/// Memory that only this process writes to, divided into allocations that have one owner each.
#[derive(Debug)]
pub(crate) struct Arena {
    /// Mapped as long as there is an allocation.
    memory: Arc<SharedMemory>,
    /// Address of the arena.
    start: NonNull<u8>,
    /// Offset of the arena in the memory.
    from: usize,
    free_list: Mutex<FreeList>,
    /// The pid of the owner. A process forked from it has a copy of all fields, but shares the memory itself.
    process: u32,
}

// SAFETY: Send demands that another thread may own it; the memory belongs to the process, not to a thread.
unsafe impl Send for Arena {}
// SAFETY: Sync demands that threads may use it at the same time; which allocation has which range is kept under a lock.
unsafe impl Sync for Arena {}

impl Arena {
    /// Creates an arena of `length` bytes, rounded up to whole pages, and a descriptor with which other processes can
    /// only read it. At most `kept` free bytes stay mapped in this process.
    ///
    /// # Errors
    ///
    /// The system's error; nothing is left behind then.
    #[cfg(feature = "actors")]
    pub(crate) fn create(length: usize, kept: usize) -> rustix::io::Result<(Arc<Self>, OwnedFd)> {
        use std::os::fd::{AsFd as _, AsRawFd as _};

        use rustix::fs::{Mode, OFlags};
        let (memory, file) = SharedMemory::create(c"forkpool-blobs", length.next_multiple_of(PAGE))?;
        let path = format!("/proc/self/fd/{}", file.as_fd().as_raw_fd());
        faults::point(Call::Open)?;
        let read_only = rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
        // This memory is new, so it has no arena yet.
        let arena = Self::new_in(Arc::new(memory), 0, kept).ok_or(Errno::BUSY)?;
        Ok((arena, read_only))
    }

    /// Creates an arena in `memory` from the page at offset `from` on; `None` if the memory has an arena already, or no
    /// page there.
    ///
    /// That part of the memory belongs to the arena: other code of this process leaves it alone, and peers only read
    /// it.
    pub(crate) fn new_in(memory: Arc<SharedMemory>, from: usize, kept: usize) -> Option<Arc<Self>> {
        let length = memory.length().checked_sub(from)? / PAGE * PAGE;
        if length == 0 || !from.is_multiple_of(PAGE) {
            return None;
        }
        let beginning = memory.take_start()?;
        // SAFETY: add demands an offset within the mapping, which was checked.
        let start = unsafe { beginning.add(from) };
        let free_list = Mutex::new(FreeList::new(length, kept));
        Some(Arc::new(Arena { memory, start, from, free_list, process: std::process::id() }))
    }

    /// Allocates `bytes` bytes; `None` if there is no free range of that length. The content is what earlier
    /// allocations have left there.
    ///
    /// In a process that was forked from the arena's owner it always returns `None`.
    pub(crate) fn allocation(self: &Arc<Self>, bytes: usize) -> Option<Allocation> {
        if std::process::id() != self.process {
            return None;
        }
        let reserved = bytes.max(1).checked_next_multiple_of(PAGE)?;
        let start = {
            let mut free_list = self.free_list();
            free_list.take(reserved, |range| self.return_pages(range))?
        };
        Some(Allocation { arena: self.clone(), start, reserved, length: bytes })
    }

    /// Bytes of the whole arena.
    pub(crate) fn length(&self) -> usize {
        self.free_list().length()
    }

    /// Bytes of all allocations, in whole pages.
    pub(crate) fn in_use(&self) -> usize {
        self.free_list().in_use()
    }

    fn free(&self, range: Range<usize>) {
        // Without the lock, because returning a gigabyte takes a while.
        let is_kept = self.free_list().try_keep(range.clone());
        if !is_kept {
            self.return_pages(range.clone());
            self.free_list().mark_returned(range);
        }
    }

    fn return_pages(&self, range: Range<usize>) {
        if std::process::id() == self.process {
            self.memory.return_pages(self.from + range.start, range.len());
        }
    }

    fn free_list(&self) -> MutexGuard<'_, FreeList> {
        self.free_list.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whole pages of an arena, with a single owner in this process. Dropping it frees them.
#[derive(Debug)]
pub(crate) struct Allocation {
    arena: Arc<Arena>,
    /// Offset in the arena.
    start: usize,
    /// Bytes of its pages.
    reserved: usize,
    /// Bytes that were asked for.
    length: usize,
}

impl Allocation {
    /// The offset in the arena.
    pub(crate) fn start(&self) -> usize {
        self.start
    }

    /// Whether this is an allocation of `arena`.
    #[cfg(feature = "actors")]
    pub(crate) fn belongs_to(&self, arena: &Arc<Arena>) -> bool {
        Arc::ptr_eq(&self.arena, arena)
    }

    /// Shortens this to `length` bytes, unless it is shorter already, and frees the pages behind.
    pub(crate) fn shrink(&mut self, length: usize) {
        self.length = self.length.min(length);
        let needed = self.length.max(1).next_multiple_of(PAGE);
        if needed < self.reserved {
            let end = self.start + self.reserved;
            self.reserved = needed;
            self.arena.free(self.start + needed..end);
        }
    }
}

impl Deref for Allocation {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: from_raw_parts demands initialised bytes that live as long as `self` and are not written to
        // meanwhile. Pages of shared memory are zeroes or what was written before. They are mapped as long as the arena
        // has its memory, and this holds the arena. The range was taken from the arena's free list, so no other
        // allocation has it, and other processes only read it.
        unsafe { std::slice::from_raw_parts(self.arena.start.add(self.start).as_ptr(), self.length) }
    }
}

impl DerefMut for Allocation {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as for `deref`, and nothing else in this process reads it, because it is borrowed from its only
        // owner. Other processes are given the range only once it is not written to any more; what they read earlier
        // does not affect this process.
        unsafe { std::slice::from_raw_parts_mut(self.arena.start.add(self.start).as_ptr(), self.length) }
    }
}

impl Drop for Allocation {
    fn drop(&mut self) {
        self.arena.free(self.start..self.start + self.reserved);
    }
}

/// A read-only view of another process's arena.
#[derive(Debug)]
pub(crate) struct ReadOnlyArena {
    start: NonNull<u8>,
    length: usize,
}

// SAFETY: Send demands that another thread may own it; the mapping belongs to the process, not to a thread.
unsafe impl Send for ReadOnlyArena {}
// SAFETY: Sync demands that threads may use it at the same time; this process cannot write to it.
unsafe impl Sync for ReadOnlyArena {}

impl ReadOnlyArena {
    /// Maps the arena read-only: a write by this process, or by one that it forks, raises SIGSEGV.
    ///
    /// # Errors
    ///
    /// The system's error, or `INVAL` if the memory is not sealed against shrinking, or longer than `at_most`: other
    /// mappings need addresses as well.
    pub(crate) fn open(file: BorrowedFd<'_>, at_most: usize) -> rustix::io::Result<Self> {
        let length = Some(sealed_length(file)?).filter(|&length| length <= at_most).ok_or(Errno::INVAL)?;
        faults::point(Call::Mmap)?;
        // SAFETY: mmap demands that no existing mapping is replaced; the address is left to the kernel, without
        // MAP_FIXED.
        let start = unsafe {
            rustix::mm::mmap(std::ptr::null_mut(), length, ProtFlags::READ, MapFlags::SHARED, file, 0)
        }?;
        NonNull::new(start.cast()).map(|start| ReadOnlyArena { start, length }).ok_or(Errno::NOMEM)
    }

    /// An allocation that the owner has lent, and does not write to until it is notified that this was dropped; `None`
    /// if the range lies outside of the arena.
    pub(crate) fn allocation(self: &Arc<Self>, start: usize, length: usize) -> Option<ReadOnlyAllocation> {
        let fits = start <= self.length && length <= self.length - start;
        fits.then(|| ReadOnlyAllocation { arena: self.clone(), start, length })
    }
}

impl Drop for ReadOnlyArena {
    fn drop(&mut self) {
        // SAFETY: munmap demands a range that is not used any more; allocations hold the arena. It fails only for a
        // range that is not mapped, and this one is.
        let _ = unsafe { rustix::mm::munmap(self.start.as_ptr().cast(), self.length) };
    }
}

/// Bytes in another process's arena.
#[derive(Debug)]
pub(crate) struct ReadOnlyAllocation {
    arena: Arc<ReadOnlyArena>,
    /// Offset in the arena.
    start: usize,
    length: usize,
}

impl ReadOnlyAllocation {
    /// The offset in the arena.
    pub(crate) fn start(&self) -> usize {
        self.start
    }
}

impl Deref for ReadOnlyAllocation {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: from_raw_parts demands initialised bytes that live as long as `self` and are not written to
        // meanwhile. The range was checked, the file cannot be shortened, and it is mapped as long as the arena, which
        // this holds. Only the owner, which this process trusts, can write to it, and it does not until it is notified
        // that this was dropped, or that this process has ended.
        unsafe { std::slice::from_raw_parts(self.arena.start.add(self.start).as_ptr(), self.length) }
    }
}

#[cfg(all(test, feature = "actors"))]
mod tests {
    use std::os::fd::AsFd;

    use super::*;

    #[test]
    fn other_processes_read_what_the_owner_writes_into_an_allocation() -> rustix::io::Result<()> {
        let (arena, file) = Arena::create(10 * PAGE, 2 * PAGE)?;
        let read_only = Arc::new(ReadOnlyArena::open(file.as_fd(), usize::MAX)?);
        let mut allocations = Vec::new();
        for number in 1..=3_u8 {
            let mut allocation = arena.allocation(usize::from(number) * 1000).ok_or(Errno::NOMEM)?;
            allocation.fill(number);
            allocations.push(allocation);
        }
        for allocation in &allocations {
            let read = read_only.allocation(allocation.start(), allocation.len()).ok_or(Errno::INVAL)?;
            assert_eq!(**allocation, *read);
        }
        assert_eq!(arena.in_use(), 3 * PAGE);
        allocations.clear();
        assert_eq!(arena.in_use(), 0);
        assert!(
            read_only.allocation(10 * PAGE, 1).is_none() && read_only.allocation(usize::MAX, 2).is_none()
        );
        Ok(())
    }

    #[test]
    fn the_descriptor_of_a_reader_permits_no_kind_of_write() -> rustix::io::Result<()> {
        let (_arena, file) = Arena::create(PAGE, 0)?;
        assert_eq!(rustix::io::write(&file, &[1]), Err(Errno::BADF));
        assert_eq!(rustix::fs::ftruncate(&file, 0), Err(Errno::INVAL));
        // SAFETY: mmap demands that no existing mapping is replaced; the address is left to the kernel.
        let writable = unsafe {
            let access = ProtFlags::READ | ProtFlags::WRITE;
            rustix::mm::mmap(std::ptr::null_mut(), PAGE, access, MapFlags::SHARED, file.as_fd(), 0)
        };
        assert_eq!(writable.err(), Some(Errno::ACCESS));
        Ok(())
    }

    #[test]
    fn too_large_an_allocation_is_refused_and_a_shortened_one_frees_pages() -> rustix::io::Result<()> {
        let (arena, _file) = Arena::create(4 * PAGE, 4 * PAGE)?;
        assert!(arena.allocation(4 * PAGE + 1).is_none() && arena.allocation(usize::MAX).is_none());
        let mut allocation = arena.allocation(4 * PAGE).ok_or(Errno::NOMEM)?;
        assert!(arena.allocation(1).is_none(), "the arena is full");
        allocation[..5].copy_from_slice(b"short");
        allocation.shrink(5);
        assert_eq!(*allocation, *b"short");
        assert_eq!(arena.allocation(3 * PAGE).map(|allocation| allocation.len()), Some(3 * PAGE));
        assert_eq!(arena.in_use(), PAGE);
        Ok(())
    }

    #[test]
    fn memory_has_one_arena() -> rustix::io::Result<()> {
        let (memory, _file) = SharedMemory::create(c"forkpool-test", 2 * PAGE)?;
        let memory = Arc::new(memory);
        assert!(Arena::new_in(memory.clone(), 2 * PAGE, 0).is_none(), "the memory ends there");
        assert!(Arena::new_in(memory.clone(), PAGE, 0).is_some());
        assert!(Arena::new_in(memory, PAGE, 0).is_none());
        Ok(())
    }
}
