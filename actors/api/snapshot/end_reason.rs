//! Why workers end.

use std::fmt;

use serde::{Serialize, Serializer};

/// Why a worker has ended. `Display` and a serialized reason are the name that [`as_str`](Self::as_str) returns.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum EndReason {
    /// Its process exited by itself.
    Exit,
    /// A signal ended it that the pool had not sent.
    Signal,
    /// Its call or its `checkout_done` reached a time limit.
    Timeout,
    /// Its call ran for longer than `hung_worker_timeout`.
    Hung,
    /// Its checkout was aborted, or its holder went away.
    Aborted,
    /// The requester of its call gave that up, with [`OnCancel::Kill`](crate::OnCancel::Kill).
    Cancelled,
    /// It had more private memory than `max_memory`.
    Memory,
    /// It was older than `max_lifetime`.
    Age,
    /// It had served `max_checkouts` checkouts.
    Checkouts,
    /// It was idle for longer than `idle_timeout`.
    Idle,
    /// Its set-up failed, took too long, or ended the process.
    Setup,
    /// Its checkout saw an error, see `keep_after_error`.
    Error,
    /// Its handler or its `checkout_done` panicked, or it exited with 101, the status of a panic.
    Panic,
    /// It broke the protocol, or closed its channel without an exit.
    Protocol,
    /// A handler called `stop` of its context.
    Stop,
    /// Its fork server was replaced.
    Server,
    /// [`recycle`](crate::PoolHandle::recycle) had it replaced.
    Recycled,
    /// [`kill_worker`](crate::PoolHandle::kill_worker) killed it.
    Killed,
    /// The pool closed or stopped.
    Pool,
    /// How it ended is not known: its fork server, which alone could have told, had ended before.
    Unknown,
}

impl EndReason {
    /// All reasons, in the order of the variants.
    pub(crate) const ALL: [EndReason; 20] = [
        EndReason::Exit,
        EndReason::Signal,
        EndReason::Timeout,
        EndReason::Hung,
        EndReason::Aborted,
        EndReason::Cancelled,
        EndReason::Memory,
        EndReason::Age,
        EndReason::Checkouts,
        EndReason::Idle,
        EndReason::Setup,
        EndReason::Error,
        EndReason::Panic,
        EndReason::Protocol,
        EndReason::Stop,
        EndReason::Server,
        EndReason::Recycled,
        EndReason::Killed,
        EndReason::Pool,
        EndReason::Unknown,
    ];

    /// Returns the reason's name in lower case, as metrics and pages show it.
    pub fn as_str(self) -> &'static str {
        match self {
            EndReason::Exit => "exit",
            EndReason::Signal => "signal",
            EndReason::Timeout => "timeout",
            EndReason::Hung => "hung",
            EndReason::Aborted => "aborted",
            EndReason::Cancelled => "cancelled",
            EndReason::Memory => "memory",
            EndReason::Age => "age",
            EndReason::Checkouts => "checkouts",
            EndReason::Idle => "idle",
            EndReason::Setup => "setup",
            EndReason::Error => "error",
            EndReason::Panic => "panic",
            EndReason::Protocol => "protocol",
            EndReason::Stop => "stop",
            EndReason::Server => "server",
            EndReason::Recycled => "recycled",
            EndReason::Killed => "killed",
            EndReason::Pool => "pool",
            EndReason::Unknown => "unknown",
        }
    }
}

impl fmt::Display for EndReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl Serialize for EndReason {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}
