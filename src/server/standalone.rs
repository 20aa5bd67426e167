//! A fork server that is a program of its own, to which applications come and go.

use std::net::TcpListener;
use std::path::{Path, PathBuf};

use super::compatibility::ServerVersion;
use super::control_channel::Disconnect;
use super::event_loop::{ForkServer, WorkerTemplate};
use super::handover::Predecessor;
use super::listener::{Access, ListenError, Listener};
use super::private_server::preloaded;
use super::socket_lock::SocketLock;
use super::systemd;
use super::systemd::Inherited;
use crate::address::{Address, AddressError};
use crate::certificates::Certificates;
use crate::config::{OptionError, ServerOptions};
use crate::sys::descriptors::OpenBefore;
use crate::sys::process;
use crate::sys::process::TitleSpace;
use crate::wire::call::SetupReport;
use crate::worker;
use crate::worker::Program;

/// Why a server does not serve.
#[derive(thiserror::Error)]
#[non_exhaustive]
pub enum ServerError {
    /// An option cannot be what it is.
    #[error(transparent)]
    Option(#[from] OptionError),
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

/// For people: what an unhandled `?` in `main` prints is what is wrong and what to do.
impl std::fmt::Debug for ServerError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        crate::failure::for_people(f, self)
    }
}

impl From<AddressError> for ServerError {
    fn from(error: AddressError) -> Self {
        ServerError::Listen(error.into())
    }
}

/// Serves workers of a program at these addresses until SIGTERM or SIGINT; `Server` does so for a type of worker.
/// `config` is their configuration, encoded by postcard.
///
/// # Errors
///
/// [`ServerError`]; no client was let in then, nothing is left behind, and a server that was to be replaced goes on.
pub fn serve(
    program: &Program,
    config: Vec<u8>,
    addresses: &[String],
    options: &ServerOptions,
    certificates: Option<Certificates>,
) -> Result<(), ServerError> {
    options.validate()?;
    let access = Access {
        group: options.group,
        unauthenticated_beyond_loopback: options.unauthenticated_beyond_loopback,
        certificates,
    };
    let addresses: Vec<Address> =
        addresses.iter().map(|address| Address::parse(address)).collect::<Result<_, _>>()?;
    if addresses.is_empty() {
        return Err(ServerError::NoAddress);
    }
    let count = std::fs::read_dir("/proc/self/task").map_or(1, Iterator::count);
    if count > 1 {
        return Err(ServerError::Threads { count });
    }
    let open_before = OpenBefore::note();
    let places = Places::find(&addresses, access, options.take_over)?;
    worker::break_ground();
    let preload = preloaded(program, &config).map_err(|report| ServerError::Preload {
        reason: match report {
            SetupReport::Error(error) => error.chain().join(": "),
            SetupReport::Panic(report) => format!("it panicked: {report}"),
        },
    })?;
    let io = |error| ServerError::Io(std::io::Error::from(error));
    let own = ServerVersion { fingerprint: (program.fingerprint)(), interface: (program.interface)() };
    let template = WorkerTemplate { program, config, preload, title: TitleSpace::find(), open_before };
    process::set_short_name(&name(options), "server");
    let Opened { listeners, incumbents } = places.open()?;
    let listens = listeners.iter().map(|listener| listener.address.as_str()).collect::<Vec<_>>().join(", ");
    let server = ForkServer::new(template, options.clone(), own, listeners).map_err(io)?;
    // From here on nothing can fail any more.
    incumbents.into_iter().for_each(Predecessor::thank);
    tracing::info!(target: "forkpool::server", listens, "serves");
    systemd::notify_ready();
    match server.serve() {
        Ok(worker) => worker.live(),
        Err(Disconnect::Closed) => Ok(()),
        Err(Disconnect::Broken | Disconnect::Untrusted(_)) => {
            Err(ServerError::Io(std::io::Error::last_os_error()))
        }
    }
}

/// The server's name, or that of its program.
fn name(options: &ServerOptions) -> String {
    let program = std::env::args_os().next().map(PathBuf::from);
    let program =
        program.as_deref().and_then(Path::file_name).map(|name| name.to_string_lossy().into_owned());
    options.name.clone().or(program).unwrap_or_else(|| "forkpool".to_owned())
}

