//! The options of a pool: plain values, their defaults with the reason, and what is impossible.

mod server;

use std::ops::RangeInclusive;
use std::time::Duration;

pub use server::{DEFAULT_MAX_CLIENTS, ServerOptions};

/// Workers a pool keeps and grows to, unless told otherwise: one to work and one in reserve, and as many as a
/// small machine can hold.
pub const DEFAULT_WORKERS: RangeInclusive<usize> = 2..=20;

/// Full clock of one call, unless told otherwise: longer than any healthy request, shorter than a user waits.
pub const DEFAULT_TIMEOUT: Duration = Duration::from_secs(30);

/// Longest set-up, unless told otherwise: one that takes longer hangs, and would keep its place for ever.
pub const DEFAULT_SETUP_TIMEOUT: Duration = Duration::from_secs(60);

/// Longest time that one call may run, whatever its own clock says, unless told otherwise: longer than any call that
/// somebody waits for.
pub const DEFAULT_HUNG_WORKER_TIMEOUT: Duration = Duration::from_secs(5 * 60);

/// How far back quarantine looks, and how long it lasts, unless told otherwise.
pub const DEFAULT_KILL_WINDOW: Duration = Duration::from_secs(60);

/// How long a worker above the fewest may be idle, unless told otherwise: longer than the pause between two
/// waves of requests, short enough that a surge does not keep its memory.
pub const DEFAULT_IDLE_TIMEOUT: Duration = Duration::from_secs(60);

/// Largest encoded message or reply, in bytes, unless told otherwise: 64 MiB and room for the field lengths
/// of a value around them.
pub const DEFAULT_MAX_PAYLOAD: usize = (64 << 20) + (64 << 10);

/// Bytes that the blobs of a pool's calls may have together, and those of each worker's results, unless told otherwise: room
/// for one of the largest that are worth sending. Memory is taken only as they are made.
pub const DEFAULT_BLOB_MEMORY: usize = 1 << 30;

/// Most of it that a pool may have, in bytes: each worker takes as much of the application's address space.
pub const MOST_BLOB_MEMORY: usize = 64 << 30;

/// Most a pool may allow, in bytes: a frame's length is 32 bits, and its envelope needs some.
pub const MOST_PAYLOAD: usize = (u32::MAX as usize) - (64 << 10);

/// Longest `hung_worker_timeout` that a pool may have: the guard's clock counts milliseconds in 32 bits, and half of
/// them are for times that have passed.
pub const LONGEST_HUNG_WORKER_TIMEOUT: Duration = Duration::from_secs(20 * 24 * 60 * 60);

/// Longest name of a pool, in bytes; `ps` shows the beginning of it.
pub const LONGEST_NAME: usize = 64;

/// How long to wait before another attempt after workers ended early.
///
/// The wait starts at `first` and doubles up to `most`; each is changed by up to `jitter` of itself either
/// way, so that pools that failed together do not retry together. The first worker that
/// becomes ready resets it, if it was asked for after the last early end.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Backoff {
    /// The first wait; default 100 ms.
    pub first: Duration,
    /// The longest wait; default 5 s.
    pub most: Duration,
    /// The part of a wait by which chance may change it, 0 to 1; default 0.2.
    pub jitter: f64,
}

impl Default for Backoff {
    fn default() -> Self {
        Backoff { first: Duration::from_millis(100), most: Duration::from_secs(5), jitter: 0.2 }
    }
}

impl Backoff {
    /// The wait before attempt number `streak` (from 1), `chance` being between 0 and 1.
    pub fn wait(&self, streak: u32, chance: f64) -> Duration {
        let doublings = streak.saturating_sub(1).min(31);
        let wait = self.first.saturating_mul(1 << doublings).min(self.most);
        wait.mul_f64(1.0 + self.jitter * (2.0 * chance.clamp(0.0, 1.0) - 1.0))
    }
}

