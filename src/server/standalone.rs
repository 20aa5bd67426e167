//! A fork server that is a program of its own: applications connect and disconnect.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::compatibility::ServerVersion;
use super::control_channel::Disconnect;
use super::errors::{ListenError, ServerError};
use super::event_loop::{Footing, ForkServer, WorkerTemplate};
use super::inheritance::Inheritance;
use super::listener::{Access, Listener};
use super::predecessor::{Offer, Predecessor};
use super::private_server::run_preload;
use super::socket_lock::SocketLock;
use super::systemd;
use super::systemd::{Inherited, Notices};
use crate::address::Address;
use crate::certificates::Certificates;
use crate::clock::Instant;
use crate::config::{OnMisfit, ServerOptions};
use crate::sys::faults;
use crate::sys::faults::Role;
use crate::sys::original;
use crate::sys::passing::RETRY_WAIT;
use crate::sys::process;
use crate::sys::process::TitleSpace;
use crate::sys::{CallError, manager_variables, threads};
use crate::telling::log_event;
use crate::wire::call::SetupReport;
use crate::wire::handover;
use crate::wire::handover::TakeOver;
use crate::wire::{LIBRARY, PROTOCOL};
use crate::worker;
use crate::worker::Program;

/// Serves workers of `program` at `addresses` until a signal or another server ends it.
///
/// `Server::run` of the feature `actors` calls this for a worker type. `config` is the workers' configuration, encoded
/// by postcard. `certificates` is required for addresses that begin with `tls:`. The process must have a single thread,
/// and this call takes it over: it forks workers, and in a worker it never returns.
///
/// On SIGTERM, on SIGHUP unless that was ignored, and when another server takes over, the server takes no more work. It
/// returns `Ok` once the last worker has ended, or after `drain_timeout`. On SIGINT or a second SIGTERM it returns `Ok` at
/// once. Workers that are left are killed. Such a signal to a worker ends no call. The variables of a service manager
/// (`NOTIFY_SOCKET`, `WATCHDOG_*`, `LISTEN_*`) are removed from the environment.
///
/// # Errors
///
/// - [`ServerError::Option`], [`ServerError::NoAddress`], [`ServerError::Threads`]: the call was refused before
///   anything was opened.
/// - [`ServerError::Listen`]: an address is invalid, is in use by another server, or cannot be opened.
/// - [`ServerError::Preload`]: the preload returned an error, panicked, or left threads running.
/// - [`ServerError::Refused`]: the system refuses a call without which a server cannot work.
/// - [`ServerError::Io`]: a system call failed.
///
/// After an error before the server is ready, no client was accepted, no socket or lock is left behind, and a server
/// that was to be replaced continues. [`ServerError::Io`] can also end a server that has been serving; its workers are
/// killed then.
pub fn serve(
    program: &Program,
    config: Vec<u8>,
    addresses: &[String],
    options: &ServerOptions,
    certificates: Option<Certificates>,
) -> Result<(), ServerError> {
    options.validate()?;
    faults::enter(Role::Server);
    let access = Access {
        group: options.group,
        unauthenticated_beyond_loopback: options.unauthenticated_beyond_loopback,
        certificates,
        client_dead_after: options.client_dead_after,
    };
    let addresses: Vec<Address> =
        addresses.iter().map(|address| Address::parse(address)).collect::<Result<_, _>>()?;
    if addresses.is_empty() {
        return Err(ServerError::NoAddress);
    }
    if let Some(others) = threads::others() {
        return Err(ServerError::Threads { count: others.count.unwrap_or(1) + 1, names: others.names });
    }
    original::claim()
        .map_err(|error| ServerError::Refused { call: "mmap", source: std::io::Error::from(error) })?;
    let inherited = Inheritance::of_standalone_server();
    let notices = Notices::to_manager();
    let prepared = PreparedAddresses::find(&addresses, access, options.take_over)?;
    manager_variables::remove();
    worker::warm_up();
    let preload = run_preload(program, &config).map_err(|report| ServerError::Preload {
        reason: match report {
            SetupReport::Error(error) => error.chain().join(": "),
            SetupReport::Panic(report) => format!("it panicked: {report}"),
        },
    })?;
    let own = ServerVersion { fingerprint: (program.fingerprint)(), interface: (program.interface)() };
    let (name, title) = (server_name(options), TitleSpace::find());
    process::set_short_name(&name, "server");
    let template = WorkerTemplate { name, program, config, preload, title, inherited };
    let footing = Footing::find(false)
        .map_err(|CallError { call, error }| ServerError::Refused { call, source: error })?;
    let request = take_over_request(&own, options);
    let opened = prepared.open(&request, options.take_over_wait).and_then(OpenedListeners::commit);
    let (listeners, predecessors) = match opened {
        Ok(opened) => opened,
        Err(error) => {
            footing.give_up();
            return Err(error.into());
        }
    };
    let listens = listeners.iter().map(|listener| listener.address.as_str()).collect::<Vec<_>>().join(", ");
    let mut server = ForkServer::new(template, options.clone(), own, listeners, footing);
    predecessors.into_iter().for_each(Predecessor::finish);
    log_event!(info, listens, "serves");
    server.notices = notices;
    server.notices.send(systemd::READY, Instant::now());
    match server.serve() {
        Ok(process) => process.enter_role(),
        Err(Disconnect::Closed) => Ok(()),
        Err(Disconnect::Broken | Disconnect::Untrusted(_)) => {
            Err(ServerError::Io(std::io::Error::last_os_error()))
        }
    }
}

