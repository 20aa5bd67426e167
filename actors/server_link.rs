//! The application's end of the control channel, and the server process behind it.

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::unix::AsyncFd;

use crate::address::Address;
use crate::certificates::Certificates;
use crate::channel::{Inbox, Parcels, Security};
use crate::sys::descriptors::Bundle;
use crate::sys::launch::ServerProcess;
use crate::sys::{descriptors, reactor, sockets};
use crate::wire::control::{BODY_LIMIT, FromServer, ToServer};
use crate::wire::frame;

/// Longest time to connect to one address of a host.
const CONNECTING: Duration = Duration::from_secs(5);

/// A server that was started and not yet taken leave of.
pub(super) struct ServerLink {
    // The channel goes before the process: its end is what tells the server to end.
    socket: AsyncFd<OwnedFd>,
    security: Security,
    /// Where it is, if over a network.
    remote: Option<Remote>,
    /// What it knows us by there.
    ticket: Option<u128>,
    /// What was wrong with the conversation, if it was not just the end of it.
    complaint: Option<String>,
    /// Where it is ours.
    process: Option<ServerProcess>,
    inbox: Inbox,
    unsent: Parcels,
    passed: VecDeque<Bundle>,
}

/// Our end of a control channel, not yet registered with a reactor, and the server process if it is ours.
pub(super) struct Launched {
    socket: OwnedFd,
    security: Security,
    process: Option<ServerProcess>,
    /// Where it is, if over a network.
    remote: Option<Remote>,
}

/// A server over a network, for the channels of its workers.
#[derive(Clone)]
pub(super) struct Remote {
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
    pub(super) fn connect(&self) -> io::Result<(OwnedFd, Security)> {
        let security = match &self.identity {
            Some((name, certificates)) => certificates.connect(name)?,
            None => Security::None,
        };
        Ok((sockets::connect_net(self.address)?, security))
    }
}

/// Where a pool has its fork server from.
#[derive(Clone, Debug)]
pub(super) enum Source {
    /// This program, started again with these arguments.
    Own(Vec<String>),
    /// A server that listens at this path, and runs as our user, as root or as the one that is trusted.
    Path { path: PathBuf, trusted: Option<u32> },
    /// A server that listens at a port, and shows a certificate if we have some.
    Port { host: String, port: u16, certificates: Option<Certificates>, beyond_loopback: bool },
}

impl Source {
    /// Starts the server, or goes to it; `None` where that takes a while, see [`reach`](Self::reach).
    ///
    /// # Errors
    ///
    /// What the system said; nothing is left behind.
    pub(super) fn reach_at_once(&self) -> Option<io::Result<Launched>> {
        match self {
            Source::Own(arguments) => Some(launch(arguments)),
            Source::Path { path, trusted } => Some(go_to(path, *trusted)),
            Source::Port { .. } => None,
        }
    }

    /// Goes to the server.
    ///
    /// # Errors
    ///
    /// As [`reach_at_once`](Self::reach_at_once).
    pub(super) async fn reach(self) -> io::Result<Launched> {
        let Source::Port { host, port, certificates, beyond_loopback } = &self else {
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
    pub(super) fn is_own(&self) -> bool {
        matches!(self, Source::Own(_))
    }

    /// Whether its workers are on another machine, or might as well be.
    pub(super) fn is_remote(&self) -> bool {
        matches!(self, Source::Port { .. })
    }

    /// What is wrong as long as it was reached and says nothing; a server of ours may take its time to load.
    pub(super) fn unanswered(&self) -> Option<String> {
        (!self.is_own()).then(|| format!("no word yet from the server at {}", self.place()))
    }

    /// What it is that cannot be done where it cannot be reached.
    pub(super) fn unreachable(&self, error: &io::Error) -> String {
        match self {
            Source::Own(_) => format!("this program cannot be started again: {error}"),
            Source::Path { .. } | Source::Port { .. } => format!("no server at {}: {error}", self.place()),
        }
    }

    fn place(&self) -> String {
        match self {
            Source::Own(_) => "this program".to_owned(),
            Source::Path { path, .. } => path.display().to_string(),
            Source::Port { host, port, certificates, .. } => {
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
            None => Security::None,
        };
        Ok(Launched { socket, security, process: None, remote: Some(self) })
    }
}

fn launch(arguments: &[String]) -> io::Result<Launched> {
    let (ours, theirs) = sockets::socket_pair()?;
    descriptors::set_nonblocking(ours.as_fd())?;
    let process = Some(ServerProcess::launch(arguments, theirs)?);
    Ok(Launched { socket: ours, security: Security::None, process, remote: None })
}

fn go_to(path: &Path, trusted: Option<u32>) -> io::Result<Launched> {
    let socket = sockets::connect(path)?;
    let user = sockets::peer(socket.as_fd())?.user;
    let is_trusted = user == sockets::own_user() || user == 0 || trusted == Some(user);
    if !is_trusted {
        let why = format!("it is of user {user}, whom this application does not trust");
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, why));
    }
    Ok(Launched { socket, security: Security::None, process: None, remote: None })
}

impl ServerLink {
    /// Registers with the current reactor.
    pub(super) fn new(launched: Launched) -> io::Result<Self> {
        Ok(ServerLink {
            socket: reactor::register_both_ways(launched.socket)?,
            security: launched.security,
            remote: launched.remote,
            ticket: None,
            complaint: None,
            process: launched.process,
            inbox: Inbox::default(),
            unsent: Parcels::default(),
            passed: VecDeque::new(),
        })
    }

