//! What the scheduler keeps beside its pure state: handles, channels and waiters, by their numbers.

use std::collections::HashMap;
use std::sync::Arc;
use std::task::Waker;
use std::time::Instant;

use super::state::PoolState;
use super::waiter::Waiter;
use super::worker_handle::WorkerHandle;
use crate::actors::supervisor::Leaving;
use crate::actors::transport::HostChannel;
use crate::failure::{self, Failure};

pub(super) struct Registry {
    pub(super) state: PoolState,
    /// Living workers, by number.
    pub(super) workers: HashMap<u64, WorkerHandle>,
    /// Channels of idle workers.
    pub(super) channels: HashMap<u64, HostChannel>,
    /// Checkouts in line, by their id.
    pub(super) waiting: HashMap<u64, Arc<Waiter>>,
    /// Checkouts that hold a worker, by its number.
    pub(super) holding: HashMap<u64, Arc<Waiter>>,
    /// The last failed set-up, until a worker is ready again.
    pub(super) trouble: Option<Failure>,
    /// Why there is no fork server, while there is none.
    pub(super) outage: Option<String>,
    /// When the supervisor was last asked to attend.
    pub(super) attends_at: Option<Instant>,
    /// Whether a worker was lost, so that somebody is still to hear of that.
    pub(super) has_loss: bool,
}

/// What follows from a change of the books.
#[derive(Default)]
pub(super) struct Effects {
    pub(super) wake: Vec<Waker>,
    pub(super) spawn: Vec<u64>,
    pub(super) retire: Vec<Leaving>,
    pub(super) attend: Option<Instant>,
    pub(super) drained: bool,
    pub(super) has_loss: bool,
}

/// What a call that ran out of time was waiting for.
pub(crate) struct WaitOutcome {
    pub(crate) phase: failure::Phase,
    pub(crate) trouble: Option<Failure>,
    pub(crate) outage: Option<String>,
}
