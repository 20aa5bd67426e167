//! The options of a pool.

use std::marker::PhantomData;
use std::ops::RangeInclusive;
use std::time::Duration;

use actix::Message;

use super::pool_start::{ConnectOptions, PoolOrigin, short_name};
use crate::actors::worker_api::interface::Accepts;
use crate::actors::worker_api::worker::Worker;
use crate::certificates::Certificates;
use crate::config::{Backoff, MessageLimit, OnCancel, Options, Transport};

/// The options of a pool, each with a default. [`Pool::builder`](crate::Pool::builder) and
/// [`Pool::connect`](crate::Pool::connect) make one.
///
/// `None` stands for "no limit" wherever an option takes an `Option`; a value can be passed without `Some`.
#[must_use = "a pool exists once it is started"]
pub struct PoolBuilder<W: Worker> {
    pub(super) origin: PoolOrigin<W>,
    pub(super) connect: ConnectOptions,
    pub(super) options: Options,
    worker: PhantomData<fn() -> W>,
}

impl<W: Worker> std::fmt::Debug for PoolBuilder<W> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PoolBuilder").field("options", &self.options).finish_non_exhaustive()
    }
}

impl<W: Worker> PoolBuilder<W> {
    pub(crate) fn new(config: W::Config) -> Self {
        PoolBuilder::with_origin(PoolOrigin::Private(config))
    }

    pub(crate) fn connecting(address: String) -> Self {
        PoolBuilder::with_origin(PoolOrigin::Server { address })
    }

    fn with_origin(origin: PoolOrigin<W>) -> Self {
        let options = Options::named(short_name::<W>().to_lowercase());
        PoolBuilder { origin, connect: ConnectOptions::default(), options, worker: PhantomData }
    }

