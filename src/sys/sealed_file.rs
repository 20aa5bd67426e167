//! Memory that nobody can change any more, which a fork does not have to copy the tables of.

use std::os::fd::{AsFd, OwnedFd};
use std::ptr::NonNull;

use rustix::fs::{MemfdFlags, SealFlags};
use rustix::io::Errno;
use rustix::mm::{MapFlags, ProtFlags};

/// A memory file that is still to be filled.
///
/// # References
///
/// - [memfd_create(2)](https://man7.org/linux/man-pages/man2/memfd_create.2.html)
pub(crate) fn memory_file() -> rustix::io::Result<OwnedFd> {
    rustix::fs::memfd_create(c"forkpool-preload", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)
}

/// All bytes of a memory file, which no process can write to, make shorter or longer.
#[derive(Debug)]
pub(crate) struct SealedFile {
    start: NonNull<u8>,
    length: usize,
}

// SAFETY: Send demands that another thread may own it; the mapping belongs to the process, not to a thread.
unsafe impl Send for SealedFile {}
// SAFETY: Sync demands that threads may use it at the same time; nobody can write to it.
unsafe impl Sync for SealedFile {}

impl SealedFile {
    /// Seals the file for good, and maps it.
    ///
    /// # Errors
    ///
    /// What the system said: `BUSY` where somebody has it mapped to be written to.
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
        let (access, flags) = (ProtFlags::READ, MapFlags::SHARED);
        // SAFETY: mmap demands that no existing mapping is replaced; the address is left to the kernel, without
        // MAP_FIXED.
        let start =
            unsafe { rustix::mm::mmap(std::ptr::null_mut(), length, access, flags, file.as_fd(), 0) }?;
        NonNull::new(start.cast()).map(|start| SealedFile { start, length }).ok_or(Errno::NOMEM)
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        // SAFETY: from_raw_parts demands that many initialised bytes that live as long as `self` and are not written to
        // meanwhile: they are mapped until it is dropped, and the file is sealed against writing and against shrinking,
        // in all processes and for ever. Of no bytes the start need only not be null.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.length) }
    }
}

impl Drop for SealedFile {
    fn drop(&mut self) {
        if self.length > 0 {
            // SAFETY: munmap demands a range that nobody uses any more; it is this one's own, whose borrows are over.
            // That it was mapped is all that could be wrong with it, so it does not fail.
            let _ = unsafe { rustix::mm::munmap(self.start.as_ptr().cast(), self.length) };
        }
    }
}
