//! Why a console cannot be opened.

use std::fmt;
use std::io;
use std::path::PathBuf;

use crate::address::AddressError;
use crate::config::OptionError;
use crate::failure;
use crate::server::ListenError;

/// Why a console cannot be opened. No socket, thread or descriptor is left behind, and a console that is open is not
/// disturbed.
#[derive(thiserror::Error)]
#[non_exhaustive]
pub enum ConsoleError {
    /// An option has a value that cannot work.
    #[error(transparent)]
    Option(#[from] OptionError),
    /// The address is invalid.
    #[error(transparent)]
    Address(#[from] AddressError),
    /// The address is not that of a Unix socket.
    #[error("a console is a Unix socket, and {address:?} is not the address of one: write unix:/path")]
    NotUnix {
        /// The address as it was given.
        address: String,
    },
    /// This process or another one listens at this path: a console, a server or another program.
    #[error("{path:?} is in use{}: {}", of_process(*pid), advice(*pid))]
    Taken {
        /// The path of the socket.
        path: PathBuf,
        /// The pid of the process that listens there; 0 if it is not known here.
        pid: u32,
    },
    /// Something is at this path that a console does not replace: it replaces nothing but the socket of a dead process.
    #[error("cannot listen, because of what is at {path:?}: {reason}; remove it, or choose another path")]
    Occupied {
        /// The path of the socket, or of its lock file.
        path: PathBuf,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// The socket or its lock file cannot be created: the directory is missing, say, or permission is denied.
    #[error("cannot create the socket {path:?}")]
    Io {
        /// The path of the socket.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// The system has no thread or no descriptor left for the console.
    #[error("the thread that serves consoles cannot be started")]
    Thread(#[source] io::Error),
    /// All its pools have ended.
    #[error("there is nothing to show: the pool has ended")]
    Ended,
}

/// Prints the message and its causes, so that an unhandled `?` in `main` shows what is wrong and what to do.
impl fmt::Debug for ConsoleError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        failure::fmt_with_source(f, self)
    }
}

impl ConsoleError {
    /// Returns the error of a socket that could not be made at this path.
    pub(super) fn of_socket(path: PathBuf, error: ListenError) -> Self {
        match error {
            ListenError::Taken { path, pid } => ConsoleError::Taken { path, pid },
            ListenError::Occupied { path, reason } => ConsoleError::Occupied { path, reason },
            ListenError::Io { path, source } => ConsoleError::Io { path, source },
            other => ConsoleError::Io { path, source: io::Error::other(other) },
        }
    }
}

fn of_process(pid: u32) -> String {
    if pid == 0 { String::new() } else { format!(", by process {pid}") }
}

fn advice(pid: u32) -> &'static str {
    if pid == std::process::id() {
        "this application listens there already; a console shows several pools, see `add`"
    } else {
        "choose another path, or end that process"
    }
}
