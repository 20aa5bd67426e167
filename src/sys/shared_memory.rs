//! Memory that two processes share, accessed by atomic operations only.

use std::ffi::CStr;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::ptr::NonNull;
use std::slice;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering};

use rustix::io::Errno;
use rustix::mm::{Advice, MapFlags, ProtFlags};

use super::faults;
use super::faults::Call;
use super::{memory, memory_file};

/// What a mapping permits.
#[derive(Clone, Copy)]
enum Access {
    Read,
    Write,
}

/// A mapping that another process may read and write at any time.
///
/// Every access is atomic, so a peer that writes while this process reads makes the bytes wrong, and does no other
/// harm.
#[derive(Debug)]
pub(crate) struct SharedMemory {
    start: NonNull<u8>,
    length: usize,
    /// Whether an arena owns the end of this memory.
    start_is_taken: AtomicBool,
    /// Whether forked processes have the mapping as well.
    is_forked: bool,
}

// SAFETY: Send demands that another thread may own it; the mapping belongs to the process, not to a thread.
unsafe impl Send for SharedMemory {}
// SAFETY: Sync demands that threads may use it at the same time; every access goes through atomics.
unsafe impl Sync for SharedMemory {}

impl SharedMemory {
    /// Creates zeroed memory, and a descriptor with which another process opens it. `length` must be in whole pages;
    /// `name` is shown for its mappings in /proc.
    ///
    /// # Errors
    ///
    /// The system's error; nothing is left behind then.
    ///
    /// # References
    ///
    /// - [memfd_create(2)](https://man7.org/linux/man-pages/man2/memfd_create.2.html), file sealing
    pub(crate) fn create(name: &CStr, length: usize) -> rustix::io::Result<(Self, OwnedFd)> {
        let file = memory_file::of_length(name, length)?;
        Ok((Self::map(file.as_fd(), length, Access::Write)?, file))
    }

    /// Maps the first bytes, in whole pages, of memory that another process created, to read them.
    ///
    /// # Errors
    ///
    /// The system's error, or `INVAL` if the memory is shorter, or not sealed against shrinking: a read behind the end
    /// of a shortened file would kill this process by SIGBUS.
    pub(crate) fn open_beginning(file: BorrowedFd<'_>, beginning: usize) -> rustix::io::Result<Self> {
        match memory_file::sealed_length(file)? {
            length if length < beginning => Err(Errno::INVAL),
            _ => Self::map(file, beginning, Access::Read),
        }
    }

    /// Maps all memory that another process created, to read it, as [`create_reserved`](Self::create_reserved) does.
    ///
    /// # Errors
    ///
    /// The system's error, or `INVAL` if the memory is not sealed against shrinking, or longer than `at_most`.
    pub(super) fn open_to_read(file: BorrowedFd<'_>, at_most: usize) -> rustix::io::Result<Self> {
        let length = Some(memory_file::sealed_length(file)?).filter(|&length| length <= at_most);
        Self::reserve(file, length.ok_or(Errno::INVAL)?, Access::Read)
    }

    /// As [`create`](Self::create), for memory of which only a part is used: the mapping takes no memory before it is
    /// touched, also where this process locks all of its memory, and is no part of a dump.
    ///
    /// # Errors
    ///
    /// The system's error; nothing is left behind then.
    #[cfg(feature = "actors")]
    pub(super) fn create_reserved(name: &CStr, length: usize) -> rustix::io::Result<(Self, OwnedFd)> {
        let file = memory_file::of_length(name, length)?;
        Ok((Self::reserve(file.as_fd(), length, Access::Write)?, file))
    }

    /// Maps memory, and takes none of it yet: a process with `mlockall(MCL_FUTURE)` takes all pages of a new mapping that
    /// can be accessed.
    ///
    /// # References
    ///
    /// - [mlockall(2)](https://man7.org/linux/man-pages/man2/mlockall.2.html), `MCL_FUTURE`
    fn reserve(file: BorrowedFd<'_>, length: usize, access: Access) -> rustix::io::Result<Self> {
        use rustix::mm::MprotectFlags;
        let memory = Self::map_with(file, length, ProtFlags::empty())?.kept_from_dumps();
        let access = match access {
            Access::Read => MprotectFlags::READ,
            Access::Write => MprotectFlags::READ | MprotectFlags::WRITE,
        };
        faults::point(Call::Mprotect)?;
        // SAFETY: mprotect demands a range of mapped pages, and that no reference relies on the access that they lose. They
        // gain access, and the mapping has that start and length until it is dropped.
        unsafe { rustix::mm::mprotect(memory.start.as_ptr().cast(), length, access) }?;
        Ok(memory)
    }

