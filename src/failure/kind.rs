//! The kinds of failures.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Why a call failed. [`Failure::kind`](crate::Failure::kind) returns it.
///
/// A kind below that "ends the checkout" means that the worker is not used again and that every later call on the
/// checkout is answered at once with a clone of the failure. Calls that were already queued on the checkout get
/// `Cleared`. Messages to the pool do not affect each other.
///
/// `Display` prints the name in lower case, the same that logs use: `timeout`, `no server`. A kind is serialized as
/// that name; an unknown name deserializes as [`Other`](Self::Other). [`as_str`](Self::as_str) is the name for metrics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum FailureKind {
    /// The handler returned an error: one made with [`Failure::task`](crate::Failure::task), or, in a failure that an
    /// error context gets, an error of the user's own type.
    ///
    /// The checkout goes on with the same worker, which is replaced when it is released unless it is kept
    /// (`keep_after_error`).
    Task,
    /// The handler panicked; [`panic`](crate::Failure::panic) has the report. The worker is replaced, and the checkout
    /// ends.
    Panic,
    /// No worker could be set up: `setup` or `preload` returned an error, panicked, took longer than `setup_timeout`,
    /// or ended its process, or the fork failed.
    ///
    /// The checkout goes on; a later call asks for a worker again.
    Setup,
    /// A time limit passed: `timeout` or the call's own limit, `wait_timeout`, or `idle_checkout_timeout`.
    /// [`phase`](crate::Failure::phase) and [`limit`](crate::Failure::limit) have the details. If the call waited for a
    /// worker and all were in use, `Display` names who holds them: where in the source, for how long, running or idle.
    ///
    /// A worker that was running the call is killed. The checkout ends.
    Timeout,
    /// The call ran for longer than `hung_worker_timeout`, and the watchdog of the fork server killed its worker. The
    /// checkout ends.
    Hung,
    /// The worker process ended during the call or while the checkout held it, or the worker closed its channel and was
    /// killed. [`ending`](crate::Failure::ending) has the exit status or the signal. The checkout ends.
    Died,
    /// The caller sent `Abort` to its checkout, `kill_worker` killed its worker, or the actix system ended; the text has the
    /// reason. The worker is killed, and the checkout ends. After an `Abort`, queued calls get this failure too.
    Aborted,
    /// The worker sent bytes that break the protocol, and was killed. The checkout ends.
    Protocol,
    /// The call was not run, because a call before it on the same checkout failed;
    /// [`source`](std::error::Error::source) is that failure, if there is one.
    Cleared,
    /// The caller of a running call dropped its future, with [`OnCancel::Kill`](crate::config::OnCancel::Kill) set. The
    /// worker was killed, and the checkout ends: later calls on it get this failure. Or the client of the web request that
    /// the call is bound to is gone.
    Cancelled,
    /// The message or the reply could not be encoded or decoded, or was larger than `max_payload`. Worker and checkout
    /// go on.
    Payload,
    /// The pool has no capacity for the call: `max_waiting` checkouts were waiting already, or the memory for blobs was
    /// used up. In the first case [`retry_after`](crate::Failure::retry_after) has an estimate. The checkout goes on.
    Overloaded,
    /// The same message, byte for byte, has ended `max_kills` workers within `kill_window`. It is refused until
    /// [`retry_after`](crate::Failure::retry_after) has passed. The checkout goes on, and the calls behind run.
    Quarantined,
    /// The pool is stopped or is being stopped. The checkout ends.
    Stopped,
    /// The call's time limit passed while no fork server could be reached; [`source`](std::error::Error::source) has
    /// the reason. The checkout ends.
    NoServer,
    /// The handle of a checkout was called on a thread without an event loop, or on another thread than that of its first
    /// call; the text says which. The call did not run, and the checkout goes on.
    Elsewhere,
    /// A kind that this version of forkpool does not know. `Display` prints the line that the writer's version printed.
    #[default]
    Other,
}

/// Every kind, with its name in serialized failures, logs and statistics.
pub(crate) const KIND_NAMES: [(FailureKind, &str); 17] = [
    (FailureKind::Task, "task"),
    (FailureKind::Panic, "panic"),
    (FailureKind::Setup, "setup"),
    (FailureKind::Timeout, "timeout"),
    (FailureKind::Hung, "hung"),
    (FailureKind::Died, "died"),
    (FailureKind::Aborted, "aborted"),
    (FailureKind::Protocol, "protocol"),
    (FailureKind::Cleared, "cleared"),
    (FailureKind::Cancelled, "cancelled"),
    (FailureKind::Payload, "payload"),
    (FailureKind::Overloaded, "overloaded"),
    (FailureKind::Quarantined, "quarantined"),
    (FailureKind::Stopped, "stopped"),
    (FailureKind::NoServer, "no server"),
    (FailureKind::Elsewhere, "elsewhere"),
    (FailureKind::Other, "other"),
];

impl FailureKind {
    /// Returns the kind's name for labels of metrics and for keys: lower-case letters and underscores, `timeout` or
    /// `no_server`.
    ///
    /// Each kind has a name of its own, which stays the same in later versions. It is the text of `Display` with
    /// underscores in place of spaces.
    pub fn as_str(self) -> &'static str {
        match self {
            FailureKind::NoServer => "no_server",
            kind => kind.name(),
        }
    }

    fn name(self) -> &'static str {
        KIND_NAMES.iter().find(|(kind, _)| *kind == self).map_or("other", |(_, name)| name)
    }

    /// Returns the text of [`Failure::public`](crate::Failure::public).
    pub(super) fn public(self) -> &'static str {
        match self {
            FailureKind::Task | FailureKind::Other => "the request failed",
            FailureKind::Panic => "an internal error occurred",
            FailureKind::Setup => "the service is not ready; try again later",
            FailureKind::Timeout => "the request took too long; try again later",
            FailureKind::Hung => "the request took too long and was stopped",
            FailureKind::Died => "an internal error ended the request",
            FailureKind::Aborted => "the request was aborted",
            FailureKind::Protocol => "an internal error disturbed the request",
            FailureKind::Cleared => "the request was not carried out, because one before it failed",
            FailureKind::Cancelled => "the request was cancelled",
            FailureKind::Payload => "the request or its result cannot be processed",
            FailureKind::Overloaded => "the service is busy; try again later",
            FailureKind::Quarantined => "the request is refused for now, because it has failed repeatedly",
            FailureKind::Stopped => "the service is shutting down; try again later",
            FailureKind::NoServer => "the service is not available; try again later",
            FailureKind::Elsewhere => "an internal error kept the request from being carried out",
        }
    }
}

impl fmt::Display for FailureKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl Serialize for FailureKind {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for FailureKind {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let name = String::deserialize(deserializer)?;
        let found = KIND_NAMES.iter().find(|(_, known)| *known == name);
        // A peer of a newer version may have kinds that are unknown here.
        Ok(found.map_or(FailureKind::Other, |(kind, _)| *kind))
    }
}