/// What becomes of a call that runs when its requester gives it up, by dropping the future that it waits with.
///
/// One that waits in its queue is never run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnCancel {
    /// It may finish, and its answer is dropped. The checkout goes on.
    #[default]
    Finish,
    /// Its worker is killed, and calls behind it on the same checkout are answered with
    /// [`Cleared`](crate::FailureKind::Cleared), later ones with [`Cancelled`](crate::FailureKind::Cancelled).
    Kill,
}

/// How messages and replies travel between the application and its workers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Transport {
    /// Through memory that both share, 516 KiB for each worker; a short wait is spun through where there are processors
    /// enough.
    #[default]
    SharedMemory,
    /// Over a socket: a system call for each message, and a wake. It takes no memory worth mentioning and never spins.
    Socket,
}

/// All options of a pool.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Options {
    /// The pool's name in `ps`, failures and logs.
    pub name: String,
    /// Fewest and most worker processes.
    pub workers: RangeInclusive<usize>,
    /// Workers that are kept beside those in use, as long as any is.
    pub spare_workers: usize,
    /// Most checkouts that may wait; `None` is no limit.
    pub max_waiting: Option<usize>,
    /// Full clock of one call; `None` is no limit.
    pub timeout: Option<Duration>,
    /// Longest wait for a worker alone; `None` leaves it to `timeout`.
    pub wait_timeout: Option<Duration>,
    /// Longest set-up of a worker; `None` is no limit.
    pub setup_timeout: Option<Duration>,
    /// Longest time that one call may run, whatever its own clock says; `None` is no limit.
    pub hung_worker_timeout: Option<Duration>,
    /// How long a worker that is to be killed for its call gets to end by itself; `None` kills it at once.
    pub kill_grace: Option<Duration>,
    /// How long a checkout may hold a worker with nothing to run; `None` is no limit.
    pub idle_checkout_timeout: Option<Duration>,
    /// What becomes of a call that runs when its requester gives it up.
    pub on_cancel: OnCancel,
    /// Workers that the same call may end within `kill_window` before it is refused; `None` is no limit.
    pub max_kills: Option<u32>,
    /// How far back `max_kills` looks, and how long a call is refused.
    pub kill_window: Duration,
    /// How long a worker above the fewest may be idle before it retires; `None` keeps it.
    pub idle_timeout: Option<Duration>,
    /// Checkouts after which a worker is replaced; `None` is no limit.
    pub max_checkouts: Option<u64>,
    /// Age at which a worker is replaced once it is free; `None` is no limit.
    pub max_age: Option<Duration>,
    /// Private memory in bytes above which a worker is replaced at release; `None` is no limit.
    pub max_memory: Option<u64>,
    /// Bytes of data beyond which a worker's allocations fail; `None` is no limit.
    pub memory_limit: Option<u64>,
    /// Largest encoded message or reply, in bytes.
    pub max_payload: usize,
    /// Bytes that the blobs of calls may have together, and those of each worker's results.
    pub blob_memory: usize,
    /// Whether a worker is kept after a checkout that saw an error.
    pub keep_after_error: bool,
    /// Waits after workers that ended early.
    pub restart: Backoff,
    /// How messages and replies travel.
    pub transport: Transport,
}

impl Options {
    /// The defaults, under a name.
    pub fn named(name: impl Into<String>) -> Self {
        Options {
            name: name.into(),
            workers: DEFAULT_WORKERS,
            spare_workers: 0,
            max_waiting: None,
            timeout: Some(DEFAULT_TIMEOUT),
            wait_timeout: None,
            setup_timeout: Some(DEFAULT_SETUP_TIMEOUT),
            hung_worker_timeout: Some(DEFAULT_HUNG_WORKER_TIMEOUT),
            kill_grace: None,
            idle_checkout_timeout: None,
            on_cancel: OnCancel::default(),
            max_kills: None,
            kill_window: DEFAULT_KILL_WINDOW,
            idle_timeout: Some(DEFAULT_IDLE_TIMEOUT),
            max_checkouts: None,
            max_age: None,
            max_memory: None,
            memory_limit: None,
            max_payload: DEFAULT_MAX_PAYLOAD,
            blob_memory: DEFAULT_BLOB_MEMORY,
            keep_after_error: false,
            restart: Backoff::default(),
            transport: Transport::default(),
        }
    }