    /// Keeps the mapping out of core dumps, whose size and time it would take although most of it is unused. If the system
    /// refuses that, it is in there.
    ///
    /// # References
    ///
    /// - [madvise(2)](https://man7.org/linux/man-pages/man2/madvise.2.html), `MADV_DONTDUMP`
    pub(crate) fn kept_from_dumps(self) -> Self {
        // SAFETY: madvise demands a range of mapped pages, and this advice does not change their content; the mapping has
        // that start and length until it is dropped.
        let _ = faults::point(Call::Madvise).and_then(|()| unsafe {
            rustix::mm::madvise(self.start.as_ptr().cast(), self.length, Advice::LinuxDontDump)
        });
        self
    }

    /// Keeps the mapping out of processes that are forked from this one. Where the system refuses that, they have a copy
    /// until [`drop_in_child`](Self::drop_in_child).
    ///
    /// # References
    ///
    /// - [madvise(2)](https://man7.org/linux/man-pages/man2/madvise.2.html), `MADV_DONTFORK`
    pub(crate) fn keep_from_children(mut self) -> Self {
        // SAFETY: madvise demands a range of mapped pages; this mapping has that start and length until it is dropped.
        let advised = faults::point(Call::Madvise).and_then(|()| unsafe {
            rustix::mm::madvise(self.start.as_ptr().cast(), self.length, Advice::LinuxDontFork)
        });
        self.is_forked = advised.is_err();
        self
    }

    /// Drops the copy of this mapping in a forked process.
    pub(crate) fn drop_in_child(self) {
        if !self.is_forked {
            // Nothing is mapped at its address here, or something else is.
            std::mem::forget(self);
        }
    }

    /// Maps all memory that another process created, to read and write it.
    ///
    /// # Errors
    ///
    /// The system's error, or `INVAL` if the memory is shorter than `at_least`, or not sealed against shrinking.
    pub(crate) fn open(file: BorrowedFd<'_>, at_least: usize) -> rustix::io::Result<Self> {
        match memory_file::sealed_length(file)? {
            length if length < at_least => Err(Errno::INVAL),
            length => Self::map(file, length, Access::Write),
        }
    }

    /// Bytes of the mapping.
    pub(crate) fn length(&self) -> usize {
        self.length
    }

    fn map(file: BorrowedFd<'_>, length: usize, access: Access) -> rustix::io::Result<Self> {
        let protection = match access {
            Access::Read => ProtFlags::READ,
            Access::Write => ProtFlags::READ | ProtFlags::WRITE,
        };
        Self::map_with(file, length, protection)
    }

    fn map_with(file: BorrowedFd<'_>, length: usize, protection: ProtFlags) -> rustix::io::Result<Self> {
        faults::point(Call::Mmap)?;
        // SAFETY: mmap demands that no existing mapping is replaced; the address is left to the kernel, without
        // MAP_FIXED.
        let start =
            unsafe { rustix::mm::mmap(std::ptr::null_mut(), length, protection, MapFlags::SHARED, file, 0) }?;
        let start = NonNull::new(start.cast()).ok_or(Errno::NOMEM)?;
        Ok(SharedMemory { start, length, start_is_taken: AtomicBool::new(false), is_forked: true })
    }

    /// Has the system provide memory for these pages now. Without that, the first access to a page for which there is
    /// none kills this process by SIGBUS; a system that does not overcommit refuses memory at any time.
    ///
    /// # Errors
    ///
    /// The system's error if it has no memory. Kernels before 5.14 cannot tell, and then nothing is done.
    ///
    /// # References
    ///
    /// - [madvise(2)](https://man7.org/linux/man-pages/man2/madvise.2.html), `MADV_POPULATE_WRITE`
    pub(super) fn populate(&self, at: usize, count: usize) -> rustix::io::Result<()> {
        assert!(self.holds(at, count), "the pages lie within the memory");
        faults::point(Call::Madvise)?;
        // SAFETY: madvise demands a range of mapped pages, and this advice does not change their content. The range was
        // checked, and the mapping is there as long as `self` is.
        let populated = unsafe {
            let start = self.start.add(at).as_ptr().cast();
            rustix::mm::madvise(start, count, Advice::LinuxPopulateWrite)
        };
        match populated {
            Err(Errno::INVAL) => Ok(()),
            populated => populated,
        }
    }

