//! One snapshot for all that look at a pool at about the same time.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use super::Scheduler;
use crate::actors::api::snapshot::Snapshot;
use crate::clock::Instant;

/// The last snapshot that was taken for viewers, and when.
#[derive(Default)]
pub(super) struct Recent(Mutex<Option<(Instant, Arc<Snapshot>)>>);

impl Scheduler {
    /// Returns what the pool is doing, or was doing at most so long ago. Viewers on several threads cost one snapshot: those
    /// that come while it is taken wait for it.
    pub(crate) fn recent_snapshot(&self, max_age: Duration) -> Arc<Snapshot> {
        let mut recent = self.recent.0.lock();
        if let Some((taken, snapshot)) = &*recent
            && taken.elapsed() < max_age
        {
            return snapshot.clone();
        }
        let taken = Instant::now();
        let snapshot = Arc::new(self.snapshot());
        *recent = Some((taken, snapshot.clone()));
        snapshot
    }

    /// Has the next viewer see the pool as it is then, since it was acted on.
    pub(crate) fn forget_recent_snapshot(&self) {
        *self.recent.0.lock() = None;
    }
}
