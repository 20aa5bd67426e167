//! What a process inherits from the one that forks it, and what others can change in either of them at any time.

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::FileExt;

use rustix::process::{Resource, Rlimit};
use rustix::thread::CpuSet;

use super::faults;
use super::faults::Call;

/// The limits that `prlimit` sets.
const LIMITS: [Resource; 16] = [
    Resource::Cpu,
    Resource::Fsize,
    Resource::Data,
    Resource::Stack,
    Resource::Core,
    Resource::Rss,
    Resource::Nproc,
    Resource::Nofile,
    Resource::Memlock,
    Resource::As,
    Resource::Locks,
    Resource::Sigpending,
    Resource::Msgqueue,
    Resource::Nice,
    Resource::Rtprio,
    Resource::Rttime,
];

/// The kernel's number for the I/O priority of a process (`IOPRIO_WHO_PROCESS`).
const IO_PRIORITY_OF_PROCESS: libc::c_int = 1;

/// What a process would pass on to a child that it forked at one moment: limits, processors, priorities and control
/// groups. Each can be changed from outside: by `prlimit`, `taskset`, `renice`, `chrt`, `ionice`, or a write to a group's
/// `cgroup.procs`.
#[derive(Debug)]
pub(crate) struct Surroundings {
    settings: Settings,
    /// `None` without `/proc`.
    groups: Option<Groups>,
}

#[derive(Debug, PartialEq, Eq)]
struct Settings {
    limits: [Rlimit; 16],
    /// `None` where the kernel has more processors than the set.
    processors: Option<CpuSet>,
    scheduling: Scheduling,
    timer_slack: libc::c_int,
}

/// The control groups of this process.
#[derive(Debug)]
struct Groups {
    /// The open file of the kernel that lists them.
    file: File,
    list: Vec<u8>,
}

/// How the kernel schedules a process and its I/O.
#[derive(Debug, PartialEq, Eq)]
struct Scheduling {
    policy: libc::c_int,
    real_time_priority: libc::c_int,
    nice: Option<i32>,
    io_priority: libc::c_long,
}

impl Surroundings {
    /// Returns those of this process, which has one thread.
    pub(crate) fn here() -> Self {
        Surroundings { settings: Settings::here(), groups: Groups::here() }
    }

    /// Returns whether those of this process are others by now.
    pub(crate) fn have_changed(&self) -> bool {
        self.settings != Settings::here() || self.groups.as_ref().is_some_and(Groups::have_changed)
    }
}

impl Settings {
    /// # References
    ///
    /// - [getrlimit(2)](https://man7.org/linux/man-pages/man2/getrlimit.2.html)
    /// - [PR_GET_TIMERSLACK(2const)](https://man7.org/linux/man-pages/man2/PR_GET_TIMERSLACK.2const.html)
    fn here() -> Self {
        Settings {
            limits: LIMITS.map(rustix::process::getrlimit),
            processors: rustix::thread::sched_getaffinity(None).ok(),
            scheduling: Scheduling::here(),
            // SAFETY: prctl with PR_GET_TIMERSLACK demands no argument.
            timer_slack: unsafe { libc::prctl(libc::PR_GET_TIMERSLACK) },
        }
    }
}

impl Groups {
    /// # References
    ///
    /// - [cgroups(7)](https://man7.org/linux/man-pages/man7/cgroups.7.html), `/proc/pid/cgroup`
    fn here() -> Option<Self> {
        faults::point(Call::Open).ok()?;
        let file = File::open("/proc/self/cgroup").ok()?;
        let mut list = Vec::new();
        (&file).read_to_end(&mut list).ok()?;
        Some(Groups { file, list })
    }

    /// The open file shows the present groups each time.
    fn have_changed(&self) -> bool {
        let mut list = vec![0; self.list.len() + 1];
        self.file.read_at(&mut list, 0).is_ok_and(|count| list[..count] != self.list)
    }
}

impl Scheduling {
    /// # References
    ///
    /// - [sched(7)](https://man7.org/linux/man-pages/man7/sched.7.html)
    /// - [ioprio_get(2)](https://man7.org/linux/man-pages/man2/ioprio_set.2.html)
    fn here() -> Self {
        let mut parameters = libc::sched_param { sched_priority: 0 };
        // SAFETY: sched_getparam demands room for the parameters, which are on this frame; 0 is this thread.
        unsafe { libc::sched_getparam(0, &raw mut parameters) };
        Scheduling {
            // SAFETY: sched_getscheduler demands nothing of its number; 0 is this thread.
            policy: unsafe { libc::sched_getscheduler(0) },
            real_time_priority: parameters.sched_priority,
            nice: rustix::process::getpriority_process(None).ok(),
            // SAFETY: ioprio_get demands two numbers; 0 is this thread.
            io_priority: unsafe { libc::syscall(libc::SYS_ioprio_get, IO_PRIORITY_OF_PROCESS, 0) },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_that_others_change_is_seen() -> rustix::io::Result<()> {
        let before = Surroundings::here();
        assert!(!before.have_changed());
        let limit = rustix::process::getrlimit(Resource::Core);
        // No test needs to dump more than that.
        let lower =
            Rlimit { current: Some(limit.current.map_or(1 << 40, |current| current / 2 + 1)), ..limit };
        if lower == limit {
            return Ok(());
        }
        rustix::process::setrlimit(Resource::Core, lower)?;
        assert!(before.have_changed());
        rustix::process::setrlimit(Resource::Core, limit)?;
        assert!(!before.have_changed());
        Ok(())
    }

    #[test]
    fn another_control_group_is_seen() {
        let Some(mut groups) = Groups::here() else { return };
        assert!(!groups.have_changed());
        groups.list.push(b'x');
        assert!(groups.have_changed());
        groups.list.truncate(2);
        assert!(groups.have_changed());
    }
}
