//! The pool actor, which runs each message on any free worker.

use std::marker::PhantomData;
use std::panic::Location;
use std::sync::Arc;
use std::time::Duration;

use actix::dev::{MessageResponse, OneshotSender};
use actix::{Actor, Handler, Message, ResponseFuture};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::checkout::Within;
use super::pool_builder::PoolBuilder;
use super::snapshot::Stats;
use super::stop_report::StopReport;
use super::unattended;
use crate::actors::context::CallOrigin;
use crate::actors::context::actor_context::{Here, ProxyContext};
use crate::actors::scheduler::Scheduler;
use crate::actors::scheduler::command::Command;
use crate::actors::session::dispatch::{CallLimit, Relay, limit_of};
use crate::actors::worker_api::interface::Accepts;
use crate::actors::worker_api::worker::Worker;
use crate::failure::Failure;
use crate::user_code::drop_caught;

/// A pool of workers: an actor that handles every message of their interface, each on any free worker, as
/// `SyncArbiter` does.
///
/// [`Pool::builder`] and [`Pool::connect`] return the options of a pool. A started pool is used through its
/// [`PoolHandle`](crate::PoolHandle); [`PoolHandle::addr`](crate::PoolHandle::addr) returns the address of this actor, whose
/// mailbox is unbounded.
pub struct Pool<W: Worker> {
    pub(crate) scheduler: Arc<Scheduler>,
    /// The source location and the error-handling context in which the pool was started.
    pub(crate) home: CallOrigin,
    worker: PhantomData<fn() -> W>,
}

impl<W: Worker> std::fmt::Debug for Pool<W> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pool").field("name", &self.scheduler.options.name).finish_non_exhaustive()
    }
}

impl<W: Worker> Pool<W> {
    /// Returns the options of a pool with a fork server of its own, whose workers are set up with `config`.
    pub fn builder(config: W::Config) -> PoolBuilder<W> {
        PoolBuilder::new(config)
    }

    /// Returns the options of a pool whose workers a standalone [`Server`](crate::Server) forks, with the server's
    /// configuration.
    ///
    /// The address is `unix:/path`, `tls:host:port` or `tcp:host:port`; [`start`](PoolBuilder::start) refuses an invalid
    /// one. The server may start later, and restart: calls wait for it within their time limits.
    pub fn connect(address: impl Into<String>) -> PoolBuilder<W> {
        PoolBuilder::connecting(address.into())
    }

    #[track_caller]
    pub(crate) fn new(scheduler: Arc<Scheduler>) -> Self {
        Pool { scheduler, home: CallOrigin::without_context(), worker: PhantomData }
    }

    fn relay<M: Message + Serialize, N>(
        &self,
        message: M,
        limit: CallLimit,
        at: Option<&'static Location<'static>>,
        ctx: &mut ProxyContext<Self>,
    ) -> Relay<W, M, N> {
        let origin = self.home.for_call(ctx.take_sender(), at);
        let relay = Relay::new(&self.scheduler, &message, limit, origin);
        drop_caught(message);
        relay
    }
}

impl<W: Worker> Actor for Pool<W> {
    type Context = ProxyContext<Self>;
}

/// The result of the pool's handlers: the answer that some worker will give.
#[derive(Debug)]
pub struct Promise<T>(T);

impl<W, M, N, T, E> MessageResponse<Pool<W>, N> for Promise<Relay<W, M, N>>
where
    W: Worker + Accepts<M>,
    M: Message<Result = Result<T, E>>,
    N: Message<Result = Result<T, E>>,
    T: DeserializeOwned + Send + 'static,
    E: DeserializeOwned + From<Failure> + Send + 'static,
{
    fn handle(self, _: &mut ProxyContext<Pool<W>>, caller: Option<OneshotSender<Result<T, E>>>) {
        self.0.run_here(caller);
    }
}

