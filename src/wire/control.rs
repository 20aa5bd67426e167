//! Messages between host and fork server.
//!
//! The host begins with [`ToServer::Hello`]; the server runs the preload and answers [`FromServer::Welcome`]. Then
//! the host requests forks, and the server reports forks and exits.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::call::SetupReport;
use super::handover::TakeOver;
use crate::failure::{BacktraceStyle, Ending, LastWords};

/// Longest body from a server, in bytes.
pub(crate) const BODY_LIMIT: usize = 1 << 20;

/// Longest body from a client that has sent its hello, in bytes: a request for workers has sixteen numbers.
pub(crate) const REQUEST_LIMIT: usize = 1 << 10;

/// Longest hello of an application to its private server, in bytes; it includes the user's configuration.
pub(crate) const HELLO_LIMIT: usize = 1 << 30;

/// Longest first message to a standalone server, in bytes; the names of an interface are its longest part.
pub(crate) const FIRST_MESSAGE_LIMIT: usize = 64 << 10;

/// Most workers that one message requests. Their descriptors are passed along with it, and the system limits those.
pub(crate) const MAX_FORKS_PER_MESSAGE: usize = 16;

/// Messages from the host.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum ToServer {
    Hello(Hello),
    /// Fork workers with these numbers, at most [`MAX_FORKS_PER_MESSAGE`]. The worker's ends are passed along, one
    /// worker after another: the two doorbells and the memory of the rings, or a socket and the memory of the status
    /// page; then the memory for results, if there is any, and the pipes for standard output and standard error.
    Fork {
        numbers: Vec<u64>,
        /// Whether the channel is a pair of rings in that memory, or the socket.
        rings: bool,
        /// Whether each worker has memory for large results.
        results: bool,
    },
    /// End a worker that the host may not signal itself: kill it with its process group, or send it SIGTERM.
    End {
        number: u64,
        kill: bool,
    },
    /// Kill this worker, whose own server is gone, once this client is gone. Its pidfd is passed along.
    Adopt {
        number: u64,
        /// What the worker's own server had sent with its pid.
        proof: Option<u64>,
    },
    /// Requests [`FromServer::Inspected`].
    Inspect,
    /// First message of a server that is to replace this one. Its index is the same in all versions.
    TakeOver(TakeOver),
    /// First message on a network connection that is to become a worker channel: fork the worker.
    Attach {
        /// The ticket from the client's [`FromServer::Welcome`].
        ticket: u128,
        number: u64,
    },
    /// First message after the server's welcome, if the pool has one: the arena is passed along from which workers read
    /// the blobs of their calls.
    Arena,
    /// A sign of life of an application whose server is at a port, each second. Requests [`FromServer::Pong`].
    Ping,
}

/// What a server needs to know before it can fork.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Hello {
    /// The first two fields are the same in all versions, so that each side can report the other's version.
    pub(crate) protocol: u16,
    pub(crate) library: String,
    pub(crate) fingerprint: u64,
    /// The interface for servers of other programs; the fingerprint is made from it.
    pub(crate) interface: Vec<Signature>,
    pub(crate) pool: String,
    pub(crate) max_payload: u64,
    /// How deep messages and results may be nested.
    pub(crate) max_depth: u32,
    /// Private memory, in bytes, above which a worker is replaced; `None`: the worker does not measure it.
    pub(crate) max_memory: Option<u64>,
    pub(crate) process_limits: ProcessLimits,
    /// Whether panics have a backtrace: what the application's environment says.
    pub(crate) backtrace: BacktraceStyle,
    pub(crate) parking: Parking,
    /// The user's configuration, encoded; `None` to a standalone server, which has its own.
    pub(crate) config: Option<Vec<u8>>,
}

/// When a server is to have a parked child for a client: a child that it has forked and that is no worker yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) enum Parking {
    Never,
    /// As long as the client has workers: its pool keeps none while it is idle.
    WhileUsed,
    Always,
}

/// One message of an interface.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Signature {
    /// The name of the message.
    pub name: String,
    /// A number that depends on the type of the message.
    pub message: u64,
    /// A number that depends on the type of its result.
    pub result: u64,
    /// A number that depends on the type of its error.
    pub error: u64,
}

