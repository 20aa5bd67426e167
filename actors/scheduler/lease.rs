//! A worker lent to a checkout, with its channel. The holder gives it back, retires it or kills it.

use std::sync::Arc;

use super::Scheduler;
use super::state::ReleaseReport;
use super::worker_handle::WorkerHandle;
use super::worker_state::RetireReason;
use crate::actors::transport::HostChannel;

/// The exclusive use of one worker. Dropping an unreleased lease kills the worker, whose state is unknown then.
pub(crate) struct Lease {
    scheduler: Arc<Scheduler>,
    pub(crate) worker: WorkerHandle,
    /// How many checkouts the worker may serve after this one.
    pub(crate) checkouts_left: u64,
    /// `None` once the worker was given back, retired or killed.
    channel: Option<HostChannel>,
}

impl Lease {
    pub(crate) fn new(
        scheduler: Arc<Scheduler>,
        worker: WorkerHandle,
        channel: HostChannel,
        checkouts_left: u64,
    ) -> Self {
        Lease { scheduler, worker, checkouts_left, channel: Some(channel) }
    }

    /// Returns the worker's channel.
    pub(crate) fn channel(&mut self) -> Option<&mut HostChannel> {
        self.channel.as_mut()
    }

    /// Gives the worker back for the next checkout.
    pub(crate) fn give_back(mut self, report: ReleaseReport) {
        if let Some(channel) = self.channel.take() {
            self.scheduler.take_back(self.worker.number, channel, report);
        }
    }

    /// Gives the worker back after its last checkout. The scheduler closes its channel, and it exits.
    pub(crate) fn retire(mut self, reason: RetireReason) {
        if let Some(channel) = self.channel.take() {
            self.scheduler.retire(self.worker.number, channel, reason);
        }
    }

    /// Kills the worker and returns its channel, which may hold unread messages.
    pub(crate) fn kill(mut self, reason: RetireReason) -> Option<HostChannel> {
        let channel = self.channel.take();
        // Before the kill: its end, which another thread may report at once, is to be counted for this reason.
        self.scheduler.dismiss(self.worker.number, reason);
        match self.scheduler.options.kill_grace.filter(|_| reason.allows_grace()) {
            Some(grace) => self.scheduler.terminate_then_kill(&self.worker, grace),
            None => self.scheduler.kill(&self.worker),
        }
        channel
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if self.channel.is_some() {
            self.scheduler.dismiss(self.worker.number, RetireReason::LeaseDropped);
            self.scheduler.kill(&self.worker);
        }
    }
}
