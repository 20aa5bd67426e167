//! The options of a standalone fork server, and how it runs.

use std::time::Duration;

use crate::actors::worker_api::worker::Worker;
use crate::address::Address;
use crate::certificates::Certificates;
use crate::config::{OnMisfit, ServerOptions};
use crate::server;
use crate::server::{Boot, ListenError, ServerError};
use crate::sys::process;
use crate::wire::frame;
use crate::wire::frame::Limits;

/// A standalone fork server for workers of one type. Applications connect pools to it with
/// [`Pool::connect`](crate::Pool::connect).
///
/// ```no_run
/// # use actix::prelude::*;
/// # use forkpool::prelude::*;
/// # struct Hasher;
/// # impl Actor for Hasher { type Context = WorkerContext<Self>; }
/// # impl Worker for Hasher {
/// #     type Config = u32;
/// #     fn setup(_: u32, _: &mut WorkerContext<Self>) -> Result<Self, SetupError> { Ok(Hasher) }
/// # }
/// # #[derive(Message, serde::Serialize, serde::Deserialize)]
/// # #[rtype(result = "Result<(), Failure>")]
/// # struct Hash;
/// # impl Handler<Hash> for Hasher {
/// #     type Result = Result<(), Failure>;
/// #     fn handle(&mut self, _: Hash, _: &mut WorkerContext<Self>) -> Self::Result { Ok(()) }
/// # }
/// # forkpool::interface!(Hasher { Hash });
/// fn main() -> Result<(), forkpool::ServerError> {
///     forkpool::Server::<Hasher>::new(12).name("passwords").listen("unix:/run/passwords.sock")?.run()
/// }
/// ```
#[must_use = "a server does nothing until run is called"]
pub struct Server<W: Worker> {
    config: W::Config,
    addresses: Vec<String>,
    options: ServerOptions,
    certificates: Option<Certificates>,
}

impl<W: Worker> std::fmt::Debug for Server<W> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Server")
            .field("addresses", &self.addresses)
            .field("options", &self.options)
            .finish_non_exhaustive()
    }
}

impl<W: Worker> Server<W> {
    /// Returns the options of a server whose workers are set up with `config`.
    pub fn new(config: W::Config) -> Self {
        Server { config, addresses: Vec::new(), options: ServerOptions::default(), certificates: None }
    }

