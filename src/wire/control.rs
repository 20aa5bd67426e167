//! The conversation between host and fork server.
//!
//! The host begins with [`ToServer::Hello`]; the server runs the preload and answers [`FromServer::Welcome`].
//! Then the host asks for forks and the server tells of births and deaths.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::call::SetupReport;
use crate::failure::Ending;

/// Longest body of this conversation but for the hello, in bytes.
pub(crate) const BODY_LIMIT: usize = 1 << 20;

/// Longest hello of an application to its own server, in bytes: it carries the user's configuration.
pub(crate) const HELLO_LIMIT: usize = 1 << 30;

/// Longest first message of whoever comes to a server that listens, in bytes: it has nothing to carry but the names of
/// an interface.
pub(crate) const STRANGER_LIMIT: usize = 64 << 10;

/// Most workers that are asked for in one message: their descriptors have to be passed along with it.
#[cfg(feature = "actors")]
pub(crate) const MOST_AT_ONCE: usize = 16;

/// What the host says.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum ToServer {
    Hello(Hello),
    /// Fork workers of these numbers, at most [`MOST_AT_ONCE`]; the ends of each are passed along, one worker after the
    /// other: of its channel, bells and memory or a socket and memory, and then of the pipes that are to be its standard
    /// output and its standard error.
    Fork {
        numbers: Vec<u64>,
        /// Whether calls go through rings in that memory, or over the socket.
        rings: bool,
    },
    /// End a worker that the host cannot end by itself: kill it with its group, or ask it to end.
    End {
        number: u64,
        kill: bool,
    },
    /// A worker of a server that is gone: a descriptor for its process is passed along. It ends with this client.
    Adopt {
        number: u64,
    },
    /// Tell what you are doing.
    Inspect,
    /// Said first, in place of a hello, by a server that is to take this one's place.
    TakeOver,
    /// Said first, in place of a hello, on a connection over a network that is to be the channel of a worker: fork it.
    Attach {
        /// Whose: what the client was told with its welcome.
        ticket: u128,
        number: u64,
    },
}

/// Everything a server needs to know before it can fork.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Hello {
    /// These two stay where they are in all versions, so that each can tell the other which it is.
    pub(crate) protocol: u16,
    pub(crate) library: String,
    pub(crate) fingerprint: u64,
    /// What the fingerprint is made of, for a server of another program.
    pub(crate) interface: Vec<Signature>,
    pub(crate) pool: String,
    pub(crate) max_payload: u64,
    /// Private memory in bytes above which a worker is replaced; it is measured where this is given.
    pub(crate) max_memory: Option<u64>,
    pub(crate) guard: Guard,
    /// The user's configuration, encoded; a server that was started by itself has one of its own.
    pub(crate) config: Option<Vec<u8>>,
    /// Whether an arena is passed along, from which workers read the blobs of their calls.
    pub(crate) arena: bool,
}

/// One message of an interface: its name, and a number that changes with what it and its result look like.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Signature {
    /// The message's name.
    pub name: String,
    /// A number that changes with the shape of the message and of its result.
    pub shape: u64,
}

/// The beginning of a hello of any version.
#[derive(Debug, PartialEq, Eq, Deserialize)]
pub(crate) struct Origin {
    /// The place of `Hello` among the messages.
    variant: u32,
    pub(crate) protocol: u16,
    pub(crate) library: String,
}

impl Origin {
    /// Of whom a first message is that this version cannot read, if it is a hello at all.
    pub(crate) fn of(body: &[u8]) -> Option<Origin> {
        let (origin, _) = postcard::take_from_bytes::<Origin>(body).ok()?;
        Some(origin).filter(|origin| origin.variant == 0)
    }
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
    Welcome {
        /// What a client over a network names itself by on the channels of its workers.
        ticket: Option<u128>,
    },
    /// The two ends do not fit, or there is no room, and why.
    Refused { reason: String },
    /// The preload failed; the server ends.
    PreloadFailed(SetupReport),
    /// Workers were born; a descriptor for the process of each is passed along, if descriptors can be.
    Forked(Vec<Born>),
    /// A worker could not be forked.
    NotForked { number: u64, reason: String },
    /// A worker was reaped.
    Ended(Ended),
    /// No more workers come from here. Those there are may finish what they do; the server ends with the last.
    Draining {
        /// Whether another serves already where this one did.
        succeeded: bool,
    },
    /// What was asked for with `Inspect`.
    Inspected(ServerStats),
    /// To a successor: a place to listen at is passed along, and the lock of its path if it has one.
    HandedOver {
        address: String,
        /// Whether there are more.
        more: bool,
    },
    /// A worker whose outputs the host does not have has printed something.
    Printed { number: u64, stderr: bool, bytes: Vec<u8> },
}

/// One worker's birth.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Born {
    pub(crate) number: u64,
    pub(crate) pid: u32,
}

/// One worker's end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Ended {
    pub(crate) number: u64,
    pub(crate) ending: Ending,
    pub(crate) peak_memory: u64,
    pub(crate) cpu_time: Duration,
    /// Whether the server killed it, since its call ran for too long.
    pub(crate) hung: bool,
    /// Whether the kernel's out-of-memory killer was at work when it was killed.
    pub(crate) out_of_memory: bool,
    /// What it had noted, for a host that does not share the memory of its notes.
    pub(crate) remains: Option<Remains>,
}

/// What a dead worker had noted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Remains {
    /// Whether a call of the checkout at hand had begun.
    pub(crate) begun: bool,
    /// What it logged last, oldest first.
    pub(crate) records: Vec<String>,
}

/// What a fork server is doing at one moment, and what it has done since its start.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct ServerStats {
    /// Its process.
    pub pid: u32,
    /// The version of this library that it is built with.
    pub library: String,
    /// How long it has been serving.
    pub uptime: Duration,
    /// Applications it works for: one for each pool.
    pub clients: u64,
    /// Workers of all of them that live.
    pub workers: u64,
    /// Workers forked since its start.
    pub forked: u64,
    /// Forks that failed.
    pub not_forked: u64,
    /// Whoever came and was not let in: strangers who said nothing or nonsense, clients that do not fit or are too many.
    pub turned_away: u64,
    /// Whether it takes no more work and ends with its last worker.
    pub draining: bool,
}
