//! Why a server cannot listen or serve.

use std::fmt;
use std::io;
use std::path::PathBuf;

use crate::address::AddressError;
use crate::config::OptionError;
use crate::failure;
use crate::wire::frame::PayloadError;

/// Why a server cannot listen. No socket or lock is left behind, and a server that is already running is not
/// disturbed.
#[derive(thiserror::Error)]
#[non_exhaustive]
pub enum ListenError {
    /// The address is invalid.
    #[error(transparent)]
    Address(#[from] AddressError),
    /// Another server listens at this path.
    #[error("{path:?} belongs to a running server{}; set take_over(true) to replace it", of_process(*pid))]
    Taken {
        /// The path of the socket.
        path: PathBuf,
        /// The pid of the other server; 0 if it is not known here, because the server is in another PID namespace, say.
        pid: u32,
    },
    /// Something is at this path that a server does not replace: it replaces nothing but the socket of a dead server.
    #[error("cannot listen, because of what is at {path:?}: {reason}; remove it, or choose another path")]
    #[non_exhaustive]
    Occupied {
        /// The path of the socket, or of its lock file.
        path: PathBuf,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// The server at this path does not hand over its sockets.
    #[error("the server at {path:?} does not hand over its sockets: {reason}")]
    NotHandedOver {
        /// The path of the socket.
        path: PathBuf,
        /// The other server's reason, or the error of the connection to it.
        reason: String,
    },
    /// The socket or its lock file cannot be created: the directory is missing, say, or permission is denied.
    #[error("cannot create the socket {path:?}")]
    Io {
        /// The path of the socket, or the name of a socket that the service manager passed.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// A port cannot be opened: it is in use, say, or the host name is unknown.
    #[error("cannot listen at {address}{}", advice(source))]
    Net {
        /// The address as it was given.
        address: String,
        /// The system's error.
        source: io::Error,
    },
    /// Other machines could reach this plain TCP port without authentication.
    #[error(
        "{address} can be reached from other machines, and plain TCP does not authenticate clients: listen at \
         tls:host:port with certificates, or at 127.0.0.1, or set allow_unauthenticated_beyond_loopback(true)"
    )]
    Unauthenticated {
        /// The address as it was given.
        address: String,
    },
    /// The service manager has passed no listening socket that matches the address.
    #[error("{address} needs a socket from the service manager, and it has passed {passed}")]
    NotInherited {
        /// The address as it was given.
        address: String,
        /// What the service manager has passed instead.
        passed: String,
    },
}

/// Prints the message and its causes, so that an unhandled `?` in `main` shows what is wrong and what to do.
impl fmt::Debug for ListenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        failure::fmt_with_source(f, self)
    }
}

/// What to do about a port that is in use.
fn advice(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::AddrInUse => {
            ", where another program listens; a server that is to replace another one at a port needs a path as well: both \
             listen at the same unix:/path, and the new one sets take_over(true); or the service manager owns the socket"
        }
        _ => "",
    }
}

fn of_process(pid: u32) -> String {
    if pid == 0 { String::new() } else { format!(", process {pid}") }
}

/// Why a server cannot serve.
#[derive(thiserror::Error)]
#[non_exhaustive]
pub enum ServerError {
    /// The value of an option is invalid.
    #[error(transparent)]
    Option(#[from] OptionError),
    /// The server cannot listen at one of its addresses.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// The server has no address.
    #[error("the server has no address to listen at: add one with listen")]
    NoAddress,
    /// The process has more than one thread, and a fork copies only the thread that calls it.
    #[error(
        "a fork server must run in a process with one thread, and this one has {count} threads{}: start it first in \
         main, outside of any runtime",
        named(names)
    )]
    Threads {
        /// The number of threads in the process; 2 if the system only tells that there are several.
        count: usize,
        /// The names of the other threads, as far as the system tells them.
        names: Vec<String>,
    },
    /// The thread runs an async runtime or an actix system.
    #[error(
        "a fork server must not run inside of a runtime, because its workers would inherit it: call Server::run in a \
         plain `fn main`, without an attribute that starts a runtime"
    )]
    Runtime,
    /// The workers' configuration cannot be encoded.
    #[error("the configuration of the workers cannot be encoded")]
    Config(#[source] PayloadError),
    /// The preload returned an error, panicked, or left threads running.
    #[error("the preload failed: {reason}")]
    Preload {
        /// The text of the error and its causes, of the panic, or the number and names of the threads.
        reason: String,
    },
    /// The system refuses a call without which a server cannot work.
    #[error("the system refuses {call}, without which a fork server cannot work")]
    Refused {
        /// The call.
        call: &'static str,
        /// The system's error.
        source: io::Error,
    },
    /// A system call failed.
    #[error("a system call of the server failed")]
    Io(#[source] io::Error),
}

/// Prints the message and its causes, so that an unhandled `?` in `main` shows what is wrong and what to do.
impl fmt::Debug for ServerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        failure::fmt_with_source(f, self)
    }
}

fn named(names: &[String]) -> String {
    if names.is_empty() { String::new() } else { format!(" (others: {})", names.join(", ")) }
}

impl From<AddressError> for ServerError {
    fn from(error: AddressError) -> Self {
        ServerError::Listen(error.into())
    }
}
