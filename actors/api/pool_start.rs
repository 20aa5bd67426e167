//! How a pool starts: what is checked, what is made, and what the fork server is sent first.

use std::fmt;
use std::io;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use actix::dev::channel as actix_channel;
use actix::{Actor, Addr, Arbiter, ArbiterHandle};

use super::pool::Pool;
use super::pool_builder::PoolBuilder;
use super::pool_handle::PoolHandle;
use crate::actors::context::actor_context::ProxyContext;
use crate::actors::scheduler::Scheduler;
use crate::actors::supervisor::source::{Launched, ServerSource};
use crate::actors::supervisor::{ServerSpec, Supervisor};
use crate::actors::telemetry::teller::Teller;
use crate::actors::threads;
use crate::actors::threads::{CallArbiter, OwnArbiter};
use crate::actors::transport::blobs::BlobMemory;
use crate::actors::worker_api::interface::Method;
use crate::actors::worker_api::schema;
use crate::actors::worker_api::worker::Worker;
use crate::address::{Address, AddressError};
use crate::certificates::Certificates;
use crate::channel;
use crate::config::{OptionError, Options, Transport};
use crate::failure;
use crate::failure::BacktraceStyle;
use crate::server::{Boot, boot};
use crate::sys::arena::PAGE;
use crate::sys::own_program::{CannotRestart, OwnProgram};
use crate::sys::{CallError, limits, requirements};
use crate::wire::control::{Hello, Parking, ProcessLimits, ToServer};
use crate::wire::frame;
use crate::wire::frame::{Limits, PayloadError};
use crate::wire::{LIBRARY, PROTOCOL};

/// Why a pool could not be started. No process, descriptor or thread is left behind.
#[derive(thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// An option has a value that cannot work, or has no meaning for this kind of pool.
    #[error(transparent)]
    Option(#[from] OptionError),
    /// No `boot!` line names the worker.
    #[error(
        "no worker of type {type_name} can be booted: add `forkpool::boot!({short_name});` as an item beside its \
         definition"
    )]
    NotBooted {
        /// The worker's full type name.
        type_name: &'static str,
        /// What to write between the parentheses.
        short_name: &'static str,
    },
    /// The arbiter named to `start_in` has stopped.
    #[error("the arbiter given to start_in has stopped: name one that runs, or call start")]
    ArbiterStopped,
    /// The system has no thread or no descriptor left for the thread that supervises the pools.
    #[error("the thread that supervises pools cannot be started")]
    Thread(#[source] io::Error),
    /// The workers' configuration cannot be encoded.
    #[error("the configuration of the workers cannot be encoded")]
    Config(#[source] PayloadError),
    /// The address of the server is invalid.
    #[error(transparent)]
    Address(#[from] AddressError),
    /// The memory for blobs cannot be allocated.
    #[error("the memory for blobs cannot be allocated")]
    Blobs(#[source] io::Error),
    /// This program cannot be executed again as the fork server.
    #[error("the fork server cannot be started")]
    Launch(#[source] io::Error),
    /// The process executes another program than the one that contains the workers, so the fork server cannot be
    /// started from it: the workers are in a library that a foreign program has opened, or an interpreter hides which
    /// program it runs.
    #[error(
        "the fork server is this process's program started again, but {executable:?} does not contain the workers, \
         which are in {code:?}: put the workers into a program of their own with Server::run, and connect to it with \
         Pool::connect"
    )]
    NotThisProgram {
        /// What this process executes.
        executable: PathBuf,
        /// The file that contains the workers' `boot!` line.
        code: PathBuf,
    },
    /// The system refuses a call without which no pool works: a filter of system calls does not permit it, or `/proc` is
    /// not mounted.
    #[error(
        "the system refuses {call}, without which no pool works: permit it, or mount /proc where that is missing"
    )]
    System {
        /// The call.
        call: &'static str,
        /// The system's error.
        source: io::Error,
    },
}

impl From<CallError> for StartError {
    fn from(CallError { call, error }: CallError) -> Self {
        StartError::System { call, source: error }
    }
}

