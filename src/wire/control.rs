//! The conversation between host and fork server.
//!
//! The host begins with [`ToServer::Hello`]; the server runs the preload and answers [`FromServer::Welcome`].
//! Then the host asks for forks and the server tells of births and deaths.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::work::SetupReport;
use crate::failure::Ending;

/// Longest body of this conversation but for the hello, in bytes.
pub(crate) const BODY_LIMIT: usize = 1 << 20;

/// Longest hello, in bytes: it carries the user's configuration.
pub(crate) const HELLO_LIMIT: usize = 1 << 30;

/// What the host says.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum ToServer {
    Hello(Hello),
    /// Fork worker `number`; the worker's ends are passed along: of its channel, a socket and memory, and then of the
    /// pipes that are to be its standard output and its standard error.
    Fork {
        number: u64,
        /// Whether calls go through rings in that memory, or over the socket.
        rings: bool,
    },
}

/// Everything a server needs to know before it can fork.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Hello {
    pub(crate) protocol: u16,
    pub(crate) library: String,
    pub(crate) fingerprint: u64,
    pub(crate) pool: String,
    pub(crate) max_payload: u64,
    /// Private memory in bytes above which a worker is replaced; it is measured where this is given.
    pub(crate) max_memory: Option<u64>,
    pub(crate) guard: Guard,
    /// The user's configuration, encoded; a server that was started by itself has one of its own.
    pub(crate) config: Option<Vec<u8>>,
}

/// What bounds a worker from outside, whatever code it runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Guard {
    /// Longest time that one call may run.
    pub(crate) hung_worker_timeout: Option<Duration>,
    /// Time between a request to end and the end, for a worker that hangs.
    pub(crate) kill_grace: Option<Duration>,
    /// Most bytes of data that a worker may have, the preload's included.
    pub(crate) memory_limit: Option<u64>,
}

/// What the server says.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum FromServer {
    /// The preload is done.
    Welcome,
    /// The two ends do not fit, and why.
    Refused { reason: String },
    /// The preload failed; the server ends.
    PreloadFailed(SetupReport),
    /// A worker was born; a descriptor for its process is passed along.
    Forked { number: u64, pid: u32 },
    /// A worker could not be forked.
    NotForked { number: u64, reason: String },
    /// A worker was reaped.
    Ended(Ended),
}

/// One worker's end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Ended {
    pub(crate) number: u64,
    pub(crate) ending: Ending,
    pub(crate) peak_memory: u64,
    pub(crate) cpu_time: Duration,
    /// Whether the server killed it, since its call ran for too long.
    pub(crate) hung: bool,
    /// Whether the kernel's out-of-memory killer was at work when it was killed.
    pub(crate) out_of_memory: bool,
}
