//! Who holds a worker: where in the source that was asked for, since when, and whether the worker has something to do.

use std::fmt;
use std::panic::Location;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::Mutex;

use super::Scheduler;
use super::registry::{Registry, WaitOutcome};
use super::waiter::Waiter;
use super::waiting::BulkheadId;
use crate::actors::api::snapshot::Holder;
use crate::clock::Instant;

/// Most holders that the text of a failure names.
const MAX_NAMED: usize = 4;

/// For whom a worker is asked for, and held.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Tenant {
    /// A checkout that was made at this place, or a batch that was sent there.
    Checkout(&'static Location<'static>),
    /// Single calls; the one that runs or ran last was sent at this place.
    Lane(Option<&'static Location<'static>>),
}

impl fmt::Display for Tenant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Tenant::Checkout(at) => write!(f, "{}:{}", at.file(), at.line()),
            Tenant::Lane(Some(at)) => write!(f, "calls of pool.send at {}:{}", at.file(), at.line()),
            Tenant::Lane(None) => f.write_str("calls of pool.send"),
        }
    }
}

/// What the holder of a worker shows to other threads.
pub(crate) struct Holding {
    tenant: Mutex<Tenant>,
    is_running: AtomicBool,
}

impl Holding {
    pub(super) fn new(tenant: Tenant) -> Self {
        Holding { tenant: Mutex::new(tenant), is_running: AtomicBool::new(false) }
    }

    /// Shows whether the worker has something to do.
    #[inline]
    pub(crate) fn show_running(&self, is_running: bool) {
        self.is_running.store(is_running, Ordering::Relaxed);
    }

    /// Shows where the call of a lane was sent that runs now. It takes a lock, so a lane shows what has changed only.
    pub(crate) fn show_call(&self, at: &'static Location<'static>) {
        *self.tenant.lock() = Tenant::Lane(Some(at));
        self.show_running(true);
    }

    pub(crate) fn tenant(&self) -> Tenant {
        *self.tenant.lock()
    }

    /// Returns whether a lane holds the worker, or is to hold it.
    pub(super) fn is_of_lane(&self) -> bool {
        matches!(self.tenant(), Tenant::Lane(_))
    }
}

/// A worker that is held, at one moment.
#[derive(Clone, Copy, Debug)]
pub(crate) struct HeldWorker {
    worker: u64,
    tenant: Tenant,
    held_for: Duration,
    is_running: bool,
}

impl From<HeldWorker> for Holder {
    fn from(HeldWorker { worker, tenant, held_for, is_running }: HeldWorker) -> Self {
        Holder { place: tenant.to_string(), held_for, is_running, worker }
    }
}

impl Registry {
    /// Returns the workers that are held, those that are held longest first.
    pub(super) fn held_workers(&self, now: Instant) -> Vec<HeldWorker> {
        let held = self.workers.iter().filter_map(|(&worker, resources)| {
            let holding = &resources.holder.as_ref()?.holding;
            let held_for = now.saturating_duration_since(resources.held_since?);
            let is_running = holding.is_running.load(Ordering::Relaxed);
            Some(HeldWorker { worker, tenant: holding.tenant(), held_for, is_running })
        });
        let mut held: Vec<HeldWorker> = held.collect();
        held.sort_unstable_by_key(|held| (std::cmp::Reverse(held.held_for), held.worker));
        held
    }
}

impl Scheduler {
    /// Returns who holds a worker now, the longest first.
    pub(super) fn holders(&self) -> Vec<Holder> {
        let held = self.registry.lock().held_workers(Instant::now());
        held.into_iter().map(Holder::from).collect()
    }

    /// Removes a checkout whose time has passed from the queue, as [`cancel`](Self::cancel) does, and returns what it was
    /// waiting for, with those who hold the workers at this moment.
    pub(crate) fn cancel_overdue(self: &Arc<Self>, waiter: &Arc<Waiter>) -> WaitOutcome {
        let (outcome, held) = self.leave_queue(waiter, Registry::held_workers);
        let holders: Vec<Holder> = held.into_iter().map(Holder::from).collect();
        WaitOutcome { held: self.held_text(&holders), ..outcome }
    }

    /// Returns what calls at this bulkhead are waiting for now, for the failures of those whose time has passed.
    pub(crate) fn wait_outcome(&self, bulkhead: Option<BulkheadId>) -> WaitOutcome {
        let held = self.held_text(&self.holders());
        WaitOutcome { held, ..self.registry.lock().wait_outcome(bulkhead) }
    }

    /// Returns who holds the workers, for a failure; empty if none is held.
    fn held_text(&self, holders: &[Holder]) -> String {
        if holders.is_empty() {
            return String::new();
        }
        let are = if holders.len() == 1 { "is" } else { "are" };
        let mut named: Vec<String> = holders.iter().take(MAX_NAMED).map(Holder::to_string).collect();
        if let Some(more @ 1..) = holders.len().checked_sub(MAX_NAMED) {
            named.push(format!("and {more} more"));
        }
        let (held, most) = (holders.len(), self.options.workers.end());
        format!("{held} of {most} workers {are} held: {}", named.join("; "))
    }
}
