//! One living worker: its number, its process and the right to signal it.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Instant;

use tokio::io::unix::AsyncFd;

use crate::actors::telemetry::stdio::OutputPipe;
use crate::actors::transport::blobs::BorrowedBlobs;
use crate::failure::WorkerFacts;
use crate::sys::{Errno, process, reactor};

/// What the desk knows of one living worker, beside its life.
#[derive(Clone)]
pub(crate) struct WorkerHandle {
    pub(crate) number: u64,
    pub(crate) pid: u32,
    /// Stands for exactly this process, also after its number is used again; `None` where it is on another machine.
    pub(crate) handle: Option<Arc<OwnedFd>>,
    /// Whether nobody will tell of its end: its server is gone, and it is on another machine.
    pub(crate) unwatched: Arc<AtomicBool>,
    pub(crate) born: Instant,
    pub(crate) output: Arc<OutputPipe>,
    /// Blobs that it may read although none of its calls is to be answered.
    pub(crate) borrowed: Arc<BorrowedBlobs>,
}

impl WorkerHandle {
    /// Kills the process.
    ///
    /// # Errors
    ///
    /// Where this process may not; [`Scheduler::kill`] knows another way.
    pub(crate) fn kill(&self) -> rustix::io::Result<()> {
        process::kill(self.handle()?)
    }

    /// Asks the process to end by itself.
    ///
    /// # Errors
    ///
    /// As [`kill`](Self::kill).
    pub(crate) fn terminate(&self) -> rustix::io::Result<()> {
        process::terminate(self.handle()?)
    }

    fn handle(&self) -> rustix::io::Result<BorrowedFd<'_>> {
        self.handle.as_ref().map(|handle| handle.as_fd()).ok_or(Errno::PERM)
    }

    /// Whether nobody will tell of its end.
    pub(crate) fn is_unwatched(&self) -> bool {
        self.unwatched.load(Ordering::Relaxed)
    }

    /// What is known of it now, for a failure that it is the reason of.
    pub(crate) fn facts(&self, calls_served: Option<u64>) -> WorkerFacts {
        WorkerFacts {
            number: self.number,
            pid: Some(self.pid),
            age: Some(self.born.elapsed()),
            calls_served,
            stderr: self.output.last_lines(),
            log: self.output.records(),
            ..WorkerFacts::default()
        }
    }

    /// The same of one that is about to be killed, and what it uses.
    pub(crate) fn facts_and_usage(&self, calls_served: Option<u64>) -> WorkerFacts {
        // The number of a process on another machine says nothing here.
        let (peak_memory, cpu_time) = self.handle.as_ref().map_or((None, None), |_| process::usage(self.pid));
        WorkerFacts { peak_memory, cpu_time, ..self.facts(calls_served) }
    }

    /// What the process can be killed with by somebody else.
    pub(crate) fn duplicate_handle(&self) -> std::io::Result<OwnedFd> {
        self.handle()?.try_clone_to_owned()
    }

    /// Tells when the process has ended; `None` where it cannot be watched.
    pub(crate) fn watch(&self) -> Option<ExitWatch> {
        reactor::register(self.duplicate_handle().ok()?).ok().map(ExitWatch)
    }
}

/// Waits for the end of a process that is nobody's child here.
pub(crate) struct ExitWatch(AsyncFd<OwnedFd>);

impl ExitWatch {
    pub(crate) fn poll_ended(&self, cx: &mut Context<'_>) -> Poll<()> {
        self.0.poll_read_ready(cx).map(|_| ())
    }
}