    /// Sets the server's name in `ps`: 1 to 64 bytes, without `/` and control characters. Workers are named after their
    /// pools. Default: the name of the program.
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.options.name = Some(name.into());
        self
    }

    /// Adds an address to listen at.
    ///
    /// - `unix:/path` is a socket for processes of the same user and of root (mode 0600). A socket that a dead server left
    ///   is replaced; if its server is alive, [`run`](Self::run) refuses to start, or [takes over](Self::take_over). It
    ///   refuses to start if anything else is there. A file beside it, with `.lock` behind the name, holds the server's
    ///   process id and a key with which the servers of this path recognize each other's workers.
    /// - `tls:host:port` accepts peers from anywhere whose certificate is signed by one of the authorities of
    ///   [`certificates`](Self::certificates).
    /// - `tcp:host:port` accepts any process of this machine, since nothing is authenticated. The address must belong to
    ///   the loopback, unless
    ///   [`allow_unauthenticated_beyond_loopback`](Self::allow_unauthenticated_beyond_loopback) is set.
    /// - `systemd:` stands for all sockets that a service manager passes to this process (socket activation), and
    ///   `systemd:name` for those with this name.
    ///
    /// # Errors
    ///
    /// [`ListenError::Address`] for an invalid address. Whether the server can listen there is found out by
    /// [`run`](Self::run).
    pub fn listen(mut self, address: impl Into<String>) -> Result<Self, ListenError> {
        let address = address.into();
        Address::parse(&address)?;
        self.addresses.push(address);
        Ok(self)
    }

    /// Accepts the members of this group, given by name or number, at Unix sockets: their mode is 0660, and they belong to
    /// the group. Default: only processes of the server's own user and of root.
    ///
    /// # Errors
    ///
    /// [`ServerError::Io`] if there is no such group.
    pub fn group(mut self, group: &str) -> Result<Self, ServerError> {
        self.options.group = Some(process::group_number(group).map_err(ServerError::Io)?);
        Ok(self)
    }

    /// Sets the certificate that this server presents at `tls:` addresses, and the authorities that it accepts.
    pub fn certificates(mut self, certificates: Certificates) -> Self {
        self.certificates = Some(certificates);
        self
    }

    /// Sets whether the server may listen on plain TCP where other machines can connect. Nothing is encrypted and neither
    /// side is authenticated: every peer that reaches the port runs code in workers and can read what others send.
    /// Default: `false`.
    pub fn allow_unauthenticated_beyond_loopback(mut self, allow: bool) -> Self {
        self.options.unauthenticated_beyond_loopback = allow;
        self
    }

    /// Sets whether to replace a server that is alive at one of the addresses. Default: `false`, [`run`](Self::run) refuses.
    ///
    /// Once this server is ready, it receives the sockets of the old one, so no connection is rejected in between. The old
    /// server's workers finish their calls, and it exits with the last of them. At least one address must be a
    /// `unix:/path` at which the old server listens; its ports are handed over with it. A port alone cannot be taken over:
    /// two servers there have no other way to each other.
    ///
    /// One server replaces another at a time. Both confirm it, so if one of them ends at any moment, the other one serves.
    pub fn take_over(mut self, take_over: bool) -> Self {
        self.options.take_over = take_over;
        self
    }

    /// Sets how long to wait while another server replaces the same one. After that this server replaces the other one.
    /// With zero, or after this time, [`run`](Self::run) fails with [`ListenError::NotHandedOver`], which names the other
    /// process. Default: 30 s.
    pub fn take_over_wait(mut self, limit: Duration) -> Self {
        self.options.take_over_wait = limit;
        self
    }

    /// Sets what becomes of clients of the old server that do not fit this one. Default: [`OnMisfit::Stay`].
    ///
    /// The connections of new workers of a client at a port would reach the new server, so such a client cannot stay: the
    /// old server refuses to hand over while it has one that does not fit.
    pub fn on_misfit(mut self, on_misfit: OnMisfit) -> Self {
        self.options.on_misfit = on_misfit;
        self
    }

    /// Sets how long workers may finish their calls after SIGTERM, or after another server has taken over, before they are
    /// killed. Default: `None`, no limit.
    pub fn drain_timeout(mut self, limit: impl Into<Option<Duration>>) -> Self {
        self.options.drain_timeout = limit.into();
        self
    }

    /// Sets the maximum of workers of all clients together, at least 1. A client that asks for more is refused, and asks
    /// again later. Default: `None`, as many as the system allows.
    pub fn max_workers(mut self, count: impl Into<Option<usize>>) -> Self {
        self.options.max_workers = count.into();
        self
    }

    /// Sets the maximum of clients, one for each pool, at least 1. One more is refused, and tries again later. Default: 512.
    pub fn max_clients(mut self, count: usize) -> Self {
        self.options.max_clients = count;
        self
    }

    /// Sets how long a client at a port may be silent until the server takes it for dead and kills its workers, at least 3 s.
    /// Clients send a ping each second, from a thread that no code of the application blocks. The end of a client's process
    /// is noticed at once; this is for a machine or a network that is gone. A client that is paused for longer loses its
    /// workers, so choose a time that is longer than what happens to your applications. Default: 30 s.
    pub fn client_dead_after(mut self, time: Duration) -> Self {
        self.options.client_dead_after = time;
        self
    }

    /// Sets whether the server keeps one child forked that is no worker yet, so that the next worker starts sooner. It has no
    /// such child while no client may need another worker, as [`PoolBuilder::park_worker`](crate::PoolBuilder::park_worker)
    /// says. Default: `true`.
    pub fn park_worker(mut self, park: bool) -> Self {
        self.options.park_worker = park;
        self
    }

    /// Runs the preload and serves on this thread, which must be the only one of its process, until a signal ends it.
    ///
    /// After SIGTERM, or SIGHUP unless that is ignored, the server accepts no more work, notifies its clients, and exits with
    /// its last worker. After SIGINT, or a second SIGTERM, it and its workers exit at once. A worker that gets such a signal
    /// itself goes on. The workers of a client that disconnects are killed. Events are logged by `tracing` with the target
    /// `forkpool::server`.
    ///
    /// A service manager is notified, and its watchdog is fed (`NOTIFY_SOCKET`, `WATCHDOG_USEC`). Its variables are removed
    /// from the environment, so that workers, and programs that they start, do not have them.
    ///
    /// # Errors
    ///
    /// [`ServerError`]. A server that is alive at one of the addresses is not disturbed, and no socket is left behind.
    pub fn run(self) -> Result<(), ServerError> {
        // An actix system runs in a runtime of tokio.
        if tokio::runtime::Handle::try_current().is_ok() {
            return Err(ServerError::Runtime);
        }
        let mut config = Vec::new();
        // The configuration stays in this process, so its depth is the user's own affair.
        let limits = Limits { bytes: usize::MAX / 2, depth: u32::MAX };
        frame::encode(&mut config, &self.config, limits).map_err(ServerError::Config)?;
        server::serve(&W::PROGRAM, config, &self.addresses, &self.options, self.certificates)
    }
}