/// Returns what this server sends a server that it is to replace.
fn take_over_request(own: &ServerVersion, options: &ServerOptions) -> TakeOver {
    TakeOver {
        format: handover::FORMAT,
        protocol: PROTOCOL,
        library: LIBRARY.to_owned(),
        interface: own.interface.clone(),
        waits: !options.take_over_wait.is_zero(),
        stays: options.on_misfit == OnMisfit::Stay,
    }
}

/// Returns the server's name from the options, or else the name of its program.
fn server_name(options: &ServerOptions) -> String {
    let program = std::env::args_os().next().map(PathBuf::from);
    let program =
        program.as_deref().and_then(Path::file_name).map(|name| name.to_string_lossy().into_owned());
    options.name.clone().or(program).unwrap_or_else(|| "forkpool".to_owned())
}

/// How long an address is tried that only a child of a dead server may still hold: one that was forked right before and has
/// not closed yet what is the server's (500 ms).
const RELEASE_WAIT: Duration = Duration::from_millis(500);

/// As [`free_path`], once such a child has let go of the path.
fn released_path(path: &Path) -> Result<SocketLock, ListenError> {
    let deadline = Instant::now() + RELEASE_WAIT;
    loop {
        match free_path(path) {
            Err(ListenError::Taken { pid, .. }) if !exists(pid) && Instant::now() < deadline => {
                std::thread::sleep(RETRY_WAIT);
            }
            result => return result,
        }
    }
}

fn exists(pid: u32) -> bool {
    pid != 0 && Path::new(&format!("/proc/{pid}")).exists()
}

/// Listens at a port, once such a child has let go of it. Who has a port cannot be found out, so a port of another program
/// is tried for as long.
fn released_port(host: &str, port: u16) -> std::io::Result<TcpListener> {
    let deadline = Instant::now() + RELEASE_WAIT;
    loop {
        match TcpListener::bind((host, port)) {
            Err(error) if error.kind() == std::io::ErrorKind::AddrInUse && Instant::now() < deadline => {
                std::thread::sleep(RETRY_WAIT);
            }
            result => return result,
        }
    }
}

/// Takes the lock of a path at which no process listens and nothing else is that a server does not replace.
fn free_path(path: &Path) -> Result<SocketLock, ListenError> {
    let lock = SocketLock::new(path)?;
    lock.check_path()?;
    Ok(lock)
}

/// The addresses of a server before its preload: no other server can take them, but no client can connect yet.
struct PreparedAddresses {
    access: Access,
    locks: Vec<(PathBuf, SocketLock)>,
    /// Paths of servers that are to be replaced.
    taken: Vec<PathBuf>,
    /// Ports that are not opened yet.
    ports: Vec<Address>,
    listeners: Vec<Listener>,
}

impl PreparedAddresses {
    fn find(addresses: &[Address], access: Access, take_over: bool) -> Result<Self, ListenError> {
        let mut inherited = Inherited::take();
        let (locks, taken, ports, listeners) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        let mut prepared = PreparedAddresses { access, locks, taken, ports, listeners };
        for address in addresses {
            match address {
                Address::Unix(path) => match released_path(path) {
                    Ok(lock) => prepared.locks.push((path.clone(), lock)),
                    Err(ListenError::Taken { .. }) if take_over => prepared.taken.push(path.clone()),
                    Err(error) => return Err(error),
                },
                Address::Net { .. } => prepared.ports.push(address.clone()),
                Address::Inherited(name) => {
                    prepared.listeners.extend(inherited.listeners(name.as_deref(), &prepared.access)?);
                }
            }
        }
        if prepared.taken.is_empty() {
            // A port that is in use is better found before the preload than after it.
            prepared.listen_at_ports()?;
        }
        Ok(prepared)
    }

    fn listen_at_ports(&mut self) -> Result<(), ListenError> {
        for port in std::mem::take(&mut self.ports) {
            if let Address::Net { host, port: number, tls } = &port {
                let address = port.to_string();
                let failed = |source| ListenError::Net { address: address.clone(), source };
                let listener = released_port(host, *number).map_err(failed)?;
                self.listeners.push(Listener::net(address.clone(), listener, self.access.clone(), *tls)?);
            }
        }
        Ok(())
    }

