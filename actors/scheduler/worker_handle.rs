//! Number, pid and pidfd of one worker; kills and watches it.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::activity::Activity;
use crate::actors::telemetry::stdio::OutputPipe;
use crate::actors::transport::blobs::BorrowedBlobs;
use crate::actors::transport::watching;
use crate::clock::Instant;
use crate::failure::WorkerFacts;
use crate::sys::{Errno, adopted, descriptors, figures, kill, process};

/// A forked worker's process, as the scheduler knows it; its state is in the pool state.
#[derive(Clone)]
pub(crate) struct WorkerHandle {
    pub(crate) number: u64,
    pub(crate) pid: u32,
    /// Refers to exactly this process, even after its pid was reused. `None` if the process is on another machine.
    pub(crate) pidfd: Option<Arc<OwnedFd>>,
    /// Whether the worker's exit will never be reported: its server is gone, and it is on another machine.
    pub(crate) exit_unreported: Arc<AtomicBool>,
    /// Whether its pidfd has shown its end.
    pub(crate) has_exited: Arc<AtomicBool>,
    /// Whether it was killed, and is killed again until it has ended.
    pub(crate) is_killed: Arc<AtomicBool>,
    pub(crate) forked_at: Instant,
    pub(crate) activity: Arc<Activity>,
    pub(crate) output: Arc<OutputPipe>,
    /// Blobs that the worker may still read although no call with them is open.
    pub(crate) borrowed: Arc<BorrowedBlobs>,
}

impl WorkerHandle {
    /// Sends SIGKILL to the process, and to the process group that it was given where the kernel can.
    ///
    /// # Errors
    ///
    /// The error of the system call, `EPERM` if this process is not permitted to signal the worker or the worker is on
    /// another machine. No signal was sent then; `Scheduler::kill` has the worker's server send it.
    pub(crate) fn kill(&self) -> rustix::io::Result<()> {
        kill::kill(self.pidfd()?)
    }

    /// Notes that the worker is killed. Returns whether this is the first time.
    pub(crate) fn begin_killing(&self) -> bool {
        !self.is_killed.swap(true, Ordering::Relaxed)
    }

    /// Sends SIGTERM to the process.
    ///
    /// # Errors
    ///
    /// The same as for [`kill`](Self::kill).
    pub(crate) fn terminate(&self) -> rustix::io::Result<()> {
        kill::terminate(self.pidfd()?)
    }

    fn pidfd(&self) -> rustix::io::Result<BorrowedFd<'_>> {
        self.pidfd.as_ref().map(|pidfd| pidfd.as_fd()).ok_or(Errno::PERM)
    }

    /// Returns whether the worker's exit will never be reported.
    pub(crate) fn is_exit_unreported(&self) -> bool {
        self.exit_unreported.load(Ordering::Relaxed)
    }

    /// Returns what is known of the worker now, for a failure that concerns it.
    pub(crate) fn facts(&self, calls_served: Option<u64>) -> WorkerFacts {
        WorkerFacts {
            number: self.number,
            pid: Some(self.pid),
            age: Some(self.forked_at.elapsed()),
            calls_served,
            stderr: self.output.last_lines(),
            log: self.output.records(),
            ..WorkerFacts::default()
        }
    }

    /// Returns the same, with the memory and CPU time that the process has used. For a worker about to be killed.
    pub(crate) fn facts_and_usage(&self, calls_served: Option<u64>) -> WorkerFacts {
        let (peak_memory, cpu_time) = self.pidfd().map_or((None, None), figures::usage);
        WorkerFacts { peak_memory, cpu_time, ..self.facts(calls_served) }
    }

    /// Returns the CPU time that all threads of the process have used; `None` if this process cannot see it.
    pub(crate) fn cpu_time(&self) -> Option<Duration> {
        figures::cpu_time(self.pidfd().ok()?)
    }

    /// Says what the process does if it cannot run now: it is stopped or inside the kernel.
    pub(crate) fn stuck_text(&self) -> Option<String> {
        let state = self.state().and_then(figures::if_stuck)?;
        Some(format!("its process is {state}"))
    }

    /// Returns what the process does, as the kernel tells it; `None` if this process does not see it, or it is gone.
    pub(crate) fn state(&self) -> Option<&'static str> {
        figures::state(self.pidfd().ok()?)
    }

    /// Returns whether the process runs; `None` if this process does not see it.
    pub(crate) fn is_running(&self) -> Option<bool> {
        let pidfd = self.pidfd.as_ref()?;
        if self.has_exited() {
            return Some(false);
        }
        process::has_exited(pidfd.as_fd()).map(|has_exited| !has_exited)
    }

    /// Reaps the process after its exit, if this process has adopted it, and kills the rest of its group where the kernel
    /// can. Returns whether it is still to be adopted, so that this is to be called again.
    pub(crate) fn reap_adopted(&self) -> bool {
        self.pidfd.as_ref().is_some_and(|pidfd| {
            kill::kill_group_of(pidfd.as_fd());
            adopted::reap_adopted(pidfd.as_fd())
        })
    }

    /// Returns a duplicate of the pidfd, with which another process can kill the worker.
    pub(crate) fn duplicate_pidfd(&self) -> std::io::Result<OwnedFd> {
        Ok(descriptors::duplicate(self.pidfd()?)?)
    }

    /// Waits for the end of the process, whether or not its server reports it. Returns `None` if the process is on
    /// another machine.
    pub(crate) fn exited(&self) -> Option<impl Future<Output = ()> + 'static> {
        self.pidfd.clone().map(watching::exited)
    }

    /// Notes that the process has ended.
    pub(crate) fn mark_exited(&self) {
        self.has_exited.store(true, Ordering::Release);
    }

    /// Returns whether the process is known to have ended, although that may not be reported yet.
    pub(crate) fn has_exited(&self) -> bool {
        self.has_exited.load(Ordering::Acquire)
    }
}
