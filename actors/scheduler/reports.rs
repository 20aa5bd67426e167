//! What holders and the supervisor report of workers, and how workers are signalled.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::Waker;
use std::time::Duration;

use super::Scheduler;
use super::command::Command;
use super::exit::ExitReport;
use super::registry::Registry;
use super::state::ReleaseReport;
use super::worker_handle::WorkerHandle;
use super::worker_state::RetireReason;
use crate::actors::transport::HostChannel;
use crate::clock::Instant;
use crate::failure::{Failure, FailureKind};
use crate::sys::figures;

impl Scheduler {
    /// Takes a worker back from its checkout.
    pub(crate) fn take_back(self: &Arc<Self>, worker: u64, channel: HostChannel, report: ReleaseReport) {
        let _dropped_unlocked = self.update(|registry, now| {
            let Some(resources) = registry.workers.get_mut(&worker) else {
                // The worker's exit was reported meanwhile, so no later lease uses its channel.
                registry.state.release(worker, report, now);
                return (None, Some(channel), None);
            };
            let (holder, unused) = (resources.holder.take(), resources.channel.replace(channel));
            resources
                .handle
                .iter()
                .for_each(|handle| handle.activity.set_private_bytes(report.private_bytes));
            let dead = resources.handle.as_ref().is_some_and(WorkerHandle::has_exited);
            registry.state.release(worker, report, now);
            (holder, unused, dead.then(|| self.take_away_dead(registry, worker, now)))
        });
    }

    /// Notes that a worker's process has ended, which its server has not reported. If it is idle, no checkout gets it any
    /// more. A holder is notified: another process may hold the worker's end of the channel.
    pub(crate) fn mark_exited(self: &Arc<Self>, worker: &WorkerHandle) {
        worker.mark_exited();
        let (wake, _dropped_unlocked) = self.update(|registry, now| {
            registry.has_lost_worker = true;
            let holder = registry.workers.get(&worker.number).and_then(|worker| worker.holder.as_ref());
            let wake = holder.and_then(|waiter| waiter.notify(|notice| notice.worker_ended = true));
            (wake, self.take_away_dead(registry, worker.number, now))
        });
        wake.into_iter().for_each(Waker::wake);
    }

    fn take_away_dead(
        &self,
        registry: &mut Registry,
        worker: u64,
        now: Instant,
    ) -> Option<impl Sized + use<>> {
        registry.state.mark_dead(worker, now, self.jitter()).then(|| registry.detach(worker))
    }

    /// Takes a worker back from its last checkout and lets it exit.
    pub(crate) fn retire(self: &Arc<Self>, worker: u64, channel: HostChannel, reason: RetireReason) {
        let _dropped_unlocked = self.update(|registry, now| {
            let (holder, unused) = match registry.workers.get_mut(&worker) {
                Some(resources) => (resources.holder.take(), resources.channel.replace(channel)),
                None => (None, Some(channel)),
            };
            registry.state.retire(worker, reason, now);
            (holder, unused)
        });
    }

    /// Marks a worker as ending that its holder has killed or that is unusable.
    pub(crate) fn dismiss(self: &Arc<Self>, worker: u64, reason: RetireReason) {
        let pool = self.options.name.clone();
        self.teller.tell(move || {
            tracing::debug!(target: "forkpool", %pool, worker, %reason, "worker dismissed");
        });
        let _dropped_unlocked = self.update(|registry, now| {
            registry.has_lost_worker = true;
            registry.state.dismiss(worker, reason, now);
            registry.detach(worker)
        });
        if self.worker_handle(worker).is_some_and(|worker| worker.is_exit_unreported()) {
            self.command(Command::Forget(worker));
        }
    }

    /// Kills a worker: directly, or via its server if this process is not permitted to. It is killed again every now and
    /// then until it has ended.
    pub(crate) fn kill(&self, worker: &WorkerHandle) {
        if worker.kill().is_err() {
            self.command(Command::SignalViaServer { worker: worker.number, kill: true });
        }
        if worker.begin_killing() {
            self.command(Command::KillAgain(worker.number));
        }
    }

