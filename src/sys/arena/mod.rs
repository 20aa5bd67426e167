//! Shared memory in which one process allocates bytes for others to read, and read-only views of it.

mod free_list;

use std::ops::{Deref, DerefMut, Range};
use std::os::fd::BorrowedFd;
#[cfg(feature = "actors")]
use std::os::fd::OwnedFd;
use std::ptr::NonNull;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::shared_memory::SharedMemory;
use free_list::FreeList;

/// Bytes of a page, the unit of allocation.
pub(crate) const PAGE: usize = 4096;

/// Bytes for which the system provides memory at once while an allocation is filled.
const COMMITTED_AT_ONCE: usize = 1 << 20;

/// Memory that only this process writes to, divided into allocations that have one owner each.
#[derive(Debug)]
pub(crate) struct Arena {
    /// Mapped as long as there is an allocation.
    memory: Arc<SharedMemory>,
    /// Address of the arena.
    start: NonNull<u8>,
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
    /// only read it: another user's process has no right to open it for writing, see [`memory_file`]. At most `kept`
    /// free bytes stay mapped in this process.
    ///
    /// # Errors
    ///
    /// The system's error; nothing is left behind then.
    #[cfg(feature = "actors")]
    pub(crate) fn create(length: usize, kept: usize) -> rustix::io::Result<(Arc<Self>, OwnedFd)> {
        use std::os::fd::{AsFd as _, AsRawFd as _};

        use rustix::fs::{Mode, OFlags};

        use super::Errno;
        use super::faults::{self, Call};
        let (memory, file) = SharedMemory::create_reserved(c"forkpool-blobs", length.next_multiple_of(PAGE))?;
        let path = format!("/proc/self/fd/{}", file.as_fd().as_raw_fd());
        faults::point(Call::Open)?;
        let read_only = rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
        // This memory is new, so it has no arena yet.
        let arena = Self::new_in(Arc::new(memory), kept).ok_or(Errno::BUSY)?;
        Ok((arena, read_only))
    }