/// The first fields of a hello of any version.
#[derive(Debug, PartialEq, Eq, Deserialize)]
pub(crate) struct HelloPrefix {
    /// The index of `Hello` among the messages.
    variant: u32,
    pub(crate) protocol: u16,
    pub(crate) library: String,
}

impl HelloPrefix {
    /// Reads the prefix of a first message that this version cannot decode; `None` if it is not a hello.
    pub(crate) fn of(body: &[u8]) -> Option<HelloPrefix> {
        let (origin, _) = postcard::take_from_bytes::<HelloPrefix>(body).ok()?;
        Some(origin).filter(|origin| origin.variant == 0)
    }
}

/// Limits that are enforced from outside the user's code.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ProcessLimits {
    /// Longest time that one call may run; a worker that exceeds it is killed.
    pub(crate) hung_worker_timeout: Option<Duration>,
    /// Time between SIGTERM and SIGKILL for a hung worker; without it the worker gets SIGKILL at once.
    pub(crate) kill_grace: Option<Duration>,
    /// Most bytes of private data that a worker may have (`RLIMIT_DATA`), including the preload's.
    pub(crate) memory_limit: Option<u64>,
}

/// Messages from the server.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum FromServer {
    /// The preload has succeeded, and the client is accepted.
    Welcome {
        /// Identifies a remote client on the connections of its workers.
        ticket: Option<u128>,
    },
    /// Protocol or interface differ, or the server is full; the same in all versions.
    Refused { reason: String },
    /// The preload failed; the server exits.
    PreloadFailed(SetupReport),
    /// These workers were forked. Their pidfds are passed along in the same order, unless the client is remote.
    Forked(Vec<WorkerPid>),
    /// A worker was not forked.
    NotForked { number: u64, reason: String },
    /// A worker was reaped.
    Ended(Ended),
    /// The server forks no more workers. Its workers may finish their work; it exits once the last one has ended.
    Draining {
        /// Whether another server already listens in place of this one.
        succeeded: bool,
    },
    /// The answer to [`ToServer::Inspect`].
    Inspected(ServerReport),
    /// Output of a worker whose client is remote and does not hold the pipes.
    Printed { number: u64, stderr: bool, bytes: Vec<u8> },
    /// The process that the application started is its fork server: it diverted ahead of `main`. Sent first, and by a
    /// private server alone.
    Diverted,
    /// The answer to one [`ToServer::Ping`], or to several that were read together.
    Pong,
}

/// A forked worker: its number at the client, and its pid in the server's PID namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct WorkerPid {
    pub(crate) number: u64,
    pub(crate) pid: u32,
    /// Proves to the next server at the same path that this one has forked the process; `None` from a server that has
    /// no path, or cannot identify the process.
    pub(crate) proof: Option<u64>,
}

/// The exit of a worker, and its resource usage: peak memory in bytes, CPU time of user and system.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Ended {
    pub(crate) number: u64,
    pub(crate) ending: Ending,
    pub(crate) peak_memory: u64,
    pub(crate) cpu_time: Duration,
    /// Whether the server killed it, or sent it SIGTERM, because a call ran too long.
    pub(crate) hung: bool,
    /// Whether a SIGKILL that the server has not sent ended it, while the out-of-memory killer was at work.
    pub(crate) out_of_memory: bool,
    /// The worker's status page, for a remote host that does not share it.
    pub(crate) status: Option<StatusSnapshot>,
}

/// What an exited worker had recorded on its status page.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct StatusSnapshot {
    /// Whether a call of the current checkout had begun.
    pub(crate) begun: bool,
    /// The latest log records, oldest first.
    pub(crate) records: Vec<String>,
    pub(crate) last_words: LastWords,
}

/// What a fork server is doing at one moment, and its totals since its start, as it reports them to a client.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ServerReport {
    pub(crate) pid: u32,
    pub(crate) library: String,
    pub(crate) uptime: Duration,
    pub(crate) clients: u64,
    pub(crate) workers: u64,
    pub(crate) forked: u64,
    pub(crate) not_forked: u64,
    pub(crate) turned_away: u64,
    pub(crate) draining: bool,
    /// Forked children that are no workers yet.
    pub(crate) parked: u64,
}