    /// Has the system provide memory for all pages now, if it is one that may refuse it later.
    ///
    /// # Errors
    ///
    /// See [`populate`](Self::populate).
    pub(crate) fn populate_if_strict(&self) -> rustix::io::Result<()> {
        if memory::is_overcommit_strict() { self.populate(0, self.length) } else { Ok(()) }
    }

    /// Bytes as a slice.
    ///
    /// # Safety
    ///
    /// No process may write to them as long as the slice is used.
    pub(super) unsafe fn slice(&self, at: usize, count: usize) -> &[u8] {
        assert!(self.holds(at, count), "the bytes lie within the memory");
        // SAFETY: from_raw_parts demands initialised bytes that live as long as `self` and are not written to
        // meanwhile. The range was checked, the file cannot be shortened, and the caller keeps the rest.
        unsafe { slice::from_raw_parts(self.start.add(at).as_ptr(), count) }
    }

    /// Returns the address for an arena in this memory, and `None` each further time: there is at most one arena.
    pub(super) fn take_start(&self) -> Option<NonNull<u8>> {
        (!self.start_is_taken.swap(true, Ordering::Relaxed)).then_some(self.start)
    }

    /// Returns whole pages to the system; they read as zeroes afterwards. If the system refuses, they stay as they are.
    ///
    /// # References
    ///
    /// - [madvise(2)](https://man7.org/linux/man-pages/man2/madvise.2.html), `MADV_REMOVE`
    pub(crate) fn return_pages(&self, at: usize, count: usize) {
        if !self.holds(at, count) || count == 0 {
            return;
        }
        // SAFETY: madvise demands a range of mapped pages whose content is not relied on. The range was checked, and
        // the caller, who returns it, does not use it any more. Other processes read it by atomics alone.
        let _ = unsafe {
            let start = self.start.add(at).as_ptr().cast();
            rustix::mm::madvise(start, count, Advice::LinuxRemove)
        };
    }

    /// The number at offset `at`, which must be a multiple of 4.
    pub(crate) fn atomic_u32(&self, at: usize) -> &AtomicU32 {
        assert!(at.is_multiple_of(4) && self.holds(at, 4), "the number is aligned and within the memory");
        // SAFETY: as_ref demands an aligned, initialised and living value; offset and end were checked, the mapping
        // starts at a page, any bytes are a number, and it is mapped as long as `self` is.
        unsafe { self.start.add(at).cast().as_ref() }
    }

    /// Copies `bytes` into the memory at offset `at`.
    pub(crate) fn write(&self, at: usize, bytes: &[u8]) {
        let head = bytes.len().min(at.next_multiple_of(8) - at);
        let (head, rest) = bytes.split_at(head);
        let (words, tail) = rest.as_chunks::<8>();
        store_bytes(self.bytes(at, head.len()), head);
        for (target, word) in self.words(at + head.len(), words.len()).iter().zip(words) {
            target.store(u64::from_ne_bytes(*word), Ordering::Relaxed);
        }
        store_bytes(self.bytes(at + bytes.len() - tail.len(), tail.len()), tail);
    }

    /// Appends `count` bytes from offset `at` on to `into`.
    pub(crate) fn read(&self, at: usize, count: usize, into: &mut Vec<u8>) {
        into.reserve(count);
        self.copy(at, &mut into.spare_capacity_mut()[..count]);
        // SAFETY: set_len demands that so many bytes are initialised and allocated: those that were there before, and
        // `count` more, which were reserved and then written by `copy`.
        unsafe { into.set_len(into.len() + count) };
    }

    /// Copies bytes from offset `at` on into `into`.
    pub(crate) fn copy_to(&self, at: usize, into: &mut [u8]) {
        // SAFETY: from_raw_parts_mut demands a range that is borrowed exclusively, as `into` is. Initialised bytes may
        // be treated as possibly uninitialised ones as long as they stay initialised: `copy` only writes bytes there.
        let into = unsafe { slice::from_raw_parts_mut(into.as_mut_ptr().cast(), into.len()) };
        self.copy(at, into);
    }

    /// Fills `into` with bytes from offset `at` on.
    fn copy(&self, at: usize, into: &mut [MaybeUninit<u8>]) {
        let head = into.len().min(at.next_multiple_of(8) - at);
        let (head, rest) = into.split_at_mut(head);
        load_bytes(self.bytes(at, head.len()), head);
        let at = at + head.len();
        let (words, tail) = rest.as_chunks_mut::<8>();
        let sources = self.words(at, words.len());
        for (word, source) in words.iter_mut().zip(sources) {
            // SAFETY: write_unaligned demands eight bytes that may be written to; they are borrowed here.
            unsafe { word.as_mut_ptr().cast::<u64>().write_unaligned(source.load(Ordering::Relaxed)) };
        }
        load_bytes(self.bytes(at + sources.len() * 8, tail.len()), tail);
    }

