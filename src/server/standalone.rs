//! A fork server that is a program of its own: applications connect and disconnect.

use std::net::TcpListener;
use std::path::{Path, PathBuf};

use super::compatibility::ServerVersion;
use super::control_channel::Disconnect;
use super::errors::{ListenError, ServerError};
use super::event_loop::{Footing, ForkServer, WorkerTemplate};
use super::handover::Predecessor;
use super::listener::{Access, Listener};
use super::private_server::run_preload;
use super::socket_lock::SocketLock;
use super::systemd;
use super::systemd::Inherited;
use crate::address::Address;
use crate::certificates::Certificates;
use crate::config::ServerOptions;
use crate::sys::descriptors::OpenDescriptors;
use crate::sys::faults;
use crate::sys::faults::Role;
use crate::sys::original;
use crate::sys::process;
use crate::sys::process::TitleSpace;
use crate::sys::{CallError, threads};
use crate::telling::log_event;
use crate::wire::call::SetupReport;
use crate::worker;
use crate::worker::Program;

/// Serves workers of `program` at `addresses` until a signal or another server ends it.
///
/// `Server::run` of the feature `actors` calls this for a worker type. `config` is the workers' configuration, encoded
/// by postcard. `certificates` is required for addresses that begin with `tls:`. The process must have a single thread,
/// and this call takes it over: it forks workers, and in a worker it never returns.
///
/// On SIGTERM, and when another server takes over, the server takes no more work. It returns `Ok` once the last worker
/// has ended, or after `drain_timeout`. On SIGINT or a second SIGTERM it returns `Ok` at once. Workers that are left
/// are killed.
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
    let open_before = OpenDescriptors::list();
    let prepared = PreparedAddresses::find(&addresses, access, options.take_over)?;
    worker::warm_up();
    let preload = run_preload(program, &config).map_err(|report| ServerError::Preload {
        reason: match report {
            SetupReport::Error(error) => error.chain().join(": "),
            SetupReport::Panic(report) => format!("it panicked: {report}"),
        },
    })?;
    let own = ServerVersion { fingerprint: (program.fingerprint)(), interface: (program.interface)() };
    let template = WorkerTemplate { program, config, preload, title: TitleSpace::find(), open_before };
    process::set_short_name(&server_name(options), "server");
    let footing = Footing::find(false)
        .map_err(|CallError { call, error }| ServerError::Refused { call, source: error })?;
    let OpenedListeners { listeners, predecessors } = match prepared.open() {
        Ok(opened) => opened,
        Err(error) => {
            footing.give_up();
            return Err(error.into());
        }
    };
    let listens = listeners.iter().map(|listener| listener.address.as_str()).collect::<Vec<_>>().join(", ");
    let mut server = ForkServer::new(template, options.clone(), own, listeners, footing);
    // Nothing can fail from here on.
    predecessors.into_iter().for_each(Predecessor::confirm);
    log_event!(info, listens, "serves");
    server.notices.send(systemd::READY);
    match server.serve() {
        Ok(worker) => worker.become_worker(),
        Err(Disconnect::Closed) => Ok(()),
        Err(Disconnect::Broken | Disconnect::Untrusted(_)) => {
            Err(ServerError::Io(std::io::Error::last_os_error()))
        }
    }
}

/// Returns the server's name from the options, or else the name of its program.
fn server_name(options: &ServerOptions) -> String {
    let program = std::env::args_os().next().map(PathBuf::from);
    let program =
        program.as_deref().and_then(Path::file_name).map(|name| name.to_string_lossy().into_owned());
    options.name.clone().or(program).unwrap_or_else(|| "forkpool".to_owned())
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

/// The open listeners, and the servers that this one replaces.
struct OpenedListeners {
    listeners: Vec<Listener>,
    predecessors: Vec<Predecessor>,
}

impl PreparedAddresses {
    fn find(addresses: &[Address], access: Access, take_over: bool) -> Result<Self, ListenError> {
        let mut inherited = Inherited::take();
        let (locks, taken, ports, listeners) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        let mut prepared = PreparedAddresses { access, locks, taken, ports, listeners };
        for address in addresses {
            match address {
                Address::Unix(path) => match free_path(path) {
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
                let listener = TcpListener::bind((host.as_str(), *number)).map_err(failed)?;
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

    fn open(mut self) -> Result<OpenedListeners, ListenError> {
        let (mut locks, taken) = (std::mem::take(&mut self.locks), std::mem::take(&mut self.taken));
        let mut predecessors = Vec::new();
        let mut handed_over: Vec<Listener> = Vec::new();
        let access = self.access.clone();
        for path in taken {
            let address = Address::Unix(path.clone()).to_string();
            if handed_over.iter().all(|listener| listener.address != address) {
                match Predecessor::at(&path)
                    .and_then(|mut predecessor| Ok((predecessor.listeners(&access)?, predecessor)))
                {
                    Ok((theirs, predecessor)) => {
                        handed_over.extend(theirs);
                        predecessors.push(predecessor);
                    }
                    // The predecessor may have exited in the meantime.
                    Err(error) => match free_path(&path) {
                        Ok(lock) => locks.push((path.clone(), lock)),
                        Err(_) => return Err(Predecessor::refusal(&path, &error)),
                    },
                }
            }
            // Only the listener of this path is used; the predecessor's others close with it.
            let listener = handed_over.iter().position(|listener| listener.address == address);
            let is_locked = locks.last().is_some_and(|(locked, _)| *locked == path);
            if listener.is_none() && !is_locked {
                let error = std::io::Error::other("it listens at the same path in another spelling");
                return Err(Predecessor::refusal(&path, &error));
            }
            self.listeners.extend(listener.map(|at| handed_over.swap_remove(at)));
        }
        self.take_ports(&mut handed_over);
        self.listen_at_ports()?;
        let mut listeners = self.listeners;
        for (path, mut lock) in locks {
            let listener = lock.listen(access.group)?;
            let address = Address::Unix(path).to_string();
            listeners.push(Listener::unix(address, listener, access.clone(), Some(lock)));
        }
        for lock in listeners.iter().filter_map(|listener| listener.lock.as_ref()) {
            // The pid in the lock file is for people only, so a failure is harmless.
            let _ = lock.write();
        }
        Ok(OpenedListeners { listeners, predecessors })
    }
}