    /// Creates an arena of `memory`; `None` if the memory has an arena already, or no page.
    ///
    /// The memory belongs to the arena: other code of this process leaves it alone, and peers only read it.
    pub(crate) fn new_in(memory: Arc<SharedMemory>, kept: usize) -> Option<Arc<Self>> {
        let length = memory.length() / PAGE * PAGE;
        if length == 0 {
            return None;
        }
        let start = memory.take_start()?;
        let free_list = Mutex::new(FreeList::new(length, kept));
        Some(Arc::new(Arena { memory, start, free_list, process: std::process::id() }))
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
        let (start, is_resident) = start;
        let committed = if is_resident { reserved } else { 0 };
        Some(Allocation { arena: self.clone(), start, reserved, length: bytes, committed })
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
            self.memory.return_pages(range.start, range.len());
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
    /// Bytes at the beginning for which the system has provided memory.
    committed: usize,
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

    /// Frees the pages from this offset on; those that were not committed have no memory to be kept.
    fn free_from(&self, offset: usize) {
        let at = |offset| self.start + offset;
        let committed = self.committed.max(offset);
        if offset < committed {
            self.arena.free(at(offset)..at(committed));
        }
        if committed < self.reserved {
            self.arena.free_list().mark_returned(at(committed)..at(self.reserved));
        }
    }

    /// Has the system provide memory for the first `bytes` bytes, and some behind. Returns `false` if it has none. Bytes
    /// for which this was not done must not be touched: the access may end the process by SIGBUS.
    #[must_use]
    pub(crate) fn commit(&mut self, bytes: usize) -> bool {
        if bytes <= self.committed {
            return true;
        }
        let needed = bytes.next_multiple_of(PAGE).min(self.reserved);
        let generous = (self.committed + COMMITTED_AT_ONCE).clamp(needed, self.reserved);
        for upto in [generous, needed] {
            let at = self.start + self.committed;
            if self.arena.memory.populate(at, upto - self.committed).is_ok() {
                self.committed = upto;
                return true;
            }
        }
        false
    }

    /// Lengthens this to at most `length` bytes where the pages behind are free; as far as they are. Nothing moves.
    #[cfg(feature = "actors")]
    pub(crate) fn extend(&mut self, length: usize) {
        let needed = length.checked_next_multiple_of(PAGE).unwrap_or(self.reserved);
        while self.reserved < needed && std::process::id() == self.arena.process {
            let end = self.start + self.reserved;
            let taken = self.arena.free_list().take_at(end, needed - self.reserved);
            let Some((count, is_resident)) = taken else { break };
            match is_resident {
                true if self.committed == self.reserved => self.committed += count,
                // Behind pages without memory none is expected to have any.
                true => self.arena.return_pages(end..end + count),
                false => {}
            }
            self.reserved += count;
        }
        self.length = self.length.max(length.min(self.reserved));
    }

    /// Returns how many bytes can be touched.
    pub(crate) fn committed(&self) -> usize {
        self.committed.min(self.length)
    }

    /// Shortens this to `length` bytes, unless it is shorter already, and frees the pages behind.
    pub(crate) fn shrink(&mut self, length: usize) {
        self.length = self.length.min(length);
        let needed = self.length.max(1).next_multiple_of(PAGE);
        if needed < self.reserved {
            self.free_from(needed);
            self.reserved = needed;
            self.committed = self.committed.min(needed);
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
        self.free_from(0);
    }
}

/// A read-only view of another process's arena.
#[derive(Debug)]
pub(crate) struct ReadOnlyArena {
    memory: SharedMemory,
    is_trusted: bool,
}

impl ReadOnlyArena {
    /// Maps the arena read-only: a write by this process, or by one that it forks, raises SIGSEGV.
    ///
    /// `is_trusted` tells whether the owner can be relied on to leave lent bytes unchanged. If not, they are only
    /// copied, and never borrowed.
    ///
    /// # Errors
    ///
    /// The system's error, or `INVAL` if the memory is not sealed against shrinking, or longer than `at_most`: other
    /// mappings need addresses as well.
    pub(crate) fn open(file: BorrowedFd<'_>, at_most: usize, is_trusted: bool) -> rustix::io::Result<Self> {
        Ok(ReadOnlyArena { memory: SharedMemory::open_to_read(file, at_most)?, is_trusted })
    }

    /// An allocation that the owner has lent, and does not write to until it is notified that this was dropped; `None`
    /// if the range lies outside of the arena.
    pub(crate) fn allocation(self: &Arc<Self>, start: usize, length: usize) -> Option<ReadOnlyAllocation> {
        let most = self.memory.length();
        let fits = start <= most && length <= most - start;
        fits.then(|| ReadOnlyAllocation { arena: self.clone(), start, length })
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

    pub(crate) fn length(&self) -> usize {
        self.length
    }

    /// Returns the bytes, or `None` if the owner is not trusted to leave them unchanged.
    pub(crate) fn slice(&self) -> Option<&[u8]> {
        // SAFETY: slice demands that no process writes to the bytes as long as they are used. Only the owner can, and
        // one that is trusted does not until it is notified that this was dropped, or that this process has ended.
        self.arena.is_trusted.then(|| unsafe { self.arena.memory.slice(self.start, self.length) })
    }

    /// Copies the current bytes from offset `at` on into `into`. The range must lie within the allocation.
    pub(crate) fn copy_to(&self, at: usize, into: &mut [u8]) {
        assert!(at <= self.length && into.len() <= self.length - at, "the range lies within the allocation");
        self.arena.memory.copy_to(self.start + at, into);
    }
}

#[cfg(all(test, feature = "actors"))]
mod tests {
    use std::os::fd::AsFd;

    use rustix::mm::{MapFlags, ProtFlags};

    use super::super::Errno;
    use super::*;

    #[test]
    fn other_processes_read_what_the_owner_writes_into_an_allocation() -> rustix::io::Result<()> {
        let (arena, file) = Arena::create(10 * PAGE, 2 * PAGE)?;
        let read_only = Arc::new(ReadOnlyArena::open(file.as_fd(), usize::MAX, true)?);
        let from_a_stranger = Arc::new(ReadOnlyArena::open(file.as_fd(), usize::MAX, false)?);
        let mut allocations = Vec::new();
        for number in 1..=3_u8 {
            let mut allocation = arena.allocation(usize::from(number) * 1000).ok_or(Errno::NOMEM)?;
            assert!(allocation.commit(usize::from(number) * 1000));
            allocation.fill(number);
            allocations.push(allocation);
        }
        for allocation in &allocations {
            let read = read_only.allocation(allocation.start(), allocation.len()).ok_or(Errno::INVAL)?;
            assert_eq!(Some(&**allocation), read.slice());
            let read =
                from_a_stranger.allocation(allocation.start(), allocation.len()).ok_or(Errno::INVAL)?;
            let mut copy = vec![0; allocation.len() - 1];
            read.copy_to(1, &mut copy);
            assert_eq!((&allocation[1..], read.slice()), (&*copy, None), "copied and never borrowed");
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
        assert_eq!(rustix::fs::fstat(&file)?.st_mode & 0o777, 0o600, "nor a way to it for other users");
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
    fn an_allocation_is_extended_as_far_as_the_pages_behind_are_free() -> rustix::io::Result<()> {
        let (arena, _file) = Arena::create(10 * PAGE, 10 * PAGE)?;
        let mut one = arena.allocation(5).ok_or(Errno::NOMEM)?;
        let mut other = arena.allocation(2 * PAGE).ok_or(Errno::NOMEM)?;
        assert!(one.commit(5) && other.commit(2 * PAGE));
        other.fill(7);
        one.extend(100);
        assert_eq!((one.len(), arena.in_use()), (100, 3 * PAGE), "what its page has");
        one.extend(PAGE + 1);
        assert_eq!((one.len(), arena.in_use()), (PAGE, 3 * PAGE), "the other one is in the way");
        drop(other);
        one.extend(2 * PAGE + 5);
        assert_eq!((one.len(), one.committed(), arena.in_use()), (2 * PAGE + 5, 2 * PAGE + 5, 3 * PAGE));
        one.extend(usize::MAX);
        one.extend(20 * PAGE);
        assert_eq!((one.len(), one.committed(), arena.in_use()), (10 * PAGE, 3 * PAGE, 10 * PAGE));
        assert!(one.commit(10 * PAGE));
        one.fill(1);
        one.extend(PAGE);
        one.shrink(PAGE);
        assert_eq!((one.len(), arena.in_use()), (PAGE, PAGE), "it shrinks by `shrink` only");
        drop(one);
        assert_eq!(arena.in_use(), 0);
        Ok(())
    }

    #[test]
    fn memory_has_one_arena() -> rustix::io::Result<()> {
        let (memory, _file) = SharedMemory::create(c"forkpool-test", 2 * PAGE)?;
        let memory = Arc::new(memory);
        assert!(Arena::new_in(memory.clone(), 0).is_some());
        assert!(Arena::new_in(memory, 0).is_none());
        Ok(())
    }
}
