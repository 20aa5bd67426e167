//! A worker lent to a checkout: its channel, the right to kill it, and the duty to give it back.

use std::sync::Arc;

use super::Scheduler;
use super::state::ReleaseReport;
use super::worker_handle::WorkerHandle;
use super::worker_state::RetireReason;
use crate::actors::transport::HostChannel;

/// The exclusive use of one worker. Dropping it kills the worker: nobody knows what state it is in.
pub(crate) struct Lease {
    scheduler: Arc<Scheduler>,
    pub(crate) worker: WorkerHandle,
    /// `None` once it was given back or given up.
    channel: Option<HostChannel>,
}

impl Lease {
    pub(crate) fn new(scheduler: Arc<Scheduler>, worker: WorkerHandle, channel: HostChannel) -> Self {
        Lease { scheduler, worker, channel: Some(channel) }
    }

    /// The channel, as long as the lease lasts.
    pub(crate) fn channel(&mut self) -> Option<&mut HostChannel> {
        self.channel.as_mut()
    }

    /// Gives the worker back, free for the next.
    pub(crate) fn give_back(mut self, facts: ReleaseReport) {
        if let Some(channel) = self.channel.take() {
            self.scheduler.take_back(self.worker.number, channel, facts);
        }
    }

    /// Gives up a worker that nobody will have after this; without its channel it ends by itself.
    pub(crate) fn retire(mut self, reason: RetireReason) {
        if let Some(channel) = self.channel.take() {
            self.scheduler.retire(self.worker.number, channel, reason);
        }
    }

    /// Kills the worker and gives it up; returns its channel, in which it may have said something.
    pub(crate) fn kill(mut self, reason: RetireReason) -> Option<HostChannel> {
        let channel = self.channel.take();
        match self.scheduler.options.kill_grace.filter(|_| reason.may_be_gentle()) {
            Some(grace) => self.scheduler.end_gently(&self.worker, grace),
            None => self.scheduler.kill(&self.worker),
        }
        self.scheduler.dismiss(self.worker.number, reason);
        channel
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if self.channel.is_some() {
            self.scheduler.kill(&self.worker);
            self.scheduler.dismiss(self.worker.number, RetireReason::Abandoned);
        }
    }
}
