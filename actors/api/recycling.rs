//! Which workers a pool is to replace, and the future that resolves once they are.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use crate::failure::Failure;

/// Which workers [`PoolHandle::recycle`](crate::PoolHandle::recycle) replaces.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Recycle {
    /// All that the pool has now, those included that are being set up.
    All,
    /// The worker with this number. Failures, events and titles of processes show it.
    Worker(u64),
    /// Those that have been ready for at least this long, as [`max_lifetime`](crate::PoolBuilder::max_lifetime) counts.
    /// The age of a worker that is being set up counts from the request for it.
    OlderThan(Duration),
}

/// The replacement of workers, which [`PoolHandle::recycle`](crate::PoolHandle::recycle) has begun.
///
/// It goes on whether or not this future is awaited. The future resolves once the processes of all these workers have
/// ended and the fewest workers are set up; at once if there is nothing to replace.
///
/// # Errors
///
/// The failure of the first attempt to start a worker that fails while this waits, of the kinds that
/// [`PoolHandle::ready`](crate::PoolHandle::ready) returns. The old workers serve on then, and the pool keeps trying.
/// [`Stopped`](crate::FailureKind::Stopped) if the pool has stopped or is stopping.
///
/// # Cancellation
///
/// Dropping the future changes nothing.
pub struct Recycling {
    pub(super) workers: usize,
    pub(super) replaced: Pin<Box<dyn Future<Output = Result<(), Failure>> + Send>>,
}

impl Recycling {
    /// Returns how many workers are replaced.
    pub fn workers(&self) -> usize {
        self.workers
    }
}

impl std::fmt::Debug for Recycling {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Recycling").field("workers", &self.workers).finish_non_exhaustive()
    }
}

impl Future for Recycling {
    type Output = Result<(), Failure>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.replaced.as_mut().poll(cx)
    }
}
