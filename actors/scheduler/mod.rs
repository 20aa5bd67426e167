//! The scheduler: the pool state behind a lock, with the channels of idle workers beside it.
//!
//! Every thread may call it. It lends an idle worker directly; only work that needs the fork server goes to the
//! supervisor. It sends messages to the supervisor while it holds the lock, so that they arrive in the order of the
//! changes. It collects wakers while it holds the lock and calls them after it has released the lock.

pub(crate) mod exit;
pub(crate) mod expiry;
pub(crate) mod lease;
pub(crate) mod quarantine;
pub(crate) mod queue;
pub(crate) mod registry;
pub(crate) mod rollover;
pub(crate) mod state;
#[cfg(test)]
mod tests;
pub(crate) mod waiter;
pub(crate) mod worker_handle;
pub(crate) mod worker_state;

use std::collections::HashMap;
use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::Waker;
use std::time::{Duration, Instant};

use actix::Addr;
use parking_lot::Mutex;

use crate::actors::api::stats::{Stats, Totals};
use crate::actors::supervisor::{
    ForgetWorker, KillLater, KillViaServer, Retire, RetiringWorker, ScheduleTick, Spawn, Supervisor,
};
use crate::actors::transport::HostChannel;
use crate::actors::transport::blobs::{BlobMemory, Encoded};
use crate::config::Options;
use crate::failure;
use crate::failure::{Failure, FailureKind};
use exit::ExitReport;
use lease::Lease;
use quarantine::Quarantine;
pub(crate) use registry::WaitOutcome;
use registry::{Effects, Registry};
use state::{Action, Admission, PoolPhase, PoolState, ReleaseReport};
use waiter::Waiter;
use worker_handle::WorkerHandle;
use worker_state::RetireReason;

/// The shared state of a pool: sessions acquire workers here, and the supervisor reports workers here.
pub(crate) struct Scheduler {
    pub(crate) options: Options,
    /// `None` if blobs are copied into their messages.
    pub(crate) blobs: Option<BlobMemory>,
    pub(crate) totals: Totals,
    /// `None` if `max_kills` is not set.
    pub(crate) quarantine: Option<Mutex<Quarantine>>,
    /// Random keys for the hashes by which the quarantine recognizes calls.
    call_hasher: RandomState,
    supervisor: OnceLock<Addr<Supervisor>>,
    last_checkout: AtomicU64,
    registry: Mutex<Registry>,
}

impl Scheduler {
    pub(crate) fn new(options: Options, blobs: Option<BlobMemory>) -> Arc<Self> {
        let registry = Registry {
            state: PoolState::new(&options),
            workers: HashMap::new(),
            channels: HashMap::new(),
            waiters: HashMap::new(),
            holders: HashMap::new(),
            setup_failure: None,
            outage: None,
            tick_at: None,
            has_lost_worker: false,
        };
        let quarantine =
            options.max_kills.map(|kills| Mutex::new(Quarantine::new(kills, options.kill_window)));
        Arc::new(Scheduler {
            options,
            blobs,
            quarantine,
            call_hasher: RandomState::new(),
            totals: Totals::default(),
            supervisor: OnceLock::new(),
            last_checkout: AtomicU64::new(0),
            registry: Mutex::new(registry),
        })
    }

    /// Sets the supervisor and requests the first workers.
    pub(crate) fn open(self: &Arc<Self>, supervisor: Addr<Supervisor>) {
        // Only the code that built this scheduler calls this, and only once.
        let _ = self.supervisor.set(supervisor);
        self.update(|registry, now| registry.state.open(now));
    }

    pub(crate) fn supervisor(&self) -> Option<&Addr<Supervisor>> {
        self.supervisor.get()
    }

    /// Lends an idle worker to a new waiter or puts the waiter at the end of the queue.
    ///
    /// The outcome is a notice in the waiter's mailbox: a lease, a refusal (`Overloaded`, `Stopped`), or nothing yet.
    pub(crate) fn acquire(self: &Arc<Self>) -> Arc<Waiter> {
        self.add_waiter(PoolState::acquire)
    }

    /// Does the same at the front of the queue, for a checkout whose worker exited before it had begun a call.
    pub(crate) fn reacquire(self: &Arc<Self>) -> Arc<Waiter> {
        self.add_waiter(PoolState::reacquire)
    }

