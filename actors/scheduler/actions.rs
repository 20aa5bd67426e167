//! What a user has the scheduler do to a running pool.

use std::sync::Arc;
use std::task::Waker;

use tokio::sync::oneshot;

use super::Scheduler;
use super::command::Command;
use crate::actors::api::recycling::Recycle;
use crate::failure::Failure;

impl Scheduler {
    /// Grants no further worker until the pool is resumed. Returns whether the pool was open and not paused.
    pub(crate) fn pause(self: &Arc<Self>) -> bool {
        let pauses = self.update(|registry, _| registry.state.pause());
        if pauses {
            self.wake_lanes();
        }
        pauses
    }

    /// Grants workers again. Returns whether the pool was paused.
    pub(crate) fn resume(self: &Arc<Self>) -> bool {
        let resumes = self.update(|registry, now| registry.state.resume(now));
        if resumes {
            self.wake_lanes();
        }
        resumes
    }

    /// Has workers replaced. Returns how many, and what resolves once they are gone and the fewest workers are set up, or
    /// with the failure of the next attempt to start one.
    pub(crate) fn recycle(
        self: &Arc<Self>,
        which: Recycle,
    ) -> (usize, oneshot::Receiver<Result<(), Failure>>) {
        let (sender, replaced) = oneshot::channel();
        let count = self.update(|registry, now| {
            let workers = registry.state.recycle(which, now);
            let count = workers.len();
            registry.await_ready(sender, workers);
            if registry.outage.is_some() {
                self.command(Command::Reconnect);
            }
            count
        });
        (count, replaced)
    }

    /// Kills a worker whatever it does. Returns `false` if there is no process with this number.
    pub(crate) fn kill_worker(self: &Arc<Self>, number: u64) -> bool {
        let found = self.update(|registry, now| {
            let resources = registry.workers.get(&number)?;
            let (worker, holder) = (resources.handle.clone()?, resources.holder.clone());
            registry.has_lost_worker = true;
            registry.state.kill(number, now);
            // The holder keeps its place here until it has reacted, so that it gets the exit report.
            let wake = holder.as_ref().and_then(|holder| holder.notify(|notice| notice.killed = true));
            let unused = if holder.is_none() { registry.detach(number) } else { None };
            Some((worker, holder, wake, unused))
        });
        let Some((worker, holder, wake, _dropped_unlocked)) = found else { return false };
        // Its holder has the notice by now: it does not take this for a death of unknown cause.
        self.kill(&worker);
        wake.into_iter().for_each(Waker::wake);
        if holder.is_none() && worker.is_exit_unreported() {
            self.command(Command::Forget(number));
        }
        let (pool, pid) = (self.options.name.clone(), worker.pid);
        self.teller.tell(move || {
            tracing::info!(target: "forkpool", %pool, worker = number, pid, "kill_worker killed a worker");
        });
        true
    }
}
