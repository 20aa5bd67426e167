//! Memory in which one process keeps bytes for others to read, and how those look at it.

mod free_list;

use std::ops::{Deref, DerefMut, Range};
use std::os::fd::BorrowedFd;
#[cfg(feature = "actors")]
use std::os::fd::OwnedFd;
use std::ptr::NonNull;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::mm::{MapFlags, ProtFlags};

use super::Errno;
use super::shared_memory::{SharedMemory, firm_length};
use free_list::FreeList;

/// Bytes of a page, of which rooms are made.
pub(crate) const PAGE: usize = 4096;

/// Memory that this process alone writes to, in rooms that each have one owner.
#[derive(Debug)]
pub(crate) struct Arena {
    /// Mapped as long as there is a room.
    memory: Arc<SharedMemory>,
    /// Where the first room can be.
    start: NonNull<u8>,
    /// How far that is from the beginning of the memory.
    from: usize,
    space: Mutex<FreeList>,
    /// Whose it is: a process that was forked from that one has a copy of all this but for the memory itself.
    process: u32,
}

// SAFETY: Send demands that another thread may own it; the memory belongs to the process, not to a thread.
unsafe impl Send for Arena {}
// SAFETY: Sync demands that threads may use it at the same time; which room is whose is kept under a lock.
unsafe impl Sync for Arena {}

impl Arena {
    /// An arena of so many bytes, and a descriptor with which others read it and nothing else. Of what is free no more
    /// than `kept` bytes stay with this process.
    ///
    /// # Errors
    ///
    /// What the system said; nothing is left behind.
    #[cfg(feature = "actors")]
    pub(crate) fn create(length: usize, kept: usize) -> rustix::io::Result<(Arc<Self>, OwnedFd)> {
        use std::os::fd::{AsFd as _, AsRawFd as _};

        use rustix::fs::{Mode, OFlags};
        let (memory, file) = SharedMemory::create(c"forkpool-blobs", length.next_multiple_of(PAGE))?;
        let path = format!("/proc/self/fd/{}", file.as_fd().as_raw_fd());
        let reading = rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
        // Nobody else knows this memory, so nobody has claimed it.
        let arena = Self::claim(Arc::new(memory), 0, kept).ok_or(Errno::BUSY)?;
        Ok((arena, reading))
    }

    /// An arena in memory that others may read, from this page on; `None` where there is one already, or no page.
    ///
    /// What lies there is this arena's: the rest of this process leaves it alone, and its peers only read it.
    pub(crate) fn claim(memory: Arc<SharedMemory>, from: usize, kept: usize) -> Option<Arc<Self>> {
        let length = memory.length().checked_sub(from)? / PAGE * PAGE;
        if length == 0 || !from.is_multiple_of(PAGE) {
            return None;
        }
        let beginning = memory.claim()?;
        // SAFETY: add demands an offset within the mapping, which was checked.
        let start = unsafe { beginning.add(from) };
        let space = Mutex::new(FreeList::new(length, kept));
        Some(Arc::new(Arena { memory, start, from, space, process: std::process::id() }))
    }

    /// A room for so many bytes; `None` where there is no place for it. What it holds is left from others.
    ///
    /// In a process that was forked from the one that has the arena there is never a place.
    pub(crate) fn allocation(self: &Arc<Self>, bytes: usize) -> Option<Allocation> {
        if std::process::id() != self.process {
            return None;
        }
        let reserved = bytes.max(1).checked_next_multiple_of(PAGE)?;
        let start = {
            let mut space = self.space();
            space.take(reserved, |range| self.give_back(range))?
        };
        Some(Allocation { arena: self.clone(), start, reserved, length: bytes })
    }

    /// Bytes that all rooms together may have.
    pub(crate) fn length(&self) -> usize {
        self.space().length()
    }

    /// Bytes that rooms have.
    pub(crate) fn in_use(&self) -> usize {
        self.space().in_use()
    }

    fn free(&self, range: Range<usize>) {
        // Not under the lock: a gigabyte takes a while.
        let is_kept = self.space().keep(range.clone());
        if !is_kept {
            self.give_back(range.clone());
            self.space().is_back(range);
        }
    }

    fn give_back(&self, range: Range<usize>) {
        if std::process::id() == self.process {
            self.memory.give_back(self.from + range.start, range.len());
        }
    }

    fn space(&self) -> MutexGuard<'_, FreeList> {
        self.space.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whole pages of an arena, and their only owner in this process.
#[derive(Debug)]
pub(crate) struct Allocation {
    arena: Arc<Arena>,
    start: usize,
    reserved: usize,
    length: usize,
}

impl Allocation {
    /// Where it begins in its arena.
    pub(crate) fn start(&self) -> usize {
        self.start
    }

    /// Whether it is a room of this arena.
    #[cfg(feature = "actors")]
    pub(crate) fn is_of(&self, arena: &Arc<Arena>) -> bool {
        Arc::ptr_eq(&self.arena, arena)
    }

    /// Makes it shorter, and gives up the pages behind.
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
        // SAFETY: from_raw_parts demands initialised bytes that live as long as `self` and that nobody writes to
        // meanwhile: pages of shared memory are zeroes or what was written, they are mapped as long as the arena, which
        // this holds, has its memory; the range was taken from the space of this arena, so no other room has it, and
        // other processes only read it.
        unsafe { std::slice::from_raw_parts(self.arena.start.add(self.start).as_ptr(), self.length) }
    }
}