    fn add_waiter(self: &Arc<Self>, acquire: fn(&mut PoolState, u64, Instant) -> Admission) -> Arc<Waiter> {
        let waiter = Waiter::new(self.last_checkout.fetch_add(1, Ordering::Relaxed));
        self.update(|registry, now| {
            // No task knows this waiter yet, so there is no waker.
            let _no_waker = match acquire(&mut registry.state, waiter.id, now) {
                Admission::Granted { worker } => self.grant(registry, &waiter, worker),
                Admission::Queued => {
                    registry.waiters.insert(waiter.id, waiter.clone());
                    None
                }
                Admission::Overloaded { waiting } => {
                    waiter.notify(|notice| notice.refusal = Some(self.overloaded_failure(waiting)))
                }
                Admission::Stopped => waiter.notify(|notice| notice.refusal = Some(self.stopped_failure())),
            };
        });
        waiter
    }

    /// Removes a checkout from the queue and returns what it was waiting for, for its failure.
    ///
    /// A worker that was granted in the meantime is given back.
    pub(crate) fn cancel(self: &Arc<Self>, waiter: &Arc<Waiter>) -> WaitOutcome {
        let (outcome, _) = self.update(|registry, now| {
            let starting = registry.state.is_starting();
            let outcome = WaitOutcome {
                phase: if starting { failure::Phase::Starting } else { failure::Phase::Waiting },
                setup_failure: registry.setup_failure.clone(),
                outage: registry.outage.clone(),
            };
            registry.state.cancel(waiter.id, now);
            (outcome, registry.waiters.remove(&waiter.id))
        });
        if let Some(lease) = waiter.take_notice().and_then(|notice| notice.lease) {
            lease.give_back(ReleaseReport::default());
        }
        outcome
    }

    /// Takes a worker back from its checkout.
    pub(crate) fn take_back(self: &Arc<Self>, worker: u64, channel: HostChannel, report: ReleaseReport) {
        let _holder = self.update(|registry, now| {
            let holder = registry.holders.remove(&worker);
            // If the worker's exit was reported meanwhile, no later lease will use its channel: it is dropped below.
            let unused = match registry.workers.contains_key(&worker) {
                true => registry.channels.insert(worker, channel),
                false => Some(channel),
            };
            registry.state.release(worker, report, now);
            (holder, unused)
        });
    }

    /// Marks a worker as ending that its holder has killed or that is unusable.
    pub(crate) fn dismiss(self: &Arc<Self>, worker: u64, reason: RetireReason) {
        tracing::debug!(target: "forkpool", pool = %self.options.name, worker, %reason, "worker dismissed");
        let _removed = self.update(|registry, now| {
            registry.has_lost_worker = true;
            registry.state.dismiss(worker, reason, now);
            (registry.holders.remove(&worker), registry.channels.remove(&worker))
        });
        if self.worker_handle(worker).is_some_and(|worker| worker.is_exit_unreported())
            && let Some(supervisor) = self.supervisor()
        {
            supervisor.do_send(ForgetWorker(worker));
        }
    }

    /// Kills a worker: directly, or via its server if this process is not permitted to.
    pub(crate) fn kill(&self, worker: &WorkerHandle) {
        if worker.kill().is_err() {
            self.signal_via_server(worker, true);
        }
    }

    /// Sends SIGTERM to a worker, and kills it after `grace` if it is still running.
    pub(crate) fn terminate_then_kill(&self, worker: &WorkerHandle, grace: Duration) {
        if worker.terminate().is_err() {
            self.signal_via_server(worker, false);
        }
        let killing = KillLater { worker: worker.clone(), grace };
        if self.supervisor().is_none_or(|supervisor| supervisor.try_send(killing).is_err()) {
            self.kill(worker);
        }
    }

    /// Has the worker's server send SIGKILL (`kill`) or SIGTERM.
    fn signal_via_server(&self, worker: &WorkerHandle, kill: bool) {
        if let Some(supervisor) = self.supervisor() {
            supervisor.do_send(KillViaServer { worker: worker.number, kill });
        }
    }

    /// Marks workers whose server takes no more work. `succeeded`: another server has already replaced it.
    pub(crate) fn mark_outdated(self: &Arc<Self>, workers: &[u64], succeeded: bool) {
        self.update(|registry, now| registry.state.mark_outdated(workers.iter().copied(), succeeded, now));
    }

