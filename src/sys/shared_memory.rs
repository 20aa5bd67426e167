//! Memory that two processes share, moved in and out by atomic operations alone.

use std::ffi::CStr;
use std::mem::MaybeUninit;
use std::os::fd::BorrowedFd;
use std::ptr::NonNull;
use std::slice;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering};

use rustix::io::Errno;
use rustix::mm::{MapFlags, ProtFlags};

/// A mapping that another process may read and write at any time.
///
/// Every access is atomic, so that a peer which writes what is being read makes the bytes wrong and nothing else.
#[derive(Debug)]
pub(crate) struct SharedMemory {
    start: NonNull<u8>,
    length: usize,
    /// Whether the end of it is an arena's.
    is_claimed: AtomicBool,
}

// SAFETY: Send demands that another thread may own it; the mapping belongs to the process, not to a thread.
unsafe impl Send for SharedMemory {}
// SAFETY: Sync demands that threads may use it at the same time; every access goes through atomics.
unsafe impl Sync for SharedMemory {}

impl SharedMemory {
    /// Makes memory of zeroes, and a descriptor with which another process opens it. `length` is in whole pages; `name` is
    /// what its mappings are called in /proc.
    ///
    /// # References
    ///
    /// - [memfd_create(2)](https://man7.org/linux/man-pages/man2/memfd_create.2.html), file sealing
    pub(crate) fn create(name: &CStr, length: usize) -> rustix::io::Result<(Self, std::os::fd::OwnedFd)> {
        use std::os::fd::AsFd;

        use rustix::fs::{MemfdFlags, SealFlags};
        let file = rustix::fs::memfd_create(name, MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
        rustix::fs::ftruncate(&file, u64::try_from(length).map_err(|_| Errno::INVAL)?)?;
        // A peer that made it shorter would have us killed by SIGBUS.
        rustix::fs::fcntl_add_seals(&file, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)?;
        Ok((Self::map(file.as_fd(), length)?, file))
    }

    /// Maps the first bytes, in whole pages, of memory that another process made.
    ///
    /// # Errors
    ///
    /// What the system said, or `INVAL` for memory that is shorter, or not sealed against becoming so: who reads what is
    /// not there any more is killed by SIGBUS.
    pub(crate) fn open_beginning(file: BorrowedFd<'_>, beginning: usize) -> rustix::io::Result<Self> {
        match firm_length(file)? {
            length if length < beginning => Err(Errno::INVAL),
            _ => Self::map(file, beginning),
        }
    }

    /// Maps all of it, which is to be so long at least.
    ///
    /// # Errors
    ///
    /// As [`open_beginning`](Self::open_beginning).
    pub(crate) fn open(file: BorrowedFd<'_>, at_least: usize) -> rustix::io::Result<Self> {
        match firm_length(file)? {
            length if length < at_least => Err(Errno::INVAL),
            length => Self::map(file, length),
        }
    }

    pub(crate) fn length(&self) -> usize {
        self.length
    }

    fn map(file: BorrowedFd<'_>, length: usize) -> rustix::io::Result<Self> {
        let access = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: mmap demands that no existing mapping is replaced; the address is left to the kernel, without
        // MAP_FIXED.
        let start =
            unsafe { rustix::mm::mmap(std::ptr::null_mut(), length, access, MapFlags::SHARED, file, 0) }?;
        let start = NonNull::new(start.cast()).ok_or(Errno::NOMEM)?;
        Ok(SharedMemory { start, length, is_claimed: AtomicBool::new(false) })
    }

    /// Where it lies, for an arena, of which there is one at most.
    pub(super) fn claim(&self) -> Option<NonNull<u8>> {
        (!self.is_claimed.swap(true, Ordering::Relaxed)).then_some(self.start)
    }

    /// Gives what lies in these whole pages back to the system; they are zeroes then. Where the system does not take it,
    /// they stay as they are.
    ///
    /// # References
    ///
    /// - [madvise(2)](https://man7.org/linux/man-pages/man2/madvise.2.html), `MADV_REMOVE`
    pub(crate) fn give_back(&self, at: usize, count: usize) {
        if !self.holds(at, count) || count == 0 {
            return;
        }
        // SAFETY: madvise demands a range of mapped pages that nobody relies on the content of; the range was checked,
        // and whoever gives it back has no use for it. What others read meanwhile they read by atomics.
        let _ = unsafe {
            let start = self.start.add(at).as_ptr().cast();
            rustix::mm::madvise(start, count, rustix::mm::Advice::LinuxRemove)
        };
    }

    /// The number at this offset, which is a multiple of 4.
    pub(crate) fn number(&self, at: usize) -> &AtomicU32 {
        assert!(at.is_multiple_of(4) && self.holds(at, 4), "a number lies aligned within the memory");
        // SAFETY: as_ref demands an aligned, initialised and living value; offset and end were checked, the mapping
        // starts at a page, any bytes are a number, and it is mapped as long as `self` is.
        unsafe { self.start.add(at).cast().as_ref() }
    }

    /// Copies bytes in.
    pub(crate) fn write(&self, at: usize, bytes: &[u8]) {
        let head = bytes.len().min(at.next_multiple_of(8) - at);
        let (head, rest) = bytes.split_at(head);
        let (words, tail) = rest.as_chunks::<8>();
        store_bytes(self.bytes(at, head.len()), head);
        for (place, word) in self.words(at + head.len(), words.len()).iter().zip(words) {
            place.store(u64::from_ne_bytes(*word), Ordering::Relaxed);
        }
        store_bytes(self.bytes(at + bytes.len() - tail.len(), tail.len()), tail);
    }

    /// Copies bytes out, to the end of `into`.
    pub(crate) fn read(&self, at: usize, count: usize, into: &mut Vec<u8>) {
        into.reserve(count);
        self.copy(at, &mut into.spare_capacity_mut()[..count]);
        // SAFETY: set_len demands that so many bytes are initialised and allocated: those that were there, and `count`
        // that were reserved for and written on the line above.
        unsafe { into.set_len(into.len() + count) };
    }

    /// Copies bytes out.
    pub(crate) fn copy_to(&self, at: usize, into: &mut [u8]) {
        // SAFETY: from_raw_parts_mut demands a range that is borrowed for it alone, as `into` is. That may be written to
        // as what need not be initialised, as long as it stays initialised: `copy` writes nothing but bytes there.
        let into = unsafe { slice::from_raw_parts_mut(into.as_mut_ptr().cast(), into.len()) };
        self.copy(at, into);
    }

    /// Fills all of `into`.
    fn copy(&self, at: usize, into: &mut [MaybeUninit<u8>]) {
        let head = into.len().min(at.next_multiple_of(8) - at);
        let (head, rest) = into.split_at_mut(head);
        load_bytes(self.bytes(at, head.len()), head);
        let at = at + head.len();
        let (words, tail) = rest.as_chunks_mut::<8>();
        let places = self.words(at, words.len());
        for (word, place) in words.iter_mut().zip(places) {
            *word = place.load(Ordering::Relaxed).to_ne_bytes().map(MaybeUninit::new);
        }
        load_bytes(self.bytes(at + places.len() * 8, tail.len()), tail);
    }

    fn bytes(&self, at: usize, count: usize) -> &[AtomicU8] {
        assert!(self.holds(at, count), "bytes lie within the memory");
        // SAFETY: from_raw_parts demands `count` initialised values that live as long as `self` and are not written
        // to but through the slice or as its type allows; the range was checked, and these are atomics.
        unsafe { slice::from_raw_parts(self.start.add(at).cast().as_ptr(), count) }
    }

    fn words(&self, at: usize, count: usize) -> &[AtomicU64] {
        assert!(count == 0 || at.is_multiple_of(8), "words lie aligned");
        assert!(self.holds(at, count * 8), "words lie within the memory");
        if count == 0 {
            return &[];
        }
        // SAFETY: as for `bytes`, and aligned: the mapping starts at a page and the offset was checked.
        unsafe { slice::from_raw_parts(self.start.add(at).cast().as_ptr(), count) }
    }

    fn holds(&self, at: usize, count: usize) -> bool {
        at <= self.length && count <= self.length - at
    }
}

impl Drop for SharedMemory {
    fn drop(&mut self) {
        // SAFETY: munmap demands a mapping that nobody uses any more; references to it live no longer than we.
        // That it fails would mean that it is not mapped, and there is nothing to be done then.
        let _ = unsafe { rustix::mm::munmap(self.start.as_ptr().cast(), self.length) };
    }
}

fn store_bytes(places: &[AtomicU8], bytes: &[u8]) {
    for (place, byte) in places.iter().zip(bytes) {
        place.store(*byte, Ordering::Relaxed);
    }
}

fn load_bytes(places: &[AtomicU8], bytes: &mut [MaybeUninit<u8>]) {
    for (place, byte) in places.iter().zip(bytes) {
        byte.write(place.load(Ordering::Relaxed));
    }
}

/// How long memory is that nobody can make shorter.
pub(super) fn firm_length(file: BorrowedFd<'_>) -> rustix::io::Result<usize> {
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
    fn what_one_mapping_writes_another_reads_wherever_it_lies() -> rustix::io::Result<()> {
        use std::os::fd::AsFd;
        let (ours, file) = SharedMemory::create(c"forkpool-test", 4096)?;
        let theirs = SharedMemory::open_beginning(file.as_fd(), 4096)?;
        let bytes: Vec<u8> = (0..=255).collect();
        for at in 0..17 {
            for count in 0..40 {
                ours.write(at, &bytes[..count]);
                let mut read = Vec::new();
                theirs.read(at, count, &mut read);
                assert_eq!(read, bytes[..count], "{count} bytes at {at}");
                read.fill(0);
                theirs.copy_to(at, &mut read);
                assert_eq!(read, bytes[..count], "{count} bytes at {at} once more");
            }
        }
        assert_eq!(SharedMemory::open_beginning(file.as_fd(), 8192).err(), Some(Errno::INVAL));
        assert_eq!(rustix::fs::ftruncate(&file, 0), Err(Errno::PERM), "nobody can make it shorter");
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
