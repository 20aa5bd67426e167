//! Memory that two processes share, accessed by atomic operations only.

use std::ffi::CStr;
use std::mem::MaybeUninit;
use std::os::fd::BorrowedFd;
use std::ptr::NonNull;
use std::slice;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering};

use rustix::io::Errno;
use rustix::mm::{MapFlags, ProtFlags};

use super::faults;
use super::faults::Call;

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
    pub(crate) fn create(name: &CStr, length: usize) -> rustix::io::Result<(Self, std::os::fd::OwnedFd)> {
        use std::os::fd::AsFd;

        use rustix::fs::{MemfdFlags, SealFlags};
        faults::point(Call::MemfdCreate)?;
        let file = rustix::fs::memfd_create(name, MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
        faults::point(Call::Ftruncate)?;
        rustix::fs::ftruncate(&file, u64::try_from(length).map_err(|_| Errno::INVAL)?)?;
        // If a peer could shorten the file, a read behind its end would kill this process by SIGBUS.
        rustix::fs::fcntl_add_seals(&file, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)?;
        Ok((Self::map(file.as_fd(), length)?, file))
    }

    /// Maps the first bytes, in whole pages, of memory that another process created.
    ///
    /// # Errors
    ///
    /// The system's error, or `INVAL` if the memory is shorter, or not sealed against shrinking: a read behind the end
    /// of a shortened file would kill this process by SIGBUS.
    pub(crate) fn open_beginning(file: BorrowedFd<'_>, beginning: usize) -> rustix::io::Result<Self> {
        match sealed_length(file)? {
            length if length < beginning => Err(Errno::INVAL),
            _ => Self::map(file, beginning),
        }
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
            rustix::mm::madvise(self.start.as_ptr().cast(), self.length, rustix::mm::Advice::LinuxDontFork)
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

    /// Maps all memory that another process created.
    ///
    /// # Errors
    ///
    /// The system's error, or `INVAL` if the memory is shorter than `at_least`, or not sealed against shrinking.
    pub(crate) fn open(file: BorrowedFd<'_>, at_least: usize) -> rustix::io::Result<Self> {
        match sealed_length(file)? {
            length if length < at_least => Err(Errno::INVAL),
            length => Self::map(file, length),
        }
    }

    /// Bytes of the mapping.
    pub(crate) fn length(&self) -> usize {
        self.length
    }

    fn map(file: BorrowedFd<'_>, length: usize) -> rustix::io::Result<Self> {
        faults::point(Call::Mmap)?;
        let access = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: mmap demands that no existing mapping is replaced; the address is left to the kernel, without
        // MAP_FIXED.
        let start =
            unsafe { rustix::mm::mmap(std::ptr::null_mut(), length, access, MapFlags::SHARED, file, 0) }?;
        let start = NonNull::new(start.cast()).ok_or(Errno::NOMEM)?;
        Ok(SharedMemory { start, length, start_is_taken: AtomicBool::new(false), is_forked: true })
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
            rustix::mm::madvise(start, count, rustix::mm::Advice::LinuxRemove)
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
            *word = source.load(Ordering::Relaxed).to_ne_bytes().map(MaybeUninit::new);
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

/// The length of memory that is sealed against shrinking; `INVAL` if it is not.
pub(super) fn sealed_length(file: BorrowedFd<'_>) -> rustix::io::Result<usize> {
    use rustix::fs::SealFlags;
    if !rustix::fs::fcntl_get_seals(file)?.contains(SealFlags::SHRINK) {
        return Err(Errno::INVAL);
    }
    usize::try_from(rustix::fs::fstat(file)?.st_size).map_err(|_| Errno::INVAL)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_that_one_mapping_writes_another_reads_at_any_offset() -> rustix::io::Result<()> {
        use std::os::fd::AsFd;
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
        use std::os::fd::AsFd;

        use rustix::fs::MemfdFlags;
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        let file = rustix::fs::memfd_create(c"forkpool-test", flags)?;
        rustix::fs::ftruncate(&file, 4096)?;
        assert_eq!(SharedMemory::open_beginning(file.as_fd(), 4096).err(), Some(Errno::INVAL));
        let no_memory = std::fs::File::open("/proc/self/exe").map_err(|_| Errno::IO)?;
        assert!(SharedMemory::open_beginning(no_memory.as_fd(), 4096).is_err());
        Ok(())
    }
}