/// Prints the error with its causes, since an unhandled `?` in `main` shows this.
impl fmt::Debug for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        failure::fmt_with_source(f, self)
    }
}

/// Where a pool's workers come from.
pub(super) enum PoolOrigin<W: Worker> {
    /// A fork server of its own, with the configuration of the workers.
    Private(W::Config),
    /// A standalone server.
    Server { address: String },
}

/// How long a server at a port may be silent by default (3 s): longer than a busy machine or a lost packet delays an answer,
/// short enough that a call with the default limit gets another worker.
const DEFAULT_DEAD_AFTER: Duration = Duration::from_secs(3);

/// Shortest and longest such time: several answers fit into the one, and the other is as good as never.
const DEAD_AFTER: RangeInclusive<Duration> = Duration::from_millis(100)..=Duration::from_secs(24 * 60 * 60);

/// The options that have a meaning only for pools that connect to a standalone server.
#[derive(Debug, Default)]
pub(super) struct ConnectOptions {
    pub(super) trust_user: Option<u32>,
    pub(super) certificates: Option<Certificates>,
    pub(super) allow_unauthenticated: bool,
    pub(super) dead_after: Option<Duration>,
}

impl ConnectOptions {
    /// Refuses options that have no meaning for a pool that connects to this address, or to none, so that none of them
    /// is ignored in silence.
    fn validate(&self, address: Option<&Address>) -> Result<(), OptionError> {
        let is_unix = matches!(address, Some(Address::Unix(_)));
        let is_tls = matches!(address, Some(Address::Net { tls: true, .. }));
        let is_tcp = matches!(address, Some(Address::Net { tls: false, .. }));
        if let Some(user) = self.trust_user.filter(|_| !is_unix) {
            let rule = "only a pool that connects to a server at unix:/path checks the server's user";
            return Err(OptionError::new("trust_user", user.to_string(), rule));
        }
        if self.certificates.is_some() && !is_tls {
            let rule = "only a pool that connects to a server at tls:host:port presents certificates";
            return Err(OptionError::new("certificates", "set".to_owned(), rule));
        }
        self.validate_dead_after(is_tcp || is_tls)?;
        if self.allow_unauthenticated && !is_tcp {
            let rule = "only a connection to tcp:host:port is unauthenticated";
            let option = "allow_unauthenticated_beyond_loopback";
            return Err(OptionError::new(option, "true".to_owned(), rule));
        }
        Ok(())
    }

    fn validate_dead_after(&self, is_at_port: bool) -> Result<(), OptionError> {
        let Some(time) = self.dead_after else { return Ok(()) };
        let rule = match DEAD_AFTER.contains(&time) {
            _ if !is_at_port => {
                "only a pool that connects to a server at tcp:host:port or tls:host:port sends pings"
            }
            false => "it must be 100ms to 86400s",
            true => return Ok(()),
        };
        Err(OptionError::new("dead_after", format!("{time:?}"), rule))
    }

    /// Returns where the server at this address is reached.
    fn source(&self, address: &str) -> Result<ServerSource, StartError> {
        let parsed = Address::parse(address)?;
        self.validate(Some(&parsed))?;
        match parsed {
            Address::Net { tls: true, .. } if self.certificates.is_none() => {
                Err(AddressError::NoCertificates { address: address.to_owned() }.into())
            }
            Address::Net { host, port, .. } => Ok(ServerSource::Port {
                host,
                port,
                certificates: self.certificates.clone(),
                beyond_loopback: self.allow_unauthenticated,
                dead_after: self.dead_after.unwrap_or(DEFAULT_DEAD_AFTER),
            }),
            Address::Unix(path) => Ok(ServerSource::Path { path, trusted: self.trust_user }),
            Address::Inherited(_) => Err(AddressError::ForServers { address: address.to_owned() }.into()),
        }
    }
}

