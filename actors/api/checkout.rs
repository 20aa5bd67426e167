//! The checkout actor: a worker to oneself.

use std::any::Any;
use std::marker::PhantomData;
use std::panic::Location;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context as TaskContext, Poll};
use std::time::Duration;

use actix::dev::channel;
use actix::fut::ActorFuture;
use actix::{Actor, ActorContext, Addr, ArbiterHandle, AsyncContext, Handler, Message};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::actors::context::Origin;
use crate::actors::context::actor_context::{Here, ProxyContext};
use crate::actors::reply::{Reply, ReplyKey, ReplySlab};
use crate::actors::session::dispatch::{call, encode};
use crate::actors::session::{Host, PendingSession, Session};
use crate::actors::worker_api::interface::Accepts;
use crate::actors::worker_api::worker::Worker;
use crate::failure::Failure;

/// Exclusive use of one worker: an actor that handles every message of the worker's interface, in the order in
/// which they were sent.
///
/// It is made by [`PoolHandle::checkout`](crate::actors::PoolHandle::checkout), joins the line for a worker when it is
/// started and gives the worker back when its last address is gone and its queue is empty. Its mailbox is
/// unbounded: `try_send` is never refused for being full.
///
/// # Errors
///
/// A call is answered with its message's own error, made from a [`Failure`] where it was not the handler that
/// failed. An error clears the calls queued behind it ([`Cleared`](crate::FailureKind::Cleared)). After a
/// fatal one (worker died, panicked, timed out, was aborted or broke the protocol) every later call is
/// answered with the same failure at once.
///
/// # Cancellation
///
/// A call whose future is dropped before it was written to the worker is not run; one that runs is let
/// finish, and its answer is dropped.
pub struct Checkout<W: Worker> {
    pub(crate) session: Session,
    pub(crate) timeout: Option<Duration>,
    /// Where the checkout was started, and in which context.
    pub(crate) home: Origin,
    /// The slots of each message's calls, by its place in the interface.
    slabs: Vec<Option<Rc<dyn Any>>>,
    worker: PhantomData<fn() -> W>,
}

impl<W: Worker> std::fmt::Debug for Checkout<W> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Checkout").field("worker", &std::any::type_name::<W>()).finish_non_exhaustive()
    }
}

impl<W: Worker> Checkout<W> {
    /// Starts the actor on an arbiter. Calls queue on its address at once.
    pub(crate) fn start_on(
        arbiter: &ArbiterHandle,
        pending: PendingSession,
        timeout: Option<Duration>,
        home: Origin,
    ) -> Addr<Self> {
        // A mailbox of capacity 0 is unbounded, and this one is so before anybody can send to it.
        let (sender, receiver) = channel::channel(0);
        arbiter.spawn_fn(move || {
            let session = pending.start();
            let checkout = Checkout { session, timeout, home, slabs: Vec::new(), worker: PhantomData };
            ProxyContext::run(checkout, receiver);
        });
        Addr::new(sender)
    }

    fn submit<M, T, E>(
        &mut self,
        message: &M,
        limit: Option<Duration>,
        at: Option<&'static Location<'static>>,
        ctx: &mut ProxyContext<Self>,
    ) -> ReplyKey<Result<T, E>>
    where
        W: Accepts<M>,
        M: Message<Result = Result<T, E>> + Serialize,
        T: DeserializeOwned + 'static,
        E: DeserializeOwned + From<Failure> + 'static,
    {
        let sent = ctx.take_sent();
        let (slot, key) = self.slab::<M, T, E>().slot(sent.awaited);
        let call = call::<W, M>(slot, limit, self.home.of_call(sent, at));
        self.session.submit(call, &mut |out, most| encode(out, message, most), ctx);
        key
    }

    /// The slots of this message's calls.
    fn slab<M, T, E>(&mut self) -> Rc<ReplySlab<T, E>>
    where
        W: Accepts<M>,
        T: 'static,
        E: 'static,
    {
        let key = usize::try_from(W::METHOD).unwrap_or(usize::MAX);
        let known = self.slabs.get(key).cloned().flatten();
        // What stands at a message's place is of its type, for nobody else puts anything there.
        if let Some(slab) = known.and_then(|slab| slab.downcast().ok()) {
            return slab;
        }
        let slab = Rc::new(ReplySlab::<T, E>::default());
        let places = self.slabs.len().max(key.saturating_add(1));
        self.slabs.resize(places, None);
        self.slabs[key] = Some(slab.clone());
        slab
    }
}

