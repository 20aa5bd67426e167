//! What a fork server is doing.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::wire::control::ServerReport;

/// What a fork server is doing at one moment, and its totals since its start.
///
/// [`PoolHandle::server_stats`](crate::PoolHandle::server_stats) asks for it. A standalone server counts for all its
/// clients.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct ServerStats {
    /// The server's process id.
    pub pid: u32,
    /// The version of forkpool with which it is built.
    pub library: String,
    /// How long it has been serving.
    pub uptime: Duration,
    /// Connected clients: one for each pool.
    pub clients: u64,
    /// Living workers of all clients.
    pub workers: u64,
    /// Workers forked since its start.
    pub forked: u64,
    /// Failed forks since its start.
    pub not_forked: u64,
    /// Rejected connections since its start: peers that sent nothing or nonsense, clients that do not fit, and clients
    /// above the maximum.
    pub turned_away: u64,
    /// Whether it accepts no more work and exits with its last worker.
    pub draining: bool,
    /// Forked children that are no workers yet, see [`PoolBuilder::park_worker`](crate::PoolBuilder::park_worker): none or one.
    pub parked: u64,
}

impl From<ServerReport> for ServerStats {
    fn from(report: ServerReport) -> Self {
        let ServerReport {
            pid,
            library,
            uptime,
            clients,
            workers,
            forked,
            not_forked,
            turned_away,
            draining,
            parked,
        } = report;
        ServerStats {
            pid,
            library,
            uptime,
            clients,
            workers,
            forked,
            not_forked,
            turned_away,
            draining,
            parked,
        }
    }
}
