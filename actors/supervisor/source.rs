//! Where a pool has its fork server from, and how it is reached.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::address::Address;
use crate::certificates::Certificates;
use crate::channel::SocketLayer;
use crate::sys::server_process::ServerProcess;
use crate::sys::{descriptors, sockets};

/// Longest time to connect to one address of a host.
const CONNECTING: Duration = Duration::from_secs(5);

/// Our end of a control channel, not yet registered with a reactor, and the server process if it is ours.
pub(crate) struct Launched {
    pub(super) socket: OwnedFd,
    pub(super) security: SocketLayer,
    pub(super) process: Option<ServerProcess>,
    /// Where it is, if over a network.
    pub(super) remote: Option<Remote>,
}

/// A server over a network, for the channels of its workers.
#[derive(Clone)]
pub(crate) struct Remote {
    address: SocketAddr,
    /// Its name, and what it has to match.
    identity: Option<(String, Certificates)>,
}

impl Remote {
    /// One more connection, which may still be on its way.
    ///
    /// # Errors
    ///
    /// What the system said; nothing is left behind.
    pub(crate) fn connect(&self) -> io::Result<(OwnedFd, SocketLayer)> {
        let security = match &self.identity {
            Some((name, certificates)) => certificates.connect(name)?,
            None => SocketLayer::None,
        };
        Ok((sockets::connect_net(self.address)?, security))
    }
}

/// Where a pool has its fork server from.
#[derive(Clone, Debug)]
pub(crate) enum ServerSource {
    /// This program, started again with these arguments.
    Own(Vec<String>),
    /// A server that listens at this path, and runs as our user, as root or as the one that is trusted.
    Path { path: PathBuf, trusted: Option<u32> },
    /// A server that listens at a port, and shows a certificate if we have some.
    Port { host: String, port: u16, certificates: Option<Certificates>, beyond_loopback: bool },
}

impl ServerSource {
    /// Starts the server, or goes to it; `None` where that takes a while, see [`reach`](Self::reach).
    ///
    /// # Errors
    ///
    /// What the system said; nothing is left behind.
    pub(crate) fn reach_at_once(&self) -> Option<io::Result<Launched>> {
        match self {
            ServerSource::Own(arguments) => Some(launch(arguments)),
            ServerSource::Path { path, trusted } => Some(go_to(path, *trusted)),
            ServerSource::Port { .. } => None,
        }
    }

    /// Goes to the server.
    ///
    /// # Errors
    ///
    /// As [`reach_at_once`](Self::reach_at_once).
    pub(crate) async fn reach(self) -> io::Result<Launched> {
        let ServerSource::Port { host, port, certificates, beyond_loopback } = &self else {
            return self.reach_at_once().unwrap_or_else(|| Err(io::ErrorKind::Unsupported.into()));
        };
        let mut refusal = io::Error::new(io::ErrorKind::NotFound, "it has no address");
        for address in tokio::net::lookup_host((host.as_str(), *port)).await? {
            if certificates.is_none() && !address.ip().is_loopback() && !beyond_loopback {
                let why = "on plain TCP nobody shows who it is: connect to tls:host:port with certificates, or say \
                           allow_unauthenticated_beyond_loopback(true)";
                refusal = io::Error::new(io::ErrorKind::PermissionDenied, why);
                continue;
            }
            let identity = certificates.clone().map(|certificates| (host.clone(), certificates));
            let remote = Remote { address, identity };
            match remote.arrive().await {
                Ok(launched) => return Ok(launched),
                Err(error) => refusal = error,
            }
        }
        Err(refusal)
    }

    /// Whether the server is this program, started for this pool alone.
    pub(crate) fn is_own(&self) -> bool {
        matches!(self, ServerSource::Own(_))
    }

    /// Whether its workers are on another machine, or might as well be.
    pub(crate) fn is_remote(&self) -> bool {
        matches!(self, ServerSource::Port { .. })
    }

    /// What is wrong as long as it was reached and says nothing; a server of ours may take its time to load.
    pub(crate) fn unanswered(&self) -> Option<String> {
        (!self.is_own()).then(|| format!("no word yet from the server at {}", self.place()))
    }

    /// What it is that cannot be done where it cannot be reached.
    pub(crate) fn unreachable(&self, error: &io::Error) -> String {
        match self {
            ServerSource::Own(_) => format!("this program cannot be started again: {error}"),
            ServerSource::Path { .. } | ServerSource::Port { .. } => {
                format!("no server at {}: {error}", self.place())
            }
        }
    }

    fn place(&self) -> String {
        match self {
            ServerSource::Own(_) => "this program".to_owned(),
            ServerSource::Path { path, .. } => path.display().to_string(),
            ServerSource::Port { host, port, certificates, .. } => {
                let (host, tls) = (host.clone(), certificates.is_some());
                Address::Net { host, port: *port, tls }.to_string()
            }
        }
    }
}

impl Remote {
    async fn arrive(self) -> io::Result<Launched> {
        let connecting = tokio::net::TcpStream::connect(self.address);
        let connected = actix_rt::time::timeout(CONNECTING, connecting).await;
        let socket: OwnedFd = connected.map_err(|_| io::ErrorKind::TimedOut)??.into_std()?.into();
        sockets::set_up_net(socket.as_fd())?;
        let security = match &self.identity {
            Some((name, certificates)) => certificates.connect(name)?,
            None => SocketLayer::None,
        };
        Ok(Launched { socket, security, process: None, remote: Some(self) })
    }
}

fn launch(arguments: &[String]) -> io::Result<Launched> {
    let (ours, theirs) = sockets::socket_pair()?;
    descriptors::set_nonblocking(ours.as_fd())?;
    let process = Some(ServerProcess::launch(arguments, theirs)?);
    Ok(Launched { socket: ours, security: SocketLayer::None, process, remote: None })
}

fn go_to(path: &Path, trusted: Option<u32>) -> io::Result<Launched> {
    let socket = sockets::connect(path)?;
    let user = sockets::peer(socket.as_fd())?.user;
    let is_trusted = user == sockets::own_user() || user == 0 || trusted == Some(user);
    if !is_trusted {
        let why = format!("it is of user {user}, whom this application does not trust");
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, why));
    }
    Ok(Launched { socket, security: SocketLayer::None, process: None, remote: None })
}
