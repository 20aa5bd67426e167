//! One worker's life, as data: which states there are and what leads from one to the next.

use std::fmt;
use std::time::{Duration, Instant};

/// A worker that ends sooner than this after its birth, and never had anything to do, ended early.
pub(crate) const EARLY: Duration = Duration::from_secs(1);

/// Why a worker is to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RetireReason {
    /// Idle for longer than `idle_timeout`.
    IdleTooLong,
    /// It had `max_checkouts`.
    WornOut,
    /// Older than `max_age`.
    TooOld,
    /// More private memory than `max_memory`.
    TooLarge,
    /// A handler called `stop`.
    Asked,
    /// Its server makes no more workers, and another does.
    Outdated,
    /// Its last checkout saw an error, so what it holds is in doubt.
    InDoubt,
    /// Its call's clock ran out.
    TimedOut,
    /// Its requester aborted the checkout.
    Aborted,
    /// Its requester gave up the call that ran.
    Cancelled,
    /// Its handler or its `checkout_done` panicked.
    Panicked,
    /// It closed its channel or said what no worker may say.
    Broken,
    /// It could not be set up.
    NotSetUp,
    /// Whoever held it is gone without a release.
    Abandoned,
    /// The pool is ending.
    PoolEnds,
}

impl RetireReason {
    /// Whether a worker that ends for this reason may be asked to before it is killed: it runs a call that nobody
    /// waits for any more.
    pub(crate) fn may_be_gentle(self) -> bool {
        matches!(self, RetireReason::TimedOut | RetireReason::Aborted | RetireReason::Cancelled)
    }
}

impl fmt::Display for RetireReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            RetireReason::IdleTooLong => "idle for longer than idle_timeout",
            RetireReason::WornOut => "had max_checkouts",
            RetireReason::TooOld => "older than max_age",
            RetireReason::TooLarge => "more private memory than max_memory",
            RetireReason::Asked => "asked to be replaced",
            RetireReason::Outdated => "its server takes no more work",
            RetireReason::InDoubt => "its checkout saw an error",
            RetireReason::TimedOut => "its call timed out",
            RetireReason::Aborted => "its checkout was aborted",
            RetireReason::Cancelled => "its call was given up",
            RetireReason::Panicked => "it panicked",
            RetireReason::Broken => "its channel broke",
            RetireReason::NotSetUp => "its set-up failed",
            RetireReason::Abandoned => "its checkout was dropped unreleased",
            RetireReason::PoolEnds => "the pool ends",
        })
    }
}

/// Where one worker is in its life. A state holds only what is true in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum WorkerState {
    /// Asked of the fork server, or being set up.
    Starting,
    /// Ready, and nobody's.
    Idle { since: Instant },
    /// Lent to a checkout.
    Leased { to: u64 },
    /// To end, and not yet seen to have ended.
    Ending { reason: RetireReason },
}

/// What can happen to a worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Event {
    Ready,
    Granted { to: u64 },
    Released,
    Dismissed(RetireReason),
}

/// An event that cannot happen in this state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Impossible {
    pub(crate) worker_state: WorkerState,
    pub(crate) event: Event,
}

impl WorkerState {
    /// The state after an event.
    ///
    /// # Errors
    ///
    /// [`Impossible`], with the state as it stays.
    pub(crate) fn on(self, event: Event, now: Instant) -> Result<WorkerState, Impossible> {
        match (self, event) {
            (WorkerState::Starting, Event::Ready) => Ok(WorkerState::Idle { since: now }),
            (WorkerState::Idle { .. }, Event::Granted { to }) => Ok(WorkerState::Leased { to }),
            (WorkerState::Leased { .. }, Event::Released) => Ok(WorkerState::Idle { since: now }),
            (
                WorkerState::Starting | WorkerState::Idle { .. } | WorkerState::Leased { .. },
                Event::Dismissed(reason),
            ) => Ok(WorkerState::Ending { reason }),
            // Two may see the same death, and the first to tell was right.
            (WorkerState::Ending { .. }, Event::Dismissed(_)) => Ok(self),
            // A set-up may finish while its worker is being killed for having taken too long.
            (WorkerState::Ending { .. }, Event::Ready) => Ok(self),
            (WorkerState::Starting, Event::Granted { .. } | Event::Released)
            | (WorkerState::Idle { .. }, Event::Ready | Event::Released)
            | (WorkerState::Leased { .. }, Event::Ready | Event::Granted { .. })
            | (WorkerState::Ending { .. }, Event::Granted { .. } | Event::Released) => {
                Err(Impossible { worker_state: self, event })
            }
        }
    }

    /// Whether a worker that ended in this state, this long after its birth, ended early, so that the next
    /// attempt waits. `used`: a checkout had a call for it, now or before.
    pub(crate) fn ended_early(self, used: bool, age: Duration) -> bool {
        match self {
            WorkerState::Starting => true,
            WorkerState::Idle { .. } | WorkerState::Leased { .. } => !used && age < EARLY,
            // A failed set-up was counted when it failed.
            WorkerState::Ending { .. } => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STATES: [&str; 4] = ["starting", "idle", "leased", "ending"];

    fn state(name: &str, now: Instant) -> WorkerState {
        match name {
            "starting" => WorkerState::Starting,
            "idle" => WorkerState::Idle { since: now },
            "leased" => WorkerState::Leased { to: 7 },
            _ => WorkerState::Ending { reason: RetireReason::TimedOut },
        }
    }

    fn name(worker_state: WorkerState) -> &'static str {
        match worker_state {
            WorkerState::Starting => "starting",
            WorkerState::Idle { .. } => "idle",
            WorkerState::Leased { .. } => "leased",
            WorkerState::Ending { .. } => "ending",
        }
    }

    #[test]
    fn the_whole_machine_is_this_table() {
        let now = Instant::now();
        let table = [
            // event, then the state that follows each of STATES; "-" is impossible
            (Event::Ready, ["idle", "-", "-", "ending"]),
            (Event::Granted { to: 7 }, ["-", "leased", "-", "-"]),
            (Event::Released, ["-", "-", "idle", "-"]),
            (Event::Dismissed(RetireReason::InDoubt), ["ending", "ending", "ending", "ending"]),
        ];
        for (event, expected) in table {
            for (from, to) in STATES.into_iter().zip(expected) {
                let found = state(from, now).on(event, now).map_or("-", name);
                assert_eq!(found, to, "{event:?} in state {from}");
            }
        }
    }

    /// P2
    #[test]
    fn only_early_ends_count_for_the_backoff() {
        let now = Instant::now();
        let (young, old) = (Duration::ZERO, EARLY);
        let table = [
            ("starting", state("starting", now), false, old, true),
            ("idle, at once", state("idle", now), false, young, true),
            ("idle, after a second", state("idle", now), false, old, false),
            ("idle, after a checkout", state("idle", now), true, young, false),
            ("leased, with nothing to do", state("leased", now), false, young, true),
            ("leased, with a call", state("leased", now), true, young, false),
            ("killed", state("ending", now), true, young, false),
        ];
        for (row, worker_state, used, age, expected) in table {
            assert_eq!(worker_state.ended_early(used, age), expected, "{row}");
        }
    }
}
