//! The actix context in which checkouts and pools run. It behaves like `actix::Context`, and its envelopes carry the
//! sender's error-handling context.

use std::fmt;
use std::panic::Location;

use actix::dev::channel::AddressReceiver;
use actix::dev::{
    AsyncContextParts, ContextFut, ContextParts, Envelope, EnvelopeProxy, Mailbox, MessageResponse,
    OneshotSender, ToEnvelope,
};
use actix::fut::ActorFuture;
use actix::{Actor, ActorContext, ActorState, Addr, AsyncContext, Handler, Message, SpawnHandle};

use super::{ErrorContext, SenderInfo};
use crate::actors::telemetry::event_forwarder::LogSink;
use crate::user_code::drop_caught;

/// The execution context of [`Checkout`](crate::actors::Checkout) and [`Pool`](crate::actors::Pool).
///
/// It differs from `actix::Context` in one point: a message that is sent to such an actor is packed together with the
/// [`ErrorContext`] in force where it is sent. This holds for `send`, `try_send` and `do_send`, and for `Addr`,
/// `WeakAddr` and `Recipient` alike.
pub struct ProxyContext<A: Actor<Context = Self>> {
    parts: ContextParts<A>,
    /// The sender of the message that is being handled, until the handler takes it.
    sender: SenderInfo,
}

impl<A: Actor<Context = Self>> ProxyContext<A> {
    /// Starts an actor on the current arbiter; it receives its messages through this channel.
    pub(crate) fn run(actor: A, receiver: AddressReceiver<A>) {
        let mailbox = Mailbox::new(receiver);
        let parts = ContextParts::new(mailbox.sender_producer());
        let context = ProxyContext { parts, sender: SenderInfo::default() };
        actix_rt::spawn(ContextFut::new(context, actor, mailbox));
    }

    /// Returns whether an address of this actor still exists, so that messages can still arrive.
    pub fn connected(&self) -> bool {
        self.parts.connected()
    }

    /// Takes what is known about the sender of the message that is being handled. A second call returns an empty
    /// value.
    pub(crate) fn take_sender(&mut self) -> SenderInfo {
        std::mem::take(&mut self.sender)
    }
}

impl<A: Actor<Context = Self>> fmt::Debug for ProxyContext<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ProxyContext").field("parts", &self.parts).finish_non_exhaustive()
    }
}

impl<A: Actor<Context = Self>> ActorContext for ProxyContext<A> {
    fn stop(&mut self) {
        self.parts.stop();
    }

    fn terminate(&mut self) {
        self.parts.terminate();
    }

    fn state(&self) -> ActorState {
        self.parts.state()
    }
}

impl<A: Actor<Context = Self>> AsyncContext<A> for ProxyContext<A> {
    fn spawn<F: ActorFuture<A, Output = ()> + 'static>(&mut self, future: F) -> SpawnHandle {
        self.parts.spawn(future)
    }

    fn wait<F: ActorFuture<A, Output = ()> + 'static>(&mut self, future: F) {
        self.parts.wait(future);
    }

    fn waiting(&self) -> bool {
        self.parts.waiting()
    }

    fn cancel_future(&mut self, handle: SpawnHandle) -> bool {
        self.parts.cancel_future(handle)
    }

    fn address(&self) -> Addr<A> {
        self.parts.address()
    }
}

impl<A: Actor<Context = Self>> AsyncContextParts<A> for ProxyContext<A> {
    fn parts(&mut self) -> &mut ContextParts<A> {
        &mut self.parts
    }
}

impl<A, M> ToEnvelope<A, M> for ProxyContext<A>
where
    A: Actor<Context = Self> + Handler<M>,
    M: Message + Send + 'static,
    M::Result: Send,
{
    /// Packs a message. actix calls this on the sender's thread, so the thread-local values read here are the
    /// sender's.
    fn pack(message: M, caller: Option<OneshotSender<M::Result>>) -> Envelope<A> {
        let (context, log_sink) = (ErrorContext::current(), LogSink::here());
        Envelope::with_proxy(Box::new(ContextEnvelope { message: Some(message), caller, context, log_sink }))
    }
}

/// A message on its way to the actor, with the error context and the log sink of its sender.
struct ContextEnvelope<M: Message> {
    message: Option<M>,
    caller: Option<OneshotSender<M::Result>>,
    context: Option<ErrorContext>,
    log_sink: Option<LogSink>,
}

/// A message whose call was given up, or whose actor has ended, is dropped here.
impl<M: Message> Drop for ContextEnvelope<M> {
    fn drop(&mut self) {
        drop_caught(self.message.take());
    }
}

impl<A, M> EnvelopeProxy<A> for ContextEnvelope<M>
where
    A: Actor<Context = ProxyContext<A>> + Handler<M>,
    M: Message + Send + 'static,
    M::Result: Send,
{
    fn handle(&mut self, actor: &mut A, ctx: &mut ProxyContext<A>) {
        let caller = self.caller.take();
        // As in actix's own envelopes, a message whose sender has dropped the reply future is not handled.
        if caller.as_ref().is_some_and(OneshotSender::is_closed) {
            return;
        }
        if let Some(message) = self.message.take() {
            let (context, log_sink) = (self.context.take(), self.log_sink.take());
            ctx.sender = SenderInfo { context, log_sink, awaits_reply: caller.is_some() };
            let response = actor.handle(message, ctx);
            // A handler that did not take it must not leave it to the next message.
            drop(ctx.take_sender());
            response.handle(ctx, caller);
        }
    }
}

/// A message together with the source location where it was made; returned by [`here`].
#[derive(Clone, Copy, Debug)]
pub struct Here<M> {
    pub(crate) message: M,
    pub(crate) at: &'static Location<'static>,
}

impl<M: Message> Message for Here<M> {
    type Result = M::Result;
}

/// Wraps a message to a checkout or to a pool's address, so that the [`Trace`](crate::actors::Trace) of its failure
/// names the line of this call: `checkout.send(here(Hash { .. }))`.
///
/// Without it the trace names the line where the checkout or the pool was started. The methods of
/// [`PoolHandle`](crate::actors::PoolHandle) record their caller's line themselves.
#[track_caller]
pub fn here<M: Message>(message: M) -> Here<M> {
    Here { message, at: Location::caller() }
}
