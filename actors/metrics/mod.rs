//! What monitoring reads of any number of pools, when it reads it. A call pays nothing for it.

#[cfg(feature = "metrics")]
mod facade;
mod families;
mod histogram;
#[cfg(feature = "prometheus")]
mod prometheus;
#[cfg(test)]
mod tests;

use std::fmt;
use std::sync::{Arc, Weak};

use parking_lot::Mutex;

use super::api::pool_handle::PoolHandle;
use super::api::snapshot::Snapshot;
use super::scheduler::Scheduler;
use super::worker_api::worker::Worker;

/// The metrics of any number of pools, for Prometheus (feature `prometheus`) or the `metrics` facade (feature
/// `metrics`).
///
/// It is a cheap handle: clones share their pools. It keeps no pool running, and a pool that has ended falls out. It
/// reads a pool when it is scraped or published, and nothing is recorded for it in between. `docs/OBSERVABILITY.md` lists
/// the names.
///
/// Each series has the label `pool` with the pool's name. Of pools with the same name, the first that was added has no
/// further label, and the others have the label `namesake` with `2`, `3` and so on. The number of a pool that has ended
/// is given to the next pool of that name.
#[derive(Clone, Default)]
pub struct Metrics {
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    pools: Mutex<Pools>,
    #[cfg(feature = "metrics")]
    published: Mutex<facade::Published>,
}

#[derive(Default)]
struct Pools {
    entries: Vec<Entry>,
    last_id: u64,
}

/// The pools that have not ended, with id and number, and references to those that have: to be dropped without the lock.
type Sorted = (Vec<(u64, u32, Arc<Scheduler>)>, Vec<Arc<Scheduler>>);

struct Entry {
    id: u64,
    name: String,
    namesake: u32,
    scheduler: Weak<Scheduler>,
}

/// What was read of one pool.
#[derive(Debug)]
struct Reading {
    /// Another one for each pool that was ever added.
    id: u64,
    /// 1 for the first pool of its name.
    namesake: u32,
    snapshot: Snapshot,
}

impl Metrics {
    /// Returns metrics without a pool.
    pub fn new() -> Self {
        Metrics::default()
    }

    /// Adds a pool, for all clones. A pool that was added before is not added again.
    #[expect(clippy::should_implement_trait, reason = "a pool is no operand")]
    pub fn add<W: Worker>(self, pool: &PoolHandle<W>) -> Self {
        let (name, scheduler) = (pool.name(), Arc::downgrade(pool.scheduler()));
        // A pool whose last reference this is ends its drop without the lock.
        let _ended = self.shared.pools.lock().add(name, scheduler);
        self
    }

    /// Reads the pools that have not ended.
    fn read(&self) -> Vec<Reading> {
        let (living, _ended) = self.shared.pools.lock().living();
        let readings = living.into_iter().map(|(id, namesake, scheduler)| {
            let snapshot = scheduler.snapshot();
            Reading { id, namesake, snapshot }
        });
        readings.collect()
    }
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let pools = self.shared.pools.lock();
        let names: Vec<&str> = pools.entries.iter().map(|entry| entry.name.as_str()).collect();
        f.debug_struct("Metrics").field("pools", &names).finish_non_exhaustive()
    }
}

impl Pools {
    fn add(&mut self, name: &str, scheduler: Weak<Scheduler>) -> Vec<Arc<Scheduler>> {
        let (_, ended) = self.living();
        if !self.entries.iter().any(|entry| entry.scheduler.ptr_eq(&scheduler)) {
            self.last_id += 1;
            let namesakes = self.entries.iter().filter(|entry| entry.name == name);
            let namesake = first_free(&namesakes.map(|entry| entry.namesake).collect::<Vec<_>>());
            self.entries.push(Entry { id: self.last_id, name: name.to_owned(), namesake, scheduler });
        }
        ended
    }

    /// Forgets the pools that have ended.
    fn living(&mut self) -> Sorted {
        let (mut living, mut ended) = (Vec::new(), Vec::new());
        self.entries.retain(|entry| match entry.scheduler.upgrade() {
            Some(scheduler) if scheduler.is_drained() => {
                ended.push(scheduler);
                false
            }
            Some(scheduler) => {
                living.push((entry.id, entry.namesake, scheduler));
                true
            }
            None => false,
        });
        (living, ended)
    }
}

/// Returns the smallest number from 1 on that is not taken.
fn first_free(taken: &[u32]) -> u32 {
    (1..).find(|number| !taken.contains(number)).unwrap_or(u32::MAX)
}
