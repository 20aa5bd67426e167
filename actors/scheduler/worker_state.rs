//! The states of one worker, the events that change them, and the reasons to end a worker.

use std::fmt;
use std::time::Duration;

use crate::actors::api::snapshot::EndReason;
use crate::clock::Instant;

/// A worker that exits within this time of becoming ready, without ever having had a call, has exited early (1 s).
pub(crate) const EARLY_EXIT: Duration = Duration::from_secs(1);

/// Why a worker is retired or killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RetireReason {
    /// Idle for longer than `idle_timeout`.
    IdleTimeout,
    /// It has served `max_checkouts` checkouts.
    MaxCheckouts,
    /// Older than `max_lifetime`.
    MaxLifetime,
    /// It has more private memory than `max_memory`.
    MaxMemory,
    /// A handler called `stop`.
    StopRequested,
    /// Its server takes no more work.
    Outdated,
    /// A user has had it recycled.
    Recycled,
    /// A user has had it killed.
    Killed,
    /// Its checkout saw an error, so its state may be inconsistent.
    AfterError,
    /// Its call or its release reached a time limit.
    TimedOut,
    /// Its requester aborted the checkout.
    Aborted,
    /// Its requester cancelled the running call.
    Cancelled,
    /// Its handler or its `checkout_done` panicked.
    Panicked,
    /// It closed its channel or broke the protocol.
    Broken,
    /// Its process ended while it was idle.
    Died,
    /// Its set-up failed.
    NotSetUp,
    /// Its lease was dropped unreleased.
    LeaseDropped,
    /// The pool is closing or stopping.
    PoolEnds,
}

impl RetireReason {
    /// Returns as what the end of the worker counts; `None` if its exit says more.
    pub(crate) fn end_reason(self) -> Option<EndReason> {
        Some(match self {
            RetireReason::IdleTimeout => EndReason::Idle,
            RetireReason::MaxCheckouts => EndReason::Checkouts,
            RetireReason::MaxLifetime => EndReason::Age,
            RetireReason::MaxMemory => EndReason::Memory,
            RetireReason::StopRequested => EndReason::Stop,
            RetireReason::Outdated => EndReason::Server,
            RetireReason::Recycled => EndReason::Recycled,
            RetireReason::Killed => EndReason::Killed,
            RetireReason::AfterError => EndReason::Error,
            RetireReason::TimedOut => EndReason::Timeout,
            RetireReason::Aborted | RetireReason::LeaseDropped => EndReason::Aborted,
            RetireReason::Cancelled => EndReason::Cancelled,
            RetireReason::Panicked => EndReason::Panic,
            RetireReason::NotSetUp => EndReason::Setup,
            RetireReason::PoolEnds => EndReason::Pool,
            RetireReason::Broken | RetireReason::Died => return None,
        })
    }

    /// Returns whether a worker that is killed for this reason gets SIGTERM and `kill_grace` first. It does if it is
    /// still running a call whose result is no longer awaited.
    pub(crate) fn allows_grace(self) -> bool {
        matches!(self, RetireReason::TimedOut | RetireReason::Aborted | RetireReason::Cancelled)
    }
}

impl fmt::Display for RetireReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            RetireReason::IdleTimeout => "idle for longer than idle_timeout",
            RetireReason::MaxCheckouts => "served max_checkouts checkouts",
            RetireReason::MaxLifetime => "older than max_lifetime",
            RetireReason::MaxMemory => "more private memory than max_memory",
            RetireReason::StopRequested => "it asked to be replaced",
            RetireReason::Outdated => "its server takes no more work",
            RetireReason::Recycled => "it is recycled",
            RetireReason::Killed => "kill_worker was called",
            RetireReason::AfterError => "its checkout saw an error",
            RetireReason::TimedOut => "its call timed out",
            RetireReason::Aborted => "its checkout was aborted",
            RetireReason::Cancelled => "its call was cancelled",
            RetireReason::Panicked => "it panicked",
            RetireReason::Broken => "its channel broke",
            RetireReason::Died => "its process ended while it was idle",
            RetireReason::NotSetUp => "its set-up failed",
            RetireReason::LeaseDropped => "its lease was dropped unreleased",
            RetireReason::PoolEnds => "the pool is ending",
        })
    }
}

