//! Memory of this process: a mark that forked copies lack, limits, and how much is private.

use std::ptr::NonNull;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU8, Ordering};

use rustix::mm::{Advice, MapFlags, ProtFlags};
use rustix::process::Pid;

use super::faults;
use super::faults::Call;

const PAGE: usize = 4096;

/// A mark that is missing in every process forked after it was set.
///
/// A handler may fork, and the child may return from the handler into our loop; there it must not answer in its
/// parent's name. The kernel wipes the mark's page in the child, so the check is a load and not a system call.
/// Where the kernel refuses to wipe pages (an emulator, an old kernel or a filter of system calls may), the mark is the
/// process id, and each check is a system call.
#[derive(Clone)]
pub(crate) enum ForkMark {
    Page(NonNull<AtomicU8>),
    Pid(Pid),
}

impl ForkMark {
    /// Sets a mark in this process.
    ///
    /// # Errors
    ///
    /// The system's error if there is no memory for a page.
    ///
    /// # References
    ///
    /// - [madvise(2)](https://man7.org/linux/man-pages/man2/madvise.2.html), `MADV_WIPEONFORK`
    pub(crate) fn new() -> rustix::io::Result<Self> {
        let access = ProtFlags::READ | ProtFlags::WRITE;
        faults::point(Call::Mmap)?;
        // SAFETY: mmap_anonymous demands that no existing mapping is replaced; the address is left to the kernel,
        // without MAP_FIXED.
        let page =
            unsafe { rustix::mm::mmap_anonymous(std::ptr::null_mut(), PAGE, access, MapFlags::PRIVATE) }?;
        let mark = NonNull::<AtomicU8>::new(page.cast()).ok_or(rustix::io::Errno::NOMEM)?;
        faults::point(Call::Madvise)?;
        // SAFETY: madvise demands a range of mapped pages whose content is not relied on; the page was mapped on the
        // line above, and no other code knows its address yet.
        let wiped = unsafe { rustix::mm::madvise(mark.as_ptr().cast(), PAGE, Advice::LinuxWipeOnFork) };
        if wiped.is_err() {
            // SAFETY: munmap demands a range that is not used any more; no reference to the page was made.
            let _ = unsafe { rustix::mm::munmap(mark.as_ptr().cast(), PAGE) };
            return Ok(ForkMark::Pid(rustix::process::getpid()));
        }
        at(mark).store(1, Ordering::Relaxed);
        Ok(ForkMark::Page(mark))
    }

    /// Whether this is the process that set the mark.
    pub(crate) fn is_original_process(&self) -> bool {
        match *self {
            ForkMark::Page(page) => at(page).load(Ordering::Relaxed) == 1,
            ForkMark::Pid(pid) => rustix::process::getpid() == pid,
        }
    }
}

/// The first byte of a mark's page.
fn at<'a>(page: NonNull<AtomicU8>) -> &'a AtomicU8 {
    // SAFETY: as_ref demands an aligned, initialised and living value; the page is aligned, starts zeroed (a valid
    // AtomicU8) and is never unmapped once it is a mark: a worker has one mark until its process ends.
    unsafe { page.as_ref() }
}

/// Bytes of memory that this process shares with no other one, or `None` if the kernel does not report them.
///
/// # References
///
/// - [proc_pid_smaps(5)](https://man7.org/linux/man-pages/man5/proc_pid_smaps.5.html), `smaps_rollup`
pub(crate) fn private_bytes() -> Option<u64> {
    faults::point(Call::Open).ok()?;
    let rollup = std::fs::read_to_string("/proc/self/smaps_rollup").ok()?;
    Some(sum_private(&rollup))
}

/// Limits the memory that this process may have for data; allocations beyond it fail.
///
/// # References
///
/// - [getrlimit(2)](https://man7.org/linux/man-pages/man2/getrlimit.2.html), `RLIMIT_DATA`
pub(crate) fn set_data_limit(bytes: u64) -> rustix::io::Result<()> {
    use rustix::process::{Resource, Rlimit, setrlimit};
    setrlimit(Resource::Data, Rlimit { current: Some(bytes), maximum: Some(bytes) })
}

/// Whether the system may refuse memory that was reserved, because it does not overcommit (`vm.overcommit_memory` is
/// 2). It is read once.
pub(crate) fn is_overcommit_strict() -> bool {
    static STRICT: OnceLock<bool> = OnceLock::new();
    *STRICT.get_or_init(|| {
        let mode = std::fs::read_to_string("/proc/sys/vm/overcommit_memory");
        mode.is_ok_and(|mode| mode.trim() == "2")
    })
}

fn sum_private(rollup: &str) -> u64 {
    rollup
        .lines()
        .filter(|line| line.starts_with("Private_"))
        .filter_map(|line| line.split_whitespace().nth(1)?.parse::<u64>().ok())
        .map(|kib| kib * 1024)
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn private_memory_is_the_sum_of_the_private_lines() {
        let rollup = "Rss: 900 kB\nPrivate_Clean: 4 kB\nPrivate_Dirty:  8 kB\nPrivate_Hugetlb: 0 kB\n";
        assert_eq!(sum_private(rollup), 12 * 1024);
    }

    #[test]
    fn the_mark_is_present_in_the_process_that_set_it() {
        assert!(ForkMark::new().is_ok_and(|mark| mark.is_original_process()));
    }
}
