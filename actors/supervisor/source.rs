//! The three sources of a fork server: started by the pool, listening at a path, listening at a port.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::actors::threads::real_time::within;
use crate::address::Address;
use crate::certificates::Certificates;
use crate::channel::SocketLayer;
use crate::sys::Errno;
use crate::sys::own_program::OwnProgram;
use crate::sys::server_process::ServerProcess;
use crate::sys::{descriptors, sockets};

/// Longest time to connect to one address of a host (5 s).
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// How long the machine of a server may not answer until its connections are probed (30 s). That a server is silent shows
/// earlier by its pings; calls that run on its workers may last longer.
const PATIENCE: Duration = Duration::from_secs(30);

/// The application's end of a control channel, not registered with a reactor yet, and the server process if the
/// application started it.
pub(crate) struct Launched {
    pub(super) socket: OwnedFd,
    pub(super) layer: SocketLayer,
    pub(super) process: Option<ServerProcess>,
    /// The server's network address, if it is reached over a network.
    pub(super) remote: Option<Remote>,
}

/// The network address of a server, to open connections to it.
#[derive(Clone)]
pub(crate) struct Remote {
    address: SocketAddr,
    /// The name that the server's certificate must have, and the certificates to check it with. `None`: plain TCP.
    identity: Option<(String, Certificates)>,
    /// How long the server may be silent until it is taken for dead.
    dead_after: Duration,
}

impl Remote {
    /// Returns how long the server may be silent until it is taken for dead.
    pub(super) fn dead_after(&self) -> Duration {
        self.dead_after
    }

    /// Begins another connection and does not wait until it is established.
    ///
    /// # Errors
    ///
    /// The error of the system call or of the TLS set-up; no connection is left then.
    pub(crate) fn connect(&self) -> io::Result<(OwnedFd, SocketLayer)> {
        let layer = match &self.identity {
            Some((name, certificates)) => certificates.connect(name)?,
            None => SocketLayer::None,
        };
        Ok((sockets::connect_tcp(self.address, PATIENCE)?, layer))
    }
}

/// Where a pool's fork server comes from.
#[derive(Clone, Debug)]
pub(crate) enum ServerSource {
    /// The pool starts this program again with these arguments.
    Own(OwnProgram, Vec<String>),
    /// A server listens at this path. It must run as this process's user, as root or as `trusted`.
    Path { path: PathBuf, trusted: Option<u32> },
    /// A server listens at this port. With `certificates` the connection uses TLS. Without them it must be to a
    /// loopback address, unless `beyond_loopback` is set. A server that is silent for `dead_after` is dead.
    Port {
        host: String,
        port: u16,
        certificates: Option<Certificates>,
        beyond_loopback: bool,
        dead_after: Duration,
    },
}

impl ServerSource {
    /// Starts the server or connects to its path. Returns `None` for a server at a port, because that takes a while:
    /// see [`open`](Self::open).
    ///
    /// # Errors
    ///
    /// The error of the system call, or `PermissionDenied` if the server's user is not trusted. No process and no
    /// connection is left then.
    pub(crate) fn open_now(&self) -> Option<io::Result<Launched>> {
        match self {
            ServerSource::Own(program, arguments) => Some(launch(program, arguments)),
            ServerSource::Path { path, trusted } => Some(connect_to_path(path, *trusted)),
            ServerSource::Port { .. } => None,
        }
    }

    /// Starts the server or connects to it.
    ///
    /// # Errors
    ///
    /// The same as for [`open_now`](Self::open_now). For a server at a port also the error of the name lookup, or the
    /// error for the last address of the host: `PermissionDenied` for plain TCP beyond the loopback, `TimedOut` after
    /// five seconds. No connection is left then.
    pub(crate) async fn open(self) -> io::Result<Launched> {
        let ServerSource::Port { host, port, certificates, beyond_loopback, dead_after } = &self else {
            return self.open_now().unwrap_or_else(|| Err(io::ErrorKind::Unsupported.into()));
        };
        let mut last_error = io::Error::new(io::ErrorKind::NotFound, "the host name has no address");
        for address in tokio::net::lookup_host((host.as_str(), *port)).await? {
            if certificates.is_none() && !address.ip().is_loopback() && !beyond_loopback {
                let why = "plain TCP beyond the loopback is unauthenticated: connect to tls:host:port with \
                           certificates, or call allow_unauthenticated_beyond_loopback(true)";
                last_error = io::Error::new(io::ErrorKind::PermissionDenied, why);
                continue;
            }
            let identity = certificates.clone().map(|certificates| (host.clone(), certificates));
            let remote = Remote { address, identity, dead_after: *dead_after };
            match remote.open().await {
                Ok(launched) => return Ok(launched),
                Err(error) => last_error = error,
            }
        }
        Err(last_error)
    }