    /// Sets the pool's name in `ps`, failures and logs: 1 to 64 bytes, without `/` and control characters. Default:
    /// the worker type's name in lower case.
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.options.name = name.into();
        self
    }

    /// Sets the minimum and maximum of worker processes. The minimum is forked at start and restored after any loss; the
    /// maximum is never exceeded. Default: `2..=20`.
    pub fn workers(mut self, workers: RangeInclusive<usize>) -> Self {
        self.options.workers = workers;
        self
    }

    /// Sets how many idle workers are kept beside those in use, while any is in use: they are forked ahead of demand, so a
    /// burst of that many checkouts waits for no fork. They count towards the maximum, and
    /// [`idle_timeout`](Self::idle_timeout) ends them like other workers above the minimum. Default: 0.
    pub fn spare_workers(mut self, count: usize) -> Self {
        self.options.spare_workers = count;
        self
    }

    /// Sets how many checkouts may wait while every worker is in use, at least 1. The first call of one more is answered
    /// [`Overloaded`](crate::FailureKind::Overloaded). Checkouts for which a worker is being started do not count;
    /// those that wait at a [bulkhead](Self::most_for) do, and so do the permits of services of tower. Default: `None`, no
    /// limit.
    pub fn max_waiting(mut self, count: impl Into<Option<usize>>) -> Self {
        self.options.max_waiting = count.into();
        self
    }

    /// Sets how many workers the calls of the message `M` may have at a time, 1 to the maximum of workers, so that one kind of
    /// call cannot take all of them. It holds for messages and batches that are sent to the pool itself. Calls of checkouts
    /// do not count, and those of a [class](crate::PoolHandle::class) count for the class. Default: no limit.
    ///
    /// A call for which there is no worker because of this limit waits; those that may have a worker pass it over, and it
    /// keeps its place. A [`Timeout`](crate::FailureKind::Timeout) then names the message.
    pub fn most_for<M>(mut self, count: usize) -> Self
    where
        W: Accepts<M>,
        M: Message,
    {
        let limits = &mut self.options.message_limits;
        limits.retain(|limit| limit.method != W::METHOD);
        limits.push(MessageLimit { method: W::METHOD, name: W::NAME, most: count });
        self
    }

    /// Sets the time limit of one call, from when it is first in its checkout's queue to its answer. When it passes, the
    /// caller receives [`Timeout`](crate::FailureKind::Timeout) and the worker is killed. Default: 30 s; `None` is no
    /// limit. Time in which the application's processes stood still does not count, here and for all other limits: a container
    /// that is paused, a debugger.
    pub fn timeout(mut self, limit: impl Into<Option<Duration>>) -> Self {
        self.options.timeout = limit.into();
        self
    }

    /// Sets the time limit of the wait for a worker alone. Default: `None`, only [`timeout`](Self::timeout) limits it.
    pub fn wait_timeout(mut self, limit: impl Into<Option<Duration>>) -> Self {
        self.options.wait_timeout = limit.into();
        self
    }

    /// Sets the time limit of a worker's `setup`. A worker that exceeds it is killed, and its set-up has failed. Default:
    /// 60 s; `None` is no limit.
    pub fn setup_timeout(mut self, limit: impl Into<Option<Duration>>) -> Self {
        self.options.setup_timeout = limit.into();
        self
    }

    /// Sets how long one call may run even if its own limit is longer or `None`. The fork server kills a worker that exceeds
    /// it, whatever code it runs and whatever signals it blocks ([`Hung`](crate::FailureKind::Hung)).
    ///
    /// The limit is exact to about 10 ms, holds for each call by itself, and covers `checkout_done` too. Default: 5 min; at
    /// most 20 days; `None` is no limit.
    pub fn hung_worker_timeout(mut self, limit: impl Into<Option<Duration>>) -> Self {
        self.options.hung_worker_timeout = limit.into();
        self
    }

    /// Sets how long a worker gets to exit by itself before it is killed because its call timed out, hung, was aborted or was
    /// cancelled: it receives SIGTERM, and SIGKILL after this time. Its caller is answered at once. Default: `None`, SIGKILL
    /// at once.
    ///
    /// A worker without a handler for SIGTERM ends at once. The SIGTERM of other processes does not end it.
    pub fn kill_grace(mut self, grace: impl Into<Option<Duration>>) -> Self {
        self.options.kill_grace = grace.into();
        self
    }

    /// Sets how long a checkout may hold a worker while it has nothing to run. Then its worker is released, and its later
    /// calls are answered [`Timeout`](crate::FailureKind::Timeout) at once, since the state on which they rely is gone.
    /// Default: `None`, no limit.
    pub fn idle_checkout_timeout(mut self, limit: impl Into<Option<Duration>>) -> Self {
        self.options.idle_checkout_timeout = limit.into();
        self
    }

    /// Sets what becomes of a running call when its requester drops the future that it waits with. Default:
    /// [`OnCancel::Finish`]. [A checkout](crate::CheckoutBuilder::on_cancel) and [a call](crate::PoolRequest::on_cancel) may
    /// have another one.
    pub fn on_cancel(mut self, policy: OnCancel) -> Self {
        self.options.on_cancel = policy;
        self
    }

    /// Sets how many workers the same message, byte for byte, may end within [`kill_window`](Self::kill_window) by a crash, a
    /// panic, a hang or a timeout, at least 1. After that it is refused for as long
    /// ([`Quarantined`](crate::FailureKind::Quarantined)), which costs no worker and does not end its checkout.
    ///
    /// Each message is hashed for this, with all bytes of its blobs, on the thread that sends it: about 0.2 ms for each
    /// megabyte. Default: `None`, no quarantine.
    pub fn max_kills(mut self, count: impl Into<Option<u32>>) -> Self {
        self.options.max_kills = count.into();
        self
    }

    /// Sets how far back [`max_kills`](Self::max_kills) looks, and how long a call is refused. Default: 60 s.
    pub fn kill_window(mut self, window: Duration) -> Self {
        self.options.kill_window = window;
        self
    }

    /// Sets how long a worker above the minimum may be idle before it is retired. Default: 60 s; `None` keeps it.
    pub fn idle_timeout(mut self, limit: impl Into<Option<Duration>>) -> Self {
        self.options.idle_timeout = limit.into();
        self
    }

    /// Sets after how many checkouts a worker is replaced, at least 1. Default: `None`, no limit.
    pub fn max_checkouts(mut self, count: impl Into<Option<u64>>) -> Self {
        self.options.max_checkouts = count.into();
        self
    }

    /// Sets the age at which a worker is replaced, once no checkout holds it. Default: `None`, no limit.
    pub fn max_lifetime(mut self, age: impl Into<Option<Duration>>) -> Self {
        self.options.max_lifetime = age.into();
        self
    }

    /// Sets above how much private memory, in bytes, a worker is replaced. It is measured when a checkout is released, never
    /// during a call. Default: `None`, no limit. Memory that is shared with the fork server does not count, and unmodified
    /// pages of files do not.
    ///
    /// To make allocations fail during a call, use [`memory_limit`](Self::memory_limit).
    pub fn max_memory(mut self, bytes: impl Into<Option<u64>>) -> Self {
        self.options.max_memory = bytes.into();
        self
    }

    /// Sets how many bytes of data (`RLIMIT_DATA`: heap and other private writable memory, including the preload's) a worker
    /// may have before its allocations fail.
    ///
    /// Most programs exit then, which fails their call ([`Died`](crate::FailureKind::Died), with
    /// [`killed_for_memory`](crate::Failure::killed_for_memory)) and protects the rest of the machine. Default: `None`, no
    /// limit.
    ///
    /// Programs and processes that a handler starts inherit the limit, and cannot raise it. Each of them may have as much by
    /// itself, so a worker and its programs may have several times as much together. A program that reserves large private
    /// areas, as some runtimes with garbage collection do, may not start. To limit all of them together, use a control group.
    ///
    /// # References
    ///
    /// - [setrlimit(2)](https://man7.org/linux/man-pages/man2/setrlimit.2.html), `RLIMIT_DATA`
    pub fn memory_limit(mut self, bytes: impl Into<Option<u64>>) -> Self {
        self.options.memory_limit = bytes.into();
        self
    }

    /// Sets the size of the largest encoded message or reply, in bytes, at least 1. A larger one fails only its own call
    /// ([`Payload`](crate::FailureKind::Payload)). Default: 64 MiB + 64 KiB.
    pub fn max_payload(mut self, bytes: usize) -> Self {
        self.options.max_payload = bytes;
        self
    }

    /// Sets how many levels of values within values a message or a reply may have, at least 1. Each struct, enum, tuple,
    /// `Option`, sequence and map is one level. A message that is deeper is not sent, and a reply that is deeper is not
    /// decoded: its own call fails ([`Payload`](crate::FailureKind::Payload)). Default: 128.
    ///
    /// Values are encoded, decoded and dropped recursively. Without this limit, a worker could overflow the stack of the
    /// application with a reply of a recursive type. Before you raise it, see that the stacks are large enough on both sides:
    /// an arbiter's has 2 MiB, a worker's usually 8 MiB.
    pub fn max_depth(mut self, levels: u32) -> Self {
        self.options.max_depth = levels;
        self
    }

    /// Sets how many bytes the [`Blob`](crate::Blob)s of all calls may occupy together, in whole pages, and how many the results
    /// of each worker may.
    ///
    /// That much address space is reserved once for the pool and once for each worker; memory is taken only as blobs are made.
    /// When it is full, [`PoolHandle::blob`](crate::PoolHandle::blob) and [`WorkerContext::blob`](crate::WorkerContext::blob)
    /// fail, and other large blobs travel within their message. Of the memory that is free again, the application keeps up to
    /// 64 MiB and a worker up to 32 MiB for reuse. Default: 1 GiB; at most 64 GiB; with 0, all blobs travel within their
    /// messages.
    ///
    /// It is less where the limits of the process permit less: files of that length (`RLIMIT_FSIZE`), or four times as much
    /// address space as is left (`RLIMIT_AS`). The message of a blob that does not fit has the length.
    pub fn blob_memory(mut self, bytes: usize) -> Self {
        self.options.blob_memory = bytes;
        self
    }

    /// Sets whether a worker is kept after a checkout that saw an `Err`. Default: `false`, since its state (a transaction, a
    /// session) may be inconsistent.
    pub fn keep_after_error(mut self, keep: bool) -> Self {
        self.options.keep_after_error = keep;
        self
    }

    /// Sets whether the pool's server keeps one child forked that is no worker yet, so that the next worker starts sooner.
    /// The child has run neither `setup` nor any other code of yours, has no descriptor of this application, and takes about
    /// as much memory as an idle worker. It is not counted as a worker; [`ServerStats::parked`](crate::ServerStats::parked)
    /// counts it. A pool whose fewest workers are none has such a child only while it has workers and for a second after.
    /// Default: `true`.
    ///
    /// A worker at a port with TLS is always forked when it is needed. So is one whose server has other limits or control
    /// groups by now than when it forked the child.
    pub fn park_worker(mut self, park: bool) -> Self {
        self.options.park_worker = park;
        self
    }

    /// Sets the waits before workers that ended before their first call are replaced. Default: 100 ms doubling to 5 s, ±20 %.
    pub fn restart(mut self, backoff: Backoff) -> Self {
        self.options.restart = backoff;
        self
    }

    /// Sets how messages and replies travel between the application and its workers on the same machine. Default:
    /// [`Transport::SharedMemory`], the faster one.
    pub fn transport(mut self, transport: Transport) -> Self {
        self.options.transport = transport;
        self
    }

    /// Accepts a server that runs as this user id, beside the application's own user and root. Only for pools that
    /// [connect](crate::Pool::connect) to `unix:/path`. A process that may create a socket at that path could listen there instead,
    /// and would receive every message.
    pub fn trust_user(mut self, user: u32) -> Self {
        self.connect.trust_user = Some(user);
        self
    }

    /// Sets the certificate that this pool presents to the server, and the authorities that it accepts. Only for pools that
    /// [connect](crate::Pool::connect) to `tls:host:port`, which need it.
    pub fn certificates(mut self, certificates: Certificates) -> Self {
        self.connect.certificates = Some(certificates);
        self
    }

    /// Sets how long the server may be silent until the pool takes it for dead, 100 ms to a day. Only for pools that
    /// [connect](crate::Pool::connect) to `tcp:host:port` or `tls:host:port`, which send their server a ping each second, or three
    /// within this time. Calls that wait are then served by the next server that answers at the address. Calls that run on
    /// workers of the silent one may finish; if that is frozen and goes on, they do. Default: 3 s.
    pub fn dead_after(mut self, time: Duration) -> Self {
        self.connect.dead_after = Some(time);
        self
    }

    /// Allows a connection to another machine. Only for pools that [connect](crate::Pool::connect) to `tcp:host:port`. Nothing is
    /// encrypted and neither side is authenticated: whatever answers there, or stands in between, receives every message.
    /// Default: `false`.
    pub fn allow_unauthenticated_beyond_loopback(mut self, allow: bool) -> Self {
        self.connect.allow_unauthenticated = allow;
        self
    }
}
