//! Memory that cannot be changed any more. A fork does not copy its page tables, because it is a file mapping.

use std::os::fd::{AsFd, OwnedFd};
use std::ptr::NonNull;

use rustix::fs::SealFlags;
use rustix::io::Errno;
use rustix::mm::{Advice, MapFlags, ProtFlags};

use super::faults;
use super::faults::Call;

/// The bytes of a memory file that no process can write to, shorten or extend.
#[derive(Debug)]
pub(crate) struct SealedFile {
    start: NonNull<u8>,
    length: usize,
}

// SAFETY: Send demands that another thread may own it; the mapping belongs to the process, not to a thread.
unsafe impl Send for SealedFile {}
// SAFETY: Sync demands that threads may use it at the same time; the file is sealed against writing.
unsafe impl Sync for SealedFile {}

impl SealedFile {
    /// Seals the file permanently, and maps it.
    ///
    /// # Errors
    ///
    /// The system's error, for example `BUSY` if a writable mapping of the file exists; the file is closed then.
    ///
    /// # References
    ///
    /// - [fcntl(2)](https://man7.org/linux/man-pages/man2/fcntl.2.html), "File Sealing"
    pub(crate) fn new(file: OwnedFd) -> rustix::io::Result<Self> {
        let all = SealFlags::WRITE | SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL;
        rustix::fs::fcntl_add_seals(&file, all)?;
        let length = usize::try_from(rustix::fs::fstat(&file)?.st_size).map_err(|_| Errno::FBIG)?;
        if length == 0 {
            return Ok(SealedFile { start: NonNull::dangling(), length });
        }
        faults::point(Call::Mmap)?;
        let (access, flags) = (ProtFlags::READ, MapFlags::SHARED);
        // SAFETY: mmap demands that no existing mapping is replaced; the address is left to the kernel, without
        // MAP_FIXED.
        let start =
            unsafe { rustix::mm::mmap(std::ptr::null_mut(), length, access, flags, file.as_fd(), 0) }?;
        // A core dump of each worker would be as long as the data. If the system refuses that, it is.
        // SAFETY: madvise demands a range of mapped pages, and this advice does not change their content; they were mapped
        // on the line above.
        let _ = unsafe { rustix::mm::madvise(start, length, Advice::LinuxDontDump) };
        NonNull::new(start.cast()).map(|start| SealedFile { start, length }).ok_or(Errno::NOMEM)
    }

    /// All bytes of the file.
    pub(crate) fn bytes(&self) -> &[u8] {
        // SAFETY: from_raw_parts demands that many initialised bytes that live as long as `self` and are not written to
        // meanwhile: they are mapped until it is dropped, and the file is sealed against writing and shrinking, in all
        // processes and permanently. For zero bytes the start only has to be non-null.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.length) }
    }
}

impl Drop for SealedFile {
    fn drop(&mut self) {
        if self.length > 0 {
            // SAFETY: munmap demands a range that is not used any more; the mapping belongs to this value alone, whose
            // borrows are over. It fails only for a range that is not mapped, and this one is.
            let _ = unsafe { rustix::mm::munmap(self.start.as_ptr().cast(), self.length) };
        }
    }
}