impl<W: Worker> PoolBuilder<W> {
    /// Starts the pool, from any thread: it needs no actix system.
    ///
    /// Its processes are supervised on a thread of the library's own, which all pools share, so that no code of the
    /// application holds up their supervision. The fork server is started at once; its preload and the first workers
    /// follow without blocking this thread. Calls and checkouts can be made right away;
    /// [`ready`](crate::PoolHandle::ready) waits for the first workers.
    ///
    /// The pool actor, whose address is [`PoolHandle::addr`], runs on this thread's arbiter, and otherwise where calls run
    /// that are made without an arbiter.
    ///
    /// # Errors
    ///
    /// - [`StartError::Option`] for an option whose value cannot work, or that has no meaning for this kind of pool.
    /// - [`StartError::NotBooted`] if no [`boot!`](crate::boot) line names the worker.
    /// - [`StartError::NotThisProgram`] in a process whose program does not contain the worker.
    /// - [`StartError::Address`] for an invalid address of a server; that the server is not there is no error here, since
    ///   it may come later.
    /// - [`StartError::Config`], [`StartError::Blobs`], [`StartError::Launch`], [`StartError::System`] and [`StartError::Thread`] for what the
    ///   system refuses.
    ///
    /// No process, descriptor or thread is left behind.
    #[track_caller]
    pub fn start(self) -> Result<PoolHandle<W>, StartError> {
        let own = threads::supervision().map_err(StartError::Thread)?;
        let teller = Teller::here().map_err(StartError::Thread)?;
        let parts = self.prepare()?;
        let calls = CallArbiter::own(own.handle().clone());
        let actor = Arbiter::try_current().filter(ArbiterHandle::alive).unwrap_or_else(|| calls.get());
        Ok(parts.start::<W>(&own.handle().clone(), Some(own), calls, teller, &actor))
    }

    /// Starts the pool with its supervision on this arbiter, from any thread. Calls from threads without an arbiter run
    /// there as well.
    ///
    /// What blocks the arbiter blocks the supervision: workers are neither started nor replaced meanwhile. When the
    /// arbiter stops, the pool ends as after [`stop`](PoolHandle::stop) without a drain.
    ///
    /// # Errors
    ///
    /// As [`start`](Self::start), and [`StartError::ArbiterStopped`] if the arbiter does not run any more.
    #[track_caller]
    pub fn start_in(self, arbiter: &ArbiterHandle) -> Result<PoolHandle<W>, StartError> {
        if !arbiter.alive() {
            return Err(StartError::ArbiterStopped);
        }
        let teller = Teller::here().map_err(StartError::Thread)?;
        let parts = self.prepare()?;
        Ok(parts.start::<W>(arbiter, None, CallArbiter::Given(arbiter.clone()), teller, arbiter))
    }

    /// Checks the options and makes what can fail.
    fn prepare(mut self) -> Result<PoolParts, StartError> {
        self.options.validate()?;
        self.options.blob_memory = limits::mappable(self.options.blob_memory, PAGE);
        let is_private = matches!(self.origin, PoolOrigin::Private(_));
        let spec = self.spec()?;
        let has_blobs = self.options.blob_memory > 0 && !spec.source.is_remote();
        if !spec.source.is_remote() {
            let rings = self.options.transport == Transport::SharedMemory;
            let channel = channel::memory_length(rings);
            requirements::check((channel, rings), has_blobs, spec.source.is_own())?;
        }
        let blobs = has_blobs.then(|| BlobMemory::create(self.options.blob_memory)).transpose();
        let blobs = blobs.map_err(StartError::Blobs)?;
        // A standalone server may come later, so only a private one is started here.
        let launched = if is_private { spec.source.open_now() } else { None };
        let launched = launched.transpose().map_err(StartError::Launch)?;
        Ok(PoolParts { options: self.options, spec, blobs, launched })
    }

