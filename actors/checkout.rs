//! The checkout actor: a worker to oneself.

use std::any::Any;
use std::future::Future;
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

use super::blobs::Encoded;
use super::calls::{Call, Kind};
use super::context::Origin;
use super::interface::{Accepts, Worker};
use super::proxy_context::{Here, ProxyContext};
use super::session::{Session, SessionSeed, Surroundings};
use super::slot::{Place, Reply, Shelf, Slot, Sole};
use crate::failure::Failure;
use crate::wire::frame::{self, PayloadError};

/// Exclusive use of one worker: an actor that handles every message of the worker's interface, in the order in
/// which they were sent.
///
/// It is made by [`PoolHandle::checkout`](super::PoolHandle::checkout), joins the line for a worker when it is
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
    pub(super) session: Session,
    pub(super) timeout: Option<Duration>,
    /// Where the checkout was started, and in which context.
    pub(super) home: Origin,
    /// The slots of each message's calls, by its place in the interface.
    shelves: Vec<Option<Rc<dyn Any>>>,
    worker: PhantomData<fn() -> W>,
}

impl<W: Worker> std::fmt::Debug for Checkout<W> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Checkout").field("worker", &std::any::type_name::<W>()).finish_non_exhaustive()
    }
}

impl<W: Worker> Checkout<W> {
    /// Starts the actor on an arbiter. Calls queue on its address at once.
    pub(super) fn start_on(
        arbiter: &ArbiterHandle,
        seed: SessionSeed,
        timeout: Option<Duration>,
        home: Origin,
    ) -> Addr<Self> {
        // A mailbox of capacity 0 is unbounded, and this one is so before anybody can send to it.
        let (sender, receiver) = channel::channel(0);
        arbiter.spawn_fn(move || {
            let session = seed.plant();
            let checkout = Checkout { session, timeout, home, shelves: Vec::new(), worker: PhantomData };
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
    ) -> Place<Result<T, E>>
    where
        W: Accepts<M>,
        M: Message<Result = Result<T, E>> + Serialize,
        T: DeserializeOwned + 'static,
        E: DeserializeOwned + From<Failure> + 'static,
    {
        let sent = ctx.take_sent();
        let (slot, place) = self.shelf::<M, T, E>().slot(sent.awaited);
        let call = call::<W, M>(slot, limit, self.home.of_call(sent, at));
        self.session.submit(call, &mut |out, most| encode(out, message, most), ctx);
        place
    }

    /// The slots of this message's calls.
    fn shelf<M, T, E>(&mut self) -> Rc<Shelf<T, E>>
    where
        W: Accepts<M>,
        T: 'static,
        E: 'static,
    {
        let place = usize::try_from(W::METHOD).unwrap_or(usize::MAX);
        let known = self.shelves.get(place).cloned().flatten();
        // What stands at a message's place is of its type, for nobody else puts anything there.
        if let Some(shelf) = known.and_then(|shelf| shelf.downcast().ok()) {
            return shelf;
        }
        let shelf = Rc::new(Shelf::<T, E>::default());
        let places = self.shelves.len().max(place.saturating_add(1));
        self.shelves.resize(places, None);
        self.shelves[place] = Some(shelf.clone());
        shelf
    }
}

/// A call of this message.
pub(super) fn call<W: Accepts<M>, M>(slot: Slot, limit: Option<Duration>, origin: Origin) -> Call {
    Call { slot, kind: KindOf::<W, M>::KIND, limit, mark: None, origin, timer: None }
}

struct KindOf<W, M>(PhantomData<(W, M)>);

impl<W: Accepts<M>, M> KindOf<W, M> {
    const KIND: &'static Kind = &Kind { name: W::NAME, method: W::METHOD, describe: W::DESCRIBE };
}

/// Encodes a message; a panic of the user's own `Serialize` is an error like any other.
pub(super) fn encode<M: Serialize>(out: &mut Vec<u8>, message: &M, limit: usize) -> Result<(), PayloadError> {
    let encode = std::panic::AssertUnwindSafe(|| frame::encode(out, message, limit));
    std::panic::catch_unwind(encode).unwrap_or_else(|_| {
        Err(PayloadError::Encode {
            type_name: std::any::type_name::<M>(),
            reason: "its Serialize panicked".to_owned(),
        })
    })
}

impl<W: Worker> Actor for Checkout<W> {
    type Context = ProxyContext<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.spawn(Pump);
    }
}

impl<W: Worker> Surroundings for ProxyContext<Checkout<W>> {
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

/// One call to the pool itself: a checkout without an address, which ends with its call.
pub(super) struct Single(pub(super) Session);

impl Single {
    /// Runs one call, encoded already, on an arbiter.
    pub(super) fn spawn<W, M, T, E>(
        arbiter: &ArbiterHandle,
        seed: SessionSeed,
        message: Result<Encoded, PayloadError>,
        caller: Option<actix::dev::OneshotSender<M::Result>>,
        limit: Option<Duration>,
        origin: Origin,
    ) where
        W: Worker + Accepts<M>,
        M: Message<Result = Result<T, E>>,
        T: DeserializeOwned + Send + 'static,
        E: DeserializeOwned + From<Failure> + Send + 'static,
    {
        arbiter.spawn(async move {
            let mut session = seed.plant();
            let call = call::<W, M>(Sole::answering(caller), limit, origin);
            let mut encode = |out: &mut Vec<u8>, _: usize| match &message {
                Ok(message) => {
                    message.write(out);
                    Ok(())
                }
                Err(problem) => Err(problem.clone()),
            };
            session.submit(call, &mut encode, &mut Nobody);
            actix_rt::spawn(Single(session));
        });
    }
}

impl Future for Single {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, task: &mut TaskContext<'_>) -> Poll<()> {
        self.0.poll(task, &mut Nobody)
    }
}

/// Where a single call runs: there is no address, and nothing behind it.
struct Nobody;

impl Surroundings for Nobody {
    fn is_connected(&self) -> bool {
        false
    }

    fn send_fence(&mut self, _: u64) -> bool {
        false
    }
}
