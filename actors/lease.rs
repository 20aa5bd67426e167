//! A worker lent to a checkout: its channel, the right to kill it, and the duty to give it back.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::task::{Context, Poll};

use tokio::io::unix::AsyncFd;

use super::desk::Desk;
use super::host_channel::HostChannel;
use super::ledger::Facts;
use super::life::Reason;
use crate::sys::{process, reactor};

/// What the desk knows of one living worker, beside its life.
#[derive(Clone)]
pub(super) struct Identity {
    pub(super) number: u64,
    pub(super) pid: u32,
    /// Stands for exactly this process, also after its number is used again.
    pub(super) handle: Arc<OwnedFd>,
}

impl Identity {
    pub(super) fn kill(&self) {
        process::kill(self.handle.as_fd());
    }

    /// Tells when the process has ended; `None` where it cannot be watched.
    pub(super) fn watch(&self) -> Option<DeathWatch> {
        reactor::register(self.handle.as_fd().try_clone_to_owned().ok()?).ok().map(DeathWatch)
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
        self.worker.kill();
        self.desk.dismiss(self.worker.number, reason);
        channel
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if self.channel.is_some() {
            self.worker.kill();
            self.desk.dismiss(self.worker.number, Reason::Abandoned);
        }
    }
}
