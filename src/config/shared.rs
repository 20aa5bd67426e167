//! The options of a pool that its server has to know. The application checks them when a pool is built, and a server
//! again when they arrive in a hello: another program may have written it.

use std::time::Duration;

use super::{MAX_NAME, OptionError};

/// Largest `blob_memory`, in bytes: each worker takes as much of the application's address space, and each pool as much of
/// its server's.
pub(crate) const MAX_BLOB_MEMORY: usize = 64 << 30;

/// Largest `max_payload`, in bytes: a frame's length is 32 bits, and its header needs some of them.
const MAX_PAYLOAD: u64 = u32::MAX as u64 - (64 << 10);

/// Longest `hung_worker_timeout`: the watchdog's clock counts milliseconds in 32 bits, half of which stand for times
/// that have passed.
const MAX_HUNG_WORKER_TIMEOUT: Duration = Duration::from_secs(20 * 24 * 60 * 60);

/// The options that a server needs.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SharedOptions<'a> {
    pub(crate) name: &'a str,
    pub(crate) max_payload: u64,
    pub(crate) max_memory: Option<u64>,
    pub(crate) memory_limit: Option<u64>,
    pub(crate) hung_worker_timeout: Option<Duration>,
    pub(crate) kill_grace: Option<Duration>,
}

impl SharedOptions<'_> {
    /// Refuses values that cannot work.
    ///
    /// # Errors
    ///
    /// [`OptionError`] for the first impossible option.
    pub(crate) fn validate(&self) -> Result<(), OptionError> {
        self.validate_name()?;
        let counts = [
            ("max_memory", self.max_memory),
            ("memory_limit", self.memory_limit),
            ("max_payload", Some(self.max_payload)),
        ];
        if let Some((option, _)) = counts.into_iter().find(|(_, count)| *count == Some(0)) {
            return Err(OptionError::new(option, "0".to_owned(), "it must be at least 1"));
        }
        if self.max_payload > MAX_PAYLOAD {
            let value = self.max_payload.to_string();
            return Err(OptionError::new("max_payload", value, "it must be at most 4294901759 bytes"));
        }
        let durations = [("hung_worker_timeout", self.hung_worker_timeout), ("kill_grace", self.kill_grace)];
        if let Some((option, _)) = durations.into_iter().find(|(_, limit)| *limit == Some(Duration::ZERO)) {
            return Err(OptionError::zero_duration(option));
        }
        match self.hung_worker_timeout.filter(|limit| *limit > MAX_HUNG_WORKER_TIMEOUT) {
            Some(limit) => {
                let rule = "it must be at most 20 days, or None for no limit";
                Err(OptionError::new("hung_worker_timeout", format!("{limit:?}"), rule))
            }
            None => Ok(()),
        }
    }

    fn validate_name(&self) -> Result<(), OptionError> {
        let value = || format!("{:?}", self.name);
        if self.name.is_empty() {
            return Err(OptionError::new("name", value(), "it must not be empty"));
        }
        if self.name.len() > MAX_NAME {
            return Err(OptionError::new("name", value(), "it must have at most 64 bytes"));
        }
        if self.name.chars().any(|char| char.is_control() || char == '/') {
            return Err(OptionError::new("name", value(), "it must not contain '/' or control characters"));
        }
        Ok(())
    }
}