impl<W: Worker> Actor for Checkout<W> {
    type Context = ProxyContext<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.spawn(Pump);
    }
}

impl<W: Worker> Host for ProxyContext<Checkout<W>> {
    fn is_connected(&self) -> bool {
        self.connected()
    }

    fn send_fence(&mut self, number: u64) -> bool {
        // Not `notify`, which bypasses the mailbox.
        self.address().do_send(Fence(number));
        true
    }
}

/// Runs the session whenever anything happens, behind the mailbox, so that all that was sent is written at once.
struct Pump;

impl<W: Worker> ActorFuture<Checkout<W>> for Pump {
    type Output = ();

    fn poll(
        self: Pin<&mut Self>,
        checkout: &mut Checkout<W>,
        ctx: &mut ProxyContext<Checkout<W>>,
        task: &mut TaskContext<'_>,
    ) -> Poll<()> {
        checkout.session.poll(task, ctx).map(|()| ctx.stop())
    }
}

impl<W, M, T, E> Handler<M> for Checkout<W>
where
    W: Worker + Accepts<M>,
    M: Message<Result = Result<T, E>> + Serialize,
    T: DeserializeOwned + 'static,
    E: DeserializeOwned + From<Failure> + 'static,
{
    type Result = Reply<M>;

    fn handle(&mut self, message: M, ctx: &mut Self::Context) -> Reply<M> {
        Reply(self.submit(&message, self.timeout, None, ctx))
    }
}

/// A message with a clock of its own: `Within(Duration::from_secs(1), message)`.
///
/// The limit is the call's full clock, in place of its checkout's `timeout`; `None::<Duration>` is no limit.
#[derive(Clone, Copy, Debug)]
pub struct Within<M, D = Duration>(pub D, pub M);

impl<M: Message, D> Message for Within<M, D> {
    type Result = M::Result;
}

impl<W, M, T, E, D> Handler<Within<M, D>> for Checkout<W>
where
    W: Worker + Accepts<M>,
    M: Message<Result = Result<T, E>> + Serialize,
    T: DeserializeOwned + 'static,
    E: DeserializeOwned + From<Failure> + 'static,
    D: Into<Option<Duration>>,
{
    type Result = Reply<Within<M, D>>;

    fn handle(&mut self, Within(limit, message): Within<M, D>, ctx: &mut Self::Context) -> Self::Result {
        Reply(self.submit(&message, limit.into(), None, ctx))
    }
}

impl<W, M, T, E> Handler<Here<M>> for Checkout<W>
where
    W: Worker + Accepts<M>,
    M: Message<Result = Result<T, E>> + Serialize,
    T: DeserializeOwned + 'static,
    E: DeserializeOwned + From<Failure> + 'static,
{
    type Result = Reply<Here<M>>;

    fn handle(&mut self, Here { message, at }: Here<M>, ctx: &mut Self::Context) -> Self::Result {
        Reply(self.submit(&message, self.timeout, Some(at), ctx))
    }
}

impl<W, M, T, E, D> Handler<Here<Within<M, D>>> for Checkout<W>
where
    W: Worker + Accepts<M>,
    M: Message<Result = Result<T, E>> + Serialize,
    T: DeserializeOwned + 'static,
    E: DeserializeOwned + From<Failure> + 'static,
    D: Into<Option<Duration>>,
{
    type Result = Reply<Here<Within<M, D>>>;

    fn handle(&mut self, Here { message, at }: Here<Within<M, D>>, ctx: &mut Self::Context) -> Self::Result {
        let Within(limit, message) = message;
        Reply(self.submit(&message, limit.into(), Some(at), ctx))
    }
}

/// Ends a checkout at once: running and queued calls are answered with this reason, and its worker is killed.
///
/// Later calls are answered with the same failure. No late reply is delivered.
#[derive(Clone, Debug)]
pub struct Abort(pub String);

impl Message for Abort {
    type Result = ();
}

impl<W: Worker> Handler<Abort> for Checkout<W> {
    type Result = ();

    fn handle(&mut self, Abort(reason): Abort, _: &mut Self::Context) {
        self.session.abort(&reason);
    }
}

/// The mark that a checkout sends through its own mailbox.
struct Fence(u64);

impl Message for Fence {
    type Result = ();
}

impl<W: Worker> Handler<Fence> for Checkout<W> {
    type Result = ();

    fn handle(&mut self, Fence(number): Fence, _: &mut Self::Context) {
        self.session.fence_passed(number);
    }
}
