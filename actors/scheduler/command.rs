//! What the scheduler decides and the supervisor carries out.

use std::time::Duration;

use actix::Message;
use actix::dev::OneshotSender;

use super::worker_handle::WorkerHandle;
use super::worker_state::RetireReason;
use crate::actors::api::stop_report::StopReport;
use crate::actors::transport::HostChannel;
use crate::clock::Instant;
use crate::failure::Failure;
use crate::wire::control::ServerReport;

/// How long after the drain a stop is answered in any case (5 s).
pub(crate) const STOP_TIMEOUT: Duration = Duration::from_secs(5);

/// How long the server may take to answer a request for its statistics (5 s).
pub(crate) const INSPECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Time between two kills of a worker that was killed and has not ended (1 s). The signal may have been refused, the server
/// may have been gone that was to send it, or the worker may have changed its user for the time being.
pub(crate) const KILL_AGAIN: Duration = Duration::from_secs(1);

/// A decision of the scheduler. The supervisor carries out commands in the order in which they were sent.
pub(crate) enum Command {
    /// Start the fork server or connect to it. This is the first command, and the supervisor does nothing before it.
    Open,
    /// Request the fork of these workers. `at_once` is `false` if they replace a lost worker.
    Spawn { workers: Vec<u64>, at_once: bool },
    /// Let these workers exit, which no checkout holds.
    Retire(Vec<RetiringWorker>),
    /// Kill a worker after `grace`, which has received SIGTERM.
    KillLater { worker: WorkerHandle, grace: Duration },
    /// Kill this worker again after [`KILL_AGAIN`], and so on, until it has ended.
    KillAgain(u64),
    /// Have a worker's server signal the worker, because this process is not permitted to: SIGKILL with `kill`,
    /// otherwise SIGTERM.
    SignalViaServer { worker: u64, kill: bool },
    /// Treat a dismissed worker as exited, because its exit will never be reported.
    Forget(u64),
    /// Call [`Scheduler::tick`](super::Scheduler::tick) at this time. `None` only checks whether the pool is drained.
    Tick { at: Option<Instant> },
    /// Stop the pool. Calls queued on held checkouts may finish within `drain`. `done` is used once the last process is
    /// reaped, or some seconds after the drain.
    Stop { drain: Duration, done: OneshotSender<StopReport> },
    /// Request the statistics of the fork server.
    Inspect(OneshotSender<Result<ServerReport, Failure>>),
    /// Connect to the standalone server now, if the next attempt is scheduled for later: a call or `ready()` waits.
    Reconnect,
}

impl Message for Command {
    type Result = ();
}

/// A worker that is to exit. Dropping its channel makes it exit.
pub(crate) struct RetiringWorker {
    pub(crate) worker: u64,
    pub(crate) reason: RetireReason,
    pub(crate) channel: Option<HostChannel>,
}
