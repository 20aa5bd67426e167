//! What the scheduler's lock protects: the pool state, and the handles, channels and waiters that belong to its ids.

use std::collections::HashMap;
use std::sync::Arc;
use std::task::Waker;
use std::time::Instant;

use super::state::PoolState;
use super::waiter::Waiter;
use super::worker_handle::WorkerHandle;
use crate::actors::supervisor::RetiringWorker;
use crate::actors::transport::HostChannel;
use crate::failure::{self, Failure};

/// The pool state, with the objects that its ids stand for.
pub(super) struct Registry {
    pub(super) state: PoolState,
    /// Workers whose exit was not reported, by number.
    pub(super) workers: HashMap<u64, WorkerHandle>,
    /// The channels of idle workers, by number.
    pub(super) channels: HashMap<u64, HostChannel>,
    /// Queued checkouts, by id.
    pub(super) waiters: HashMap<u64, Arc<Waiter>>,
    /// Checkouts that hold a worker, by the worker's number.
    pub(super) holders: HashMap<u64, Arc<Waiter>>,
    /// The last failure of a set-up or fork, until a worker is ready again.
    pub(super) setup_failure: Option<Failure>,
    /// Why there is no fork server, while there is none.
    pub(super) outage: Option<String>,
    /// The earliest tick that the supervisor was asked to schedule and that has not come.
    pub(super) tick_at: Option<Instant>,
    /// Whether a worker was lost since the last change, so that its holder should be notified before a new one is
    /// forked.
    pub(super) has_lost_worker: bool,
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
pub(crate) struct WaitOutcome {
    pub(crate) phase: failure::Phase,
    /// The last failure of a set-up or fork, if no worker has become ready since.
    pub(crate) setup_failure: Option<Failure>,
    /// Why there is no fork server, if there is none.
    pub(crate) outage: Option<String>,
}
