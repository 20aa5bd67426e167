//! Memory files: memory that one process passes to others as a descriptor.

use std::ffi::CStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{FallocateFlags, MemfdFlags, Mode, SealFlags};
use rustix::io::Errno;

use super::faults;
use super::faults::Call;
use super::limits;
use super::passing::retry;

/// Creates an empty memory file, which can still be sealed; `name` is shown for its mappings in /proc.
///
/// Its content cannot be executed, so systems that refuse memory files for programs (`vm.memfd_noexec`) permit it.
/// Another user who gets a descriptor of it cannot open it again with more rights through /proc.
///
/// # Errors
///
/// The system's error; nothing is left behind then.
///
/// # References
///
/// - [memfd_create(2)](https://man7.org/linux/man-pages/man2/memfd_create.2.html), `MFD_NOEXEC_SEAL`
pub(crate) fn empty(name: &CStr) -> rustix::io::Result<OwnedFd> {
    faults::point(Call::MemfdCreate)?;
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let file = match rustix::fs::memfd_create(name, flags | MemfdFlags::NOEXEC_SEAL) {
        // Kernels before 6.3 do not know the flag.
        Err(Errno::INVAL) => rustix::fs::memfd_create(name, flags)?,
        file => file?,
    };
    rustix::fs::fchmod(&file, Mode::RUSR | Mode::WUSR)?;
    Ok(file)
}

/// Creates a zeroed memory file of this length for good.
///
/// # Errors
///
/// The system's error, `FBIG` for a file that is longer than `RLIMIT_FSIZE` permits; nothing is left behind then.
pub(crate) fn of_length(name: &CStr, length: usize) -> rustix::io::Result<OwnedFd> {
    let length = u64::try_from(length).map_err(|_| Errno::INVAL)?;
    if length > limits::longest_file() {
        // The kernel would not only refuse it, but end this process by SIGXFSZ.
        return Err(Errno::FBIG);
    }
    let file = empty(name)?;
    faults::point(Call::Ftruncate)?;
    rustix::fs::ftruncate(&file, length)?;
    // If a peer could shorten the file, an access behind its end would kill this process by SIGBUS.
    rustix::fs::fcntl_add_seals(&file, SealFlags::SHRINK | SealFlags::GROW)?;
    Ok(file)
}

/// Seals a memory file. A process that has mapped it for writing by now keeps its mapping; in every other way it is no
/// longer written to, and its pages stay. Further seals are not possible.
///
/// # Errors
///
/// The system's error; the file is unchanged then.
///
/// # References
///
/// - [fcntl(2)](https://man7.org/linux/man-pages/man2/fcntl.2.html), `F_SEAL_FUTURE_WRITE`
pub(crate) fn seal_for_present_mappings(file: BorrowedFd<'_>) -> rustix::io::Result<()> {
    rustix::fs::fcntl_add_seals(file, SealFlags::FUTURE_WRITE | SealFlags::SEAL)
}

/// Returns the length of a memory file that is sealed against shrinking.
///
/// # Errors
///
/// `INVAL` if it is not sealed.
pub(super) fn sealed_length(file: BorrowedFd<'_>) -> rustix::io::Result<usize> {
    if !rustix::fs::fcntl_get_seals(file)?.contains(SealFlags::SHRINK) {
        return Err(Errno::INVAL);
    }
    usize::try_from(rustix::fs::fstat(file)?.st_size).map_err(|_| Errno::INVAL)
}

/// A memory file that another process writes to, and that this one only reads, without mapping it.
///
/// A read copies what is there. It costs a system call, but no address space, and it cannot end this process: a page
/// that the other process has taken away reads as zeroes and takes no memory.
#[derive(Debug)]
pub(crate) struct UnmappedFile {
    file: OwnedFd,
    length: usize,
}

impl UnmappedFile {
    /// Takes a file of this length that is sealed against shrinking.
    #[cfg(feature = "actors")]
    pub(crate) fn new(file: OwnedFd, length: usize) -> Self {
        UnmappedFile { file, length }
    }

    /// Bytes of the file.
    #[cfg(feature = "actors")]
    pub(crate) fn length(&self) -> usize {
        self.length
    }

    /// Copies bytes from offset `at` on into `into`, as many as fit.
    ///
    /// # Panics
    ///
    /// If the range lies outside of the file, or the system cannot read it, for example because it has moved the memory
    /// to a disk that fails.
    ///
    /// # References
    ///
    /// - [pread(2)](https://man7.org/linux/man-pages/man2/pread.2.html)
    pub(crate) fn copy_to(&self, at: usize, mut into: &mut [u8]) {
        assert!(self.holds(at, into.len()), "the bytes lie within the file");
        let mut at = at as u64;
        while !into.is_empty() {
            let read = retry(|| {
                faults::point(Call::Read)?;
                rustix::io::pread(&self.file, &mut *into, at)
            });
            match read {
                Ok(count) if count > 0 => {
                    into = &mut into[count..];
                    at += count as u64;
                }
                result => unread(result),
            }
        }
    }

