//! The options of a pool, their defaults and limits.

use std::ops::RangeInclusive;
use std::time::Duration;

use super::{Backoff, MAX_BLOB_MEMORY, MAX_NAME, OnCancel, OptionError, SharedOptions, Transport};
use crate::wire::frame::DEFAULT_MAX_DEPTH;

/// Workers that a pool keeps and grows to: one at work and one in reserve, and as many as a small machine can hold.
pub(crate) const DEFAULT_WORKERS: RangeInclusive<usize> = 2..=20;

/// Time limit of one call: longer than any healthy request, shorter than a user waits.
pub(crate) const DEFAULT_TIMEOUT: Duration = Duration::from_secs(30);

/// Time limit of a set-up: one that takes longer hangs, and would occupy its worker for ever.
pub(crate) const DEFAULT_SETUP_TIMEOUT: Duration = Duration::from_secs(60);

/// Longest run of one call, whatever its own limit: longer than anyone waits for an answer.
pub(crate) const DEFAULT_HUNG_WORKER_TIMEOUT: Duration = Duration::from_secs(5 * 60);

/// How far back quarantine looks, and how long it lasts.
pub(crate) const DEFAULT_KILL_WINDOW: Duration = Duration::from_secs(60);

/// How long a worker above the minimum may be idle: longer than the pause between two waves of requests, short enough
/// that a surge does not keep its memory.
pub(crate) const DEFAULT_IDLE_TIMEOUT: Duration = Duration::from_secs(60);

/// Largest encoded message or reply, in bytes: 64 MiB, and space for the lengths of the fields around them.
pub(crate) const DEFAULT_MAX_PAYLOAD: usize = (64 << 20) + (64 << 10);

/// Bytes for the blobs of a pool's calls, and for those of each worker's results: enough for one of the largest that
/// are worth sending. Memory is taken only as blobs are made.
pub(crate) const DEFAULT_BLOB_MEMORY: usize = 1 << 30;

/// The most workers that the calls of one message may have at a time.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct MessageLimit {
    /// The message's index in the interface.
    pub(crate) method: u32,
    pub(crate) name: &'static str,
    pub(crate) most: usize,
}

/// All options of a pool; [`PoolBuilder`](crate::PoolBuilder) documents each.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Options {
    pub(crate) name: String,
    pub(crate) workers: RangeInclusive<usize>,
    pub(crate) spare_workers: usize,
    pub(crate) max_waiting: Option<usize>,
    pub(crate) message_limits: Vec<MessageLimit>,
    pub(crate) timeout: Option<Duration>,
    pub(crate) wait_timeout: Option<Duration>,
    pub(crate) setup_timeout: Option<Duration>,
    pub(crate) hung_worker_timeout: Option<Duration>,
    pub(crate) kill_grace: Option<Duration>,
    pub(crate) idle_checkout_timeout: Option<Duration>,
    pub(crate) on_cancel: OnCancel,
    pub(crate) max_kills: Option<u32>,
    pub(crate) kill_window: Duration,
    pub(crate) idle_timeout: Option<Duration>,
    pub(crate) max_checkouts: Option<u64>,
    pub(crate) max_lifetime: Option<Duration>,
    pub(crate) max_memory: Option<u64>,
    pub(crate) memory_limit: Option<u64>,
    pub(crate) max_payload: usize,
    pub(crate) max_depth: u32,
    pub(crate) blob_memory: usize,
    pub(crate) keep_after_error: bool,
    pub(crate) restart: Backoff,
    pub(crate) transport: Transport,
    pub(crate) park_worker: bool,
}

impl Options {
    /// Returns the defaults, under a name.
    pub(crate) fn named(name: impl Into<String>) -> Self {
        Options {
            name: name.into(),
            workers: DEFAULT_WORKERS,
            spare_workers: 0,
            max_waiting: None,
            message_limits: Vec::new(),
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
            max_lifetime: None,
            max_memory: None,
            memory_limit: None,
            max_payload: DEFAULT_MAX_PAYLOAD,
            max_depth: DEFAULT_MAX_DEPTH,
            blob_memory: DEFAULT_BLOB_MEMORY,
            keep_after_error: false,
            restart: Backoff::default(),
            transport: Transport::default(),
            park_worker: true,
        }
    }

    /// Refuses values that cannot work.
    ///
    /// # Errors
    ///
    /// [`OptionError`] for the first impossible option.
    pub(crate) fn validate(&self) -> Result<(), OptionError> {
        self.shared().validate()?;
        self.validate_counts()?;
        self.validate_durations()?;
        self.validate_backoff()
    }

