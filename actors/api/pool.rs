//! The pool actor: where a message that needs no checkout of its own goes.

use std::marker::PhantomData;
use std::panic::Location;
use std::sync::Arc;
use std::time::Duration;

use actix::dev::{MessageResponse, OneshotSender};
use actix::{Actor, Arbiter, Handler, Message, ResponseFuture};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::checkout::Within;
use super::pool_builder::PoolBuilder;
use super::stats::Stats;
use crate::actors::context::Origin;
use crate::actors::context::actor_context::{Here, ProxyContext};
use crate::actors::scheduler::Scheduler;
use crate::actors::session::dispatch::Relay;
use crate::actors::supervisor::End;
use crate::actors::worker_api::interface::Accepts;
use crate::actors::worker_api::worker::Worker;
use crate::failure::Failure;

/// A pool of workers: an actor that handles every message of their interface, each on any free worker, as
/// `SyncArbiter` does.
///
/// [`Pool::builder`] starts one and returns its [`PoolHandle`](crate::actors::PoolHandle), which is what one usually
/// wants; [`PoolHandle::addr`](crate::actors::PoolHandle::addr) gives the actor's own address. Its mailbox is unbounded.
pub struct Pool<W: Worker> {
    pub(crate) scheduler: Arc<Scheduler>,
    /// Where the pool was started.
    pub(crate) home: Origin,
    worker: PhantomData<fn() -> W>,
}

impl<W: Worker> std::fmt::Debug for Pool<W> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pool").field("name", &self.scheduler.options.name).finish_non_exhaustive()
    }
}

impl<W: Worker> Pool<W> {
    /// Options of a pool whose workers are set up with `config`.
    pub fn builder(config: W::Config) -> PoolBuilder<W> {
        PoolBuilder::new(config)
    }

    /// Options of a pool whose workers are those of a [`Server`](crate::Server) that listens at this address,
    /// `unix:/path`, and are set up with its configuration.
    ///
    /// The server may come and go, before and after the pool is started: calls wait for it within their clocks.
    pub fn connect(address: impl Into<String>) -> PoolBuilder<W> {
        PoolBuilder::connecting(address.into())
    }

    #[track_caller]
    pub(crate) fn new(scheduler: Arc<Scheduler>) -> Self {
        Pool { scheduler, home: Origin::bare(), worker: PhantomData }
    }

    fn relay<M: Message + Serialize, N>(
        &self,
        message: &M,
        limit: Option<Duration>,
        at: Option<&'static Location<'static>>,
        ctx: &mut ProxyContext<Self>,
    ) -> Relay<W, M, N> {
        Relay::new(&self.scheduler, message, limit, self.home.of_call(ctx.take_sent(), at))
    }
}

impl<W: Worker> Actor for Pool<W> {
    type Context = ProxyContext<Self>;
}

/// What the pool's handlers return: the promise of an answer from some worker.
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
        self.0.run(&Arbiter::current(), caller);
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
        Promise(self.relay(&message, self.scheduler.options.timeout, None, ctx))
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
        Promise(self.relay(&message, limit.into(), None, ctx))
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
        Promise(self.relay(&message, self.scheduler.options.timeout, Some(at), ctx))
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
        Promise(self.relay(&message, limit.into(), Some(at), ctx))
    }
}

/// Ends a pool: nobody new gets a worker, what is queued on held checkouts may finish for `drain`, and then
/// whatever still runs is killed.
///
/// The reply comes when the last process of the pool has been reaped. Calls sent later are answered
/// [`Stopped`](crate::FailureKind::Stopped).
#[derive(Clone, Copy, Debug)]
pub struct Stop {
    /// How long calls that run or are queued on a held checkout may still take; zero kills at once.
    pub drain: Duration,
}

impl Message for Stop {
    type Result = ();
}

impl<W: Worker> Handler<Stop> for Pool<W> {
    type Result = ResponseFuture<()>;

    fn handle(&mut self, Stop { drain }: Stop, _: &mut Self::Context) -> Self::Result {
        Box::pin(stop(self.scheduler.clone(), drain))
    }
}

/// Ends the pool behind a desk.
pub(crate) async fn stop(scheduler: Arc<Scheduler>, drain: Duration) {
    let (done, ended) = tokio::sync::oneshot::channel();
    if let Some(supervisor) = scheduler.supervisor() {
        supervisor.do_send(End { drain, done });
    }
    // A supervisor that is gone has ended its pool already, and its end of the channel with it.
    let _ = ended.await;
}

/// Asks a pool for its [`Stats`].
#[derive(Clone, Copy, Debug)]
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
