//! Tells the process that library code acts for from the copies that user code makes of it with `fork`.
//!
//! A handler, a set-up or a preload may fork, and the copy may return into code of the library. There it must not act in
//! its original's name: not answer on its channel, not write to its status page, not run its loop. So a server and each
//! worker claim their process when they begin, and code that user code returns to asks whether this is still that
//! process.

use std::ptr::NonNull;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicI32, AtomicU8, Ordering};

use rustix::mm::{Advice, MapFlags, ProtFlags};

use super::faults;
use super::faults::Call;
use super::process;

const PAGE: usize = 4096;

/// The mark of the process that was claimed last; a process that never claimed has none.
static MARK: OnceLock<Mark> = OnceLock::new();

/// What differs between a process and its copies.
enum Mark {
    /// A byte of a page that the kernel wipes in every fork: 1 in the process that was claimed. The check is a load and
    /// not a system call.
    Page(&'static AtomicU8),
    /// The process id, where the kernel refuses to wipe pages, as an emulator, an old kernel or a filter of system calls
    /// may. Each check is a system call.
    Pid(AtomicI32),
}

/// Declares that library code acts for this process and for no copy of it.
///
/// A worker, which is a fork of its server, claims its own process again.
///
/// # Errors
///
/// The system's error if there is no memory for the mark; nothing is claimed then.
pub(crate) fn claim() -> rustix::io::Result<()> {
    if MARK.get().is_none() {
        // A process claims before it has a second thread, so the mark is not set meanwhile.
        let _ = MARK.set(Mark::new()?);
    }
    MARK.get().into_iter().for_each(Mark::set);
    Ok(())
}

/// Returns whether this process is a copy of the one that was claimed. In a process that never claimed it is `false`.
pub(crate) fn is_copy() -> bool {
    MARK.get().is_some_and(|mark| !mark.is_of_this_process())
}

/// Exits this process at once if it is a copy: user code has returned from a fork of its own. Nothing is written, not
/// even what is buffered, since the original writes the same.
pub(crate) fn exit_copy() {
    if is_copy() {
        process::exit_now(0);
    }
}

impl Mark {
    /// Makes a mark that is not set yet.
    ///
    /// # References
    ///
    /// - [madvise(2)](https://man7.org/linux/man-pages/man2/madvise.2.html), `MADV_WIPEONFORK`
    fn new() -> rustix::io::Result<Self> {
        let access = ProtFlags::READ | ProtFlags::WRITE;
        faults::point(Call::Mmap)?;
        // SAFETY: mmap_anonymous demands that no existing mapping is replaced; the address is left to the kernel,
        // without MAP_FIXED.
        let page =
            unsafe { rustix::mm::mmap_anonymous(std::ptr::null_mut(), PAGE, access, MapFlags::PRIVATE) }?;
        let page = NonNull::<AtomicU8>::new(page.cast()).ok_or(rustix::io::Errno::NOMEM)?;
        faults::point(Call::Madvise)?;
        // SAFETY: madvise demands a range of mapped pages whose content is not relied on; the page was mapped on the
        // lines above, and no other code knows its address yet.
        let wiped = unsafe { rustix::mm::madvise(page.as_ptr().cast(), PAGE, Advice::LinuxWipeOnFork) };
        if wiped.is_err() {
            // SAFETY: munmap demands a range that is not used any more; no reference to the page was made.
            let _ = unsafe { rustix::mm::munmap(page.as_ptr().cast(), PAGE) };
            return Ok(Mark::Pid(AtomicI32::new(0)));
        }
        // SAFETY: as_ref demands an aligned, initialised and living value; the page is aligned, starts zeroed (a valid
        // AtomicU8), and is never unmapped from here on.
        Ok(Mark::Page(unsafe { page.as_ref() }))
    }

    fn set(&self) {
        match self {
            Mark::Page(page) => page.store(1, Ordering::Relaxed),
            Mark::Pid(pid) => pid.store(process::own_number(), Ordering::Relaxed),
        }
    }

    fn is_of_this_process(&self) -> bool {
        match self {
            Mark::Page(page) => page.load(Ordering::Relaxed) == 1,
            Mark::Pid(pid) => pid.load(Ordering::Relaxed) == process::own_number(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// G5
    #[test]
    fn a_process_that_claims_is_no_copy_and_neither_is_one_that_does_not() {
        assert!(!is_copy());
        assert_eq!(claim(), Ok(()));
        assert!(!is_copy());
        exit_copy();
    }

    /// G5: where pages are not wiped.
    #[test]
    fn another_process_id_is_that_of_a_copy() {
        let mark = Mark::Pid(AtomicI32::new(process::own_number() + 1));
        assert!(!mark.is_of_this_process());
        mark.set();
        assert!(mark.is_of_this_process());
    }
}
