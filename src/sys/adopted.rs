//! Processes of a dead fork server that this process has adopted, as process 1 or as a subreaper, and has to reap.
//!
//! # References
//!
//! - [PR_SET_CHILD_SUBREAPER(2const)](https://man7.org/linux/man-pages/man2/PR_SET_CHILD_SUBREAPER.2const.html)

use std::os::fd::BorrowedFd;

use rustix::process::{Pid, WaitId, WaitIdOptions};

use super::figures;
use super::process::{own_pid, short_name};

/// Whether orphaned descendants become children of this process.
pub(crate) fn adopts_orphans() -> bool {
    own_pid().is_init() || rustix::process::child_subreaper().is_ok_and(|set| set.is_some())
}

/// Reaps a process that has exited, if this process has adopted it. Returns whether it has not been adopted yet: its
/// server ends at this moment.
///
/// # References
///
/// - [waitid(2)](https://man7.org/linux/man-pages/man2/waitid.2.html), `P_PIDFD`
pub(crate) fn reap_adopted(process: BorrowedFd<'_>) -> bool {
    match rustix::process::waitid(WaitId::PidFd(process), WaitIdOptions::EXITED | WaitIdOptions::NOHANG) {
        Ok(_) => false,
        // It is no child of this process, as in most applications: another one reaps it.
        Err(_) => adopts_orphans() && figures::state(process) == Some(figures::ZOMBIE),
    }
}

/// What is known of children of a dead server that it has not reported, workers and a parked one: their names, and the
/// server's process group, in which a forked process is until it has its name.
pub(crate) struct Strays {
    names: Vec<Vec<u8>>,
    group: i32,
}

impl Strays {
    pub(crate) fn new(pool: &str, tails: &[String], server: u32) -> Self {
        let name = |tail: &String| short_name(pool, tail);
        let names = tails.iter().filter_map(name).map(std::ffi::CString::into_bytes).collect();
        Strays { names, group: i32::try_from(server).unwrap_or(0) }
    }

    /// Reaps those that this process has adopted and that have ended. Returns whether others have not ended yet.
    ///
    /// None is killed: a worker of another pool with the same name may be an orphan as well, and at work.
    pub(crate) fn reap(&self) -> bool {
        let adopted = children().into_iter().filter(|&child| self.includes(child));
        let ended = adopted.map(|child| {
            let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG;
            // A child of this process keeps its pid until it is reaped, so this is no other process.
            rustix::process::waitid(WaitId::Pid(child), options).is_ok_and(|status| status.is_some())
        });
        // Each of them, and not only the first that has not ended.
        ended.filter(|has_ended| !has_ended).count() > 0
    }

    fn includes(&self, child: Pid) -> bool {
        let stat = std::fs::read(format!("/proc/{}/stat", child.as_raw_nonzero())).unwrap_or_default();
        // The name is in parentheses and may contain any character; state, parent and group follow.
        let open = stat.iter().position(|&byte| byte == b'(');
        let close = stat.iter().rposition(|&byte| byte == b')');
        let (Some(open), Some(close)) = (open, close) else { return false };
        let name = stat.get(open + 1..close).unwrap_or_default();
        let rest = String::from_utf8_lossy(&stat[close + 1..]).into_owned();
        let group = rest.split_whitespace().nth(2).and_then(|group| group.parse::<i32>().ok());
        self.names.iter().any(|known| known == name) || group == Some(self.group)
    }
}

/// The children of this process, those that have ended included.
///
/// # References
///
/// - [proc_pid_task(5)](https://man7.org/linux/man-pages/man5/proc_tid_children.5.html)
fn children() -> Vec<Pid> {
    let mut children = Vec::new();
    for task in std::fs::read_dir("/proc/self/task").into_iter().flatten().flatten() {
        let listed = std::fs::read_to_string(task.path().join("children")).unwrap_or_default();
        let pids = listed.split_whitespace().filter_map(|pid| pid.parse().ok());
        children.extend(pids.filter_map(Pid::from_raw));
    }
    children
}