    /// Kills a worker again that was killed before, and has its server kill it as well. Returns whether its end had not been
    /// reported by now.
    pub(crate) fn kill_again(&self, worker: u64) -> bool {
        let Some(handle) = self.worker_handle(worker) else { return false };
        // Its server does what is asked for below.
        let _ = handle.kill();
        self.command(Command::SignalViaServer { worker, kill: true });
        true
    }

    /// Sends SIGTERM to a worker, and kills it after `grace` if it is still running.
    pub(crate) fn terminate_then_kill(&self, worker: &WorkerHandle, grace: Duration) {
        if worker.terminate().is_err() {
            self.command(Command::SignalViaServer { worker: worker.number, kill: false });
        }
        let killing = Command::KillLater { worker: worker.clone(), grace };
        if self.supervisor.get().is_none_or(|supervisor| supervisor.try_send(killing).is_err()) {
            self.kill(worker);
        }
    }

    /// Registers a forked worker.
    pub(crate) fn register_worker(self: &Arc<Self>, worker: WorkerHandle) {
        self.tallies.count_fork();
        let number = worker.number;
        self.registry.lock().workers.entry(number).or_default().handle = Some(worker);
    }

    /// Makes a worker available that has finished its set-up.
    pub(crate) fn add_ready_worker(self: &Arc<Self>, worker: u64, channel: HostChannel) {
        let _dropped_unlocked = self.update(|registry, now| {
            registry.setup_failure = None;
            let unused = match registry.workers.get_mut(&worker) {
                Some(resources) => resources.channel.replace(channel),
                None => Some(channel),
            };
            if let Some(start) = registry.state.mark_ready(worker, now) {
                self.tallies.add_start(start);
            }
            unused
        });
    }