impl DerefMut for Allocation {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as for `deref`, and nobody else in this process reads it, for it is borrowed from its only owner. What
        // other processes read while it is written is their business: they are given it when it is not any more.
        unsafe { std::slice::from_raw_parts_mut(self.arena.start.add(self.start).as_ptr(), self.length) }
    }
}

impl Drop for Allocation {
    fn drop(&mut self) {
        self.arena.free(self.start..self.start + self.reserved);
    }
}

/// Another process's arena, to be read.
#[derive(Debug)]
pub(crate) struct ReadOnlyArena {
    start: NonNull<u8>,
    length: usize,
}

// SAFETY: Send demands that another thread may own it; the mapping belongs to the process, not to a thread.
unsafe impl Send for ReadOnlyArena {}
// SAFETY: Sync demands that threads may use it at the same time; nobody here can write to it.
unsafe impl Sync for ReadOnlyArena {}

impl ReadOnlyArena {
    /// Maps it, so that a write of this process and of those it forks ends them.
    ///
    /// # Errors
    ///
    /// What the system said, or `INVAL` for memory that others could make shorter.
    pub(crate) fn open(file: BorrowedFd<'_>) -> rustix::io::Result<Self> {
        let length = firm_length(file)?;
        // SAFETY: mmap demands that no existing mapping is replaced; the address is left to the kernel, without
        // MAP_FIXED.
        let start = unsafe {
            rustix::mm::mmap(std::ptr::null_mut(), length, ProtFlags::READ, MapFlags::SHARED, file, 0)
        }?;
        NonNull::new(start.cast()).map(|start| ReadOnlyArena { start, length }).ok_or(Errno::NOMEM)
    }

    /// A room of it that its owner has lent, and leaves alone until it is told that it was given back; `None` where that
    /// cannot be one.
    pub(crate) fn allocation(self: &Arc<Self>, start: usize, length: usize) -> Option<ReadOnlyAllocation> {
        let fits = start <= self.length && length <= self.length - start;
        fits.then(|| ReadOnlyAllocation { arena: self.clone(), start, length })
    }
}

impl Drop for ReadOnlyArena {
    fn drop(&mut self) {
        // SAFETY: munmap demands a range that nobody uses any more; rooms hold the arena. That it was mapped is all that
        // could be wrong with it, so it does not fail.
        let _ = unsafe { rustix::mm::munmap(self.start.as_ptr().cast(), self.length) };
    }
}

/// Bytes in another process's arena.
#[derive(Debug)]
pub(crate) struct ReadOnlyAllocation {
    arena: Arc<ReadOnlyArena>,
    start: usize,
    length: usize,
}

impl ReadOnlyAllocation {
    /// Where it begins in its arena.
    pub(crate) fn start(&self) -> usize {
        self.start
    }
}

impl Deref for ReadOnlyAllocation {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: from_raw_parts demands initialised bytes that live as long as `self` and that nobody writes to
        // meanwhile: the range was checked, the file can be made no shorter, and it is mapped as long as the arena, which
        // this holds. Only its owner can write to it, which forked us, and it does not until it has heard that this was
        // dropped, or that this process has ended.
        unsafe { std::slice::from_raw_parts(self.arena.start.add(self.start).as_ptr(), self.length) }
    }
}

#[cfg(all(test, feature = "actors"))]
mod tests {
    use std::os::fd::AsFd;

    use super::*;

    #[test]
    fn what_its_owner_writes_into_a_room_others_read() -> rustix::io::Result<()> {
        let (arena, file) = Arena::create(10 * PAGE, 2 * PAGE)?;
        let theirs = Arc::new(ReadOnlyArena::open(file.as_fd())?);
        let mut allocations = Vec::new();
        for number in 1..=3_u8 {
            let mut allocation = arena.allocation(usize::from(number) * 1000).ok_or(Errno::NOMEM)?;
            allocation.fill(number);
            allocations.push(allocation);
        }
        for allocation in &allocations {
            let read = theirs.allocation(allocation.start(), allocation.len()).ok_or(Errno::INVAL)?;
            assert_eq!(**allocation, *read);
        }
        assert_eq!(arena.in_use(), 3 * PAGE);
        allocations.clear();
        assert_eq!(arena.in_use(), 0);
        assert!(theirs.allocation(10 * PAGE, 1).is_none() && theirs.allocation(usize::MAX, 2).is_none());
        Ok(())
    }

    #[test]
    fn who_reads_cannot_write_by_any_way_from_its_descriptor() -> rustix::io::Result<()> {
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
    fn a_room_that_is_too_large_is_none_and_a_shorter_one_gives_pages_back() -> rustix::io::Result<()> {
        let (arena, _file) = Arena::create(4 * PAGE, 4 * PAGE)?;
        assert!(arena.allocation(4 * PAGE + 1).is_none() && arena.allocation(usize::MAX).is_none());
        let mut allocation = arena.allocation(4 * PAGE).ok_or(Errno::NOMEM)?;
        assert!(arena.allocation(1).is_none(), "it is full");
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
        assert!(Arena::claim(memory.clone(), 2 * PAGE, 0).is_none(), "there is nothing left for it");
        assert!(Arena::claim(memory.clone(), PAGE, 0).is_some());
        assert!(Arena::claim(memory, PAGE, 0).is_none());
        Ok(())
    }
}
