//! The scheduler: the pool state behind a lock, with the channels of idle workers beside it.
//!
//! Every thread may call it. It lends an idle worker directly; only work that needs the fork server goes to the
//! supervisor. It sends messages to the supervisor while it holds the lock, so that they arrive in the order of the
//! changes. It collects wakers while it holds the lock and calls them after it has released the lock.

mod actions;
pub(crate) mod activity;
pub(crate) mod bulkheads;
pub(crate) mod command;
pub(crate) mod ending;
pub(crate) mod exit;
pub(crate) mod expiry;
pub(crate) mod holding;
pub(crate) mod interventions;
pub(crate) mod lanes;
pub(crate) mod lease;
mod line;
#[cfg_attr(not(feature = "tower"), allow(dead_code, reason = "only services take permits"))]
pub(crate) mod permits;
pub(crate) mod quarantine;
pub(crate) mod queue;
#[cfg(feature = "actix-web")]
mod recent;
mod refusals;
pub(crate) mod registry;
mod reports;
pub(crate) mod rollover;
mod snapshot;
pub(crate) mod state;
#[cfg(test)]
mod table_tests;
pub(crate) mod tallies;
#[cfg(test)]
mod tests;
pub(crate) mod waiter;
pub(crate) mod waiting;
pub(crate) mod worker_handle;
pub(crate) mod worker_state;

use std::collections::HashMap;
use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::Waker;

use actix::{Arbiter, ArbiterHandle, Recipient};
use parking_lot::Mutex;
use tokio::sync::oneshot;

use crate::actors::telemetry::teller::Teller;
use crate::actors::threads::CallArbiter;
use crate::actors::transport::blobs::{BlobMemory, Encoded};
use crate::clock::Instant;
use crate::config::Options;
use crate::failure::{Failure, FailureKind};
use crate::user_code::wake_each;
use crate::wire::frame::{self, Limits};
use bulkheads::Bulkhead;
use command::{Command, RetiringWorker};
use ending::EndWatchers;
use holding::Tenant;
use lanes::LaneBoard;
use lease::Lease;
use permits::PermitQueue;
use quarantine::Quarantine;
pub(crate) use registry::WaitOutcome;
use registry::{Effects, QueuedWaiter, Registry, WorkerResources};
use state::{Action, Admission, PoolPhase, PoolState, ReleaseReport};
use tallies::Tallies;
use waiter::Waiter;
use waiting::{BulkheadId, Request};

/// The number of the first checkout. Those that are put ahead of others count down from here.
const FIRST_CHECKOUT: u64 = 1 << 62;

/// The shared state of a pool: sessions acquire workers here, and the supervisor reports workers here.
pub(crate) struct Scheduler {
    pub(crate) options: Options,
    /// When the pool was started.
    pub(crate) started: Instant,
    /// `None` if blobs are copied into their messages.
    pub(crate) blobs: Option<BlobMemory>,
    pub(crate) tallies: Tallies,
    /// `None` if `max_kills` is not set.
    pub(crate) quarantine: Option<Mutex<Quarantine>>,
    /// Random keys for the hashes by which the quarantine recognizes calls.
    call_hasher: RandomState,
    supervisor: OnceLock<Recipient<Command>>,
    /// The pid of the pool's own fork server while it is up, or 0.
    server_pid: AtomicU32,
    /// Why nothing carries out commands any more, once that is so without a stop.
    end: OnceLock<String>,
    end_watchers: EndWatchers,
    /// Where calls run that are made on a thread without an arbiter.
    call_arbiter: CallArbiter,
    /// Tells the application's subscriber what happens to this pool.
    pub(crate) teller: Teller,
    last_checkout: AtomicU64,
    /// The number of the last one that was put ahead of others: lower than all before.
    last_ahead: AtomicU64,
    /// The bulkheads of messages, by the message's index in the interface; those beyond the end have none.
    message_bulkheads: Vec<Option<Arc<Bulkhead>>>,
    lanes: LaneBoard,
    #[cfg(feature = "actix-web")]
    recent: recent::Recent,
    registry: Mutex<Registry>,
}

