//! Memory of this process: limits, and how much is private.

use std::sync::OnceLock;

use super::faults;
use super::faults::Call;

/// Bytes of memory that this process shares with no other one, or `None` if the kernel does not report them.
///
/// Unmodified pages of files do not count: the kernel drops them when it needs the memory. A new worker has many of them,
/// since it maps the code of the program ahead of its use.
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
        .filter(|line| line.starts_with("Private_") && !line.starts_with("Private_Clean"))
        .filter_map(|line| line.split_whitespace().nth(1)?.parse::<u64>().ok())
        .map(|kib| kib * 1024)
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn private_memory_is_what_the_kernel_cannot_drop_of_the_private_lines() {
        let rollup = "Rss: 900 kB\nPrivate_Clean: 4 kB\nPrivate_Dirty:  8 kB\nPrivate_Hugetlb: 16 kB\n";
        assert_eq!(sum_private(rollup), 24 * 1024);
    }
}
