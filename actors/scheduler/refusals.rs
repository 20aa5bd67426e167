//! The failures of calls that get no worker.

use std::time::Duration;

use super::Scheduler;
use crate::failure::{Failure, FailureKind};

impl Scheduler {
    pub(crate) fn stopped_failure(&self) -> Failure {
        let why = self.end.get().map_or("", String::as_str);
        Failure::of(FailureKind::Stopped, why).in_pool(&self.options.name)
    }

    /// Returns the failure for a request that found no fork server.
    pub(crate) fn no_server_failure(&self) -> Failure {
        let outage = self.registry.lock().outage.clone();
        let failure = Failure::of(FailureKind::NoServer, "").in_pool(&self.options.name);
        failure.with_chain(outage.as_slice())
    }

    /// Returns the failure for a request that the fork server did not answer because the pool or the server has ended.
    pub(crate) fn stopped_or_no_server(&self) -> Failure {
        if self.is_open() { self.no_server_failure() } else { self.stopped_failure() }
    }

    /// `so_far` is how long the workers that are lent now have been held.
    pub(super) fn overloaded_failure(&self, waiting: usize, so_far: Duration) -> Failure {
        let workers = u32::try_from(*self.options.workers.end()).unwrap_or(u32::MAX);
        let ahead = u32::try_from(waiting).unwrap_or(u32::MAX);
        let estimate = self.tallies.usual_hold().max(so_far).saturating_mul(ahead) / workers.max(1);
        let pause = if self.is_paused() { " because the pool is paused" } else { "" };
        Failure::of(FailureKind::Overloaded, format!("{waiting} checkouts are waiting already{pause}"))
            .in_pool(&self.options.name)
            .retry_in(estimate.max(Duration::from_millis(1)))
    }
}
