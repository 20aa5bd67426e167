//! What a stop of a pool has left behind.

use std::fmt;

use serde::{Deserialize, Serialize};

/// What is still there after a pool was stopped: nothing, unless a process could not be ended in time.
///
/// A process that has received SIGKILL may stay for as long as it is inside a call of the kernel that nothing
/// interrupts, for example on a disk that does not answer.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct StopReport {
    /// The processes that are still there.
    pub left: Vec<LeftProcess>,
    /// Why the pool could not end them, where that is known: the arbiter that was given to
    /// [`start_in`](crate::PoolBuilder::start_in) stands still.
    pub reason: Option<String>,
}

/// A process of a pool that a stop could not end in time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct LeftProcess {
    /// The number of the worker; `None` for the fork server.
    pub worker: Option<u64>,
    /// The process id; `None` if the process has not reported one.
    pub pid: Option<u32>,
    /// What the process does, such as `running`, `stopped` or `waiting inside the kernel`.
    pub state: String,
}

impl StopReport {
    /// Returns whether nothing of the pool is left.
    pub fn is_complete(&self) -> bool {
        self.left.is_empty() && self.reason.is_none()
    }
}

impl fmt::Display for StopReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_complete() {
            return f.write_str("nothing is left");
        }
        f.write_str("still there: ")?;
        if self.left.is_empty() {
            f.write_str("no process that is known")?;
        }
        for (index, process) in self.left.iter().enumerate() {
            let separator = if index == 0 { "" } else { ", " };
            write!(f, "{separator}{process}")?;
        }
        self.reason.iter().try_for_each(|reason| write!(f, "; {reason}"))
    }
}

impl fmt::Display for LeftProcess {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.worker {
            Some(number) => write!(f, "worker {number}")?,
            None => f.write_str("the fork server")?,
        }
        match self.pid {
            Some(pid) => write!(f, " (pid {pid}, {})", self.state),
            None => write!(f, " ({})", self.state),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// P12
    #[test]
    fn a_report_names_each_process_with_its_state() {
        let left = |worker, pid, state: &str| LeftProcess { worker, pid, state: state.to_owned() };
        assert_eq!(StopReport::default().to_string(), "nothing is left");
        let all = vec![left(Some(3), Some(77), "stopped"), left(None, Some(70), "running")];
        let report = StopReport { left: all, reason: None };
        assert_eq!(
            report.to_string(),
            "still there: worker 3 (pid 77, stopped), the fork server (pid 70, running)"
        );
        assert!(!report.is_complete());
        let report = StopReport { reason: Some("it stands still".to_owned()), ..StopReport::default() };
        assert_eq!(report.to_string(), "still there: no process that is known; it stands still");
        assert!(!report.is_complete());
    }
}
