//! What the scheduler's lock protects: the pool state, and the handles, channels and waiters that belong to its ids.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::Waker;
use std::time::Duration;

use tokio::sync::oneshot;

use super::bulkheads::Bulkhead;
use super::command::RetiringWorker;
use super::permits::PermitQueue;
use super::state::PoolState;
use super::waiter::Waiter;
use super::worker_handle::WorkerHandle;
use crate::actors::reply;
use crate::actors::transport::HostChannel;
use crate::clock::Instant;
use crate::failure::{self, Failure};

/// The pool state, with the objects that its ids stand for.
pub(super) struct Registry {
    pub(super) state: PoolState,
    /// The bulkheads of the pool state, by number.
    pub(super) bulkheads: Vec<Arc<Bulkhead>>,
    /// What belongs to the workers of the pool state and to those whose exit was not reported, by number.
    pub(super) workers: HashMap<u64, WorkerResources>,
    /// Queued checkouts, by id.
    pub(super) waiters: HashMap<u64, QueuedWaiter>,
    /// Those that wait for the fewest workers to be set up.
    pub(super) awaiting_ready: Vec<ReadyWaiter>,
    /// The last failure of a set-up or fork, until a worker is ready again.
    pub(super) setup_failure: Option<Failure>,
    /// Why there is no fork server, while there is none.
    pub(super) outage: Option<String>,
    /// The earliest tick that the supervisor was asked to schedule and that has not come.
    pub(super) tick_at: Option<Instant>,
    /// Whether a worker was lost since the last change, so that its holder should be notified before a new one is
    /// forked.
    pub(super) has_lost_worker: bool,
    /// Places in the queue that are taken ahead of their calls.
    pub(super) permits: PermitQueue,
}

/// A checkout in the queue.
pub(super) struct QueuedWaiter {
    pub(super) waiter: Arc<Waiter>,
    /// When it joined the queue.
    pub(super) since: Instant,
}

/// One that waits for the fewest workers to be set up.
pub(super) struct ReadyWaiter {
    pub(super) sender: oneshot::Sender<Result<(), Failure>>,
    /// Workers that are to be gone before that.
    pub(super) replaced: Vec<u64>,
}

/// What belongs to one worker, from the request for it to its exit report.
#[derive(Default)]
pub(super) struct WorkerResources {
    /// Its process, once it is forked.
    pub(super) handle: Option<WorkerHandle>,
    /// Its channel, while it is idle. The proxy of the worker has it before, and a lease while it is lent.
    pub(super) channel: Option<HostChannel>,
    /// The checkout that holds it, while it is lent.
    pub(super) holder: Option<Arc<Waiter>>,
    /// When it was lent last.
    pub(super) held_since: Option<Instant>,
}

impl Registry {
    /// Returns the processes of all workers that are forked.
    pub(super) fn handles(&self) -> impl Iterator<Item = &WorkerHandle> {
        self.workers.values().filter_map(|worker| worker.handle.as_ref())
    }

    /// Returns the checkouts that hold a worker.
    pub(super) fn holders(&self) -> impl Iterator<Item = &Arc<Waiter>> {
        self.workers.values().filter_map(|worker| worker.holder.as_ref())
    }

    /// Returns the first waiting checkout that may have a worker and has a call for it.
    pub(super) fn first_with_call(&self) -> Option<Arc<Waiter>> {
        let mut waiters = self.state.waiting().allowed().filter_map(|id| self.waiters.get(&id));
        let first = waiters.find(|queued| queued.waiter.has_call.load(Ordering::Relaxed));
        first.map(|queued| queued.waiter.clone())
    }

    /// Returns how long the workers that are lent have been held so far, on average.
    pub(super) fn usual_hold_so_far(&self, now: Instant) -> Duration {
        let held = self.workers.values().filter(|worker| worker.holder.is_some());
        let since: Vec<Instant> = held.filter_map(|worker| worker.held_since).collect();
        let sum: Duration = since.iter().map(|&since| now.saturating_duration_since(since)).sum();
        sum / u32::try_from(since.len()).unwrap_or(u32::MAX).max(1)
    }

    /// Adds one that waits for the fewest workers, and until the workers `replaced` are gone.
    pub(super) fn await_ready(&mut self, sender: oneshot::Sender<Result<(), Failure>>, replaced: Vec<u64>) {
        // Those that are not awaited any more.
        self.awaiting_ready.retain(|waiter| !waiter.sender.is_closed());
        self.awaiting_ready.push(ReadyWaiter { sender, replaced });
    }

    /// Answers those that wait for the fewest workers.
    pub(super) fn resolve_ready(&mut self, result: impl Fn() -> Result<(), Failure>) {
        for waiter in self.awaiting_ready.drain(..) {
            // It may have stopped waiting.
            let _ = reply::send(waiter.sender, result());
        }
    }

    /// Answers those for whom all is there and gone that they wait for.
    pub(super) fn resolve_if_ready(&mut self) {
        if self.awaiting_ready.is_empty() || !self.state.has_minimum() {
            return;
        }
        let state = &self.state;
        let is_over = |waiter: &mut ReadyWaiter| !waiter.replaced.iter().any(|&worker| state.has(worker));
        for waiter in self.awaiting_ready.extract_if(.., is_over) {
            let _ = reply::send(waiter.sender, Ok(()));
        }
    }

    /// Takes the holder and the channel from a worker that no checkout will get any more.
    ///
    /// The caller drops them without the lock: a holder may own a lease.
    #[must_use = "they are dropped without the lock"]
    pub(super) fn detach(&mut self, worker: u64) -> Option<(Option<Arc<Waiter>>, Option<HostChannel>)> {
        let worker = self.workers.get_mut(&worker)?;
        Some((worker.holder.take(), worker.channel.take()))
    }
}

/// What is to be done after a change of the registry.
#[derive(Default)]
pub(super) struct Effects {
    pub(super) wake: Vec<Waker>,
    pub(super) spawn: Vec<u64>,
    pub(super) retire: Vec<RetiringWorker>,
    /// When the supervisor is to call [`tick`](super::Scheduler::tick).
    pub(super) tick_at: Option<Instant>,
    pub(super) drained: bool,
    pub(super) has_lost_worker: bool,
}

/// What a checkout was waiting for when it left the queue.
#[derive(Clone)]
pub(crate) struct WaitOutcome {
    pub(crate) phase: failure::Phase,
    /// Says that the workers of its bulkhead were in use, if they were.
    pub(crate) full_bulkhead: Option<String>,
    /// The last failure of a set-up or fork, if no worker has become ready since.
    pub(crate) setup_failure: Option<Failure>,
    /// Why there is no fork server, if there is none.
    pub(crate) outage: Option<String>,
    /// Who holds the workers, if it waited in vain; empty if none is held.
    pub(crate) held: String,
    /// Whether the pool is paused.
    pub(crate) is_paused: bool,
}