    /// Refuses what cannot work.
    ///
    /// # Errors
    ///
    /// [`OptionError`], with the name of the first impossible option, its value and what is possible.
    pub fn validate(&self) -> Result<(), OptionError> {
        self.validate_name()?;
        self.validate_counts()?;
        self.validate_durations()?;
        self.validate_backoff()
    }

    fn validate_name(&self) -> Result<(), OptionError> {
        let value = || format!("{:?}", self.name);
        if self.name.is_empty() {
            return Err(OptionError::new("name", value(), "a pool needs a name that is not empty"));
        }
        if self.name.len() > LONGEST_NAME {
            return Err(OptionError::new("name", value(), "at most 64 bytes are possible"));
        }
        if self.name.chars().any(|char| char.is_control() || char == '/') {
            return Err(OptionError::new("name", value(), "neither '/' nor control characters are possible"));
        }
        Ok(())
    }

    fn validate_counts(&self) -> Result<(), OptionError> {
        let (least, most) = (*self.workers.start(), *self.workers.end());
        let workers = format!("{least}..={most}");
        if most == 0 {
            return Err(OptionError::new("workers", workers, "the most must be at least 1"));
        }
        if least > most {
            return Err(OptionError::new("workers", workers, "the fewest may not exceed the most"));
        }
        let counts = [
            ("max_waiting", self.max_waiting.map(|count| count as u64)),
            ("max_checkouts", self.max_checkouts),
            ("max_memory", self.max_memory),
            ("memory_limit", self.memory_limit),
            ("max_kills", self.max_kills.map(u64::from)),
            ("max_payload", Some(self.max_payload as u64)),
        ];
        if let Some((option, _)) = counts.into_iter().find(|(_, count)| *count == Some(0)) {
            return Err(OptionError::new(option, "0".to_owned(), "it must be at least 1"));
        }
        if self.max_payload > MOST_PAYLOAD {
            let value = self.max_payload.to_string();
            return Err(OptionError::new("max_payload", value, "at most 4294901759 bytes are possible"));
        }
        if self.blob_memory > MOST_BLOB_MEMORY {
            let value = self.blob_memory.to_string();
            return Err(OptionError::new("blob_memory", value, "at most 68719476736 bytes are possible"));
        }
        Ok(())
    }

    fn validate_durations(&self) -> Result<(), OptionError> {
        let durations = [
            ("timeout", self.timeout),
            ("wait_timeout", self.wait_timeout),
            ("setup_timeout", self.setup_timeout),
            ("hung_worker_timeout", self.hung_worker_timeout),
            ("kill_grace", self.kill_grace),
            ("idle_checkout_timeout", self.idle_checkout_timeout),
            ("kill_window", Some(self.kill_window)),
            ("idle_timeout", self.idle_timeout),
            ("max_age", self.max_age),
        ];
        if let Some((option, _)) = durations.into_iter().find(|(_, limit)| *limit == Some(Duration::ZERO)) {
            return Err(OptionError::zero_duration(option));
        }
        match self.hung_worker_timeout.filter(|limit| *limit > LONGEST_HUNG_WORKER_TIMEOUT) {
            Some(limit) => {
                let rule = "at most 20 days are possible, or None for none";
                Err(OptionError::new("hung_worker_timeout", format!("{limit:?}"), rule))
            }
            None => Ok(()),
        }
    }