    /// Returns whether the pool starts the server itself.
    pub(crate) fn is_own(&self) -> bool {
        matches!(self, ServerSource::Own(..))
    }

    /// Returns whether the server is at a port, so that its workers may be on another machine.
    pub(crate) fn is_remote(&self) -> bool {
        matches!(self, ServerSource::Port { .. })
    }

    /// Returns the outage while a connected server has not sent its welcome. `None` for the pool's own server, whose
    /// preload may take long.
    pub(crate) fn no_answer_text(&self) -> Option<String> {
        (!self.is_own()).then(|| format!("the server at {} has not answered yet", self.location()))
    }

    /// Returns the outage after an attempt to start the server or to connect to it has failed.
    pub(crate) fn unreachable_text(&self, error: &io::Error) -> String {
        match self {
            ServerSource::Own(..) => {
                format!("failed to start this program again as the fork server: {error}")
            }
            ServerSource::Path { .. } | ServerSource::Port { .. } => {
                format!("failed to connect to the server at {}: {error}", self.location())
            }
        }
    }

    /// Returns the outage after a server was silent for too long; `None` for one that is sent no pings.
    pub(super) fn silent_text(&self) -> Option<String> {
        let ServerSource::Port { dead_after, .. } = self else { return None };
        Some(format!("the server at {} has not answered for {dead_after:?}", self.location()))
    }

    fn location(&self) -> String {
        match self {
            ServerSource::Own(..) => "this program".to_owned(),
            ServerSource::Path { path, .. } => path.display().to_string(),
            ServerSource::Port { host, port, certificates, .. } => {
                let (host, tls) = (host.clone(), certificates.is_some());
                Address::Net { host, port: *port, tls }.to_string()
            }
        }
    }
}

impl Remote {
    async fn open(self) -> io::Result<Launched> {
        let connecting = tokio::net::TcpStream::connect(self.address);
        let connected = within(CONNECT_TIMEOUT, connecting).await;
        let socket: OwnedFd = connected.ok_or(io::ErrorKind::TimedOut)??.into_std()?.into();
        sockets::configure_tcp(socket.as_fd(), PATIENCE)?;
        let layer = match &self.identity {
            Some((name, certificates)) => certificates.connect(name)?,
            None => SocketLayer::None,
        };
        Ok(Launched { socket, layer, process: None, remote: Some(self) })
    }
}

fn launch(program: &OwnProgram, arguments: &[String]) -> io::Result<Launched> {
    let failed = |error: Errno| {
        let error = io::Error::from(error);
        io::Error::new(error.kind(), format!("socketpair: {error}"))
    };
    let (ours, theirs) = sockets::socket_pair().map_err(failed)?;
    descriptors::set_nonblocking(ours.as_fd())?;
    let process = Some(ServerProcess::launch(program, arguments, theirs)?);
    Ok(Launched { socket: ours, layer: SocketLayer::None, process, remote: None })
}

fn connect_to_path(path: &Path, trusted: Option<u32>) -> io::Result<Launched> {
    let socket = sockets::connect(path)?;
    let user = sockets::peer_credentials(socket.as_fd())?.user;
    let is_trusted = |user| user == sockets::own_user() || user == 0 || trusted == Some(user);
    if !user.is_some_and(is_trusted) {
        let user = user.map_or("a user of another namespace".to_owned(), |user| format!("user {user}"));
        let why = format!("it runs as {user}, which this application does not trust");
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, why));
    }
    Ok(Launched { socket, layer: SocketLayer::None, process: None, remote: None })
}
