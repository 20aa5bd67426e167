//! What the scheduler shows of a pool.

use super::Scheduler;
use super::registry::Registry;
use super::state::{Counts, PoolPhase};
use super::tallies::Counted;
use super::worker_handle::WorkerHandle;
use super::worker_state::WorkerState;
use crate::actors::api::snapshot::{
    Limits, PoolStatus, QueueSnapshot, ServerSnapshot, Snapshot, Stats, WorkerCounts, WorkerSnapshot,
    WorkerStatus,
};
use crate::actors::transport::blobs::BlobMemory;
use crate::clock::Instant;
use crate::config::Options;

/// Most holders of workers that are shown.
const MAX_HOLDERS: usize = 32;

/// A worker as the pool state knows it.
struct Listed {
    handle: WorkerHandle,
    state: WorkerStatus,
    checkouts: u64,
}

impl Scheduler {
    /// Returns what the pool is doing, in few numbers.
    pub(crate) fn stats(&self) -> Stats {
        let counted = self.tallies.stats();
        let registry = self.registry.lock();
        let counts = registry.state.counts();
        let mut workers: Vec<&WorkerHandle> = registry.handles().collect();
        workers.sort_unstable_by_key(|worker| worker.number);
        Stats {
            pids: workers.iter().map(|worker| worker.pid).collect(),
            starting: counts.starting,
            idle: counts.idle,
            leased: counts.leased,
            ending: counts.ending,
            waiting: self.waiting(&registry),
            blob_bytes: self.blob_bytes(),
            ..counted
        }
    }

    /// Returns what the pool is doing, in full. The lock is held for as long as it takes to list the workers.
    pub(crate) fn snapshot(&self) -> Snapshot {
        let Counted { totals, hold, start, calls } = self.tallies.read();
        let now = Instant::now();
        let registry = self.registry.lock();
        let mut listed: Vec<Listed> = registry.listed().collect();
        let counts = registry.state.counts().into();
        let queue = self.queue(&registry, now);
        let outage = registry.outage.clone();
        let status = registry.status();
        drop(registry);
        listed.sort_unstable_by_key(|worker| worker.handle.number);
        let pid = self.own_server_pid();
        let server = ServerSnapshot { pid, outage };
        Snapshot {
            pool: self.options.name.clone(),
            status,
            uptime: now.saturating_duration_since(self.started),
            workers: listed.iter().map(|worker| self.describe(worker, now)).collect(),
            counts,
            limits: Limits::from(&self.options),
            queue,
            paused: self.is_paused(),
            totals,
            calls,
            hold,
            start,
            holders: self.holders().into_iter().take(MAX_HOLDERS).collect(),
            blob_bytes: self.blob_bytes(),
            failures: self.tallies.last_failures(),
            servers: if server == ServerSnapshot::default() { Vec::new() } else { vec![server] },
        }
    }

    fn blob_bytes(&self) -> usize {
        self.blobs.as_ref().map_or(0, BlobMemory::in_use)
    }

    fn waiting(&self, registry: &Registry) -> usize {
        registry.state.waiting().exclusive()
            + self.lanes.waiting_calls().sum()
            + self.lanes.calls_on_their_way()
    }

    fn queue(&self, registry: &Registry, now: Instant) -> QueueSnapshot {
        // A lane may have something else done with a worker than what it asked for one for, unless its calls are still on
        // their way.
        let first = match self.lanes.calls_on_their_way() {
            0 => registry.state.waiting().first_exclusive(),
            _ => registry.state.waiting().iter().next(),
        };
        let queued = first.and_then(|first| registry.waiters.get(&first)).map(|queued| queued.since);
        let since = queued.into_iter().chain(self.lanes.waits_since(self.started)).min();
        QueueSnapshot {
            length: self.waiting(registry),
            oldest: since.map(|since| now.saturating_duration_since(since)),
        }
    }

    /// Reads what the kernel shows of a worker, which the lock must not wait for.
    fn describe(&self, worker: &Listed, now: Instant) -> WorkerSnapshot {
        let Listed { handle, state, checkouts } = worker;
        // One that ends may have left what its holder has shown last.
        let running = handle.activity.running(now).filter(|_| *state == WorkerStatus::Leased);
        WorkerSnapshot {
            number: handle.number,
            pid: handle.pid,
            state: *state,
            age: now.saturating_duration_since(handle.forked_at),
            checkouts: *checkouts,
            calls: handle.activity.calls_served(),
            call: running.and_then(|(method, _)| self.tallies.name(method)),
            running_for: running.map(|(_, running_for)| running_for),
            private_bytes: handle.activity.private_bytes(),
            cpu_time: handle.cpu_time(),
        }
    }
}

impl Registry {
    fn status(&self) -> PoolStatus {
        // A worker that the pool state has forgotten may still have to be reaped.
        let has_ended = self.workers.is_empty();
        match self.state.phase() {
            PoolPhase::Open => PoolStatus::Open,
            PoolPhase::Closing if has_ended && self.state.is_drained() => PoolStatus::Stopped,
            PoolPhase::Closing => PoolStatus::Closing,
            PoolPhase::Stopping if has_ended => PoolStatus::Stopped,
            PoolPhase::Stopping => PoolStatus::Stopping,
        }
    }

    /// Returns the workers that are forked.
    fn listed(&self) -> impl Iterator<Item = Listed> {
        self.handles().map(|handle| {
            let entry = self.state.workers.get(&handle.number);
            Listed {
                handle: handle.clone(),
                // One that the pool state has forgotten is not reaped.
                state: entry.map_or(WorkerStatus::Ending, |entry| entry.worker_state.into()),
                checkouts: entry.map_or(0, |entry| entry.checkouts),
            }
        })
    }
}

impl From<WorkerState> for WorkerStatus {
    fn from(state: WorkerState) -> Self {
        match state {
            WorkerState::Starting => WorkerStatus::Starting,
            WorkerState::Idle { .. } => WorkerStatus::Idle,
            WorkerState::Leased { .. } => WorkerStatus::Leased,
            WorkerState::Ending { .. } => WorkerStatus::Ending,
        }
    }
}

impl From<Counts> for WorkerCounts {
    fn from(Counts { starting, idle, leased, ending }: Counts) -> Self {
        WorkerCounts { starting, idle, leased, ending }
    }
}

impl From<&Options> for Limits {
    fn from(options: &Options) -> Self {
        Limits {
            min_workers: *options.workers.start(),
            max_workers: *options.workers.end(),
            spare_workers: options.spare_workers,
            max_waiting: options.max_waiting,
            max_checkouts: options.max_checkouts,
            max_memory: options.max_memory,
            max_lifetime: options.max_lifetime,
            timeout: options.timeout,
            blob_memory: options.blob_memory,
        }
    }
}