    fn validate_backoff(&self) -> Result<(), OptionError> {
        let Backoff { first, most, jitter } = self.restart;
        let value = format!("{first:?} to {most:?} ±{jitter}");
        if first.is_zero() || first > most {
            return Err(OptionError::new(
                "restart",
                value,
                "first must be above zero and at most as long as most",
            ));
        }
        if most > Duration::from_secs(24 * 60 * 60) {
            return Err(OptionError::new("restart", value, "most must be at most a day"));
        }
        if !(0.0..=1.0).contains(&jitter) {
            return Err(OptionError::new("restart", value, "jitter must lie between 0 and 1"));
        }
        Ok(())
    }
}

/// An option with a value that cannot work.
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
        OptionError::new(option, "0ns".to_owned(), "it must be longer than zero, or None for none")
    }

    /// The option's name, as its builder method is called.
    pub fn option(&self) -> &'static str {
        self.option
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_the_most_and_no_further() {
        let backoff = Backoff { jitter: 0.0, ..Backoff::default() };
        let waits: Vec<u128> = (1..=8).map(|streak| backoff.wait(streak, 0.5).as_millis()).collect();
        assert_eq!(waits, [100, 200, 400, 800, 1600, 3200, 5000, 5000]);
    }

    #[test]
    fn chance_changes_a_wait_by_its_part_at_most() {
        let backoff = Backoff::default();
        assert_eq!(backoff.wait(1, 0.0), Duration::from_millis(80));
        assert_eq!(backoff.wait(1, 1.0), Duration::from_millis(120));
    }

    /// P1
    #[test]
    fn every_impossible_option_is_refused_by_name_and_value() {
        type Spoil = fn(&mut Options);
        let table: [(&str, &str, Spoil); 22] = [
            ("name", "\"\"", |options| options.name.clear()),
            ("name", "\"a/b\"", |options| options.name = "a/b".to_owned()),
            ("workers", "5..=2", |options| options.workers = RangeInclusive::new(5, 2)),
            ("workers", "0..=0", |options| options.workers = 0..=0),
            ("max_waiting", "0", |options| options.max_waiting = Some(0)),
            ("max_checkouts", "0", |options| options.max_checkouts = Some(0)),
            ("max_memory", "0", |options| options.max_memory = Some(0)),
            ("max_payload", "0", |options| options.max_payload = 0),
            ("blob_memory", "68719476737", |options| options.blob_memory = MOST_BLOB_MEMORY + 1),
            ("timeout", "0ns", |options| options.timeout = Some(Duration::ZERO)),
            ("wait_timeout", "0ns", |options| options.wait_timeout = Some(Duration::ZERO)),
            ("setup_timeout", "0ns", |options| options.setup_timeout = Some(Duration::ZERO)),
            ("idle_timeout", "0ns", |options| options.idle_timeout = Some(Duration::ZERO)),
            ("memory_limit", "0", |options| options.memory_limit = Some(0)),
            ("max_kills", "0", |options| options.max_kills = Some(0)),
            ("hung_worker_timeout", "0ns", |options| options.hung_worker_timeout = Some(Duration::ZERO)),
            ("hung_worker_timeout", "2592000s", |options| {
                options.hung_worker_timeout = Some(Duration::from_secs(30 * 24 * 60 * 60));
            }),
            ("kill_grace", "0ns", |options| options.kill_grace = Some(Duration::ZERO)),
            ("idle_checkout_timeout", "0ns", |options| {
                options.idle_checkout_timeout = Some(Duration::ZERO);
            }),
            ("kill_window", "0ns", |options| options.kill_window = Duration::ZERO),
            ("max_age", "0ns", |options| options.max_age = Some(Duration::ZERO)),
            ("restart", "0ns to 5s ±0.2", |options| options.restart.first = Duration::ZERO),
        ];
        for (option, value, spoil) in table {
            let mut options = Options::named("p");
            spoil(&mut options);
            let text = options.validate().map_err(|error| error.to_string());
            let expected = format!("option {option} cannot be {value}: ");
            assert!(text.as_ref().is_err_and(|text| text.starts_with(&expected)), "{option}: {text:?}");
        }
        assert_eq!(Options::named("p").validate(), Ok(()));
    }
}
