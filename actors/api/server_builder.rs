//! A fork server that is a program of its own.

use std::time::Duration;

use crate::actors::worker_api::worker::Worker;
use crate::address::Address;
use crate::certificates::Certificates;
use crate::config::ServerOptions;
use crate::server;
use crate::server::{Boot, ListenError, ServerError};
use crate::sys::process;
use crate::wire::frame;

/// A fork server for workers of one type, to which applications connect their pools with
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
#[must_use = "a server serves once it runs"]
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
    /// A server whose workers are set up with `config`.
    pub fn new(config: W::Config) -> Self {
        Server { config, addresses: Vec::new(), options: ServerOptions::default(), certificates: None }
    }

    /// The server's name in `ps`: 1 to 64 bytes, without `/` and control characters. Workers are named after the pools
    /// of the applications that they work for. Default: the name of the program.
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.options.name = Some(name.into());
        self
    }

    /// One more place to listen at.
    ///
    /// `unix:/path` is a socket for processes of the same user and of root (mode 0600). One that a dead server has left is
    /// replaced, one of a server that is alive is refused by [`run`](Self::run), or [taken over](Self::take_over). A file
    /// beside it, of the same name with `.lock`, tells who is there.
    ///
    /// `tls:host:port` is for whoever shows a certificate that one of the authorities of this server's
    /// [certificates](Self::certificates) has signed, from anywhere. `tcp:host:port` is for any process of this machine, since
    /// nobody shows who it is, and has to be an address of its loopback.
    ///
    /// `systemd:` is whatever a service manager listens at for this process (socket activation), `systemd:name` what it
    /// has named so.
    ///
    /// # Errors
    ///
    /// [`ListenError::Address`] for what is no address. Whether one can listen there is found out by [`run`](Self::run).
    pub fn listen(mut self, address: impl Into<String>) -> Result<Self, ListenError> {
        let address = address.into();
        Address::parse(&address)?;
        self.addresses.push(address);
        Ok(self)
    }

    /// Has the members of this group connect as well, by its name or number: sockets have mode 0660 and belong to it.
    /// Default: nobody but processes of the server's own user and of root.
    ///
    /// # Errors
    ///
    /// [`ServerError::Io`] where there is no such group.
    pub fn group(mut self, group: &str) -> Result<Self, ServerError> {
        self.options.group = Some(process::group_number(group).map_err(ServerError::Io)?);
        Ok(self)
    }

    /// What this server shows to whoever comes to it by TLS, and whom it lets in.
    pub fn certificates(mut self, certificates: Certificates) -> Self {
        self.certificates = Some(certificates);
        self
    }

    /// Whether plain TCP may be listened at where other machines can come: whoever reaches the port runs code in workers
    /// and reads what others send, for nothing is encrypted and nobody shows who it is. Default: `false`.
    pub fn allow_unauthenticated_beyond_loopback(mut self, allow: bool) -> Self {
        self.options.unauthenticated_beyond_loopback = allow;
        self
    }

    /// Whether a server that is alive at one of the addresses is replaced: once this one is ready, it is given the
    /// sockets, so nobody who comes in between is turned away; the other one's workers finish what they do, and it ends
    /// with the last of them. At least one of the addresses has to be a path; ports go along with it. Default: `false`, it
    /// is refused.
    pub fn take_over(mut self, take_over: bool) -> Self {
        self.options.take_over = take_over;
        self
    }

    /// How long workers may finish what they do after SIGTERM, before they are killed. Default: `None`, no limit.
    pub fn drain_timeout(mut self, limit: impl Into<Option<Duration>>) -> Self {
        self.options.drain_timeout = limit.into();
        self
    }

    /// Most workers of all clients together; a client that asks for more is refused, and asks again later. Default:
    /// `None`, what the system has room for.
    pub fn max_workers(mut self, count: impl Into<Option<usize>>) -> Self {
        self.options.max_workers = count.into();
        self
    }

    /// Most clients, one for each pool; one more is refused, and tries again later. Default: 512.
    pub fn max_clients(mut self, count: usize) -> Self {
        self.options.max_clients = count;
        self
    }

    /// Runs the preload, then serves on this thread, which has to be the only one of its process.
    ///
    /// SIGTERM has it take no more work, tell its clients so, and end with its last worker; SIGINT, or a second SIGTERM,
    /// ends it and its workers at once. A client that goes takes its workers with it. What happens is told by `tracing`
    /// events with the target `forkpool::server`.
    ///
    /// # Errors
    ///
    /// [`ServerError`]; a server that is there already is not disturbed.
    pub fn run(self) -> Result<(), ServerError> {
        let mut config = Vec::new();
        frame::encode(&mut config, &self.config, usize::MAX / 2).map_err(ServerError::Config)?;
        server::serve(&W::PROGRAM, config, &self.addresses, &self.options, self.certificates)
    }
}
