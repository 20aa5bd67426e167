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
    books: Mutex<Registry>,
}

impl Scheduler {
    pub(crate) fn new(options: Options, blobs: Option<BlobMemory>) -> Arc<Self> {
        let books = Registry {
            ledger: PoolState::new(&options),
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
            books: Mutex::new(books),
        })
    }

    /// Names the supervisor and asks for the first workers.
    pub(crate) fn open(self: &Arc<Self>, supervisor: Addr<Supervisor>) {
        // A desk is opened once, by whoever made it.
        let _ = self.supervisor.set(supervisor);
        self.update(|books, now| books.ledger.open(now));
    }

    pub(crate) fn supervisor(&self) -> Option<&Addr<Supervisor>> {
        self.supervisor.get()
    }

    /// A place in line, or a worker at once.
    pub(crate) fn ask(self: &Arc<Self>) -> Arc<Waiter> {
        self.claim(PoolState::ask)
    }

    /// The same ahead of all others, for a checkout whose worker ended before it had done anything.
    pub(crate) fn ask_again(self: &Arc<Self>) -> Arc<Waiter> {
        self.claim(PoolState::ask_again)
    }

    fn claim(self: &Arc<Self>, ask: fn(&mut PoolState, u64, Instant) -> Admission) -> Arc<Waiter> {
        let claim = Waiter::new(self.last_checkout.fetch_add(1, Ordering::Relaxed));
        self.update(|books, now| {
            // Nobody has seen this claim yet, so there is nobody to wake.
            let _nobody = match ask(&mut books.ledger, claim.id, now) {
                Admission::Granted { worker } => self.grant(books, &claim, worker),
                Admission::Waits => {
                    books.waiting.insert(claim.id, claim.clone());
                    None
                }
                Admission::Overloaded { waiting } => {
                    claim.tell(|news| news.refusal = Some(self.overloaded(waiting)))
                }
                Admission::Stopped => claim.tell(|news| news.refusal = Some(self.stopped())),
            };
        });
        claim
    }

    /// A checkout leaves the line. What it waited for, for its failure; a worker granted meanwhile goes back.
    pub(crate) fn cancel(self: &Arc<Self>, claim: &Arc<Waiter>) -> WaitOutcome {
        let (waited, _) = self.update(|books, now| {
            let starting = books.ledger.is_starting();
            let waited = WaitOutcome {
                phase: if starting { failure::Phase::Starting } else { failure::Phase::Waiting },
                trouble: books.trouble.clone(),
                outage: books.outage.clone(),
            };
            books.ledger.cancel(claim.id, now);
            (waited, books.waiting.remove(&claim.id))
        });
        if let Some(lease) = claim.take_news().and_then(|news| news.lease) {
            lease.give_back(ReleaseReport::default());
        }
        waited
    }

    /// A worker comes back from its checkout.
    pub(crate) fn take_back(self: &Arc<Self>, worker: u64, channel: HostChannel, facts: ReleaseReport) {
        let _holder = self.update(|books, now| {
            let holder = books.holding.remove(&worker);
            // One whose end was seen while it was on its way back has nobody to take its channel again.
            let orphaned = match books.workers.contains_key(&worker) {
                true => books.channels.insert(worker, channel),
                false => Some(channel),
            };
            books.ledger.released(worker, facts, now);
            (holder, orphaned)
        });
    }

    /// A worker was killed by its holder, or is known to be of no use.
    pub(crate) fn dismiss(self: &Arc<Self>, worker: u64, reason: RetireReason) {
        tracing::debug!(target: "forkpool", pool = %self.options.name, worker, %reason, "worker dismissed");
        let _taken_out = self.update(|books, now| {
            books.has_loss = true;
            books.ledger.dismiss(worker, reason, now);
            (books.holding.remove(&worker), books.channels.remove(&worker))
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
        self.update(|books, now| books.ledger.outdate(workers.iter().copied(), succeeded, now));
    }

    /// Why this worker will be replaced after the checkout that has it, if it will.
    pub(crate) fn reason_to_end(&self, worker: u64) -> Option<RetireReason> {
        self.books.lock().ledger.reason_to_end(worker, ReleaseReport::default(), Instant::now())
    }

    /// A worker comes back from its last checkout.
    pub(crate) fn retire(self: &Arc<Self>, worker: u64, channel: HostChannel, reason: RetireReason) {
        let _holder = self.update(|books, now| {
            books.channels.insert(worker, channel);
            books.ledger.retire(worker, reason, now);
            books.holding.remove(&worker)
        });
    }

    /// A worker was forked.
    pub(crate) fn born(self: &Arc<Self>, identity: WorkerHandle) {
        self.totals.forked();
        self.books.lock().workers.insert(identity.number, identity);
    }

    /// A worker is set up.
    pub(crate) fn ready(self: &Arc<Self>, worker: u64, channel: HostChannel) {
        self.update(|books, now| {
            books.trouble = None;
            books.channels.insert(worker, channel);
            books.ledger.ready(worker, now);
        });
    }

    /// A worker could not be set up: the first checkout in line that has a call is told.
    pub(crate) fn not_set_up(self: &Arc<Self>, worker: Option<u64>, failure: Failure) {
        // As an error and not as its text, so that subscribers show its causes.
        let error: &(dyn std::error::Error + 'static) = &failure;
        tracing::warn!(target: "forkpool", pool = %self.options.name, worker, error, "set-up failed");
        self.tell_first_in_line(failure);
        if let Some(worker) = worker {
            self.update(|books, now| books.ledger.not_set_up(worker, now, self.chance()));
        }
    }

    fn tell_first_in_line(self: &Arc<Self>, failure: Failure) {
        let first = self.update(|books, now| {
            let has_call = |id: &u64| {
                let claim = books.waiting.get(id);
                claim.is_some_and(|claim| claim.has_call.load(Ordering::Relaxed))
            };
            let Some(first) = books.ledger.waiting().find(has_call) else {
                books.trouble = Some(failure.clone());
                return None;
            };
            books.ledger.cancel(first, now);
            books.waiting.remove(&first)
        });
        let wake = first.and_then(|claim| claim.tell(|news| news.refusal = Some(failure)));
        wake.into_iter().for_each(Waker::wake);
    }

    /// A worker's process is gone.
    pub(crate) fn ended(self: &Arc<Self>, worker: u64, obituary: ExitReport) {
        let (identity, holder, _) = self.update(|books, now| {
            books.has_loss = true;
            let identity = books.workers.remove(&worker);
            let holder = books.holding.remove(&worker);
            let has_call = holder.as_ref().is_some_and(|claim| claim.has_call.load(Ordering::Relaxed));
            books.ledger.ended(worker, has_call, now, self.chance());
            (identity, holder, books.channels.remove(&worker))
        });
        identity.iter().for_each(|identity| identity.holdings.clear());
        let wake = holder.and_then(|claim| claim.tell(|news| news.obituary = Some(obituary)));
        wake.into_iter().for_each(Waker::wake);
    }

    /// Notes why there is no fork server, or that there is one again.
    pub(crate) fn set_outage(&self, outage: Option<String>) {
        self.books.lock().outage = outage;
    }

    /// Notes trouble that belongs to no worker, to be shown in the next timeout.
    pub(crate) fn set_trouble(&self, trouble: Failure) {
        self.books.lock().trouble = Some(trouble);
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
        self.update(|books, now| {
            books.attends_at = books.attends_at.filter(|at| *at > now);
            books.ledger.tick(now);
        });
    }

    /// The last handle is gone: whoever waits or holds is served, nobody else.
    pub(crate) fn close(self: &Arc<Self>) {
        self.update(|books, now| books.ledger.close(now));
    }

    /// Nobody who waits gets a worker; whoever holds one finishes what is queued.
    pub(crate) fn stop(self: &Arc<Self>) {
        let wake = self.update(|books, now| {
            books.ledger.stop(now);
            let holders = books.holding.values();
            holders.filter_map(|claim| claim.tell(|news| news.closing = true)).collect::<Vec<_>>()
        });
        wake.into_iter().for_each(Waker::wake);
    }

    /// Whoever still holds a worker loses it.
    pub(crate) fn stop_now(self: &Arc<Self>) {
        self.tell_holders(|news| news.stopped = true);
    }

    fn tell_holders(self: &Arc<Self>, write: fn(&mut waiter::Notice)) {
        let books = self.books.lock();
        let wake: Vec<Waker> = books.holding.values().filter_map(|claim| claim.tell(write)).collect();
        drop(books);
        wake.into_iter().for_each(Waker::wake);
    }

    pub(crate) fn is_drained(&self) -> bool {
        self.books.lock().ledger.is_drained()
    }

    pub(crate) fn is_open(&self) -> bool {
        self.books.lock().ledger.phase() == PoolPhase::Open
    }

    /// Nobody will tell of this worker's end any more: it is taken to be gone once it is dismissed. `false` if it was.
    pub(crate) fn leave_unwatched(&self, worker: u64) -> bool {
        let books = self.books.lock();
        let Some(identity) = books.workers.get(&worker) else { return false };
        identity.unwatched.store(true, Ordering::Relaxed);
        books.holding.contains_key(&worker) || books.channels.contains_key(&worker)
    }

    /// Who this worker is, if it is alive as far as was seen.
    pub(crate) fn identity(&self, worker: u64) -> Option<WorkerHandle> {
        self.books.lock().workers.get(&worker).cloned()
    }

    /// Workers that are alive, as far as was seen.
    pub(crate) fn living(&self) -> Vec<WorkerHandle> {
        self.books.lock().workers.values().cloned().collect()
    }

    pub(crate) fn stats(&self) -> Stats {
        let books = self.books.lock();
        let census = books.ledger.census();
        let mut workers: Vec<&WorkerHandle> = books.workers.values().collect();
        workers.sort_unstable_by_key(|worker| worker.number);
        Stats {
            pids: workers.iter().map(|worker| worker.pid).collect(),
            starting: census.starting,
            idle: census.idle,
            leased: census.leased,
            ending: census.ending,
            waiting: books.ledger.waiting_count(),
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
        let mut errands = Effects::default();
        let mut books = self.books.lock();
        let result = change(&mut books, Instant::now());
        while let Some(action) = books.ledger.next_action() {
            self.carry_out(&mut books, action, &mut errands);
        }
        let next = books.ledger.next_tick();
        if next.is_some_and(|next| books.attends_at.is_none_or(|at| next < at)) {
            books.attends_at = next;
            errands.attend = next;
        }
        errands.drained = books.ledger.is_drained();
        errands.has_loss = std::mem::take(&mut books.has_loss);
        let wake = self.tell_supervisor(errands);
        drop(books);
        wake.into_iter().for_each(Waker::wake);
        result
    }

    fn carry_out(self: &Arc<Self>, books: &mut Registry, action: Action, errands: &mut Effects) {
        match action {
            Action::Fork(worker) => errands.hire.push(worker),
            Action::Retire(worker, reason) => {
                let channel = books.channels.remove(&worker);
                errands.retire.push(Leaving { worker, reason, channel });
            }
            Action::Grant { to, worker } => {
                if let Some(claim) = books.waiting.remove(&to) {
                    errands.wake.extend(self.grant(books, &claim, worker));
                }
            }
            Action::Refuse(checkout) => {
                let refusal = self.stopped();
                if let Some(claim) = books.waiting.remove(&checkout) {
                    errands.wake.extend(claim.tell(|news| news.refusal = Some(refusal)));
                }
            }
        }
    }

    fn grant(self: &Arc<Self>, books: &mut Registry, claim: &Arc<Waiter>, worker: u64) -> Option<Waker> {
        let channel = books.channels.remove(&worker)?;
        let identity = books.workers.get(&worker)?.clone();
        self.totals.granted();
        books.holding.insert(worker, claim.clone());
        let lease = Lease::new(self.clone(), identity, channel);
        claim.tell(|news| news.lease = Some(lease))
    }

    /// Under the lock, so that of two threads none tells it to let a worker go that the other has not yet told it to
    /// hire. Returns who is to be woken.
    fn tell_supervisor(&self, errands: Effects) -> Vec<Waker> {
        let Effects { wake, hire, retire, attend, drained, has_loss } = errands;
        let Some(supervisor) = self.supervisor() else {
            return wake;
        };
        if !hire.is_empty() {
            supervisor.do_send(Spawn { numbers: hire, at_once: !has_loss });
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
