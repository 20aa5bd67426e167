//! The options of pools and servers: plain values, their defaults with the reason, and which values are refused.

#[cfg(feature = "actors")]
mod pool;
mod server;
mod shared;

use std::time::Duration;

#[cfg(feature = "actors")]
pub(crate) use pool::{MessageLimit, Options};
pub use server::{OnMisfit, ServerOptions};
pub(crate) use shared::{MAX_BLOB_MEMORY, SharedOptions};

/// Longest name of a pool or server, in bytes; `ps` shows the beginning of it.
pub(crate) const MAX_NAME: usize = 64;

/// How long a pool waits before it replaces workers that ended early, or starts a fork server again.
///
/// The first wait is `first`, and each further one is twice as long, up to `most`. Each is changed at random by up to
/// `jitter` of itself either way, so that pools that failed together do not retry together. The first worker that
/// becomes ready resets the wait, if it was requested after the last early end.
///
/// ```
/// use std::time::Duration;
/// use forkpool::Backoff;
///
/// let backoff = Backoff::new().first(Duration::from_millis(10)).most(Duration::from_secs(1));
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
#[must_use = "a backoff has an effect once it is given to PoolBuilder::restart"]
pub struct Backoff {
    /// The first wait. Default: 100 ms.
    pub first: Duration,
    /// The longest wait, at most a day. Default: 5 s.
    pub most: Duration,
    /// The part of a wait by which it is changed at random, 0 to 1. Default: 0.2.
    pub jitter: f64,
}

impl Default for Backoff {
    fn default() -> Self {
        Backoff::new()
    }
}

impl Backoff {
    /// Returns the default: 100 ms doubling to 5 s, each wait changed by up to 20 % either way.
    pub const fn new() -> Self {
        Backoff { first: Duration::from_millis(100), most: Duration::from_secs(5), jitter: 0.2 }
    }

    /// Sets the first wait; it must be above zero and at most as long as [`most`](Self::most).
    pub const fn first(self, first: Duration) -> Self {
        Backoff { first, ..self }
    }

    /// Sets the longest wait, at most a day.
    pub const fn most(self, most: Duration) -> Self {
        Backoff { most, ..self }
    }

    /// Sets the part of a wait by which it is changed at random, 0 to 1.
    pub const fn jitter(self, jitter: f64) -> Self {
        Backoff { jitter, ..self }
    }

    /// Returns the wait before attempt number `streak` (from 1); `random` lies between 0 and 1.
    #[cfg(feature = "actors")]
    pub(crate) fn wait(&self, streak: u32, random: f64) -> Duration {
        let doublings = streak.saturating_sub(1).min(31);
        let wait = self.first.saturating_mul(1 << doublings).min(self.most);
        wait.mul_f64(1.0 + self.jitter * (2.0 * random.clamp(0.0, 1.0) - 1.0))
    }
}

/// What becomes of a running call when its requester drops the future that it waits with.
///
/// A call that is still queued then never runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum OnCancel {
    /// The call may finish, and its answer is dropped. The checkout goes on.
    #[default]
    Finish,
    /// The worker is killed. Calls behind it on the same checkout are answered
    /// [`Cleared`](crate::FailureKind::Cleared), later ones [`Cancelled`](crate::FailureKind::Cancelled).
    Kill,
}

/// How messages and replies travel between the application and its workers on the same machine.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Transport {
    /// Through shared memory, 520 KiB for each worker. Where there are enough processors, both sides spin through
    /// short waits.
    #[default]
    SharedMemory,
    /// Over a socket: one system call and one wake for each message. It takes little memory and never spins.
    Socket,
}

/// An option has a value that cannot work, or has no meaning where it is set.
///
/// It prints the option's name, the value and the rule.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("option {option} cannot be {value}: {rule}")]
pub struct OptionError {
    option: &'static str,
    value: String,
    rule: &'static str,
}

impl OptionError {
    pub(crate) fn new(option: &'static str, value: String, rule: &'static str) -> Self {
        OptionError { option, value, rule }
    }

    pub(crate) fn zero_duration(option: &'static str) -> Self {
        OptionError::new(option, "0ns".to_owned(), "it must be longer than zero, or None for no limit")
    }

    /// Returns the option's name, which is that of its builder method.
    pub fn option(&self) -> &'static str {
        self.option
    }
}

#[cfg(all(test, feature = "actors"))]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_the_most_and_no_further() {
        let backoff = Backoff { jitter: 0.0, ..Backoff::default() };
        let waits: Vec<u128> = (1..=8).map(|streak| backoff.wait(streak, 0.5).as_millis()).collect();
        assert_eq!(waits, [100, 200, 400, 800, 1600, 3200, 5000, 5000]);
    }

    #[test]
    fn jitter_changes_a_wait_by_its_part_at_most() {
        let backoff = Backoff::default();
        assert_eq!(backoff.wait(1, 0.0), Duration::from_millis(80));
        assert_eq!(backoff.wait(1, 1.0), Duration::from_millis(120));
    }
}