/// Where the server is to listen, before its preload: nobody else can, but nobody can come yet.
struct Places {
    access: Access,
    claims: Vec<(PathBuf, SocketLock)>,
    /// Paths at which another server listens that is to be replaced.
    taken: Vec<PathBuf>,
    /// Ports that are still to be listened at.
    ports: Vec<Address>,
    listeners: Vec<Listener>,
}

/// Where the server listens, and whom it replaces.
struct Opened {
    listeners: Vec<Listener>,
    incumbents: Vec<Predecessor>,
}

impl Places {
    fn find(addresses: &[Address], access: Access, take_over: bool) -> Result<Self, ListenError> {
        let mut inherited = Inherited::take();
        let (claims, taken, ports, listeners) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        let mut places = Places { access, claims, taken, ports, listeners };
        for address in addresses {
            match address {
                Address::Unix(path) => match SocketLock::new(path) {
                    Ok(lock) => places.claims.push((path.clone(), lock)),
                    Err(ListenError::Taken { .. }) if take_over => places.taken.push(path.clone()),
                    Err(error) => return Err(error),
                },
                Address::Net { .. } => places.ports.push(address.clone()),
                Address::Inherited(name) => {
                    places.listeners.extend(inherited.listeners(name.as_deref(), &places.access)?);
                }
            }
        }
        if places.taken.is_empty() {
            // Whether they are free is better known before the preload than behind it.
            places.listen_at_ports()?;
        }
        Ok(places)
    }

    fn listen_at_ports(&mut self) -> Result<(), ListenError> {
        for port in std::mem::take(&mut self.ports) {
            if let Address::Net { host, port: number, tls } = &port {
                let address = port.to_string();
                let told = |source| ListenError::Net { address: address.clone(), source };
                let listener = TcpListener::bind((host.as_str(), *number)).map_err(told)?;
                self.listeners.push(Listener::net(address.clone(), listener, self.access.clone(), *tls)?);
            }
        }
        Ok(())
    }

    /// Ports that the server has which is replaced are taken from it.
    fn take_ports(&mut self, handed: &mut Vec<Listener>) {
        for port in std::mem::take(&mut self.ports) {
            let address = port.to_string();
            match handed.iter().position(|listener| listener.address == address) {
                Some(at) => self.listeners.push(handed.swap_remove(at)),
                None => self.ports.push(port),
            }
        }
    }

    fn open(mut self) -> Result<Opened, ListenError> {
        let (mut claims, taken) = (std::mem::take(&mut self.claims), std::mem::take(&mut self.taken));
        let mut incumbents = Vec::new();
        let mut handed: Vec<Listener> = Vec::new();
        let access = self.access.clone();
        for path in taken {
            let address = Address::Unix(path.clone()).to_string();
            if handed.iter().all(|listener| listener.address != address) {
                match Predecessor::at(&path)
                    .and_then(|mut predecessor| Ok((predecessor.listeners(&access)?, predecessor)))
                {
                    Ok((theirs, predecessor)) => {
                        handed.extend(theirs);
                        incumbents.push(predecessor);
                    }
                    // It may have ended meanwhile.
                    Err(error) => match SocketLock::new(&path) {
                        Ok(lock) => claims.push((path.clone(), lock)),
                        Err(_) => return Err(Predecessor::refusal(&path, &error)),
                    },
                }
            }
            // What else it had is not asked for, and goes with it.
            let listener = handed.iter().position(|listener| listener.address == address);
            let is_claimed = claims.last().is_some_and(|(claimed, _)| *claimed == path);
            if listener.is_none() && !is_claimed {
                let error = std::io::Error::other("it was started with the same path in other words");
                return Err(Predecessor::refusal(&path, &error));
            }
            self.listeners.extend(listener.map(|at| handed.swap_remove(at)));
        }
        self.take_ports(&mut handed);
        self.listen_at_ports()?;
        let mut listeners = self.listeners;
        for (path, lock) in claims {
            let listener = lock.listen(access.group)?;
            let address = Address::Unix(path).to_string();
            listeners.push(Listener::unix(address, listener, access.clone(), Some(lock)));
        }
        for lock in listeners.iter().filter_map(|listener| listener.lock.as_ref()) {
            // It is for people, and what it says is looked up nowhere else.
            let _ = lock.sign();
        }
        Ok(Opened { listeners, incumbents })
    }
}