    /// Returns why a worker is to be replaced after its current checkout, or `None` if it may stay.
    pub(crate) fn retire_reason(&self, worker: u64) -> Option<RetireReason> {
        self.registry.lock().state.retire_reason(worker, ReleaseReport::default(), Instant::now())
    }

    /// Takes a worker back from its last checkout and lets it exit.
    pub(crate) fn retire(self: &Arc<Self>, worker: u64, channel: HostChannel, reason: RetireReason) {
        let _holder = self.update(|registry, now| {
            registry.channels.insert(worker, channel);
            registry.state.retire(worker, reason, now);
            registry.holders.remove(&worker)
        });
    }

    /// Registers a forked worker.
    pub(crate) fn register_worker(self: &Arc<Self>, worker: WorkerHandle) {
        self.totals.count_fork();
        self.registry.lock().workers.insert(worker.number, worker);
    }

    /// Makes a worker available that has finished its set-up.
    pub(crate) fn add_ready_worker(self: &Arc<Self>, worker: u64, channel: HostChannel) {
        self.update(|registry, now| {
            registry.setup_failure = None;
            registry.channels.insert(worker, channel);
            registry.state.mark_ready(worker, now);
        });
    }

    /// Reports a failed set-up to the first waiting checkout that has a call, and delays the next attempt.
    ///
    /// `worker` is `None` if the preload failed, before any worker was forked. If no checkout with a call waits, the
    /// failure is kept and becomes the source of the next timeout.
    pub(crate) fn report_setup_failure(self: &Arc<Self>, worker: Option<u64>, failure: Failure) {
        // Logged as an error and not as its text, so that subscribers show its sources.
        let error: &(dyn std::error::Error + 'static) = &failure;
        tracing::warn!(target: "forkpool", pool = %self.options.name, worker, error, "set-up failed");
        self.notify_first_waiter(failure);
        if let Some(worker) = worker {
            self.update(|registry, now| registry.state.mark_setup_failed(worker, now, self.jitter()));
        }
    }

    fn notify_first_waiter(self: &Arc<Self>, failure: Failure) {
        let first = self.update(|registry, now| {
            let has_call = |id: &u64| {
                let waiter = registry.waiters.get(id);
                waiter.is_some_and(|waiter| waiter.has_call.load(Ordering::Relaxed))
            };
            let Some(first) = registry.state.waiting().find(has_call) else {
                registry.setup_failure = Some(failure.clone());
                return None;
            };
            registry.state.cancel(first, now);
            registry.waiters.remove(&first)
        });
        let wake = first.and_then(|waiter| waiter.notify(|notice| notice.refusal = Some(failure)));
        wake.into_iter().for_each(Waker::wake);
    }

    /// Records that a worker's process has exited, and notifies its holder.
    pub(crate) fn report_exit(self: &Arc<Self>, worker: u64, exit_report: ExitReport) {
        let (handle, holder, _) = self.update(|registry, now| {
            registry.has_lost_worker = true;
            let handle = registry.workers.remove(&worker);
            let holder = registry.holders.remove(&worker);
            let has_call = holder.as_ref().is_some_and(|waiter| waiter.has_call.load(Ordering::Relaxed));
            registry.state.record_exit(worker, has_call, now, self.jitter());
            (handle, holder, registry.channels.remove(&worker))
        });
        handle.iter().for_each(|handle| handle.borrowed.clear());
        let wake = holder.and_then(|waiter| waiter.notify(|notice| notice.exit_report = Some(exit_report)));
        wake.into_iter().for_each(Waker::wake);
    }

    /// Sets the reason for which there is no fork server; `None` once there is one.
    pub(crate) fn set_outage(&self, outage: Option<String>) {
        self.registry.lock().outage = outage;
    }

    /// Keeps a failure that concerns no waiting checkout, as the source of the next timeout.
    pub(crate) fn set_last_failure(&self, failure: Failure) {
        self.registry.lock().setup_failure = Some(failure);
    }

    /// Returns an unpredictable number between 0 and 1 for the jitter of a wait. The random hash keys of the standard
    /// library are random enough for that.
    pub(crate) fn jitter(&self) -> f64 {
        RandomState::new().hash_one(self.last_checkout.load(Ordering::Relaxed)) as f64 / u64::MAX as f64
    }

    /// Returns the hash by which the quarantine recognizes a call.
    ///
    /// Its keys are random: a caller cannot construct a call that collides with another caller's.
    pub(crate) fn call_hash(&self, method: u32, message: &Encoded) -> u64 {
        self.call_hasher.hash_one((method, message))
    }

    /// Counts a worker that was lost to this call, identified by its hash.
    pub(crate) fn record_kill(&self, call: u64) {
        if let Some(quarantine) = &self.quarantine {
            quarantine.lock().record_kill(call, Instant::now());
        }
    }

    /// Returns the failure for a call that is in quarantine, or `None` if the call may run.
    pub(crate) fn check_quarantine(&self, call: u64) -> Option<Failure> {
        let wait = self.quarantine.as_ref()?.lock().refused_for(call, Instant::now())?;
        let (kills, window) = (self.options.max_kills?, self.options.kill_window);
        let text = format!("it killed {kills} workers within {window:?}");
        Some(Failure::of(FailureKind::Quarantined, text).in_pool(&self.options.name).retry_in(wait))
    }

    /// Retires workers whose time limits have passed, and repeats fork attempts that are due.
    pub(crate) fn tick(self: &Arc<Self>) {
        self.update(|registry, now| {
            registry.tick_at = registry.tick_at.filter(|at| *at > now);
            registry.state.tick(now);
        });
    }

    /// Closes the pool after its last handle was dropped: waiting and held checkouts are still served, new ones are
    /// refused.
    pub(crate) fn close(self: &Arc<Self>) {
        self.update(|registry, now| registry.state.close(now));
    }

    /// Stops the pool: refuses waiting checkouts, and lets held ones finish the calls queued on them.
    pub(crate) fn stop(self: &Arc<Self>) {
        let wake = self.update(|registry, now| {
            registry.state.stop(now);
            let holders = registry.holders.values();
            holders.filter_map(|waiter| waiter.notify(|notice| notice.closing = true)).collect::<Vec<_>>()
        });
        wake.into_iter().for_each(Waker::wake);
    }

    /// Takes the workers from all checkouts that still hold one.
    pub(crate) fn stop_now(self: &Arc<Self>) {
        self.notify_holders(|notice| notice.stopped = true);
    }

    fn notify_holders(self: &Arc<Self>, write: fn(&mut waiter::Notice)) {
        let registry = self.registry.lock();
        let wake: Vec<Waker> = registry.holders.values().filter_map(|waiter| waiter.notify(write)).collect();
        drop(registry);
        wake.into_iter().for_each(Waker::wake);
    }

    pub(crate) fn is_drained(&self) -> bool {
        self.registry.lock().state.is_drained()
    }

    pub(crate) fn is_open(&self) -> bool {
        self.registry.lock().state.phase() == PoolPhase::Open
    }

    /// Marks a worker whose exit will never be reported: its server is gone, and it is on another machine.
    ///
    /// It counts as exited as soon as it is dismissed. Returns `false` if that has already happened.
    pub(crate) fn mark_exit_unreported(&self, worker: u64) -> bool {
        let registry = self.registry.lock();
        let Some(handle) = registry.workers.get(&worker) else { return false };
        handle.exit_unreported.store(true, Ordering::Relaxed);
        registry.holders.contains_key(&worker) || registry.channels.contains_key(&worker)
    }

    /// Returns the handle of a worker, or `None` once its exit was reported.
    pub(crate) fn worker_handle(&self, worker: u64) -> Option<WorkerHandle> {
        self.registry.lock().workers.get(&worker).cloned()
    }

    /// Returns the handles of all workers whose exit was not reported.
    pub(crate) fn living_workers(&self) -> Vec<WorkerHandle> {
        self.registry.lock().workers.values().cloned().collect()
    }

    pub(crate) fn stats(&self) -> Stats {
        let registry = self.registry.lock();
        let counts = registry.state.counts();
        let mut workers: Vec<&WorkerHandle> = registry.workers.values().collect();
        workers.sort_unstable_by_key(|worker| worker.number);
        Stats {
            pids: workers.iter().map(|worker| worker.pid).collect(),
            starting: counts.starting,
            idle: counts.idle,
            leased: counts.leased,
            ending: counts.ending,
            waiting: registry.state.waiting_count(),
            blob_bytes: self.blobs.as_ref().map_or(0, BlobMemory::in_use),
            ..self.totals.snapshot()
        }
    }

    pub(crate) fn stopped_failure(&self) -> Failure {
        Failure::of(FailureKind::Stopped, "").in_pool(&self.options.name)
    }

    fn overloaded_failure(&self, waiting: usize) -> Failure {
        let workers = u32::try_from(*self.options.workers.end()).unwrap_or(u32::MAX);
        let ahead = u32::try_from(waiting).unwrap_or(u32::MAX);
        let estimate = self.totals.usual_hold().saturating_mul(ahead) / workers.max(1);
        Failure::of(FailureKind::Overloaded, format!("{waiting} checkouts are waiting already"))
            .in_pool(&self.options.name)
            .retry_in(estimate.max(Duration::from_millis(1)))
    }

    /// Changes the registry and sends the supervisor what follows from the change, both under the lock; wakes tasks
    /// after it has released the lock.
    ///
    /// A waiter may own a lease, and dropping a lease calls this method again. `change` must therefore return whatever
    /// it removes from the registry, so that the caller drops it without the lock.
    fn update<T>(self: &Arc<Self>, change: impl FnOnce(&mut Registry, Instant) -> T) -> T {
        let mut effects = Effects::default();
        let mut registry = self.registry.lock();
        let result = change(&mut registry, Instant::now());
        while let Some(action) = registry.state.next_action() {
            self.carry_out(&mut registry, action, &mut effects);
        }
        let next = registry.state.next_tick();
        if next.is_some_and(|next| registry.tick_at.is_none_or(|at| next < at)) {
            registry.tick_at = next;
            effects.tick_at = next;
        }
        effects.drained = registry.state.is_drained();
        effects.has_lost_worker = std::mem::take(&mut registry.has_lost_worker);
        let wake = self.send_to_supervisor(effects);
        drop(registry);
        wake.into_iter().for_each(Waker::wake);
        result
    }

    fn carry_out(self: &Arc<Self>, registry: &mut Registry, action: Action, effects: &mut Effects) {
        match action {
            Action::Fork(worker) => effects.spawn.push(worker),
            Action::Retire(worker, reason) => {
                let channel = registry.channels.remove(&worker);
                effects.retire.push(RetiringWorker { worker, reason, channel });
            }
            Action::Grant { to, worker } => {
                if let Some(waiter) = registry.waiters.remove(&to) {
                    effects.wake.extend(self.grant(registry, &waiter, worker));
                }
            }
            Action::Refuse(checkout) => {
                let refusal = self.stopped_failure();
                if let Some(waiter) = registry.waiters.remove(&checkout) {
                    effects.wake.extend(waiter.notify(|notice| notice.refusal = Some(refusal)));
                }
            }
        }
    }

    fn grant(self: &Arc<Self>, registry: &mut Registry, waiter: &Arc<Waiter>, worker: u64) -> Option<Waker> {
        let channel = registry.channels.remove(&worker)?;
        let handle = registry.workers.get(&worker)?.clone();
        self.totals.count_checkout();
        registry.holders.insert(worker, waiter.clone());
        let lease = Lease::new(self.clone(), handle, channel);
        waiter.notify(|notice| notice.lease = Some(lease))
    }

    /// Sends the effects of a change to the supervisor, and returns the wakers.
    ///
    /// The caller holds the lock. Otherwise one thread could send a request to retire a worker before another thread
    /// has sent the request to fork it.
    fn send_to_supervisor(&self, effects: Effects) -> Vec<Waker> {
        let Effects { wake, spawn, retire, tick_at, drained, has_lost_worker } = effects;
        let Some(supervisor) = self.supervisor() else {
            return wake;
        };
        if !spawn.is_empty() {
            supervisor.do_send(Spawn { numbers: spawn, at_once: !has_lost_worker });
        }
        if !retire.is_empty() {
            supervisor.do_send(Retire(retire));
        }
        if tick_at.is_some() || drained {
            supervisor.do_send(ScheduleTick { at: tick_at });
        }
        wake
    }
}
