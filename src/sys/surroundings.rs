//! What a process inherits from the one that forks it, and what others can change in either of them at any time.

use rustix::process::{Resource, Rlimit};
use rustix::thread::CpuSet;

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
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Surroundings {
    limits: [Rlimit; 16],
    /// `None` where the kernel has more processors than the set.
    processors: Option<CpuSet>,
    scheduling: Scheduling,
    timer_slack: libc::c_int,
    /// What `/proc/self/cgroup` has; empty without `/proc`.
    groups: Vec<u8>,
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
    ///
    /// # References
    ///
    /// - [getrlimit(2)](https://man7.org/linux/man-pages/man2/getrlimit.2.html)
    /// - [PR_GET_TIMERSLACK(2const)](https://man7.org/linux/man-pages/man2/PR_GET_TIMERSLACK.2const.html)
    /// - [cgroups(7)](https://man7.org/linux/man-pages/man7/cgroups.7.html), `/proc/pid/cgroup`
    pub(crate) fn here() -> Self {
        Surroundings {
            limits: LIMITS.map(rustix::process::getrlimit),
            processors: rustix::thread::sched_getaffinity(None).ok(),
            scheduling: Scheduling::here(),
            // SAFETY: prctl with PR_GET_TIMERSLACK demands no argument.
            timer_slack: unsafe { libc::prctl(libc::PR_GET_TIMERSLACK) },
            groups: std::fs::read("/proc/self/cgroup").unwrap_or_default(),
        }
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
        assert_eq!(before, Surroundings::here());
        let limit = rustix::process::getrlimit(Resource::Core);
        // No test needs to dump more than that.
        let lower = Rlimit { current: Some(limit.current.map_or(1 << 40, |current| current / 2 + 1)), ..limit };
        if lower == limit {
            return Ok(());
        }
        rustix::process::setrlimit(Resource::Core, lower)?;
        assert_ne!(before, Surroundings::here());
        rustix::process::setrlimit(Resource::Core, limit)?;
        assert_eq!(before, Surroundings::here());
        Ok(())
    }
}
