//! Many calls in one message.

use std::panic::Location;
use std::time::Duration;

use actix::dev::{MessageResponse, OneshotSender, Request, ToEnvelope};
use actix::{Actor, Addr, Handler, Message};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::checkout::{Checkout, Within};
use super::pool::Pool;
use crate::actors::calls::payload::Payload;
use crate::actors::context::actor_context::{Here, ProxyContext};
use crate::actors::reply::{BatchReply, BatchSlots};
use crate::actors::session::dispatch::{BatchRelay, CallLimit, calls_of, limit_of};
use crate::actors::worker_api::interface::Accepts;
use crate::actors::worker_api::worker::Worker;
use crate::failure::Failure;
use crate::user_code::UserValues;

/// Many calls in one message, which costs far less than as many messages: `Batch(vec![Hash { .. }, Hash { .. }])`.
///
/// Each message is a call of its own, and they run in order on one worker. The result holds one answer for each message, at
/// the message's index, once the last of them is answered; an empty batch is answered at once. The calls behave as if they
/// were sent one after the other: the time limit of each starts when it becomes the first, and [`Within`] sets another one
/// for each of them; each failure goes to its error-handling context once; and an error clears the calls behind it, in the
/// batch and after the batch.
///
/// A checkout runs the calls between those that were sent to it before and after. A batch that is sent to a pool is a
/// checkout of its own with the pool's options: its worker is replaced after an `Err`, unless
/// [`keep_after_error`](crate::PoolBuilder::keep_after_error) is set.
///
/// # Errors
///
/// Those of each message.
///
/// # Cancellation
///
/// If the future is dropped, calls that no worker has yet never run. For the running call,
/// [`on_cancel`](crate::PoolBuilder::on_cancel) decides; calls that are written behind it run.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Batch<M>(pub Vec<M>);

impl<M: Message> Message for Batch<M> {
    type Result = Vec<M::Result>;
}

/// Sends batches to the addresses of checkouts and pools.
pub trait SendBatch<A: Actor> {
    /// Sends all these messages at once, as `send(`[`Batch`]`(messages))` does.
    ///
    /// # Errors
    ///
    /// Those of each message, at its index; and actix's `MailboxError` around them.
    ///
    /// # Cancellation
    ///
    /// As that of a [`Batch`].
    fn send_batch<M>(&self, messages: Vec<M>) -> Request<A, Batch<M>>
    where
        A: Handler<Batch<M>>,
        A::Context: ToEnvelope<A, Batch<M>>,
        M: Message + Send + 'static,
        M::Result: Send;
}

impl<A: Actor> SendBatch<A> for Addr<A> {
    fn send_batch<M>(&self, messages: Vec<M>) -> Request<A, Batch<M>>
    where
        A: Handler<Batch<M>>,
        A::Context: ToEnvelope<A, Batch<M>>,
        M: Message + Send + 'static,
        M::Result: Send,
    {
        self.send(Batch(messages))
    }
}

impl<W: Worker> Checkout<W> {
    fn submit_batch<M, T, E>(
        &mut self,
        messages: Vec<M>,
        limit: &CallLimit,
        at: Option<&'static Location<'static>>,
        ctx: &mut ProxyContext<Self>,
    ) -> BatchReply<Result<T, E>>
    where
        W: Accepts<M>,
        M: Message<Result = Result<T, E>> + Serialize,
        T: DeserializeOwned + 'static,
        E: DeserializeOwned + From<Failure> + 'static,
    {
        let sender = ctx.take_sender();
        let slots = BatchSlots::new(messages.len(), sender.awaits_reply);
        let origin = self.home.for_call(sender, at);
        let messages = UserValues(messages);
        for (call, message) in calls_of::<W, M, T, E>(&messages.0, &slots, limit, &origin) {
            self.session.submit(call, Payload::Value(&message), ctx);
        }
        BatchReply::of(slots)
    }
}

/// The result of the pool's handlers of batches: the answers that some worker will give.
pub struct BatchPromise<M> {
    delegation: BatchRelay<M>,
}

impl<M> std::fmt::Debug for BatchPromise<M> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("BatchPromise").field("messages", &self.delegation.messages.0.len()).finish()
    }
}

impl<W, M, N, T, E> MessageResponse<Pool<W>, N> for BatchPromise<M>
where
    W: Worker + Accepts<M>,
    M: Message<Result = Result<T, E>> + Serialize + Send + 'static,
    N: Message<Result = Vec<Result<T, E>>>,
    T: DeserializeOwned + Send + 'static,
    E: DeserializeOwned + From<Failure> + Send + 'static,
{
    fn handle(self, _: &mut ProxyContext<Pool<W>>, caller: Option<OneshotSender<Vec<Result<T, E>>>>) {
        self.delegation.run::<W, T, E>(caller, None);
    }
}

impl<W: Worker> Pool<W> {
    fn delegate<M>(
        &self,
        messages: Vec<M>,
        limit: CallLimit,
        at: Option<&'static Location<'static>>,
        ctx: &mut ProxyContext<Self>,
    ) -> BatchPromise<M>
    where
        W: Accepts<M>,
    {
        let origin = self.home.for_call(ctx.take_sender(), at);
        let bulkhead = self.scheduler.bulkhead_of(W::METHOD);
        BatchPromise { delegation: BatchRelay::new(&self.scheduler, bulkhead, messages, limit, origin) }
    }
}

/// Implements the handlers of checkouts and pools for one way to send a batch: how the messages, the time limit and the source
/// location are taken from it.
macro_rules! handlers {
    ($($limit:ident)? | $message:ty, $pattern:pat, |$of:ident| ($clock:expr, $at:expr), $messages:ident) => {
        impl<W, M, T, E $(, $limit)?> Handler<$message> for Checkout<W>
        where
            W: Worker + Accepts<M>,
            M: Message<Result = Result<T, E>> + Serialize,
            T: DeserializeOwned + 'static,
            E: DeserializeOwned + From<Failure> + 'static,
            $($limit: Into<Option<Duration>>,)?
        {
            type Result = BatchReply<Result<T, E>>;

            fn handle(&mut self, $pattern: $message, ctx: &mut Self::Context) -> Self::Result {
                let $of = self.timeout;
                self.submit_batch($messages, &$clock, $at, ctx)
            }
        }

        impl<W, M, T, E $(, $limit)?> Handler<$message> for Pool<W>
        where
            W: Worker + Accepts<M>,
            M: Message<Result = Result<T, E>> + Serialize + Send + 'static,
            T: DeserializeOwned + Send + 'static,
            E: DeserializeOwned + From<Failure> + Send + 'static,
            $($limit: Into<Option<Duration>>,)?
        {
            type Result = BatchPromise<M>;

            fn handle(&mut self, $pattern: $message, ctx: &mut Self::Context) -> Self::Result {
                let $of = self.scheduler.options.timeout;
                self.delegate($messages, $clock, $at, ctx)
            }
        }
    };
}

handlers!(| Batch<M>, Batch(messages), |own| (Ok(own), None), messages);
handlers!(D | Within<Batch<M>, D>, Within(limit, Batch(messages)), |_own| (limit_of(limit), None), messages);
handlers!(| Here<Batch<M>>, Here { message: Batch(messages), at }, |own| (Ok(own), Some(at)), messages);
handlers!(
    D | Here<Within<Batch<M>, D>>,
    Here { message: Within(limit, Batch(messages)), at },
    |_own| (limit_of(limit), Some(at)),
    messages
);