impl Scheduler {
    /// `messages`: their names, in the order of the interface.
    pub(crate) fn new(
        options: Options,
        messages: Vec<&'static str>,
        blobs: Option<BlobMemory>,
        call_arbiter: CallArbiter,
        teller: Teller,
    ) -> Arc<Self> {
        let bulkheads = bulkheads::of_messages(&options);
        let message_bulkheads = bulkheads::by_message(&options, &bulkheads);
        let registry = Registry {
            state: PoolState::new(&options),
            bulkheads,
            workers: HashMap::new(),
            waiters: HashMap::new(),
            awaiting_ready: Vec::new(),
            setup_failure: None,
            outage: None,
            tick_at: None,
            has_lost_worker: false,
            permits: PermitQueue::default(),
        };
        let quarantine =
            options.max_kills.map(|kills| Mutex::new(Quarantine::new(kills, options.kill_window)));
        Arc::new(Scheduler {
            options,
            started: Instant::now(),
            blobs,
            quarantine,
            call_hasher: RandomState::new(),
            tallies: Tallies::new(messages),
            supervisor: OnceLock::new(),
            server_pid: AtomicU32::new(0),
            end: OnceLock::new(),
            end_watchers: EndWatchers::default(),
            call_arbiter,
            teller,
            last_checkout: AtomicU64::new(FIRST_CHECKOUT),
            last_ahead: AtomicU64::new(FIRST_CHECKOUT),
            message_bulkheads,
            lanes: LaneBoard::default(),
            #[cfg(feature = "actix-web")]
            recent: recent::Recent::default(),
            registry: Mutex::new(registry),
        })
    }

    /// Sets who carries out the commands, and requests the first workers.
    pub(crate) fn open(self: &Arc<Self>, supervisor: Recipient<Command>) {
        // Only the code that built this scheduler calls this, and only once.
        let _ = self.supervisor.set(supervisor);
        self.command(Command::Open);
        self.update(|registry, now| registry.state.open(now));
    }

    /// Sends the supervisor a command. A command to a supervisor that is gone is dropped.
    pub(crate) fn command(&self, command: Command) {
        if let Some(supervisor) = self.supervisor.get() {
            supervisor.do_send(command);
        }
    }

    /// Returns the arbiter for a call from this thread: the thread's own, or else the one for such calls.
    pub(crate) fn arbiter_here(&self) -> ArbiterHandle {
        let own = Arbiter::try_current().filter(ArbiterHandle::alive);
        own.unwrap_or_else(|| self.call_arbiter.get())
    }

    /// Returns the arbiter for what the library has to do by itself: one that no code of the application holds up, unless
    /// the pool was started in an arbiter of the application.
    pub(crate) fn own_arbiter(&self) -> &ArbiterHandle {
        self.call_arbiter.supervision()
    }

    /// Returns whether the supervisor runs on an arbiter of the application, which may stand still.
    pub(crate) fn is_supervised_by_application(&self) -> bool {
        matches!(self.call_arbiter, CallArbiter::Given(_))
    }

    /// Resolves once the fewest workers are set up, or with the failure of the next attempt to start one. A standalone
    /// server that is not reached is tried at once, as for a call that waits.
    pub(crate) fn ready(self: &Arc<Self>) -> oneshot::Receiver<Result<(), Failure>> {
        let (sender, ready) = oneshot::channel();
        self.update(|registry, _| {
            registry.await_ready(sender, Vec::new());
            if registry.outage.is_some() {
                self.command(Command::Reconnect);
            }
        });
        ready
    }

    /// Lends an idle worker to a new waiter or puts the waiter at the end of the queue.
    ///
    /// The outcome is a notice in the waiter's mailbox: a lease, a refusal (`Overloaded`, `Stopped`), or nothing yet.
    pub(crate) fn acquire(self: &Arc<Self>, tenant: Tenant, bulkhead: Option<BulkheadId>) -> Arc<Waiter> {
        let request = Request::checkout(self.next_ticket(), bulkhead);
        self.add_waiter(tenant, PoolState::acquire, request)
    }

