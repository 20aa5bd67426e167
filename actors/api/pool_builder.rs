//! How a pool is started.

use std::fmt;
use std::io;
use std::marker::PhantomData;
use std::ops::RangeInclusive;
use std::time::Duration;

use actix::dev::channel;
use actix::{Actor, Addr, Arbiter, ArbiterHandle};

use super::pool::Pool;
use super::pool_handle::PoolHandle;
use crate::actors::context::actor_context::ProxyContext;
use crate::actors::scheduler::Scheduler;
use crate::actors::supervisor::source::ServerSource;
use crate::actors::supervisor::{ServerSpec, Supervisor};
use crate::actors::transport::blobs::BlobMemory;
use crate::actors::worker_api::interface::Method;
use crate::actors::worker_api::schema;
use crate::actors::worker_api::worker::Worker;
use crate::address::{Address, AddressError};
use crate::certificates::Certificates;
use crate::config::{Backoff, OnCancel, OptionError, Options, Transport};
use crate::failure;
use crate::server::{Boot, boot};
use crate::wire::control::{Guard, Hello, ToServer};
use crate::wire::frame;
use crate::wire::frame::PayloadError;
use crate::wire::{LIBRARY, PROTOCOL};

/// Why a pool could not be started. Nothing is left behind.
#[derive(thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// An option cannot be what it is.
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
    /// The thread runs no actix arbiter.
    #[error(
        "this thread has no actix arbiter: start the pool within #[actix::main], or name an arbiter with start_in"
    )]
    NoArbiter,
    /// The workers' configuration cannot be encoded.
    #[error("the configuration of the workers cannot be sent to them")]
    Config(#[source] PayloadError),
    /// What is to be the address of a server is none.
    #[error(transparent)]
    Address(#[from] AddressError),
    /// There is no memory for blobs.
    #[error("the memory for blobs cannot be made")]
    Blobs(#[source] io::Error),
    /// This program cannot be executed again as the fork server.
    #[error("the fork server cannot be started")]
    Launch(#[source] io::Error),
}

/// For people: what an unhandled `?` in `main` prints is what is wrong and what to do.
impl fmt::Debug for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        failure::for_people(f, self)
    }
}

/// Whose fork server a pool's workers come from.
enum Whose<W: Worker> {
    Own(W::Config),
    Listening(Listening),
}

/// A server that is there already, or will be.
struct Listening {
    address: String,
    trusted: Option<u32>,
    certificates: Option<Certificates>,
    beyond_loopback: bool,
}

/// Options of a pool, each with a default; made by [`Pool::builder`] or [`Pool::connect`].
#[must_use = "a pool exists once it is started"]
pub struct PoolBuilder<W: Worker> {
    /// With what to start a server, or where there is one.
    server: Whose<W>,
    options: Options,
    worker: PhantomData<fn() -> W>,
}

impl<W: Worker> std::fmt::Debug for PoolBuilder<W> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Builder").field("options", &self.options).finish_non_exhaustive()
    }
}

impl<W: Worker> PoolBuilder<W> {
    pub(crate) fn new(config: W::Config) -> Self {
        PoolBuilder::of(Whose::Own(config))
    }

    pub(crate) fn connecting(address: String) -> Self {
        PoolBuilder::of(Whose::Listening(Listening {
            address,
            trusted: None,
            certificates: None,
            beyond_loopback: false,
        }))
    }

    fn of(server: Whose<W>) -> Self {
        let options = Options::named(short_name::<W>().to_lowercase());
        PoolBuilder { server, options, worker: PhantomData }
    }