    /// Puts together where the server is and the first message that it is sent.
    fn spec(&self) -> Result<ServerSpec, StartError> {
        let (source, config, interface) = match &self.origin {
            PoolOrigin::Private(config) => {
                self.connect.validate(None)?;
                let mut encoded = Vec::new();
                let limits = Limits { bytes: usize::MAX / 2, depth: self.options.max_depth };
                frame::encode(&mut encoded, config, limits).map_err(StartError::Config)?;
                (own_server::<W>()?, Some(encoded), Vec::new())
            }
            PoolOrigin::Server { address } => (self.connect.source(address)?, None, (W::PROGRAM.interface)()),
        };
        let fingerprint = match interface.is_empty() {
            true => (W::PROGRAM.fingerprint)(),
            false => schema::fingerprint(&interface),
        };
        let hello = ToServer::Hello(Hello {
            protocol: PROTOCOL,
            library: LIBRARY.to_owned(),
            fingerprint,
            interface,
            pool: self.options.name.clone(),
            max_payload: self.options.max_payload as u64,
            max_depth: self.options.max_depth,
            max_memory: self.options.max_memory,
            process_limits: ProcessLimits {
                hung_worker_timeout: self.options.hung_worker_timeout,
                kill_grace: self.options.kill_grace,
                memory_limit: self.options.memory_limit,
            },
            backtrace: BacktraceStyle::here(),
            parking: match (self.options.park_worker, *self.options.workers.start()) {
                (false, _) => Parking::Never,
                (true, 0) => Parking::WhileUsed,
                (true, _) => Parking::Always,
            },
            config,
        });
        let mut bytes = Vec::new();
        frame::append(&mut bytes, &hello);
        let name_of = |call| W::METHODS.get(usize::try_from(call).ok()?).map(Method::name);
        Ok(ServerSpec { source, hello: bytes, fingerprint, name_of })
    }
}

/// Returns how this program is started again as the fork server.
fn own_server<W: Worker>() -> Result<ServerSource, StartError> {
    let Some(hook) = boot::hook_of(&W::PROGRAM) else {
        let type_name = std::any::type_name::<W>();
        return Err(StartError::NotBooted { type_name, short_name: short_name::<W>() });
    };
    let program = OwnProgram::find(hook).map_err(|error| match error {
        CannotRestart::Foreign { executable, code } => StartError::NotThisProgram { executable, code },
        CannotRestart::Unknown(source) => StartError::System { call: "reading /proc/self/exe", source },
    })?;
    Ok(ServerSource::Own(program, boot::arguments(&W::PROGRAM)))
}

/// What a pool is made of, before its actors are started.
struct PoolParts {
    options: Options,
    spec: ServerSpec,
    blobs: Option<BlobMemory>,
    launched: Option<Launched>,
}

impl PoolParts {
    /// Starts the supervisor and the pool actor. `own` is the thread of the supervisor if it is the library's.
    #[track_caller]
    fn start<W: Worker>(
        self,
        supervision: &ArbiterHandle,
        own: Option<Arc<OwnArbiter>>,
        calls: CallArbiter,
        teller: Teller,
        actor: &ArbiterHandle,
    ) -> PoolHandle<W> {
        let PoolParts { options, spec, blobs, launched } = self;
        let messages = W::METHODS.iter().map(Method::name).collect();
        let scheduler = Scheduler::new(options, messages, blobs, calls, teller);
        let supervisor = Supervisor::new(scheduler.clone(), spec, launched, own);
        // Made here and not on the arbiter: if that stops before it runs the supervisor, dropping it ends the pool.
        let supervisor = Supervisor::start_in_arbiter(supervision, move |_| supervisor);
        scheduler.open(supervisor.recipient());
        PoolHandle::new(scheduler.clone(), start_pool(actor, Pool::new(scheduler)))
    }
}

/// Starts the pool actor on an arbiter.
pub(super) fn start_pool<W: Worker>(arbiter: &ArbiterHandle, pool: Pool<W>) -> Addr<Pool<W>> {
    // A mailbox of capacity 0 is unbounded, and this one is so before its address is known.
    let (sender, receiver) = actix_channel::channel(0);
    arbiter.spawn_fn(move || {
        ProxyContext::run(pool, receiver);
    });
    Addr::new(sender)
}

/// Returns the last segment of a type's path, without type parameters.
pub(super) fn short_name<W>() -> &'static str {
    let full = std::any::type_name::<W>();
    let path = full.split('<').next().unwrap_or(full);
    path.rsplit("::").next().unwrap_or(path)
}