    /// Returns what the pool's server checks as well.
    fn shared(&self) -> SharedOptions<'_> {
        SharedOptions {
            name: &self.name,
            max_payload: self.max_payload as u64,
            max_memory: self.max_memory,
            memory_limit: self.memory_limit,
            hung_worker_timeout: self.hung_worker_timeout,
            kill_grace: self.kill_grace,
        }
    }

    fn validate_counts(&self) -> Result<(), OptionError> {
        let (least, most) = (*self.workers.start(), *self.workers.end());
        let workers = format!("{least}..={most}");
        if most == 0 {
            return Err(OptionError::new("workers", workers, "the maximum must be at least 1"));
        }
        if least > most {
            return Err(OptionError::new("workers", workers, "the minimum must not exceed the maximum"));
        }
        for limit in &self.message_limits {
            self.validate_bulkhead("most_for", limit.name, limit.most)?;
        }
        let counts = [
            ("max_waiting", self.max_waiting.map(|count| count as u64)),
            ("max_checkouts", self.max_checkouts),
            ("max_kills", self.max_kills.map(u64::from)),
            ("max_depth", Some(u64::from(self.max_depth))),
        ];
        if let Some((option, _)) = counts.into_iter().find(|(_, count)| *count == Some(0)) {
            return Err(OptionError::new(option, "0".to_owned(), "it must be at least 1"));
        }
        if self.blob_memory > MAX_BLOB_MEMORY {
            let value = self.blob_memory.to_string();
            return Err(OptionError::new("blob_memory", value, "it must be at most 68719476736 bytes"));
        }
        Ok(())
    }

    /// Refuses a class of callers of this name, or with this number of workers.
    ///
    /// # Errors
    ///
    /// [`OptionError`] for the first of them that is impossible.
    pub(crate) fn validate_class(&self, name: &str, most: usize) -> Result<(), OptionError> {
        let rule = match name {
            "" => "its name must not be empty",
            _ if name.len() > MAX_NAME => "its name must have at most 64 bytes",
            _ if name.chars().any(char::is_control) => "its name must not contain control characters",
            _ => return self.validate_bulkhead("most", name, most),
        };
        Err(OptionError::new("class", format!("{name:?}"), rule))
    }

    /// Refuses a service of a pool whose queue has no bound.
    ///
    /// # Errors
    ///
    /// [`OptionError`] for `max_waiting`.
    #[cfg(feature = "tower")]
    pub(crate) fn validate_service(&self) -> Result<(), OptionError> {
        let rule = "a service is ready as long as fewer calls wait, so its pool needs a number";
        self.max_waiting.map(drop).ok_or_else(|| OptionError::new("max_waiting", "None".to_owned(), rule))
    }

    /// Refuses a bulkhead of this class or message that would let no worker through, or all.
    ///
    /// # Errors
    ///
    /// [`OptionError`] for this option.
    pub(crate) fn validate_bulkhead(
        &self,
        option: &'static str,
        name: &str,
        most: usize,
    ) -> Result<(), OptionError> {
        let rule = match most {
            0 => "it must be at least 1",
            _ if most > *self.workers.end() => "it must not exceed the maximum of workers",
            _ => return Ok(()),
        };
        Err(OptionError::new(option, format!("{most} for {name}"), rule))
    }

    fn validate_durations(&self) -> Result<(), OptionError> {
        let durations = [
            ("timeout", self.timeout),
            ("wait_timeout", self.wait_timeout),
            ("setup_timeout", self.setup_timeout),
            ("idle_checkout_timeout", self.idle_checkout_timeout),
            ("kill_window", Some(self.kill_window)),
            ("idle_timeout", self.idle_timeout),
            ("max_lifetime", self.max_lifetime),
        ];
        if let Some((option, _)) = durations.into_iter().find(|(_, limit)| *limit == Some(Duration::ZERO)) {
            return Err(OptionError::zero_duration(option));
        }
        Ok(())
    }

    fn validate_backoff(&self) -> Result<(), OptionError> {
        let Backoff { first, most, jitter } = self.restart;
        let value = format!("{first:?} to {most:?} ±{jitter}");
        if first.is_zero() || first > most {
            return Err(OptionError::new(
                "restart",
                value,
                "first must be above zero and not longer than most",
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

#[cfg(test)]
mod tests {
    use super::*;

    /// P1
    #[test]
    fn every_impossible_option_is_refused_by_name_and_value() {
        type Spoil = fn(&mut Options);
        let table: [(&str, &str, Spoil); 23] = [
            ("name", "\"\"", |options| options.name.clear()),
            ("name", "\"a/b\"", |options| options.name = "a/b".to_owned()),
            ("workers", "5..=2", |options| options.workers = RangeInclusive::new(5, 2)),
            ("workers", "0..=0", |options| options.workers = 0..=0),
            ("max_waiting", "0", |options| options.max_waiting = Some(0)),
            ("max_checkouts", "0", |options| options.max_checkouts = Some(0)),
            ("max_memory", "0", |options| options.max_memory = Some(0)),
            ("max_payload", "0", |options| options.max_payload = 0),
            ("max_depth", "0", |options| options.max_depth = 0),
            ("blob_memory", "68719476737", |options| options.blob_memory = MAX_BLOB_MEMORY + 1),
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
            ("max_lifetime", "0ns", |options| options.max_lifetime = Some(Duration::ZERO)),
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