impl<W, M, T, E> Handler<M> for Pool<W>
where
    W: Worker + Accepts<M>,
    M: Message<Result = Result<T, E>> + Serialize,
    T: DeserializeOwned + Send + 'static,
    E: DeserializeOwned + From<Failure> + Send + 'static,
{
    type Result = Promise<Relay<W, M>>;

    fn handle(&mut self, message: M, ctx: &mut Self::Context) -> Self::Result {
        Promise(self.relay(message, Ok(self.scheduler.options.timeout), None, ctx))
    }
}

impl<W, M, T, E, D> Handler<Within<M, D>> for Pool<W>
where
    W: Worker + Accepts<M>,
    M: Message<Result = Result<T, E>> + Serialize,
    T: DeserializeOwned + Send + 'static,
    E: DeserializeOwned + From<Failure> + Send + 'static,
    D: Into<Option<Duration>>,
{
    type Result = Promise<Relay<W, M, Within<M, D>>>;

    fn handle(&mut self, Within(limit, message): Within<M, D>, ctx: &mut Self::Context) -> Self::Result {
        Promise(self.relay(message, limit_of(limit), None, ctx))
    }
}

impl<W, M, T, E> Handler<Here<M>> for Pool<W>
where
    W: Worker + Accepts<M>,
    M: Message<Result = Result<T, E>> + Serialize,
    T: DeserializeOwned + Send + 'static,
    E: DeserializeOwned + From<Failure> + Send + 'static,
{
    type Result = Promise<Relay<W, M, Here<M>>>;

    fn handle(&mut self, Here { message, at }: Here<M>, ctx: &mut Self::Context) -> Self::Result {
        Promise(self.relay(message, Ok(self.scheduler.options.timeout), Some(at), ctx))
    }
}

impl<W, M, T, E, D> Handler<Here<Within<M, D>>> for Pool<W>
where
    W: Worker + Accepts<M>,
    M: Message<Result = Result<T, E>> + Serialize,
    T: DeserializeOwned + Send + 'static,
    E: DeserializeOwned + From<Failure> + Send + 'static,
    D: Into<Option<Duration>>,
{
    type Result = Promise<Relay<W, M, Here<Within<M, D>>>>;

    fn handle(&mut self, Here { message, at }: Here<Within<M, D>>, ctx: &mut Self::Context) -> Self::Result {
        let Within(limit, message) = message;
        Promise(self.relay(message, limit_of(limit), Some(at), ctx))
    }
}

/// Stops a pool, as [`PoolHandle::stop`](crate::PoolHandle::stop) does.
///
/// The reply comes when the last process of the pool is reaped, and at the latest five seconds after the drain. Calls sent later are answered
/// [`Stopped`](crate::FailureKind::Stopped).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Stop {
    /// How long calls that run or are queued on a held checkout may still take; zero kills them at once.
    pub drain: Duration,
}

impl Message for Stop {
    type Result = StopReport;
}

impl<W: Worker> Handler<Stop> for Pool<W> {
    type Result = ResponseFuture<StopReport>;

    fn handle(&mut self, Stop { drain }: Stop, _: &mut Self::Context) -> Self::Result {
        Box::pin(stop(self.scheduler.clone(), drain))
    }
}

/// Stops the pool of this scheduler.
pub(crate) async fn stop(scheduler: Arc<Scheduler>, drain: Duration) -> StopReport {
    let (done, ended) = tokio::sync::oneshot::channel();
    scheduler.command(Command::Stop { drain, done });
    let instead = unattended::stop(&scheduler, drain);
    // A supervisor that is gone has stopped its pool, and dropped its end of the channel with it.
    unattended::answer(ended, instead).await.unwrap_or_default()
}

/// Asks a pool for its [`Stats`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Inspect;

impl Message for Inspect {
    type Result = Stats;
}

impl<W: Worker> Handler<Inspect> for Pool<W> {
    type Result = actix::MessageResult<Inspect>;

    fn handle(&mut self, Inspect: Inspect, _: &mut Self::Context) -> Self::Result {
        actix::MessageResult(self.scheduler.stats())
    }
}
