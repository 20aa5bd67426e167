//! Memory: a mark that a forked copy does not have, and how much of its memory a process has to itself.

use std::ptr::NonNull;
use std::sync::atomic::{AtomicU8, Ordering};

use rustix::mm::{Advice, MapFlags, ProtFlags};

const PAGE: usize = 4096;

/// A mark that reads as absent in every process forked after it was made.
///
/// A handler may fork, and the child may return from the handler into our loop; there it must not answer in
/// its parent's name. The kernel wipes the page in the child, so the check is a load and no system call.
#[derive(Clone)]
pub(crate) struct OnlyHere(NonNull<AtomicU8>);

impl OnlyHere {
    /// Makes a mark in this process.
    ///
    /// # References
    ///
    /// - [madvise(2)](https://man7.org/linux/man-pages/man2/madvise.2.html), `MADV_WIPEONFORK`
    pub(crate) fn new() -> rustix::io::Result<Self> {
        let access = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: mmap_anonymous demands that no existing mapping is replaced; the address is left to the kernel,
        // without MAP_FIXED.
        let page =
            unsafe { rustix::mm::mmap_anonymous(std::ptr::null_mut(), PAGE, access, MapFlags::PRIVATE) }?;
        let mark = NonNull::<AtomicU8>::new(page.cast()).ok_or(rustix::io::Errno::NOMEM)?;
        // SAFETY: madvise demands a range of mapped pages that nobody relies on; the page was mapped on the
        // line above and is known to nobody else yet.
        unsafe { rustix::mm::madvise(mark.as_ptr().cast(), PAGE, Advice::LinuxWipeOnFork) }?;
        let only_here = OnlyHere(mark);
        only_here.mark().store(1, Ordering::Relaxed);
        Ok(only_here)
    }

    /// Whether this is the process that made the mark.
    pub(crate) fn holds(&self) -> bool {
        self.mark().load(Ordering::Relaxed) == 1
    }

    fn mark(&self) -> &AtomicU8 {
        // SAFETY: as_ref demands an aligned, initialised and living value; the page is aligned, starts zeroed
        // (a valid AtomicU8) and is never unmapped: a worker has one mark until its process ends.
        unsafe { self.0.as_ref() }
    }
}

/// Bytes of memory that this process shares with no other, or `None` where the kernel does not tell.
///
/// # References
///
/// - [proc_pid_smaps(5)](https://man7.org/linux/man-pages/man5/proc_pid_smaps.5.html), `smaps_rollup`
pub(crate) fn private_bytes() -> Option<u64> {
    let rollup = std::fs::read_to_string("/proc/self/smaps_rollup").ok()?;
    Some(sum_private(&rollup))
}

/// Bounds the memory that this process may have for data; an allocation beyond it fails.
///
/// # References
///
/// - [getrlimit(2)](https://man7.org/linux/man-pages/man2/getrlimit.2.html), `RLIMIT_DATA`
pub(crate) fn limit_data(bytes: u64) -> rustix::io::Result<()> {
    use rustix::process::{Resource, Rlimit, setrlimit};
    setrlimit(Resource::Data, Rlimit { current: Some(bytes), maximum: Some(bytes) })
}

/// How often the kernel's out-of-memory killer has killed since the machine started, or `None` where it does not
/// tell.
pub(crate) fn out_of_memory_kills() -> Option<u64> {
    let counters = std::fs::read_to_string("/proc/vmstat").ok()?;
    kills_in(&counters)
}

fn kills_in(counters: &str) -> Option<u64> {
    counters.lines().find_map(|line| line.strip_prefix("oom_kill "))?.trim().parse().ok()
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
    fn kills_for_memory_are_counted_in_one_line() {
        assert_eq!(kills_in("pgfault 7\noom_kill 3\ndrop_pagecache 0\n"), Some(3));
        assert_eq!(kills_in("pgfault 7\noom_killer 3\n"), None);
    }

    #[test]
    fn the_mark_holds_in_the_process_that_made_it() {
        assert!(OnlyHere::new().is_ok_and(|mark| mark.holds()));
    }
}