    /// The pool's name in `ps`, failures and logs: at most 64 bytes, without `/` and control characters.
    /// Default: the worker type's name in lower case.
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.options.name = name.into();
        self
    }

    /// Fewest and most worker processes. The fewest are forked at start and restored after any loss; there are
    /// never more than the most. Default: `2..=20`.
    pub fn workers(mut self, workers: RangeInclusive<usize>) -> Self {
        self.options.workers = workers;
        self
    }

    /// Workers that are kept ready beside those in use, as long as any is: they are forked before somebody needs them, so that
    /// a burst of so many checkouts waits for no fork. They count among the most, and are let go as others are, by
    /// [`idle_timeout`](Self::idle_timeout). Default: 0.
    pub fn spare_workers(mut self, count: usize) -> Self {
        self.options.spare_workers = count;
        self
    }

    /// Most checkouts that may wait while every worker is in use, at least 1; the first call of one too many is
    /// answered [`Overloaded`](crate::FailureKind::Overloaded). Those that a worker is being started for are not
    /// counted. Default: `None`, no limit.
    pub fn max_waiting(mut self, count: impl Into<Option<usize>>) -> Self {
        self.options.max_waiting = count.into();
        self
    }

    /// Full clock of one call, from its being first in its checkout's queue to its answer; `None` is no limit.
    /// When it runs out the caller is told and the worker killed. Default: 30 s.
    pub fn timeout(mut self, limit: impl Into<Option<Duration>>) -> Self {
        self.options.timeout = limit.into();
        self
    }

    /// Longest wait for a worker alone. Default: `None`, which leaves it to `timeout`.
    pub fn wait_timeout(mut self, limit: impl Into<Option<Duration>>) -> Self {
        self.options.wait_timeout = limit.into();
        self
    }

    /// Longest `setup` of a worker; one that takes longer is killed and counts as failed. Default: 60 s;
    /// `None` is no limit.
    pub fn setup_timeout(mut self, limit: impl Into<Option<Duration>>) -> Self {
        self.options.setup_timeout = limit.into();
        self
    }

    /// Longest time that one call may run, also where its own clock has no limit; the fork server kills a worker that
    /// exceeds it, whatever code it runs and whatever signals it blocks
    /// ([`Hung`](crate::FailureKind::Hung)). It is exact to about 10 ms, holds for each call on its own, and bounds
    /// `checkout_done` as well. Default: 5 min; at most 20 days; `None` is no limit.
    pub fn hung_worker_timeout(mut self, limit: impl Into<Option<Duration>>) -> Self {
        self.options.hung_worker_timeout = limit.into();
        self
    }

    /// How long a worker that is to be killed for its call, which timed out, hangs, was aborted or was given up, gets
    /// to end by itself: it is sent SIGTERM, and SIGKILL after this time. Its caller is told at once. Default: `None`,
    /// which kills it at once.
    pub fn kill_grace(mut self, grace: impl Into<Option<Duration>>) -> Self {
        self.options.kill_grace = grace.into();
        self
    }

    /// How long a checkout may hold a worker while it has nothing to run. Its worker is released then, and its later
    /// calls are answered with [`Timeout`](crate::FailureKind::Timeout) at once: what they rely on is gone. Default:
    /// `None`, no limit.
    pub fn idle_checkout_timeout(mut self, limit: impl Into<Option<Duration>>) -> Self {
        self.options.idle_checkout_timeout = limit.into();
        self
    }

    /// What becomes of a call that runs when its requester drops the future that it waits with. Default:
    /// [`OnCancel::Finish`].
    pub fn on_cancel(mut self, policy: OnCancel) -> Self {
        self.options.on_cancel = policy;
        self
    }

    /// Workers that the same message, byte for byte, may end within [`kill_window`](Self::kill_window), by a crash, a
    /// panic, a hang or a timeout, at least 1. After that it is refused for as long
    /// ([`Quarantined`](crate::FailureKind::Quarantined)), which costs no worker and does not end its checkout. For that each
    /// message is hashed, with all bytes of its blobs, on the thread that sends it: about 0.2 ms for each megabyte.
    /// Default: `None`, no limit.
    pub fn max_kills(mut self, count: impl Into<Option<u32>>) -> Self {
        self.options.max_kills = count.into();
        self
    }

    /// How far back [`max_kills`](Self::max_kills) looks, and how long a call is refused. Default: 60 s.
    pub fn kill_window(mut self, window: Duration) -> Self {
        self.options.kill_window = window;
        self
    }

    /// How long a worker above the fewest may be idle before it retires. Default: 60 s; `None` keeps it.
    pub fn idle_timeout(mut self, limit: impl Into<Option<Duration>>) -> Self {
        self.options.idle_timeout = limit.into();
        self
    }

    /// Checkouts after which a worker is replaced. Default: `None`, no limit.
    pub fn max_checkouts(mut self, count: impl Into<Option<u64>>) -> Self {
        self.options.max_checkouts = count.into();
        self
    }

    /// Age from which a worker is replaced once nobody holds it. Default: `None`, no limit.
    pub fn max_age(mut self, age: impl Into<Option<Duration>>) -> Self {
        self.options.max_age = age.into();
        self
    }

    /// Private memory, in bytes, above which a worker is replaced. It is measured when a checkout is released,
    /// never during a call. Default: `None`, no limit.
    pub fn max_memory(mut self, bytes: impl Into<Option<u64>>) -> Self {
        self.options.max_memory = bytes.into();
        self
    }

    /// Bytes of data (`RLIMIT_DATA`: heap and other private writable memory, the preload's included) beyond which a
    /// worker's allocations fail. Most programs end then, which fails their call
    /// ([`Died`](crate::FailureKind::Died), with [`killed_for_memory`](crate::Failure::killed_for_memory)) and protects
    /// the machine from it. Default: `None`, no limit.
    pub fn memory_limit(mut self, bytes: impl Into<Option<u64>>) -> Self {
        self.options.memory_limit = bytes.into();
        self
    }

    /// Largest encoded message or reply, in bytes; a larger one fails its own call only
    /// ([`Payload`](crate::FailureKind::Payload)). Default: 64 MiB + 64 KiB.
    pub fn max_payload(mut self, bytes: usize) -> Self {
        self.options.max_payload = bytes;
        self
    }

    /// Bytes that the [`Blob`](crate::Blob)s of all calls may have together, in whole pages, and those of the results of
    /// each worker; address space for that much is taken once for the pool and once for each worker, memory only as they are
    /// made. Where it is full, [`PoolHandle::blob`](crate::PoolHandle::blob) and
    /// [`WorkerContext::blob`](crate::WorkerContext::blob) fail, and other large blobs travel within their message. Of what
    /// was given back the application keeps up to 64 MiB and a worker up to 32 MiB at hand. Default: 1 GiB; at most 64 GiB;
    /// 0 is none, and all blobs travel within their messages.
    pub fn blob_memory(mut self, bytes: usize) -> Self {
        self.options.blob_memory = bytes;
        self
    }

    /// Whether a worker is kept after a checkout that saw an error. Default: `false`, since what it holds (a
    /// transaction, a session) is in doubt.
    pub fn keep_after_error(mut self, keep: bool) -> Self {
        self.options.keep_after_error = keep;
        self
    }

    /// Waits after workers that ended before they could do anything. Default: 100 ms doubling to 5 s, ±20 %.
    pub fn restart(mut self, backoff: Backoff) -> Self {
        self.options.restart = backoff;
        self
    }

    /// How messages and replies travel between the application and its workers. Default:
    /// [`Transport::SharedMemory`], which is the faster one.
    pub fn transport(mut self, transport: Transport) -> Self {
        self.options.transport = transport;
        self
    }

    /// Has a pool that [connects](Pool::connect) go to a server that runs as this user, by its number, beside the
    /// application's own and root. Whoever may make a socket at the server's path could listen there in its place and would
    /// be sent everything.
    pub fn trust_user(mut self, user: u32) -> Self {
        if let Whose::Listening(listening) = &mut self.server {
            listening.trusted = Some(user);
        }
        self
    }

    /// What a pool that [connects](Pool::connect) to `tls:host:port` shows to the server, and whom it believes to be that
    /// host.
    pub fn certificates(mut self, certificates: Certificates) -> Self {
        if let Whose::Listening(listening) = &mut self.server {
            listening.certificates = Some(certificates);
        }
        self
    }

    /// Whether a pool that [connects](Pool::connect) to `tcp:host:port` may go to other machines: whoever answers there, or
    /// stands in between, is sent everything, for nothing is encrypted and nobody shows who it is. Default: `false`.
    pub fn allow_unauthenticated_beyond_loopback(mut self, allow: bool) -> Self {
        if let Whose::Listening(listening) = &mut self.server {
            listening.beyond_loopback = allow;
        }
        self
    }

    /// Starts the pool on the current thread's arbiter.
    ///
    /// The fork server is started at once; its preload and the first workers follow without blocking this
    /// thread. Calls and checkouts can be made right away.
    ///
    /// # Errors
    ///
    /// [`StartError`]; nothing is left behind.
    #[track_caller]
    pub fn start(self) -> Result<PoolHandle<W>, StartError> {
        let arbiter = Arbiter::try_current().filter(ArbiterHandle::alive).ok_or(StartError::NoArbiter)?;
        self.start_in(&arbiter)
    }

    /// As [`start`](Self::start), on this arbiter, from any thread.
    ///
    /// # Errors
    ///
    /// As [`start`](Self::start).
    #[track_caller]
    pub fn start_in(self, arbiter: &ArbiterHandle) -> Result<PoolHandle<W>, StartError> {
        self.options.validate()?;
        let is_own = matches!(self.server, Whose::Own(_));
        if is_own && !boot::is_booted(&W::PROGRAM) {
            let type_name = std::any::type_name::<W>();
            return Err(StartError::NotBooted { type_name, short_name: short_name::<W>() });
        }
        let spec = self.spec()?;
        let has_blobs = self.options.blob_memory > 0 && !spec.source.is_remote();
        let blobs = has_blobs.then(|| BlobMemory::create(self.options.blob_memory)).transpose();
        let blobs = blobs.map_err(StartError::Blobs)?;
        // A server that is to be there may come later.
        let launched = if is_own { spec.source.reach_at_once() } else { None };
        let launched = launched.transpose().map_err(StartError::Launch)?;
        let scheduler = Scheduler::new(self.options, blobs);
        let supervisor = {
            let scheduler = scheduler.clone();
            Supervisor::start_in_arbiter(arbiter, move |_| Supervisor::new(scheduler, spec, launched))
        };
        scheduler.open(supervisor);
        let pool = start_pool(arbiter, Pool::new(scheduler.clone()));
        Ok(PoolHandle::new(scheduler, pool, arbiter.clone()))
    }

    fn spec(&self) -> Result<ServerSpec, StartError> {
        let (source, config, interface) = match &self.server {
            Whose::Own(config) => {
                let mut encoded = Vec::new();
                frame::encode(&mut encoded, config, usize::MAX / 2).map_err(StartError::Config)?;
                (ServerSource::Own(boot::arguments(&W::PROGRAM)), Some(encoded), Vec::new())
            }
            Whose::Listening(listening) => (listening.source()?, None, (W::PROGRAM.interface)()),
        };
        let fingerprint = match interface.is_empty() {
            true => (W::PROGRAM.fingerprint)(),
            false => schema::fingerprint(&interface),
        };
        let arena = self.options.blob_memory > 0 && !source.is_remote();
        let hello = ToServer::Hello(Hello {
            protocol: PROTOCOL,
            library: LIBRARY.to_owned(),
            fingerprint,
            interface,
            pool: self.options.name.clone(),
            max_payload: self.options.max_payload as u64,
            max_memory: self.options.max_memory,
            guard: Guard {
                hung_worker_timeout: self.options.hung_worker_timeout,
                kill_grace: self.options.kill_grace,
                memory_limit: self.options.memory_limit,
            },
            config,
            arena,
        });
        let mut bytes = Vec::new();
        frame::append(&mut bytes, &hello);
        let name_of = |call| W::METHODS.get(usize::try_from(call).ok()?).map(Method::name);
        Ok(ServerSpec { source, hello: bytes, fingerprint, name_of })
    }
}