    /// Does the same at the front of the queue, for a checkout whose worker exited before it had begun a call.
    pub(crate) fn reacquire(self: &Arc<Self>, tenant: Tenant, bulkhead: Option<BulkheadId>) -> Arc<Waiter> {
        let request = Request::checkout(self.next_ahead(), bulkhead);
        self.add_waiter(tenant, PoolState::reacquire, request)
    }

    fn add_waiter(
        self: &Arc<Self>,
        tenant: Tenant,
        acquire: fn(&mut PoolState, Request, Instant) -> Admission,
        request: Request,
    ) -> Arc<Waiter> {
        let waiter = Waiter::new(request.id, tenant);
        self.update(|registry, now| {
            if self.options.max_waiting.is_some() {
                registry.state.waiting_calls = self.waiting_calls(registry);
            }
            // No task knows this waiter yet, so there is no waker.
            let _no_waker = match acquire(&mut registry.state, request, now) {
                Admission::Granted { worker } => self.grant(registry, &waiter, worker, now),
                Admission::Queued => {
                    self.note_joined(request);
                    let queued = QueuedWaiter { waiter: waiter.clone(), since: now };
                    registry.waiters.insert(waiter.id, queued);
                    if registry.outage.is_some() {
                        self.command(Command::Reconnect);
                    }
                    None
                }
                Admission::Overloaded { waiting } => {
                    let refusal = self.overloaded_failure(waiting, registry.usual_hold_so_far(now));
                    waiter.notify(|notice| notice.refusal = Some(refusal))
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
        self.leave_queue(waiter, |_, _| ()).0
    }

    /// Removes a checkout from the queue, and looks at the registry in the same moment.
    fn leave_queue<T>(
        self: &Arc<Self>,
        waiter: &Arc<Waiter>,
        look: fn(&Registry, Instant) -> T,
    ) -> (WaitOutcome, T) {
        let (seen, _) = self.update(|registry, now| {
            let bulkhead = registry.state.waiting().bulkhead_of(waiter.id);
            let seen = (registry.wait_outcome(bulkhead), look(registry, now));
            registry.state.cancel(waiter.id, now);
            (seen, registry.waiters.remove(&waiter.id))
        });
        if let Some(lease) = waiter.take_notice().and_then(|notice| notice.lease) {
            lease.give_back(ReleaseReport::default());
        }
        seen
    }

    /// Returns an unpredictable number between 0 and 1 for the jitter of a wait. The random hash keys of the standard
    /// library are random enough for that.
    pub(crate) fn jitter(&self) -> f64 {
        RandomState::new().hash_one(self.last_checkout.load(Ordering::Relaxed)) as f64 / u64::MAX as f64
    }

    /// Returns the limits of a message that this many bytes of baggage precede.
    pub(crate) fn message_limits(&self, baggage: usize) -> Limits {
        let bytes = frame::payload_limit_beside(baggage, self.options.max_payload);
        Limits { bytes, depth: self.options.max_depth }
    }

    /// Returns the hash by which the quarantine recognizes a call.
    ///
    /// Its keys are random: a caller cannot construct a call that collides with another caller's.
    pub(crate) fn call_hash(&self, method: u32, message: &Encoded) -> u64 {
        self.call_hasher.hash_one((method, message))
    }

    /// Counts a worker that was lost to this call, identified by its hash.
    pub(crate) fn record_kill(&self, call: u64) {
        let quarantine = self.quarantine.as_ref();
        if quarantine.is_some_and(|quarantine| quarantine.lock().record_kill(call, Instant::now())) {
            self.tallies.count_quarantined();
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

    pub(crate) fn is_drained(&self) -> bool {
        self.registry.lock().state.is_drained()
    }

    /// Returns whether no worker will be forked any more.
    pub(crate) fn needs_no_server(&self) -> bool {
        let registry = self.registry.lock();
        registry.state.phase() == PoolPhase::Stopping || registry.state.is_drained()
    }

    /// Returns whether a checkout waits for a worker.
    pub(crate) fn has_waiting_calls(&self) -> bool {
        self.registry.lock().state.waiting_count() > 0
    }

    pub(crate) fn is_open(&self) -> bool {
        self.registry.lock().state.phase() == PoolPhase::Open
    }

    /// Changes the registry and sends the supervisor what follows from the change, both under the lock; wakes tasks
    /// after it has released the lock.
    ///
    /// A waiter may own a lease, and dropping a lease calls this method again. `change` must therefore return whatever
    /// it removes from the registry, so that the caller drops it without the lock.
    fn update<T>(self: &Arc<Self>, change: impl FnOnce(&mut Registry, Instant) -> T) -> T {
        let mut effects = Effects::default();
        let mut registry = self.registry.lock();
        let now = Instant::now();
        let result = change(&mut registry, now);
        while let Some(action) = registry.state.next_action() {
            self.carry_out(&mut registry, action, &mut effects, now);
        }
        let next = registry.state.next_tick();
        if next.is_some_and(|next| registry.tick_at.is_none_or(|at| next < at)) {
            registry.tick_at = next;
            effects.tick_at = next;
        }
        if registry.state.phase() > PoolPhase::Open {
            registry.resolve_ready(|| Err(self.stopped_failure()));
        } else {
            registry.resolve_if_ready();
        }
        self.lanes.show(&registry);
        effects.wake.extend(self.grant_permits(&mut registry));
        effects.drained = registry.state.is_drained();
        effects.has_lost_worker = std::mem::take(&mut registry.has_lost_worker);
        let wake = self.send_commands(effects);
        drop(registry);
        wake_each(wake);
        result
    }

    fn carry_out(
        self: &Arc<Self>,
        registry: &mut Registry,
        action: Action,
        effects: &mut Effects,
        now: Instant,
    ) {
        match action {
            Action::Fork(worker) => {
                registry.workers.insert(worker, WorkerResources::default());
                effects.spawn.push(worker);
            }
            Action::Retire(worker, reason) => {
                let channel = registry.workers.get_mut(&worker).and_then(|worker| worker.channel.take());
                effects.retire.push(RetiringWorker { worker, reason, channel });
            }
            Action::Grant { to, worker } => {
                if let Some(QueuedWaiter { waiter, .. }) = registry.waiters.remove(&to) {
                    effects.wake.extend(self.grant(registry, &waiter, worker, now));
                }
            }
            Action::Refuse(checkout) => {
                let refusal = self.stopped_failure();
                if let Some(QueuedWaiter { waiter, .. }) = registry.waiters.remove(&checkout) {
                    effects.wake.extend(waiter.notify(|notice| notice.refusal = Some(refusal)));
                }
            }
        }
    }

    fn grant(
        self: &Arc<Self>,
        registry: &mut Registry,
        waiter: &Arc<Waiter>,
        worker: u64,
        now: Instant,
    ) -> Option<Waker> {
        let resources = registry.workers.get_mut(&worker)?;
        let handle = resources.handle.clone()?;
        let channel = resources.channel.take()?;
        resources.holder = Some(waiter.clone());
        resources.held_since = Some(now);
        // The calls of a lane count one by one, once each has its worker.
        if !waiter.holding.is_of_lane() {
            self.tallies.count_checkout();
        }
        let checkouts_left = registry.state.checkouts_left(worker);
        let lease = Lease::new(self.clone(), handle, channel, checkouts_left);
        waiter.notify(|notice| notice.lease = Some(lease))
    }

    /// Sends the effects of a change to the supervisor, and returns the wakers.
    ///
    /// The caller holds the lock. Otherwise one thread could send a request to retire a worker before another thread
    /// has sent the request to fork it.
    fn send_commands(&self, effects: Effects) -> Vec<Waker> {
        let Effects { wake, spawn, retire, tick_at, drained, has_lost_worker } = effects;
        if !spawn.is_empty() {
            self.command(Command::Spawn { workers: spawn, at_once: !has_lost_worker });
        }
        if !retire.is_empty() {
            self.command(Command::Retire(retire));
        }
        if tick_at.is_some() || drained {
            self.command(Command::Tick { at: tick_at });
        }
        wake
    }
}
