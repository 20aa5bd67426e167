//! Who holds a worker, as users see it.

use std::fmt;
use std::time::Duration;

use serde::Serialize;

use super::seconds;

/// A checkout that holds a worker, or the messages to the pool for which one is held.
///
/// `Display` prints it as the failure of a call that waited in vain does: `src/app.rs:186 for 5.2s, idle`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Holder {
    /// Where the worker was asked for, as `file:line`: the call of `checkout()` or `send_batch`.
    ///
    /// Messages to the pool are `calls of pool.send at file:line`, with the place of the one that runs or ran last; without
    /// a place before the first is written. The place of a message to an [`Addr`](actix::Addr) is that of
    /// [`here`](crate::here()), or else where the pool's actor was started.
    pub place: String,
    /// How long the worker has been held.
    #[serde(serialize_with = "seconds::rough")]
    pub held_for: Duration,
    /// Whether the worker has a call to run, or runs `checkout_done`; `false` if it waits for its holder.
    pub is_running: bool,
    /// The number of the worker in its pool, counted from 1.
    pub worker: u64,
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let does = if self.is_running { "running" } else { "idle" };
        write!(f, "{} for {:.1?}, {does}", self.place, self.held_for)
    }
}