impl Listening {
    fn source(&self) -> Result<ServerSource, AddressError> {
        let (address, certificates) = (self.address.clone(), self.certificates.clone());
        match Address::parse(&address)? {
            Address::Unix(path) => Ok(ServerSource::Path { path, trusted: self.trusted }),
            Address::Net { tls: true, .. } if certificates.is_none() => {
                Err(AddressError::NoCertificates { address })
            }
            Address::Net { host, port, tls } => {
                let certificates = certificates.filter(|_| tls);
                Ok(ServerSource::Port { host, port, certificates, beyond_loopback: self.beyond_loopback })
            }
            Address::Inherited(_) => Err(AddressError::ForServers { address }),
        }
    }
}

fn start_pool<W: Worker>(arbiter: &ArbiterHandle, pool: Pool<W>) -> Addr<Pool<W>> {
    // A mailbox of capacity 0 is unbounded, and this one is so before anybody can send to it.
    let (sender, receiver) = channel::channel(0);
    arbiter.spawn_fn(move || {
        ProxyContext::run(pool, receiver);
    });
    Addr::new(sender)
}

/// The last part of a type's path, generics left out.
fn short_name<W>() -> &'static str {
    let full = std::any::type_name::<W>();
    let path = full.split('<').next().unwrap_or(full);
    path.rsplit("::").next().unwrap_or(path)
}