    /// Uses the predecessors' listeners for the ports that they have in common with this server.
    fn take_ports(&mut self, handed_over: &mut Vec<Listener>) {
        for port in std::mem::take(&mut self.ports) {
            let address = port.to_string();
            match handed_over.iter().position(|listener| listener.address == address) {
                Some(at) => self.listeners.push(handed_over.swap_remove(at)),
                None => self.ports.push(port),
            }
        }
    }

    /// Opens what is not open yet, and receives the sockets of servers that are to be replaced. These servers still serve.
    fn open(mut self, request: &TakeOver, wait: Duration) -> Result<OpenedListeners, ListenError> {
        let mut opened = OpenedListeners::default();
        let mut handed_over: Vec<Listener> = Vec::new();
        let deadline = Instant::now() + wait;
        for path in std::mem::take(&mut self.taken) {
            let address = Address::Unix(path.clone()).to_string();
            if handed_over.iter().all(|listener| listener.address != address) {
                match self.take(&path, request, deadline)? {
                    Taken::Lock(lock) => {
                        self.locks.push((path, lock));
                        continue;
                    }
                    Taken::HandedOver(predecessor, theirs) => {
                        opened.predecessors.push((path.clone(), predecessor));
                        handed_over.extend(theirs);
                    }
                }
            }
            // Only the listener of this path is used; the predecessor's others close with it.
            let Some(at) = handed_over.iter().position(|listener| listener.address == address) else {
                let error = std::io::Error::other("it listens at the same path in another spelling");
                return Err(Predecessor::refusal(&path, &error));
            };
            opened.listeners.push(handed_over.swap_remove(at));
        }
        self.take_ports(&mut handed_over);
        self.listen_at_ports()?;
        opened.listeners.append(&mut self.listeners);
        for (path, mut lock) in self.locks {
            let listener = match lock.listen(self.access.group) {
                Ok(listener) => listener,
                Err(error) => {
                    opened.own.into_iter().for_each(Listener::close);
                    return Err(error);
                }
            };
            let address = Address::Unix(path).to_string();
            opened.own.push(Listener::unix(address, listener, self.access.clone(), Some(lock)));
        }
        Ok(opened)
    }

    /// Asks the server at a path to hand over, again and again if it is replaced or ends meanwhile.
    fn take(&self, path: &Path, request: &TakeOver, deadline: Instant) -> Result<Taken, ListenError> {
        loop {
            let error = match Predecessor::ask(path, request, &self.access, deadline) {
                Ok(Offer::Listeners(predecessor, theirs)) => {
                    return Ok(Taken::HandedOver(predecessor, theirs));
                }
                // The next one listens already.
                Ok(Offer::Replaced) => continue,
                Err(error) => error,
            };
            // The server may have ended in the meantime, or it does not listen yet.
            match free_path(path) {
                Ok(lock) => return Ok(Taken::Lock(lock)),
                Err(_) if is_gone(&error) && Instant::now() < deadline => std::thread::sleep(RETRY_WAIT),
                Err(_) => return Err(Predecessor::refusal(path, &error)),
            }
        }
    }
}

/// Whether an error means that no server is at the other end.
fn is_gone(error: &std::io::Error) -> bool {
    use std::io::ErrorKind::{BrokenPipe, ConnectionRefused, ConnectionReset, NotFound, UnexpectedEof};
    [BrokenPipe, ConnectionRefused, ConnectionReset, NotFound, UnexpectedEof].contains(&error.kind())
}

/// What becomes of a path at which another server was found.
enum Taken {
    /// That server has ended.
    Lock(SocketLock),
    HandedOver(Predecessor, Vec<Listener>),
}

/// The open listeners, and the servers that this one replaces.
#[derive(Default)]
struct OpenedListeners {
    /// Those that a predecessor still has as well, and those without a path.
    listeners: Vec<Listener>,
    /// Those whose path this server has made.
    own: Vec<Listener>,
    predecessors: Vec<(PathBuf, Predecessor)>,
}

impl OpenedListeners {
    /// Makes the sockets this server's alone, and returns them with the servers that wait to be told that it serves.
    ///
    /// # Errors
    ///
    /// [`ListenError::NotHandedOver`]; all servers that were to be replaced serve on.
    fn commit(mut self) -> Result<(Vec<Listener>, Vec<Predecessor>), ListenError> {
        for (path, predecessor) in &mut self.predecessors {
            if let Err(error) = predecessor.commit() {
                self.own.into_iter().for_each(Listener::close);
                return Err(Predecessor::refusal(path, &error));
            }
        }
        let listeners: Vec<Listener> = self.listeners.into_iter().chain(self.own).collect();
        listeners.iter().for_each(Listener::reclaim);
        Ok((listeners, self.predecessors.into_iter().map(|(_, predecessor)| predecessor).collect()))
    }
}