    /// The server's process, where it is ours.
    pub(super) fn pid(&self) -> Option<u32> {
        self.process.as_ref().map(ServerProcess::pid)
    }

    /// Says it at once, as far as it fits; the rest is left for [`poll_flush`](Self::poll_flush).
    pub(super) fn say(&mut self, message: &ToServer, passed: Vec<OwnedFd>) {
        self.unsent.put(message, passed);
        // What it says is looked at by whoever flushes.
        let _ = self.send();
    }

    /// Says bytes that are a frame already.
    pub(super) fn say_frame(&mut self, bytes: Vec<u8>, passed: Vec<OwnedFd>) {
        self.unsent.put_frame(bytes, passed);
    }

    fn send(&mut self) -> io::Result<()> {
        let socket = self.socket.as_fd();
        self.unsent.send(socket, &mut self.security)?;
        self.security.flush(socket)
    }

    /// It knows us by this.
    pub(super) fn is_known_as(&mut self, ticket: Option<u128>) {
        self.ticket = ticket;
    }

    /// Where the channels of its workers go, and what they name us by, if that is over a network.
    pub(super) fn remote(&self) -> Option<(Remote, u128)> {
        Some((self.remote.clone()?, self.ticket?))
    }

    /// Whether the channels of its workers are connections to it.
    pub(super) fn is_remote(&self) -> bool {
        self.remote.is_some()
    }

    /// What was wrong with the conversation, if it was not just the end of it.
    pub(super) fn take_complaint(&mut self) -> Option<String> {
        self.complaint.take()
    }

    /// The descriptors that came with the message at hand.
    pub(super) fn take_passed(&mut self) -> Bundle {
        self.passed.pop_front().unwrap_or_default()
    }

    /// Writes what fits; registers the task for the rest. A server that is gone is told by the next read.
    pub(super) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        while let Err(error) = self.send() {
            if error.kind() != io::ErrorKind::WouldBlock {
                self.unsent.clear();
                return Poll::Ready(());
            }
            match ready!(self.socket.poll_write_ready(cx)) {
                Ok(mut guard) => guard.clear_ready(),
                Err(_) => return Poll::Ready(()),
            }
        }
        Poll::Ready(())
    }

    /// The server's next message; `None` once the conversation is over.
    pub(super) fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<FromServer>> {
        loop {
            match self.inbox.next(BODY_LIMIT) {
                Ok(Some(body)) => return Poll::Ready(frame::whole(body).ok()),
                Ok(None) => {}
                Err(_) => return Poll::Ready(None),
            }
            let Ok(mut guard) = ready!(self.socket.poll_read_ready(cx)) else {
                return Poll::Ready(None);
            };
            let (socket, security, passed) = (&self.socket, &mut self.security, &mut self.passed);
            let filled = self.inbox.fill(|buffer| match security {
                // Descriptors come along only where nothing stands between.
                Security::None => {
                    descriptors::receive_with(socket.as_fd(), buffer, passed).map_err(io::Error::from)
                }
                #[cfg(feature = "tls")]
                secured @ Security::Tls(_) => secured.receive(socket.as_fd(), buffer),
            });
            match filled {
                Ok((0, _)) => return Poll::Ready(None),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => guard.clear_ready(),
                Err(error) => {
                    let is_known = error.kind() == io::ErrorKind::InvalidData;
                    self.complaint = is_known.then(|| error.to_string());
                    return Poll::Ready(None);
                }
            }
        }
    }

    /// Ends the conversation, which ends a server of ours; its process is left to be waited for.
    pub(super) fn hang_up(self) -> Option<ServerProcess> {
        self.process
    }
}
