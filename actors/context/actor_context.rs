//! The context in which checkouts and pools run: as actix's own, and its messages carry the error-handling context
//! of their senders.

use std::fmt;
use std::panic::Location;

use actix::dev::channel::AddressReceiver;
use actix::dev::{
    AsyncContextParts, ContextFut, ContextParts, Envelope, EnvelopeProxy, Mailbox, MessageResponse,
    OneshotSender, ToEnvelope,
};
use actix::fut::ActorFuture;
use actix::{Actor, ActorContext, ActorState, Addr, AsyncContext, Handler, Message, SpawnHandle};

use super::{ErrorContext, Sent};
use crate::actors::telemetry::event_forwarder::LogSink;

/// The execution context of [`Checkout`](crate::actors::Checkout) and [`Pool`](crate::actors::Pool).
///
/// It differs from `actix::Context` in what happens where a message is sent: it is packed together with the
/// [`ErrorContext`] in force there, however it is sent and through whatever kind of address.
pub struct ProxyContext<A: Actor<Context = Self>> {
    parts: ContextParts<A>,
    /// Of the message that is being handled.
    sent: Sent,
}

impl<A: Actor<Context = Self>> ProxyContext<A> {
    /// Runs an actor that is sent its messages through this channel, on the current arbiter.
    pub(crate) fn run(actor: A, receiver: AddressReceiver<A>) {
        let mailbox = Mailbox::new(receiver);
        let parts = ContextParts::new(mailbox.sender_producer());
        let context = ProxyContext { parts, sent: Sent::default() };
        actix_rt::spawn(ContextFut::new(context, actor, mailbox));
    }

    /// Whether anybody can still send a message.
    pub fn connected(&self) -> bool {
        self.parts.connected()
    }

    /// What the message that is being handled tells of its sender.
    pub(crate) fn take_sent(&mut self) -> Sent {
        std::mem::take(&mut self.sent)
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
    /// Runs on the sender's thread, where the message is sent.
    fn pack(message: M, caller: Option<OneshotSender<M::Result>>) -> Envelope<A> {
        let (context, log_sink) = (ErrorContext::current(), LogSink::here());
        Envelope::with_proxy(Box::new(ContextEnvelope { message: Some(message), caller, context, log_sink }))
    }
}

/// A message on its way, with what its sender stood in.
struct ContextEnvelope<M: Message> {
    message: Option<M>,
    caller: Option<OneshotSender<M::Result>>,
    context: Option<ErrorContext>,
    log_sink: Option<LogSink>,
}

impl<A, M> EnvelopeProxy<A> for ContextEnvelope<M>
where
    A: Actor<Context = ProxyContext<A>> + Handler<M>,
    M: Message + Send + 'static,
    M::Result: Send,
{
    fn handle(&mut self, actor: &mut A, ctx: &mut ProxyContext<A>) {
        let caller = self.caller.take();
        // As in actix's own envelopes, what nobody waits for any more is not begun.
        if caller.as_ref().is_some_and(OneshotSender::is_closed) {
            return;
        }
        if let Some(message) = self.message.take() {
            let (context, log_sink) = (self.context.take(), self.log_sink.take());
            ctx.sent = Sent { context, log_sink, awaited: caller.is_some() };
            let response = actor.handle(message, ctx);
            // Not every handler asks.
            drop(ctx.take_sent());
            response.handle(ctx, caller);
        }
    }
}

/// A message that says where it was made; see [`here`].
#[derive(Clone, Copy, Debug)]
pub struct Here<M> {
    pub(crate) message: M,
    pub(crate) at: &'static Location<'static>,
}

impl<M: Message> Message for Here<M> {
    type Result = M::Result;
}

/// Wraps a message for a checkout or a pool's address so that the trace of its failure names this line:
/// `checkout.send(here(Hash { .. }))`.
///
/// Of a message without it the trace names the line where the checkout was started. The methods of
/// [`PoolHandle`](crate::actors::PoolHandle) need no such help.
#[track_caller]
pub fn here<M: Message>(message: M) -> Here<M> {
    Here { message, at: Location::caller() }
}