    /// Reports a failed set-up to the first waiting checkout that has a call, and delays the next attempt.
    ///
    /// `worker` is `None` if the preload failed, before any worker was forked.
    pub(crate) fn report_setup_failure(self: &Arc<Self>, worker: Option<u64>, failure: Failure) {
        self.fail_first_call(failure.clone());
        if let Some(worker) = worker {
            self.update(|registry, now| registry.state.mark_setup_failed(worker, now, self.jitter()));
        }
        let pool = self.options.name.clone();
        self.teller.tell(move || {
            // Logged as an error and not as its text, so that subscribers show its sources.
            let error: &(dyn std::error::Error + 'static) = &failure;
            tracing::warn!(target: "forkpool", %pool, worker, error, "set-up failed");
        });
    }

    /// Fails the first call of the first waiting checkout that has one, unless the pool is paused, and those that wait for the
    /// fewest workers. Until a worker is ready, the failure is the source of timeouts as well: a checkout in front whose
    /// requester tries again may get all the failures.
    ///
    /// The checkout keeps its place: it has calls behind the one that fails, or makes others. A pool that closes would end
    /// before them.
    pub(crate) fn fail_first_call(&self, failure: Failure) {
        let mut registry = self.registry.lock();
        registry.resolve_ready(|| Err(failure.clone()));
        registry.setup_failure = Some(failure.clone());
        let first = registry.first_with_call().filter(|_| !registry.state.is_paused());
        let Some(first) = first else { return };
        if !first.holding.is_of_lane() {
            // The next failure is for another one.
            first.has_call.store(false, Ordering::Relaxed);
        }
        drop(registry);
        let wake = first.notify(|notice| notice.failed_start = Some(failure));
        wake.into_iter().for_each(Waker::wake);
    }

    /// Records that a worker's process has exited, and notifies its holder.
    pub(crate) fn report_exit(self: &Arc<Self>, worker: u64, exit_report: ExitReport) {
        let resources = self.update(|registry, now| {
            registry.has_lost_worker = true;
            let retired = registry.state.retired_for(worker);
            let resources = registry.workers.remove(&worker).unwrap_or_default();
            let has_call = |holder: &Arc<super::Waiter>| holder.has_call.load(Ordering::Relaxed);
            let has_call = resources.holder.as_ref().is_some_and(has_call);
            registry.state.record_exit(worker, has_call, now, self.jitter());
            // One that was requested and not forked has not ended.
            if resources.handle.is_some() {
                self.tallies.count_end(exit_report.reason(retired), exit_report.cpu_time());
            }
            resources
        });
        resources.handle.iter().for_each(|handle| handle.borrowed.clear());
        let wake = resources
            .holder
            .and_then(|waiter| waiter.notify(|notice| notice.exit_report = Some(exit_report)));
        wake.into_iter().for_each(Waker::wake);
    }

    /// Marks workers whose server takes no more work. `succeeded`: another server has already replaced it.
    pub(crate) fn mark_outdated(self: &Arc<Self>, workers: &[u64], succeeded: bool) {
        self.update(|registry, now| registry.state.mark_outdated(workers.iter().copied(), succeeded, now));
    }

    /// Sets the pid of the pool's own fork server; `None` without a server, or if it is not a child of this process.
    pub(crate) fn set_server_pid(&self, pid: Option<u32>) {
        self.server_pid.store(pid.unwrap_or(0), Ordering::Relaxed);
    }

    /// Returns the pid of the pool's own fork server while it is up.
    pub(crate) fn own_server_pid(&self) -> Option<u32> {
        Some(self.server_pid.load(Ordering::Relaxed)).filter(|&pid| pid != 0)
    }

    /// Says that the pool's own fork server does not move, if that is so.
    pub(crate) fn stopped_server_text(&self) -> Option<String> {
        let pid = self.own_server_pid()?;
        let state = figures::state_of_child(pid).and_then(figures::if_stuck)?;
        Some(format!("the fork server (pid {pid}) is {state}"))
    }

    /// Sets the reason for which there is no fork server; `None` once there is one.
    pub(crate) fn set_outage(&self, outage: Option<String>) {
        self.registry.lock().outage = outage;
    }

    /// Records that a server was reached and has not answered; the reason known so far, a refusal perhaps, stays known.
    pub(crate) fn set_unanswered(&self, text: String) {
        let mut registry = self.registry.lock();
        registry.outage = Some(match registry.outage.take() {
            Some(before) => format!("{text}; before: {before}"),
            None => text,
        });
    }

    /// Records that there is no fork server, after an attempt to start one or to connect to it has failed.
    pub(crate) fn report_outage(&self, outage: String) {
        let failure = Failure::of(FailureKind::NoServer, "")
            .with_chain(std::slice::from_ref(&outage))
            .in_pool(&self.options.name);
        let mut registry = self.registry.lock();
        registry.resolve_ready(|| Err(failure.clone()));
        registry.outage = Some(outage);
    }

    /// Keeps a failure that concerns no waiting checkout, as the source of the next timeout.
    pub(crate) fn set_last_failure(&self, failure: Failure) {
        let mut registry = self.registry.lock();
        registry.resolve_ready(|| Err(failure.clone()));
        registry.setup_failure = Some(failure);
    }

    /// Marks a worker whose exit will never be reported: its server is gone, and it is on another machine.
    ///
    /// It counts as exited as soon as it is dismissed. Returns `false` if that has already happened.
    pub(crate) fn mark_exit_unreported(&self, worker: u64) -> bool {
        let registry = self.registry.lock();
        let Some(resources) = registry.workers.get(&worker) else { return false };
        let Some(handle) = &resources.handle else { return false };
        handle.exit_unreported.store(true, Ordering::Relaxed);
        resources.holder.is_some() || resources.channel.is_some()
    }

    /// Returns the handle of a worker, or `None` once its exit was reported.
    pub(crate) fn worker_handle(&self, worker: u64) -> Option<WorkerHandle> {
        self.registry.lock().workers.get(&worker)?.handle.clone()
    }

    /// Returns the handles of all workers whose exit was not reported.
    pub(crate) fn living_workers(&self) -> Vec<WorkerHandle> {
        self.registry.lock().handles().cloned().collect()
    }

    /// Decides whether a worker is to be replaced instead of being released by its holder, who carries that out, and
    /// returns why.
    pub(crate) fn decide_retirement(&self, worker: u64) -> Option<RetireReason> {
        let now = crate::clock::Instant::now();
        self.registry.lock().state.decide_retirement(worker, now)
    }
}