    fn bytes(&self, at: usize, count: usize) -> &[AtomicU8] {
        assert!(self.holds(at, count), "the bytes lie within the memory");
        // SAFETY: from_raw_parts demands `count` initialised values that live as long as `self` and are not written
        // to except through the slice or as its type allows; the range was checked, and these are atomics.
        unsafe { slice::from_raw_parts(self.start.add(at).cast().as_ptr(), count) }
    }

    fn words(&self, at: usize, count: usize) -> &[AtomicU64] {
        assert!(count == 0 || at.is_multiple_of(8), "the words are aligned");
        assert!(self.holds(at, count * 8), "the words lie within the memory");
        if count == 0 {
            return &[];
        }
        // SAFETY: as for `bytes`, and aligned: the mapping starts at a page, and the offset was checked.
        unsafe { slice::from_raw_parts(self.start.add(at).cast().as_ptr(), count) }
    }

    /// Whether the range lies within the memory.
    fn holds(&self, at: usize, count: usize) -> bool {
        at <= self.length && count <= self.length - at
    }
}

impl Drop for SharedMemory {
    fn drop(&mut self) {
        // SAFETY: munmap demands a mapping that is not used any more; references to it do not outlive `self`. It fails
        // only for a range that is not mapped, and then there is nothing to do.
        let _ = unsafe { rustix::mm::munmap(self.start.as_ptr().cast(), self.length) };
    }
}

fn store_bytes(targets: &[AtomicU8], bytes: &[u8]) {
    for (target, byte) in targets.iter().zip(bytes) {
        target.store(*byte, Ordering::Relaxed);
    }
}

fn load_bytes(sources: &[AtomicU8], bytes: &mut [MaybeUninit<u8>]) {
    for (source, byte) in sources.iter().zip(bytes) {
        byte.write(source.load(Ordering::Relaxed));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_that_one_mapping_writes_another_reads_at_any_offset() -> rustix::io::Result<()> {
        let (ours, file) = SharedMemory::create(c"forkpool-test", 4096)?;
        let peer = SharedMemory::open_beginning(file.as_fd(), 4096)?;
        let bytes: Vec<u8> = (0..=255).collect();
        for at in 0..17 {
            for count in 0..40 {
                ours.write(at, &bytes[..count]);
                let mut read = Vec::new();
                peer.read(at, count, &mut read);
                assert_eq!(read, bytes[..count], "{count} bytes at {at}");
                read.fill(0);
                peer.copy_to(at, &mut read);
                assert_eq!(read, bytes[..count], "{count} bytes at {at} once more");
            }
        }
        assert_eq!(SharedMemory::open_beginning(file.as_fd(), 8192).err(), Some(Errno::INVAL));
        assert_eq!(rustix::fs::ftruncate(&file, 0), Err(Errno::PERM), "it cannot be shortened");
        Ok(())
    }

    #[test]
    fn memory_that_others_could_make_shorter_is_not_mapped() -> rustix::io::Result<()> {
        let file = memory_file::empty(c"forkpool-test")?;
        rustix::fs::ftruncate(&file, 4096)?;
        assert_eq!(SharedMemory::open_beginning(file.as_fd(), 4096).err(), Some(Errno::INVAL));
        let no_memory = std::fs::File::open("/proc/self/exe").map_err(|_| Errno::IO)?;
        assert!(SharedMemory::open_beginning(no_memory.as_fd(), 4096).is_err());
        Ok(())
    }

    /// G4: the kernel says so in place of SIGBUS.
    #[test]
    fn memory_that_is_not_there_is_found_before_it_is_used() -> rustix::io::Result<()> {
        let file = memory_file::empty(c"forkpool-test")?;
        rustix::fs::ftruncate(&file, 8192)?;
        let memory = SharedMemory::map(file.as_fd(), 8192, Access::Write)?;
        assert_eq!(memory.populate(0, 8192), Ok(()));
        rustix::fs::ftruncate(&file, 4096)?;
        assert_eq!(memory.populate(0, 4096), Ok(()));
        // Kernels before 5.14 cannot tell.
        assert!(matches!(memory.populate(0, 8192), Err(Errno::FAULT) | Ok(())));
        Ok(())
    }
}