/// The state of one worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum WorkerState {
    /// Requested from the fork server, or being set up.
    Starting,
    /// Ready and not lent.
    Idle { since: Instant },
    /// Lent to a checkout.
    Leased { to: u64 },
    /// Retired or killed; its exit was not reported yet.
    Ending { reason: RetireReason },
}

/// What happens to a worker, except for its exit, which removes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Event {
    Ready,
    Granted { to: u64 },
    Released,
    Dismissed(RetireReason),
}

/// An event that cannot happen in the given state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct InvalidTransition {
    pub(crate) worker_state: WorkerState,
    pub(crate) event: Event,
}

impl WorkerState {
    /// Returns the state after an event.
    ///
    /// # Errors
    ///
    /// [`InvalidTransition`] if the event cannot happen in this state; the worker keeps its state.
    pub(crate) fn on(self, event: Event, now: Instant) -> Result<WorkerState, InvalidTransition> {
        match (self, event) {
            (WorkerState::Starting, Event::Ready) => Ok(WorkerState::Idle { since: now }),
            (WorkerState::Idle { .. }, Event::Granted { to }) => Ok(WorkerState::Leased { to }),
            (WorkerState::Leased { .. }, Event::Released) => Ok(WorkerState::Idle { since: now }),
            (
                WorkerState::Starting | WorkerState::Idle { .. } | WorkerState::Leased { .. },
                Event::Dismissed(reason),
            ) => Ok(WorkerState::Ending { reason }),
            // Both the holder and the supervisor may find a worker unusable; the first reason is kept.
            (WorkerState::Ending { .. }, Event::Dismissed(_)) => Ok(self),
            // A set-up may finish while its worker is being killed because it took too long.
            (WorkerState::Ending { .. }, Event::Ready) => Ok(self),
            (WorkerState::Starting, Event::Granted { .. } | Event::Released)
            | (WorkerState::Idle { .. }, Event::Ready | Event::Released)
            | (WorkerState::Leased { .. }, Event::Ready | Event::Granted { .. })
            | (WorkerState::Ending { .. }, Event::Granted { .. } | Event::Released) => {
                Err(InvalidTransition { worker_state: self, event })
            }
        }
    }

    /// Returns whether a worker that exited in this state has exited early, so that the next fork attempt is delayed.
    ///
    /// `age` is the time since it became ready. `used`: a checkout had a call for it, now or earlier.
    pub(crate) fn exited_early(self, used: bool, age: Duration) -> bool {
        match self {
            WorkerState::Starting => true,
            WorkerState::Idle { .. } | WorkerState::Leased { .. } => !used && age < EARLY_EXIT,
            // A failed set-up was counted when it was reported.
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
    fn this_table_lists_every_transition() {
        let now = Instant::now();
        let table = [
            // event, then the state that follows each of STATES; "-" is impossible
            (Event::Ready, ["idle", "-", "-", "ending"]),
            (Event::Granted { to: 7 }, ["-", "leased", "-", "-"]),
            (Event::Released, ["-", "-", "idle", "-"]),
            (Event::Dismissed(RetireReason::AfterError), ["ending", "ending", "ending", "ending"]),
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
    fn only_early_exits_count_for_the_backoff() {
        let now = Instant::now();
        let (young, old) = (Duration::ZERO, EARLY_EXIT);
        let table = [
            ("starting", state("starting", now), false, old, true),
            ("idle, immediately", state("idle", now), false, young, true),
            ("idle, after a second", state("idle", now), false, old, false),
            ("idle, after a checkout", state("idle", now), true, young, false),
            ("leased, without a call", state("leased", now), false, young, true),
            ("leased, with a call", state("leased", now), true, young, false),
            ("killed", state("ending", now), true, young, false),
        ];
        for (row, worker_state, used, age, expected) in table {
            assert_eq!(worker_state.exited_early(used, age), expected, "{row}");
        }
    }
}
