//! The closed list of ways in which a call can fail.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// What kind of failure answered a call.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum FailureKind {
    /// The handler's own error, made with [`Failure::task`](crate::Failure::task).
    Task,
    /// The handler panicked; its worker was replaced.
    Panic,
    /// No worker could be set up; a later call tries again.
    Setup,
    /// The call's clock ran out; a worker that was running it was killed.
    Timeout,
    /// The hung-worker guard ended the call: it ran for longer than `hung_worker_timeout`.
    Hung,
    /// The worker process ended during the call, or closed its channel.
    Died,
    /// The requester aborted its checkout.
    Aborted,
    /// The worker sent what no worker may send; it was killed.
    Protocol,
    /// The call was not run because one before it on the same checkout failed.
    Cleared,
    /// Its requester gave it up while it ran, and [`OnCancel::Kill`](crate::config::OnCancel::Kill) was agreed; later
    /// calls on the same checkout are told so.
    Cancelled,
    /// The message or the reply could not be encoded or decoded, or was too large.
    Payload,
    /// As many checkouts as `max_waiting` allows were waiting already.
    Overloaded,
    /// The same call has killed workers before and is refused for a while.
    Quarantined,
    /// The pool is stopped, or is being stopped.
    Stopped,
    /// The call's clock ran out while no fork server could be reached.
    NoServer,
    /// A kind that this version does not know; its text is what the version that does printed.
    #[default]
    Other,
}

/// Every kind with the name it has on the wire and in logs.
pub(crate) const KIND_NAMES: [(FailureKind, &str); 16] = [
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
    (FailureKind::Other, "other"),
];

impl fmt::Display for FailureKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let found = KIND_NAMES.iter().find(|(kind, _)| kind == self);
        f.pad(found.map_or("other", |(_, name)| name))
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
        // A newer peer may know more kinds than we do.
        Ok(found.map_or(FailureKind::Other, |(kind, _)| *kind))
    }
}