    /// Appends `count` bytes from offset `at` on to `into`.
    ///
    /// # Panics
    ///
    /// See [`copy_to`](Self::copy_to).
    pub(crate) fn read(&self, mut at: usize, count: usize, into: &mut Vec<u8>) {
        assert!(self.holds(at, count), "the bytes lie within the file");
        into.reserve_exact(count);
        let end = into.len() + count;
        while into.len() < end {
            let left = end - into.len();
            let buffer = &mut into.spare_capacity_mut()[..left];
            let read = retry(|| {
                faults::point(Call::Read)?;
                rustix::io::pread(&self.file, &mut *buffer, at as u64).map(|(bytes, _)| bytes.len())
            });
            match read {
                Ok(count) if count > 0 => {
                    // SAFETY: set_len demands that so many bytes are allocated and initialised: those that were there
                    // before, and those that pread has just filled in the spare capacity.
                    unsafe { into.set_len(into.len() + count) };
                    at += count;
                }
                result => unread(result),
            }
        }
    }

    /// Returns whole pages to the system; they read as zeroes afterwards. If the system refuses, they stay as they are.
    ///
    /// # References
    ///
    /// - [fallocate(2)](https://man7.org/linux/man-pages/man2/fallocate.2.html), `FALLOC_FL_PUNCH_HOLE`
    pub(crate) fn return_pages(&self, at: usize, count: usize) {
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        // If it fails, the pages stay.
        let _ = rustix::fs::fallocate(self.file.as_fd(), flags, at as u64, count as u64);
    }

    fn holds(&self, at: usize, count: usize) -> bool {
        at <= self.length && count <= self.length - at
    }
}

/// Panics where a mapping would end the process by SIGBUS.
#[cold]
#[expect(clippy::panic, reason = "wrong bytes would be worse, and a reader of a blob has no error to return")]
fn unread(result: std::io::Result<usize>) -> ! {
    panic!("the memory of a worker's result cannot be read: {result:?}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mode_and_seals(file: &OwnedFd) -> rustix::io::Result<(u32, SealFlags)> {
        Ok((rustix::fs::fstat(file)?.st_mode & 0o777, rustix::fs::fcntl_get_seals(file)?))
    }

    /// G4: its user alone can open it again with more rights than a descriptor of it has.
    #[test]
    fn a_memory_file_belongs_to_its_user_and_keeps_its_length() -> rustix::io::Result<()> {
        let file = of_length(c"forkpool-test", 4096)?;
        let (mode, seals) = mode_and_seals(&file)?;
        assert_eq!(mode, 0o600);
        assert!(seals.contains(SealFlags::SHRINK | SealFlags::GROW));
        // Under vm.memfd_noexec=2, kernels from 6.3 to 6.5 refuse memory files without this seal.
        let kernel_knows = rustix::fs::memfd_create(c"forkpool-test", MemfdFlags::NOEXEC_SEAL).is_ok();
        assert_eq!(seals.contains(SealFlags::EXEC), kernel_knows);
        assert_eq!(rustix::fs::ftruncate(&file, 0), Err(Errno::PERM));
        assert_eq!(sealed_length(file.as_fd()), Ok(4096));
        assert_eq!(sealed_length(empty(c"forkpool-test")?.as_fd()), Err(Errno::INVAL));
        Ok(())
    }

    /// G4: what a peer could take away is not there to be taken.
    #[test]
    fn a_sealed_file_is_written_to_through_present_mappings_alone() -> rustix::io::Result<()> {
        use super::super::shared_memory::SharedMemory;
        let file = of_length(c"forkpool-test", 4096)?;
        let mapped = SharedMemory::open(file.as_fd(), 4096)?;
        mapped.write(0, b"before");
        seal_for_present_mappings(file.as_fd())?;
        mapped.write(0, b"behind");
        let punch = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        assert_eq!(rustix::fs::fallocate(&file, punch, 0, 4096), Err(Errno::PERM));
        mapped.return_pages(0, 4096);
        assert_eq!(rustix::io::pwrite(&file, b"x", 0), Err(Errno::PERM));
        assert_eq!(SharedMemory::open(file.as_fd(), 4096).err(), Some(Errno::PERM));
        let mut read = [0; 6];
        SharedMemory::open_beginning(file.as_fd(), 4096)?.copy_to(0, &mut read);
        assert_eq!(&read, b"behind");
        Ok(())
    }

    #[test]
    fn pages_that_a_peer_has_taken_away_read_as_zeroes() -> rustix::io::Result<()> {
        let file = of_length(c"forkpool-test", 3 * 4096)?;
        rustix::io::pwrite(&file, &[7; 3 * 4096], 0)?;
        let file = UnmappedFile::new(file, 3 * 4096);
        file.return_pages(4096, 4096);
        let mut bytes = vec![1];
        file.read(0, 3 * 4096, &mut bytes);
        assert_eq!(bytes, [vec![1], vec![7; 4096], vec![0; 4096], vec![7; 4096]].concat());
        let mut piece = [1; 10];
        file.copy_to(2 * 4096 - 5, &mut piece);
        assert_eq!(piece, [0, 0, 0, 0, 0, 7, 7, 7, 7, 7]);
        Ok(())
    }
}
