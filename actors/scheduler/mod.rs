//! The desk: the ledger under its lock, and the channels of idle workers beside it.
//!
//! Any thread may come here. An idle worker is handed out in place; only what needs the fork server goes on to
//! the supervisor. Messages to the supervisor are sent under the lock, so that they arrive in the order of the changes;
//! wakers are collected under the lock and called after it is released.

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
    Attend, Forget, KillLater, KillViaServer, Leaving, Retire, Spawn, Supervisor,
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

/// Where a pool's checkouts, workers and supervisor meet.
pub(crate) struct Scheduler {
    pub(crate) options: Options,
    /// `None` where blobs travel within their messages.
    pub(crate) blobs: Option<BlobMemory>,
    pub(crate) totals: Totals,
    /// `None` where the pool has none.
    pub(crate) quarantine: Option<Mutex<Quarantine>>,
    chances: RandomState,
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
            waiting: HashMap::new(),
            holding: HashMap::new(),
            trouble: None,
            outage: None,
            attends_at: None,
            has_loss: false,
        };
        let quarantine = options.max_kills.map(|most| Mutex::new(Quarantine::new(most, options.kill_window)));
        Arc::new(Scheduler {
            options,
            blobs,
            quarantine,
            chances: RandomState::new(),
            totals: Totals::default(),
            supervisor: OnceLock::new(),
            last_checkout: AtomicU64::new(0),
            registry: Mutex::new(registry),
        })
    }

    /// Names the supervisor and asks for the first workers.
    pub(crate) fn open(self: &Arc<Self>, supervisor: Addr<Supervisor>) {
        // A desk is opened once, by whoever made it.
        let _ = self.supervisor.set(supervisor);
        self.update(|registry, now| registry.state.open(now));
    }

    pub(crate) fn supervisor(&self) -> Option<&Addr<Supervisor>> {
        self.supervisor.get()
    }

    /// A place in line, or a worker at once.
    pub(crate) fn ask(self: &Arc<Self>) -> Arc<Waiter> {
        self.waiter(PoolState::ask)
    }

    /// The same ahead of all others, for a checkout whose worker ended before it had done anything.
    pub(crate) fn ask_again(self: &Arc<Self>) -> Arc<Waiter> {
        self.waiter(PoolState::ask_again)
    }

    fn waiter(self: &Arc<Self>, ask: fn(&mut PoolState, u64, Instant) -> Admission) -> Arc<Waiter> {
        let waiter = Waiter::new(self.last_checkout.fetch_add(1, Ordering::Relaxed));
        self.update(|registry, now| {
            // Nobody has seen this claim yet, so there is nobody to wake.
            let _nobody = match ask(&mut registry.state, waiter.id, now) {
                Admission::Granted { worker } => self.grant(registry, &waiter, worker),
                Admission::Waits => {
                    registry.waiting.insert(waiter.id, waiter.clone());
                    None
                }
                Admission::Overloaded { waiting } => {
                    waiter.tell(|notice| notice.refusal = Some(self.overloaded(waiting)))
                }
                Admission::Stopped => waiter.tell(|notice| notice.refusal = Some(self.stopped())),
            };
        });
        waiter
    }

    /// A checkout leaves the line. What it waited for, for its failure; a worker granted meanwhile goes back.
    pub(crate) fn cancel(self: &Arc<Self>, waiter: &Arc<Waiter>) -> WaitOutcome {
        let (outcome, _) = self.update(|registry, now| {
            let starting = registry.state.is_starting();
            let outcome = WaitOutcome {
                phase: if starting { failure::Phase::Starting } else { failure::Phase::Waiting },
                trouble: registry.trouble.clone(),
                outage: registry.outage.clone(),
            };
            registry.state.cancel(waiter.id, now);
            (outcome, registry.waiting.remove(&waiter.id))
        });
        if let Some(lease) = waiter.take_notice().and_then(|notice| notice.lease) {
            lease.give_back(ReleaseReport::default());
        }
        outcome
    }

    /// A worker comes back from its checkout.
    pub(crate) fn take_back(self: &Arc<Self>, worker: u64, channel: HostChannel, facts: ReleaseReport) {
        let _holder = self.update(|registry, now| {
            let holder = registry.holding.remove(&worker);
            // One whose end was seen while it was on its way back has nobody to take its channel again.
            let orphaned = match registry.workers.contains_key(&worker) {
                true => registry.channels.insert(worker, channel),
                false => Some(channel),
            };
            registry.state.released(worker, facts, now);
            (holder, orphaned)
        });
    }

    /// A worker was killed by its holder, or is known to be of no use.
    pub(crate) fn dismiss(self: &Arc<Self>, worker: u64, reason: RetireReason) {
        tracing::debug!(target: "forkpool", pool = %self.options.name, worker, %reason, "worker dismissed");
        let _taken_out = self.update(|registry, now| {
            registry.has_loss = true;
            registry.state.dismiss(worker, reason, now);
            (registry.holding.remove(&worker), registry.channels.remove(&worker))
        });
        if self.identity(worker).is_some_and(|worker| worker.is_unwatched())
            && let Some(supervisor) = self.supervisor()
        {
            supervisor.do_send(Forget(worker));
        }
    }

    /// Kills a worker: from here, or through its server where this process may not.
    pub(crate) fn kill(&self, worker: &WorkerHandle) {
        if worker.kill().is_err() {
            self.have_ended(worker, true);
        }
    }

    /// Asks a worker to end, and has it killed if it has not after this time.
    pub(crate) fn end_gently(&self, worker: &WorkerHandle, grace: Duration) {
        if worker.terminate().is_err() {
            self.have_ended(worker, false);
        }
        let killing = KillLater { worker: worker.clone(), grace };
        if self.supervisor().is_none_or(|supervisor| supervisor.try_send(killing).is_err()) {
            self.kill(worker);
        }
    }

    fn have_ended(&self, worker: &WorkerHandle, kill: bool) {
        if let Some(supervisor) = self.supervisor() {
            supervisor.do_send(KillViaServer { worker: worker.number, kill });
        }
    }

    /// These workers' server takes no more work; `succeeded`: another does already.
    pub(crate) fn outdate(self: &Arc<Self>, workers: &[u64], succeeded: bool) {
        self.update(|registry, now| registry.state.outdate(workers.iter().copied(), succeeded, now));
    }

    /// Why this worker will be replaced after the checkout that has it, if it will.
    pub(crate) fn reason_to_end(&self, worker: u64) -> Option<RetireReason> {
        self.registry.lock().state.reason_to_end(worker, ReleaseReport::default(), Instant::now())
    }

    /// A worker comes back from its last checkout.
    pub(crate) fn retire(self: &Arc<Self>, worker: u64, channel: HostChannel, reason: RetireReason) {
        let _holder = self.update(|registry, now| {
            registry.channels.insert(worker, channel);
            registry.state.retire(worker, reason, now);
            registry.holding.remove(&worker)
        });
    }

    /// A worker was forked.
    pub(crate) fn born(self: &Arc<Self>, identity: WorkerHandle) {
        self.totals.forked();
        self.registry.lock().workers.insert(identity.number, identity);
    }

    /// A worker is set up.
    pub(crate) fn ready(self: &Arc<Self>, worker: u64, channel: HostChannel) {
        self.update(|registry, now| {
            registry.trouble = None;
            registry.channels.insert(worker, channel);
            registry.state.ready(worker, now);
        });
    }

    /// A worker could not be set up: the first checkout in line that has a call is told.
    pub(crate) fn not_set_up(self: &Arc<Self>, worker: Option<u64>, failure: Failure) {
        // As an error and not as its text, so that subscribers show its causes.
        let error: &(dyn std::error::Error + 'static) = &failure;
        tracing::warn!(target: "forkpool", pool = %self.options.name, worker, error, "set-up failed");
        self.tell_first_in_line(failure);
        if let Some(worker) = worker {
            self.update(|registry, now| registry.state.not_set_up(worker, now, self.chance()));
        }
    }

    fn tell_first_in_line(self: &Arc<Self>, failure: Failure) {
        let first = self.update(|registry, now| {
            let has_call = |id: &u64| {
                let waiter = registry.waiting.get(id);
                waiter.is_some_and(|waiter| waiter.has_call.load(Ordering::Relaxed))
            };
            let Some(first) = registry.state.waiting().find(has_call) else {
                registry.trouble = Some(failure.clone());
                return None;
            };
            registry.state.cancel(first, now);
            registry.waiting.remove(&first)
        });
        let wake = first.and_then(|waiter| waiter.tell(|notice| notice.refusal = Some(failure)));
        wake.into_iter().for_each(Waker::wake);
    }

    /// A worker's process is gone.
    pub(crate) fn ended(self: &Arc<Self>, worker: u64, exit_report: ExitReport) {
        let (identity, holder, _) = self.update(|registry, now| {
            registry.has_loss = true;
            let identity = registry.workers.remove(&worker);
            let holder = registry.holding.remove(&worker);
            let has_call = holder.as_ref().is_some_and(|waiter| waiter.has_call.load(Ordering::Relaxed));
            registry.state.ended(worker, has_call, now, self.chance());
            (identity, holder, registry.channels.remove(&worker))
        });
        identity.iter().for_each(|identity| identity.borrowed.clear());
        let wake = holder.and_then(|waiter| waiter.tell(|notice| notice.exit_report = Some(exit_report)));
        wake.into_iter().for_each(Waker::wake);
    }

    /// Notes why there is no fork server, or that there is one again.
    pub(crate) fn set_outage(&self, outage: Option<String>) {
        self.registry.lock().outage = outage;
    }

    /// Notes trouble that belongs to no worker, to be shown in the next timeout.
    pub(crate) fn set_trouble(&self, trouble: Failure) {
        self.registry.lock().trouble = Some(trouble);
    }

    /// A number between 0 and 1 that nobody can foresee: the standard library's random hash keys are all the
    /// chance that a jitter needs.
    pub(crate) fn chance(&self) -> f64 {
        RandomState::new().hash_one(self.last_checkout.load(Ordering::Relaxed)) as f64 / u64::MAX as f64
    }

    /// What quarantine knows a call by. Nobody can foresee it, so nobody can have another's call refused.
    pub(crate) fn mark(&self, method: u32, message: &Encoded) -> u64 {
        self.chances.hash_one((method, message))
    }

    /// A call has ended a worker.
    pub(crate) fn note_kill(&self, mark: u64) {
        if let Some(quarantine) = &self.quarantine {
            quarantine.lock().killed(mark, Instant::now());
        }
    }

    /// What a call is told that is in quarantine.
    pub(crate) fn quarantined(&self, mark: u64) -> Option<Failure> {
        let wait = self.quarantine.as_ref()?.lock().refuses(mark, Instant::now())?;
        let (kills, window) = (self.options.max_kills?, self.options.kill_window);
        let text = format!("the same call has ended {kills} workers within {window:?}");
        Some(Failure::of(FailureKind::Quarantined, text).in_pool(&self.options.name).retry_in(wait))
    }

    /// Time has passed.
    pub(crate) fn tick(self: &Arc<Self>) {
        self.update(|registry, now| {
            registry.attends_at = registry.attends_at.filter(|at| *at > now);
            registry.state.tick(now);
        });
    }

    /// The last handle is gone: whoever waits or holds is served, nobody else.
    pub(crate) fn close(self: &Arc<Self>) {
        self.update(|registry, now| registry.state.close(now));
    }

    /// Nobody who waits gets a worker; whoever holds one finishes what is queued.
    pub(crate) fn stop(self: &Arc<Self>) {
        let wake = self.update(|registry, now| {
            registry.state.stop(now);
            let holders = registry.holding.values();
            holders.filter_map(|waiter| waiter.tell(|notice| notice.closing = true)).collect::<Vec<_>>()
        });
        wake.into_iter().for_each(Waker::wake);
    }

    /// Whoever still holds a worker loses it.
    pub(crate) fn stop_now(self: &Arc<Self>) {
        self.tell_holders(|notice| notice.stopped = true);
    }

    fn tell_holders(self: &Arc<Self>, write: fn(&mut waiter::Notice)) {
        let registry = self.registry.lock();
        let wake: Vec<Waker> = registry.holding.values().filter_map(|waiter| waiter.tell(write)).collect();
        drop(registry);
        wake.into_iter().for_each(Waker::wake);
    }

    pub(crate) fn is_drained(&self) -> bool {
        self.registry.lock().state.is_drained()
    }

    pub(crate) fn is_open(&self) -> bool {
        self.registry.lock().state.phase() == PoolPhase::Open
    }

    /// Nobody will tell of this worker's end any more: it is taken to be gone once it is dismissed. `false` if it was.
    pub(crate) fn leave_unwatched(&self, worker: u64) -> bool {
        let registry = self.registry.lock();
        let Some(identity) = registry.workers.get(&worker) else { return false };
        identity.unwatched.store(true, Ordering::Relaxed);
        registry.holding.contains_key(&worker) || registry.channels.contains_key(&worker)
    }

    /// Who this worker is, if it is alive as far as was seen.
    pub(crate) fn identity(&self, worker: u64) -> Option<WorkerHandle> {
        self.registry.lock().workers.get(&worker).cloned()
    }

    /// Workers that are alive, as far as was seen.
    pub(crate) fn living(&self) -> Vec<WorkerHandle> {
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

    pub(crate) fn stopped(&self) -> Failure {
        Failure::of(FailureKind::Stopped, "").in_pool(&self.options.name)
    }

    fn overloaded(&self, waiting: usize) -> Failure {
        let most = u32::try_from(*self.options.workers.end()).unwrap_or(u32::MAX);
        let ahead = u32::try_from(waiting).unwrap_or(u32::MAX);
        let estimate = self.totals.usual_hold().saturating_mul(ahead) / most.max(1);
        Failure::of(FailureKind::Overloaded, format!("{waiting} wait already"))
            .in_pool(&self.options.name)
            .retry_in(estimate.max(Duration::from_millis(1)))
    }

    /// Changes the books and sends the supervisor what follows from that, both under the lock; wakes tasks after it.
    ///
    /// A claim may own a lease, and dropping a lease comes back here: what `change` takes out of the books it
    /// returns, to be dropped without the lock.
    fn update<T>(self: &Arc<Self>, change: impl FnOnce(&mut Registry, Instant) -> T) -> T {
        let mut effects = Effects::default();
        let mut registry = self.registry.lock();
        let result = change(&mut registry, Instant::now());
        while let Some(action) = registry.state.next_action() {
            self.carry_out(&mut registry, action, &mut effects);
        }
        let next = registry.state.next_tick();
        if next.is_some_and(|next| registry.attends_at.is_none_or(|at| next < at)) {
            registry.attends_at = next;
            effects.attend = next;
        }
        effects.drained = registry.state.is_drained();
        effects.has_loss = std::mem::take(&mut registry.has_loss);
        let wake = self.tell_supervisor(effects);
        drop(registry);
        wake.into_iter().for_each(Waker::wake);
        result
    }

    fn carry_out(self: &Arc<Self>, registry: &mut Registry, action: Action, effects: &mut Effects) {
        match action {
            Action::Fork(worker) => effects.spawn.push(worker),
            Action::Retire(worker, reason) => {
                let channel = registry.channels.remove(&worker);
                effects.retire.push(Leaving { worker, reason, channel });
            }
            Action::Grant { to, worker } => {
                if let Some(waiter) = registry.waiting.remove(&to) {
                    effects.wake.extend(self.grant(registry, &waiter, worker));
                }
            }
            Action::Refuse(checkout) => {
                let refusal = self.stopped();
                if let Some(waiter) = registry.waiting.remove(&checkout) {
                    effects.wake.extend(waiter.tell(|notice| notice.refusal = Some(refusal)));
                }
            }
        }
    }

    fn grant(self: &Arc<Self>, registry: &mut Registry, waiter: &Arc<Waiter>, worker: u64) -> Option<Waker> {
        let channel = registry.channels.remove(&worker)?;
        let identity = registry.workers.get(&worker)?.clone();
        self.totals.granted();
        registry.holding.insert(worker, waiter.clone());
        let lease = Lease::new(self.clone(), identity, channel);
        waiter.tell(|notice| notice.lease = Some(lease))
    }

    /// Under the lock, so that of two threads none tells it to let a worker go that the other has not yet told it to
    /// hire. Returns who is to be woken.
    fn tell_supervisor(&self, effects: Effects) -> Vec<Waker> {
        let Effects { wake, spawn, retire, attend, drained, has_loss } = effects;
        let Some(supervisor) = self.supervisor() else {
            return wake;
        };
        if !spawn.is_empty() {
            supervisor.do_send(Spawn { numbers: spawn, at_once: !has_loss });
        }
        if !retire.is_empty() {
            supervisor.do_send(Retire(retire));
        }
        if attend.is_some() || drained {
            supervisor.do_send(Attend { at: attend });
        }
        wake
    }
}
