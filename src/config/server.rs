//! The options of a standalone server.

use std::time::Duration;

use super::{MAX_NAME, OptionError};

/// Pools that a server serves at a time: far more than a machine has, few enough that their control channels do not use
/// up its descriptors.
pub(crate) const DEFAULT_MAX_CLIENTS: usize = 512;

/// How long a client at a port may be silent: longer than an application is paused or restarts its network, short enough
/// that the workers of a machine that is gone do not occupy memory for long.
const DEFAULT_CLIENT_DEAD_AFTER: Duration = Duration::from_secs(30);

/// Shortest `client_dead_after`: a client sends a ping each second.
const LEAST_CLIENT_DEAD_AFTER: Duration = Duration::from_secs(3);

/// How long a server waits for its turn to take over: longer than another one needs once its preload is done.
pub(crate) const DEFAULT_TAKE_OVER_WAIT: Duration = Duration::from_secs(30);

/// What becomes of clients of a server that is replaced if they do not fit the new one: it lacks one of their messages, or
/// speaks another version of the protocol.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum OnMisfit {
    /// The old server stays for them, until they have disconnected or its `drain_timeout` is over. New connections reach
    /// the new server.
    #[default]
    Stay,
    /// The old server refuses to hand over.
    Refuse,
}

/// All options of a standalone server; [`Server`](crate::Server) documents each.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ServerOptions {
    /// The server's name in `ps` and logs; `None` is the name of its program.
    pub name: Option<String>,
    /// The group whose members may connect to its Unix sockets, by number, beside the server's own user and root.
    pub group: Option<u32>,
    /// Whether to replace a server that listens at the same addresses.
    pub take_over: bool,
    /// How long to wait while another server replaces the same one; zero: not at all.
    pub take_over_wait: Duration,
    /// What becomes of clients of the old server that do not fit this one.
    pub on_misfit: OnMisfit,
    /// Whether the server may listen on plain TCP, which authenticates no one, beyond the loopback.
    pub unauthenticated_beyond_loopback: bool,
    /// How long workers may finish their calls after SIGTERM; `None` is no limit.
    pub drain_timeout: Option<Duration>,
    /// Maximum of workers of all clients together; `None` is no limit.
    pub max_workers: Option<usize>,
    /// Maximum of clients, one for each pool.
    pub max_clients: usize,
    /// How long a client at a port may be silent until its workers are killed.
    pub client_dead_after: Duration,
    /// Whether to keep a forked child ready for the next worker.
    pub park_worker: bool,
}

impl Default for ServerOptions {
    fn default() -> Self {
        ServerOptions {
            name: None,
            group: None,
            take_over: false,
            take_over_wait: DEFAULT_TAKE_OVER_WAIT,
            on_misfit: OnMisfit::Stay,
            unauthenticated_beyond_loopback: false,
            drain_timeout: None,
            max_workers: None,
            max_clients: DEFAULT_MAX_CLIENTS,
            client_dead_after: DEFAULT_CLIENT_DEAD_AFTER,
            park_worker: true,
        }
    }
}

impl ServerOptions {
    /// Refuses values that cannot work.
    ///
    /// # Errors
    ///
    /// [`OptionError`] for the first impossible option.
    pub(crate) fn validate(&self) -> Result<(), OptionError> {
        if let Some(name) = &self.name {
            let is_possible = !name.is_empty()
                && name.len() <= MAX_NAME
                && !name.chars().any(|char| char.is_control() || char == '/');
            if !is_possible {
                let rule = "it must have 1 to 64 bytes, without '/' and control characters";
                return Err(OptionError::new("name", format!("{name:?}"), rule));
            }
        }
        if self.drain_timeout == Some(Duration::ZERO) {
            return Err(OptionError::zero_duration("drain_timeout"));
        }
        if self.client_dead_after < LEAST_CLIENT_DEAD_AFTER {
            let value = format!("{:?}", self.client_dead_after);
            let rule = "it must be at least 3s, because a client sends a ping each second";
            return Err(OptionError::new("client_dead_after", value, rule));
        }
        let counts = [("max_workers", self.max_workers), ("max_clients", Some(self.max_clients))];
        match counts.into_iter().find(|(_, count)| *count == Some(0)) {
            Some((option, _)) => Err(OptionError::new(option, "0".to_owned(), "it must be at least 1")),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_impossible_option_of_a_server_is_refused_by_name_and_value() {
        type Spoil = fn(&mut ServerOptions);
        let table: [(&str, &str, Spoil); 6] = [
            ("name", "\"\"", |options| options.name = Some(String::new())),
            ("name", "\"a/b\"", |options| options.name = Some("a/b".to_owned())),
            ("drain_timeout", "0ns", |options| options.drain_timeout = Some(Duration::ZERO)),
            ("max_workers", "0", |options| options.max_workers = Some(0)),
            ("max_clients", "0", |options| options.max_clients = 0),
            ("client_dead_after", "2.9s", |options| {
                options.client_dead_after = Duration::from_millis(2900);
            }),
        ];
        for (option, value, spoil) in table {
            let mut options = ServerOptions::default();
            spoil(&mut options);
            let text = options.validate().map_err(|error| error.to_string());
            let expected = format!("option {option} cannot be {value}: ");
            assert!(text.as_ref().is_err_and(|text| text.starts_with(&expected)), "{option}: {text:?}");
        }
        assert_eq!(ServerOptions::default().validate(), Ok(()));
    }
}
