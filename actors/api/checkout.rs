//! The checkout actor: exclusive use of one worker.

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

use crate::actors::calls::payload::Payload;
use crate::actors::context::CallOrigin;
use crate::actors::context::actor_context::{Here, ProxyContext};
use crate::actors::reply::{FreeSlots, Reply};
use crate::actors::session::dispatch::{CallLimit, LimitedMessage, call, limit_of};
use crate::actors::session::{Host, PendingSession, Session};
use crate::actors::worker_api::interface::Accepts;
use crate::actors::worker_api::worker::Worker;
use crate::failure::Failure;
use crate::user_code::drop_caught;

/// Exclusive use of one worker: an actor that handles every message of the worker's interface, in the order in
/// which they were sent.
///
/// [`PoolHandle::checkout`](crate::PoolHandle::checkout) makes one. It joins the queue for a worker when it is started, and
/// releases the worker when its last address is dropped and its queue is empty. Its mailbox is unbounded: `try_send` is
/// never `Full`.
///
/// # Errors
///
/// A call is answered with the handler's own error, or with an error made from a [`Failure`] if the handler did not
/// answer. An error answers the calls queued behind it with [`Cleared`](crate::FailureKind::Cleared). After a fatal one
/// (the worker died, panicked, timed out, was aborted or broke the protocol) every later call is answered with the same
/// failure at once.
///
/// # Cancellation
///
/// If a call's future is dropped before the call is written to the worker, it never runs. A call that runs is let finish,
/// or its worker is killed, as [`on_cancel`](crate::PoolBuilder::on_cancel) says.
pub struct Checkout<W: Worker> {
    pub(crate) session: Session,
    pub(crate) timeout: Option<Duration>,
    /// The source location and the error-handling context in which the checkout was started.
    pub(crate) home: CallOrigin,
    /// The free reply slots of each message's calls, by the message's index in the interface.
    free_slots: Vec<Option<Rc<dyn Any>>>,
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
        home: CallOrigin,
    ) -> Addr<Self> {
        // A mailbox of capacity 0 is unbounded, and this one is so before its address is known.
        let (sender, receiver) = channel::channel(0);
        arbiter.spawn_fn(move || {
            let session = pending.start();
            let checkout = Checkout { session, timeout, home, free_slots: Vec::new(), worker: PhantomData };
            ProxyContext::run(checkout, receiver);
        });
        Addr::new(sender)
    }

    fn submit<M, T, E>(
        &mut self,
        message: M,
        limit: &CallLimit,
        at: Option<&'static Location<'static>>,
        ctx: &mut ProxyContext<Self>,
    ) -> Reply<Result<T, E>>
    where
        W: Accepts<M>,
        M: Message<Result = Result<T, E>> + Serialize,
        T: DeserializeOwned + 'static,
        E: DeserializeOwned + From<Failure> + 'static,
    {
        let sender = ctx.take_sender();
        let (slot, reply) = self.slots::<M, T, E>().take(sender.awaits_reply);
        let call = call::<W, M>(slot, limit.clone().unwrap_or(None), self.home.for_call(sender, at));
        self.session.submit(call, Payload::Value(&LimitedMessage(&message, limit)), ctx);
        drop_caught(message);
        reply
    }

    /// Returns the free reply slots of this message's calls.
    fn slots<M, T, E>(&mut self) -> Rc<FreeSlots<Result<T, E>>>
    where
        W: Accepts<M>,
        T: 'static,
        E: 'static,
    {
        let index = usize::try_from(W::METHOD).unwrap_or(usize::MAX);
        let known = self.free_slots.get(index).cloned().flatten();
        // The slots at a message's index have the message's type, since only this function puts slots there.
        if let Some(slots) = known.and_then(|slots| slots.downcast().ok()) {
            return slots;
        }
        let slots = Rc::new(FreeSlots::<Result<T, E>>::default());
        let length = self.free_slots.len().max(index.saturating_add(1));
        self.free_slots.resize(length, None);
        self.free_slots[index] = Some(slots.clone());
        slots
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

/// Polls the session after the mailbox, so that all calls sent so far are written at once.
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
    type Result = Reply<Result<T, E>>;

    fn handle(&mut self, message: M, ctx: &mut Self::Context) -> Self::Result {
        self.submit(message, &Ok(self.timeout), None, ctx)
    }
}

/// A message with a time limit of its own: `Within(Duration::from_secs(1), message)`.
///
/// The limit takes the place of the checkout's or pool's [`timeout`](crate::PoolBuilder::timeout);
/// `None::<Duration>` is no limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
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
    type Result = Reply<Result<T, E>>;

    fn handle(&mut self, Within(limit, message): Within<M, D>, ctx: &mut Self::Context) -> Self::Result {
        self.submit(message, &limit_of(limit), None, ctx)
    }
}

impl<W, M, T, E> Handler<Here<M>> for Checkout<W>
where
    W: Worker + Accepts<M>,
    M: Message<Result = Result<T, E>> + Serialize,
    T: DeserializeOwned + 'static,
    E: DeserializeOwned + From<Failure> + 'static,
{
    type Result = Reply<Result<T, E>>;

    fn handle(&mut self, Here { message, at }: Here<M>, ctx: &mut Self::Context) -> Self::Result {
        self.submit(message, &Ok(self.timeout), Some(at), ctx)
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
    type Result = Reply<Result<T, E>>;

    fn handle(&mut self, Here { message, at }: Here<Within<M, D>>, ctx: &mut Self::Context) -> Self::Result {
        let Within(limit, message) = message;
        self.submit(message, &limit_of(limit), Some(at), ctx)
    }
}

/// Ends a checkout at once: its running and queued calls are answered [`Aborted`](crate::FailureKind::Aborted) with this
/// reason, and its worker is killed.
///
/// Later calls are answered with the same failure. No late reply is delivered. It works while the checkout waits for a
/// worker as well.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Abort(pub String);

impl Message for Abort {
    type Result = ();
}

impl<W: Worker> Handler<Abort> for Checkout<W> {
    type Result = ();

    fn handle(&mut self, Abort(reason): Abort, ctx: &mut Self::Context) {
        self.session.abort(reason, ctx);
    }
}

/// A marker that a checkout sends through its own mailbox: what was sent before it was sent before an error was known.
struct Fence(u64);

impl Message for Fence {
    type Result = ();
}

impl<W: Worker> Handler<Fence> for Checkout<W> {
    type Result = ();

    fn handle(&mut self, Fence(number): Fence, ctx: &mut Self::Context) {
        self.session.pass_fence(number, ctx);
    }
}
