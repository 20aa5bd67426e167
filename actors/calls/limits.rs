//! How long a call may take, and how often it is tried: what holds in a checkout and in a lane.

use std::time::Duration;

use crate::actors::threads;
use crate::clock::Instant;

/// How long `checkout_done` may take if calls have no time limit (300 s).
pub(crate) const RELEASE_TIMEOUT: Duration = Duration::from_secs(300);

/// Number of workers that may exit before they begin a call. After that the call itself is taken to be the cause.
pub(crate) const MAX_FALSE_STARTS: u32 = 10;

/// Maximum number of calls written ahead of their replies: enough to keep a worker busy while the host does other
/// things, few enough that an error leaves few calls to clear or to take back.
pub(crate) const MAX_WRITTEN_CALLS: usize = 1024;

/// Maximum number of bytes (256 KiB) written ahead of their replies. The first call is written whatever its size.
pub(crate) const MAX_WRITTEN_BYTES: usize = 256 << 10;

/// Maximum number of reads before a deadline fires: many times what a channel holds at once, and a bound for a
/// worker that never stops sending.
pub(crate) const MAX_READS_BEFORE_TIMEOUT: usize = 512;

/// If a timer fires later than this after its deadline, the event loop was busy.
const LATE_TIMER: Duration = Duration::from_millis(20);

/// The start of a call's clock.
#[derive(Clone, Copy)]
pub(crate) struct ClockStart {
    pub(crate) since: Instant,
    /// Whether it was set back because a timer was late.
    is_extended: bool,
}

impl ClockStart {
    pub(crate) fn at(since: Instant) -> Self {
        ClockStart { since, is_extended: false }
    }

    /// Sets the clock back if its timer fired late because the event loop was busy; returns whether it did. The worker is
    /// not to blame for the lost time: it may have been ready while the host did not notice. It is set back once, so that
    /// limits still apply in a loop that is always late.
    pub(crate) fn extend_if_late(&mut self, late: Duration) -> bool {
        if late <= LATE_TIMER || self.is_extended {
            return false;
        }
        self.is_extended = true;
        // The delay itself, and as much again to make up for it.
        self.since = self.since.checked_add(late * 2).unwrap_or(self.since);
        true
    }
}

/// Returns when a limit passes that began to run at `since`, if the time does not count in which the application was
/// frozen.
pub(crate) fn without_frozen_time(since: Instant, at: Instant) -> Instant {
    at.checked_add(threads::frozen_since(since)).unwrap_or(at)
}

/// Returns by how much a limit has passed by now; `None` if it has not.
pub(crate) fn passed_by(since: Instant, at: Instant, now: Instant) -> Option<Duration> {
    if at > now { None } else { now.checked_duration_since(without_frozen_time(since, at)) }
}
