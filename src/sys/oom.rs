//! Whether the kernel's out-of-memory killer may have killed a process.
//!
//! The kernel does not tell a parent which kind of SIGKILL ended its child. It counts the processes that its killer has
//! killed, on the whole machine and in each control group. A count that has not risen shows that the killer was not at
//! work; one that has risen does not show which process it killed.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use rustix::process::Pid;

use super::faults;
use super::faults::Call;

/// Most control groups whose counts are kept. Workers rarely leave the group of their server.
const MAX_GROUPS: usize = 64;

/// The files with the count below the mount of the control groups, the better one first.
///
/// Only those of the second version have one for us: in the first, a process that has ended is shown in the root.
const COUNTS: [&str; 2] = ["memory.events.local", "memory.events"];

/// The counts when they were last read.
pub(crate) struct OomCounts {
    /// `None` if the kernel has no such count.
    machine: Option<u64>,
    groups: HashMap<PathBuf, u64>,
}

impl OomCounts {
    /// Reads the count of the machine, and of the control group of this process, which its children are in as well.
    pub(crate) fn read() -> Self {
        let own = group_count("self").map(|GroupCount { file, count }| (file, count));
        OomCounts { machine: machine_count(), groups: own.into_iter().collect() }
    }

    /// Returns whether the killer may have killed a process that SIGKILL has ended: the count of the machine has risen
    /// since it was last read, and so has that of the process's control group, if it has one.
    pub(crate) fn may_include(&mut self, group: Option<GroupCount>) -> bool {
        let now = machine_count();
        let before = std::mem::replace(&mut self.machine, now);
        if before.is_none() || before >= now {
            return false;
        }
        let Some(GroupCount { file, count }) = group else { return true };
        if self.groups.len() >= MAX_GROUPS && !self.groups.contains_key(&file) {
            self.groups.clear();
        }
        // Those of a group that was not read before are taken for recent ones.
        count > self.groups.insert(file, count).unwrap_or(0)
    }
}

/// The count of a control group.
pub(crate) struct GroupCount {
    file: PathBuf,
    count: u64,
}

/// Returns the count of the control group of a process, which may have ended but is not reaped; `None` if it has none of version 2.
pub(crate) fn group_count_of(process: Pid) -> Option<GroupCount> {
    group_count(&process.as_raw_nonzero().to_string())
}

/// Returns how often the killer has killed since the machine was started; `None` if the kernel does not count it.
///
/// # References
///
/// - [proc_vmstat(5)](https://man7.org/linux/man-pages/man5/proc_vmstat.5.html), `oom_kill`
fn machine_count() -> Option<u64> {
    faults::point(Call::Open).ok()?;
    count_in(&std::fs::read_to_string("/proc/vmstat").ok()?)
}

/// Reads the count of a process's control group.
///
/// # References
///
/// - [cgroups(7)](https://man7.org/linux/man-pages/man7/cgroups.7.html)
/// - [Control group v2](https://docs.kernel.org/admin-guide/cgroup-v2.html), `memory.events`
fn group_count(process: &str) -> Option<GroupCount> {
    faults::point(Call::Open).ok()?;
    let groups = std::fs::read_to_string(format!("/proc/{process}/cgroup")).ok()?;
    let group = Path::new("/sys/fs/cgroup").join(group_in(&groups)?);
    COUNTS.iter().find_map(|name| {
        let file = group.join(name);
        let count = count_in(&std::fs::read_to_string(&file).ok()?)?;
        Some(GroupCount { file, count })
    })
}

/// Returns the path of the control group of the second version, without the slash in front.
fn group_in(groups: &str) -> Option<&str> {
    groups.lines().find_map(|line| line.strip_prefix("0::/"))
}

fn count_in(counters: &str) -> Option<u64> {
    counters.lines().find_map(|line| line.strip_prefix("oom_kill "))?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_count_is_read_from_one_line() {
        assert_eq!(count_in("pgfault 7\noom_kill 3\ndrop_pagecache 0\n"), Some(3));
        assert_eq!(count_in("low 0\noom 2\noom_kill 2\noom_group_kill 0\n"), Some(2));
        assert_eq!(count_in("low 0\noom 1\noom_group_kill 4\n"), None);
        assert_eq!(count_in("pgfault 7\noom_killer 3\n"), None);
    }

    #[test]
    fn the_group_is_that_of_the_second_version() {
        assert_eq!(group_in("5:memory,hugetlb:/b/c\n1:name=systemd:/d\n0::/e/f\n"), Some("e/f"));
        assert_eq!((group_in("0::/\n"), group_in("5:memory:/b\n")), (Some(""), None));
    }

    /// G8: nothing was killed meanwhile, or the killer was at work on the machine and not in this group.
    #[test]
    fn a_count_that_has_not_risen_accuses_nobody() {
        let own = || group_count_of(rustix::process::getpid());
        let mut counts = OomCounts::read();
        assert!(!counts.may_include(own()));
        let Some(GroupCount { file, count }) = own() else {
            eprintln!("skipped: no control group here counts what the killer has killed");
            return;
        };
        // As if something had been killed elsewhere on the machine.
        counts.machine = counts.machine.and_then(|count| count.checked_sub(1));
        assert!(!counts.may_include(own()));
        if let Some(before) = count.checked_sub(1) {
            counts.machine = counts.machine.and_then(|count| count.checked_sub(1));
            counts.groups.insert(file, before);
            assert!(counts.may_include(own()));
        }
    }
}
