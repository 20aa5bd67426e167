//! A fork server that is a program of its own, to which applications come and go.

use super::control::Over;
use super::door::{Claim, ListenError};
use super::run::preloaded;
use super::serve::ForkServer;
use crate::wire::work::SetupReport;
use crate::worker::{self, Program};

/// Why a server does not serve.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServerError {
    /// It cannot listen.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// It has nowhere to listen.
    #[error("a server listens somewhere: name an address with listen")]
    NoAddress,
    /// The process has more than one thread, and a fork copies only one of them.
    #[error(
        "a server forks and has to be alone in its process, which has {count} threads: start it first thing in main, \
         outside of any runtime"
    )]
    Threads {
        /// So many.
        count: usize,
    },
    /// The workers' configuration cannot be encoded.
    #[error("the configuration of the workers cannot be encoded")]
    Config(#[source] crate::worker::PayloadError),
    /// The preload failed.
    #[error("the preload failed: {reason}")]
    Preload {
        /// What it said.
        reason: String,
    },
    /// What the system said.
    #[error("the server cannot work")]
    Io(#[source] std::io::Error),
}

/// Serves workers of a program at an address, `unix:/path`, until SIGTERM or SIGINT;
/// `Server` does so for a type of worker. `config` is their configuration, encoded by postcard.
///
/// # Errors
///
/// [`ServerError`]; no client was let in then, and nothing is left behind.
pub fn serve(program: &Program, config: Vec<u8>, address: &str) -> Result<(), ServerError> {
    let count = std::fs::read_dir("/proc/self/task").map_or(1, Iterator::count);
    if count > 1 {
        return Err(ServerError::Threads { count });
    }
    let claim = Claim::new(address)?;
    worker::break_ground();
    let preload = preloaded(program, &config).map_err(|report| ServerError::Preload {
        reason: match report {
            SetupReport::Error(error) => error.chain().join(": "),
            SetupReport::Panic(report) => format!("it panicked: {report}"),
        },
    })?;
    let io = |error| ServerError::Io(std::io::Error::from(error));
    let server = ForkServer::new(program, config, preload, None, Some(claim.open()?)).map_err(io)?;
    match server.serve() {
        Ok(newborn) => newborn.live(),
        Err(Over::Closed) => Ok(()),
        Err(Over::Broken) => Err(ServerError::Io(std::io::Error::last_os_error())),
    }
}
