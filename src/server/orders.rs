//! What a forked process needs to become a worker.

use std::ffi::CString;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use serde::{Deserialize, Serialize};

use super::children::ClientId;
use super::clients::Client;
use crate::channel::{SocketLayer, WorkerDoorbells, WorkerEnd, WorkerMemory};
use crate::failure::BacktraceStyle;
use crate::sys::process;
use crate::sys::process::Pid;
use crate::wire::control::ProcessLimits;
use crate::worker::Numbering;

/// The names, the numbers and the limits of a worker. They are made before a fork: each page that a child touches is
/// copied.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Orders {
    /// Counts the workers of the client, from 1.
    pub(super) ordinal: u64,
    pub(super) names: WorkerNames,
    pub(super) fingerprint: u64,
    pub(super) numbering: Numbering,
    pub(super) max_payload: u64,
    pub(super) max_depth: u32,
    pub(super) max_memory: Option<u64>,
    pub(super) process_limits: ProcessLimits,
    pub(super) backtrace: BacktraceStyle,
}

impl Orders {
    /// Returns those of a client's next worker, which is counted.
    pub(super) fn of_next(client: &mut Client, number: u64) -> Self {
        client.forked += 1;
        let hello = &client.hello;
        Orders {
            ordinal: client.forked,
            names: WorkerNames::of(&hello.pool, number),
            fingerprint: hello.fingerprint,
            numbering: client.numbering.clone(),
            max_payload: hello.max_payload,
            max_depth: hello.max_depth,
            max_memory: hello.max_memory,
            process_limits: hello.process_limits,
            backtrace: hello.backtrace,
        }
    }
}

/// What the names of parked children have in place of a number.
pub(crate) const PARKED: &str = "parked";

/// The names of a process in `ps`.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct WorkerNames {
    pub(super) short: Option<CString>,
    pub(super) title: String,
}

impl WorkerNames {
    fn of(pool: &str, number: u64) -> Self {
        let short = process::short_name(pool, &number.to_string());
        WorkerNames { short, title: format!("forkpool: worker {pool}/{number}") }
    }

    /// The names of the parked child of a server with this name.
    pub(super) fn of_parked(server: &str) -> Self {
        let short = process::short_name(server, PARKED);
        WorkerNames { short, title: format!("forkpool: {PARKED} {server}") }
    }
}

/// Everything with which a process becomes a worker.
pub(super) struct WorkerSpec {
    pub(super) client: ClientId,
    /// The fork server.
    pub(super) parent: Pid,
    pub(super) orders: Orders,
    pub(super) channel: WorkerEnd,
    pub(super) stdout: OwnedFd,
    pub(super) stderr: OwnedFd,
}

impl WorkerSpec {
    /// Returns what a process needs that has no copy of this: whether the channel consists of rings, whether the worker has
    /// memory for results, and the descriptors in the order of [`next_end`]. `None` if the channel's state cannot be passed.
    pub(super) fn passable(&self) -> Option<(bool, bool, Vec<BorrowedFd<'_>>)> {
        let (rings, mut passed, memory) = match &self.channel {
            WorkerEnd::Rings { doorbells: WorkerDoorbells { rx, tx }, memory } => {
                (true, vec![rx.as_fd(), tx.as_fd()], memory)
            }
            WorkerEnd::Stream { socket, socket_layer: SocketLayer::None, memory } => {
                (false, vec![socket.as_fd()], memory)
            }
            #[cfg(feature = "tls")]
            WorkerEnd::Stream { socket_layer: SocketLayer::Tls(_), .. } => return None,
        };
        passed.push(memory.channel.as_fd());
        passed.extend(memory.results.as_ref().map(OwnedFd::as_fd));
        passed.extend([self.stdout.as_fd(), self.stderr.as_fd()]);
        Some((rings, memory.results.is_some(), passed))
    }
}

/// Takes the descriptors of the next worker from those that were passed.
pub(super) fn next_end(
    passed: &mut impl Iterator<Item = OwnedFd>,
    rings: bool,
    results: bool,
) -> Option<(WorkerEnd, [OwnedFd; 2])> {
    fn memory(passed: &mut impl Iterator<Item = OwnedFd>, results: bool) -> Option<WorkerMemory> {
        let channel = passed.next()?;
        let results = if results { Some(passed.next()?) } else { None };
        Some(WorkerMemory { channel, results })
    }
    let channel = match rings {
        true => {
            let doorbells = WorkerDoorbells { rx: passed.next()?, tx: passed.next()? };
            WorkerEnd::Rings { doorbells, memory: memory(passed, results)? }
        }
        false => {
            let socket = passed.next()?;
            let memory = memory(passed, results)?;
            WorkerEnd::Stream { socket, socket_layer: SocketLayer::None, memory }
        }
    };
    Some((channel, [passed.next()?, passed.next()?]))
}
