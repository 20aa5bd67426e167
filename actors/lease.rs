//! A worker lent to a checkout: its channel, the right to kill it, and the duty to give it back.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Instant;

use tokio::io::unix::AsyncFd;

use super::blobs::Holdings;
use super::desk::Desk;
use super::host_channel::HostChannel;
use super::ledger::Facts;
use super::life::Reason;
use super::output::Output;
use crate::failure::WorkerFacts;
use crate::sys::{Errno, process, reactor};

/// What the desk knows of one living worker, beside its life.
#[derive(Clone)]
pub(super) struct Identity {
    pub(super) number: u64,
    pub(super) pid: u32,
    /// Stands for exactly this process, also after its number is used again; `None` where it is on another machine.
    pub(super) handle: Option<Arc<OwnedFd>>,
    /// Whether nobody will tell of its end: its server is gone, and it is on another machine.
    pub(super) unwatched: Arc<AtomicBool>,
    pub(super) born: Instant,
    pub(super) output: Arc<Output>,
    /// Blobs that it may read although none of its calls is to be answered.
    pub(super) holdings: Arc<Holdings>,
}

impl Identity {
    /// Kills the process.
    ///
    /// # Errors
    ///
    /// Where this process may not; [`Desk::kill`] knows another way.
    pub(super) fn kill(&self) -> rustix::io::Result<()> {
        process::kill(self.handle()?)
    }

    /// Asks the process to end by itself.
    ///
    /// # Errors
    ///
    /// As [`kill`](Self::kill).
    pub(super) fn terminate(&self) -> rustix::io::Result<()> {
        process::terminate(self.handle()?)
    }

    fn handle(&self) -> rustix::io::Result<BorrowedFd<'_>> {
        self.handle.as_ref().map(|handle| handle.as_fd()).ok_or(Errno::PERM)
    }

    /// Whether nobody will tell of its end.
    pub(super) fn is_unwatched(&self) -> bool {
        self.unwatched.load(Ordering::Relaxed)
    }

    /// What is known of it now, for a failure that it is the reason of.
    pub(super) fn facts(&self, calls_served: Option<u64>) -> WorkerFacts {
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
    pub(super) fn facts_and_usage(&self, calls_served: Option<u64>) -> WorkerFacts {
        // The number of a process on another machine says nothing here.
        let (peak_memory, cpu_time) = self.handle.as_ref().map_or((None, None), |_| process::usage(self.pid));
        WorkerFacts { peak_memory, cpu_time, ..self.facts(calls_served) }
    }

    /// What the process can be killed with by somebody else.
    pub(super) fn duplicate_handle(&self) -> std::io::Result<OwnedFd> {
        self.handle()?.try_clone_to_owned()
    }

    /// Tells when the process has ended; `None` where it cannot be watched.
    pub(super) fn watch(&self) -> Option<DeathWatch> {
        reactor::register(self.duplicate_handle().ok()?).ok().map(DeathWatch)
    }
}

/// Waits for the end of a process that is nobody's child here.
pub(super) struct DeathWatch(AsyncFd<OwnedFd>);

impl DeathWatch {
    pub(super) fn poll_ended(&self, cx: &mut Context<'_>) -> Poll<()> {
        self.0.poll_read_ready(cx).map(|_| ())
    }
}

/// The exclusive use of one worker. Dropping it kills the worker: nobody knows what state it is in.
pub(super) struct Lease {
    desk: Arc<Desk>,
    pub(super) worker: Identity,
    /// `None` once it was given back or given up.
    channel: Option<HostChannel>,
}

impl Lease {
    pub(super) fn new(desk: Arc<Desk>, worker: Identity, channel: HostChannel) -> Self {
        Lease { desk, worker, channel: Some(channel) }
    }

    /// The channel, as long as the lease lasts.
    pub(super) fn channel(&mut self) -> Option<&mut HostChannel> {
        self.channel.as_mut()
    }

    /// Gives the worker back, free for the next.
    pub(super) fn give_back(mut self, facts: Facts) {
        if let Some(channel) = self.channel.take() {
            self.desk.take_back(self.worker.number, channel, facts);
        }
    }

    /// Gives up a worker that nobody will have after this; without its channel it ends by itself.
    pub(super) fn retire(mut self, reason: Reason) {
        if let Some(channel) = self.channel.take() {
            self.desk.retire(self.worker.number, channel, reason);
        }
    }

    /// Kills the worker and gives it up; returns its channel, in which it may have said something.
    pub(super) fn kill(mut self, reason: Reason) -> Option<HostChannel> {
        let channel = self.channel.take();
        match self.desk.options.kill_grace.filter(|_| reason.may_be_gentle()) {
            Some(grace) => self.desk.end_gently(&self.worker, grace),
            None => self.desk.kill(&self.worker),
        }
        self.desk.dismiss(self.worker.number, reason);
        channel
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if self.channel.is_some() {
            self.desk.kill(&self.worker);
            self.desk.dismiss(self.worker.number, Reason::Abandoned);
        }
    }
}
