//! How a pool ends: it closes, it stops, or nothing runs it any more; and the watchers that are called when it has ended.

use std::sync::{Arc, Weak};
use std::task::Waker;

use parking_lot::Mutex;

use super::Scheduler;
use super::waiter;
use crate::actors::api::snapshot::EndReason;
use crate::user_code::wake_each;

/// What has something to do when a pool has ended.
pub(crate) trait WatchesEnd: Send + Sync {
    /// The pool has ended: its last process is reaped, or its supervisor is gone.
    fn pool_ended(&self, pool: &Scheduler);
}

/// What watches for the end of one pool; `None` once it has ended.
pub(super) struct EndWatchers(Mutex<Option<Vec<Weak<dyn WatchesEnd>>>>);

impl Default for EndWatchers {
    fn default() -> Self {
        EndWatchers(Mutex::new(Some(Vec::new())))
    }
}

impl Scheduler {
    /// Closes the pool after its last handle was dropped: waiting and held checkouts are still served, new ones are
    /// refused.
    pub(crate) fn close(self: &Arc<Self>) {
        self.update(|registry, now| registry.state.close(now));
        self.wake_lanes();
    }

    /// Stops the pool: refuses waiting checkouts, and lets held ones finish the calls queued on them.
    pub(crate) fn stop(self: &Arc<Self>) {
        let wake = self.update(|registry, now| {
            registry.state.stop(now);
            let holders = registry.holders();
            holders.filter_map(|waiter| waiter.notify(|notice| notice.closing = true)).collect::<Vec<_>>()
        });
        wake_each(wake);
        self.wake_lanes();
    }

    /// Takes the workers from all checkouts that still hold one.
    pub(crate) fn stop_now(self: &Arc<Self>) {
        self.notify_holders(|notice| notice.stopped = true);
    }

    fn notify_holders(self: &Arc<Self>, write: fn(&mut waiter::Notice)) {
        let registry = self.registry.lock();
        let wake: Vec<Waker> = registry.holders().filter_map(|waiter| waiter.notify(write)).collect();
        drop(registry);
        wake_each(wake);
    }

    /// Calls `watcher` when the pool has ended, if it lives then. Returns `false` if the pool has ended already.
    pub(crate) fn watch_end(&self, watcher: Weak<dyn WatchesEnd>) -> bool {
        let mut watchers = self.end_watchers.0.lock();
        let Some(watchers) = &mut *watchers else { return false };
        watchers.retain(|known| known.strong_count() > 0);
        watchers.push(watcher);
        true
    }

    /// Calls all watchers, once. They are not called again.
    pub(crate) fn has_ended(&self) {
        // The lock is released before they are called.
        let watchers = self.end_watchers.0.lock().take();
        let watchers = watchers.into_iter().flatten().filter_map(|watcher| watcher.upgrade());
        watchers.for_each(|watcher| watcher.pool_ended(self));
    }

    /// Ends the pool at once, because its supervisor is gone: nothing would carry out a command any more.
    ///
    /// Waiting calls and those of holders are answered `Stopped` with this reason, and all workers that this process may
    /// signal are killed.
    pub(crate) fn end(self: &Arc<Self>, reason: String) {
        // A pool ends once; the first reason is kept.
        let _ = self.end.set(reason);
        self.stop();
        self.stop_now();
        // A worker that cannot be signalled finds its channel closed and exits.
        for worker in self.living_workers() {
            let _ = worker.kill();
        }
        let workers = std::mem::take(&mut self.registry.lock().workers);
        // Their exits are reported no more.
        let forked = workers.values().filter(|worker| worker.handle.is_some());
        forked.for_each(|_| self.tallies.count_end(EndReason::Pool, None));
    }
}
