//! Calls in one form for all that takes them, on which the methods that `methods` writes stand.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use actix::dev::Request;
use actix::{Addr, Message};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::checkout::Checkout;
use super::checkout_call::CheckoutCall;
use super::checkout_handle::CheckoutHandle;
use super::class_handle::ClassHandle;
use super::pool_handle::PoolHandle;
use super::request::PoolRequest;
use crate::actors::context::actor_context::{Here, here};
use crate::actors::worker_api::interface::Accepts;
use crate::actors::worker_api::worker::Worker;
use crate::failure::Failure;

/// A message that can be a call of a worker: each one whose result is a `Result<T, E>` with `E: From<Failure>`, and
/// that can be sent to another process.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be a call",
    label = "the message or its result cannot be sent to another process, or its result cannot be a failure",
    note = "the message, and `T` and `E` of its result `Result<T, E>`, need serde's `Serialize` and `Deserialize`; and `E` \
            needs `From<forkpool::Failure>`"
)]
pub trait CallMessage:
    Message<Result = Result<<Self as CallMessage>::Value, <Self as CallMessage>::Error>>
    + Serialize
    + Send
    + 'static
{
    /// What a handler answers.
    type Value: DeserializeOwned + Send + 'static;
    /// The error of a handler, or of a call that no handler answered.
    type Error: DeserializeOwned + From<Failure> + Send + 'static;
}

#[diagnostic::do_not_recommend]
impl<M, T, E> CallMessage for M
where
    M: Message<Result = Result<T, E>> + Serialize + Send + 'static,
    T: DeserializeOwned + Send + 'static,
    E: DeserializeOwned + From<Failure> + Send + 'static,
{
    type Value = T;
    type Error = E;
}

/// What takes calls for the workers `W`: a [`PoolHandle`], a [`ClassHandle`], a [`CheckoutHandle`], and the address of a
/// [`Checkout`].
///
/// The attribute [`methods`](crate::methods) makes a trait whose methods all of them have. Code that is generic over
/// `C: Calls<Hasher>` does not need to know whether it has a worker to itself.
pub trait Calls<W: Worker> {
    /// The future of a call. It resolves to the message's own result.
    type Call<M: CallMessage>: Future<Output = M::Result>
    where
        W: Accepts<M>;

    /// Makes a call: [`PoolHandle::send`], [`ClassHandle::send`], [`CheckoutHandle::call`], or a `send` to the address of a
    /// checkout.
    ///
    /// # Errors
    ///
    /// Those of these methods. If the actor of an address has ended, the error is made from a [`Failure`] of the kind
    /// [`Stopped`](crate::FailureKind::Stopped), so that a call to an address needs one `?` as well.
    ///
    /// # Cancellation
    ///
    /// As that of these methods.
    #[track_caller]
    fn call<M: CallMessage>(&self, message: M) -> Self::Call<M>
    where
        W: Accepts<M>;
}

impl<W: Worker> Calls<W> for PoolHandle<W> {
    type Call<M: CallMessage>
        = PoolRequest<M::Result>
    where
        W: Accepts<M>;

    #[track_caller]
    fn call<M: CallMessage>(&self, message: M) -> PoolRequest<M::Result>
    where
        W: Accepts<M>,
    {
        self.send(message)
    }
}

impl<W: Worker> Calls<W> for ClassHandle<W> {
    type Call<M: CallMessage>
        = PoolRequest<M::Result>
    where
        W: Accepts<M>;

    #[track_caller]
    fn call<M: CallMessage>(&self, message: M) -> PoolRequest<M::Result>
    where
        W: Accepts<M>,
    {
        self.send(message)
    }
}

impl<W: Worker> Calls<W> for CheckoutHandle<W> {
    type Call<M: CallMessage>
        = CheckoutCall<M::Value, M::Error>
    where
        W: Accepts<M>;

    #[track_caller]
    fn call<M: CallMessage>(&self, message: M) -> CheckoutCall<M::Value, M::Error>
    where
        W: Accepts<M>,
    {
        CheckoutHandle::call(self, message)
    }
}

impl<W: Worker> Calls<W> for Addr<Checkout<W>> {
    type Call<M: CallMessage>
        = AddressCall<W, M>
    where
        W: Accepts<M>;

    #[track_caller]
    fn call<M: CallMessage>(&self, message: M) -> AddressCall<W, M>
    where
        W: Accepts<M>,
    {
        AddressCall { request: Box::pin(self.send(here(message))) }
    }
}

/// The future of a call that was made by [`Calls::call`] on the address of a [`Checkout`].
///
/// It resolves to the message's own result. A mailbox that is closed becomes an error made from a [`Failure`] of the kind
/// [`Stopped`](crate::FailureKind::Stopped).
///
/// # Cancellation
///
/// As that of a call to a [checkout](Checkout#cancellation).
#[must_use = "a call whose future is dropped may never run"]
pub struct AddressCall<W: Accepts<M>, M: CallMessage> {
    // actix's request has to stay where it was polled first.
    request: Pin<Box<Request<Checkout<W>, Here<M>>>>,
}

impl<W: Accepts<M>, M: CallMessage> std::fmt::Debug for AddressCall<W, M> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AddressCall").field("message", &W::NAME).finish_non_exhaustive()
    }
}

impl<W: Accepts<M>, M: CallMessage> Future for AddressCall<W, M> {
    type Output = M::Result;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<M::Result> {
        let answer = ready!(self.request.as_mut().poll(cx));
        Poll::Ready(answer.unwrap_or_else(|error| Err(Failure::from(error).into())))
    }
}
