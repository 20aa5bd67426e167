//! Calls that end with their request.

use std::cell::Cell;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use actix_rt::time::{Sleep, sleep_until};
use actix_web::{Error, HttpMessage, HttpRequest};

use super::deadline::Deadline;
use super::{ClientGone, Config};
use crate::actors::api::checkout_call::CheckoutCall;
use crate::actors::api::request::PoolRequest;
use crate::actors::scheduler::Scheduler;
use crate::clock::Instant;
use crate::config::OnCancel;
use crate::failure::{Failure, FailureKind};

/// What the calls of one request have in common.
#[derive(Clone, Debug)]
pub(super) struct Terms {
    client: ClientGone,
    on_client_gone: OnCancel,
    pub(super) deadline: Option<Instant>,
    seen: Seen,
}

/// What was seen of a request by its first call, kept in its extensions.
#[derive(Clone, Debug, Default)]
pub(super) struct Seen(Rc<Cell<bool>>);

impl Seen {
    /// Returns that of a request.
    pub(super) fn of(request: &HttpRequest) -> Self {
        let mut extensions = request.extensions_mut();
        if let Some(seen) = extensions.get::<Self>() {
            return seen.clone();
        }
        let seen = Self::default();
        extensions.insert(seen.clone());
        seen
    }

    /// Returns whether the client is known to be gone.
    pub(super) fn is_gone(&self) -> bool {
        self.0.get()
    }
}

impl Terms {
    /// Returns the terms of a request's calls.
    ///
    /// # Errors
    ///
    /// The response to a request whose deadline is no time.
    pub(super) fn of(request: &HttpRequest) -> Result<Self, Error> {
        let default = Config::default();
        let config = Config::of(request).unwrap_or(&default);
        let client = ClientGone::of(request, config.client_policy);
        let deadline = Deadline::of(request)?.map(|deadline| deadline.at);
        let (on_client_gone, seen) = (config.on_client_gone, Seen::of(request));
        Ok(Terms { client, on_client_gone, deadline, seen })
    }

    /// Returns the time that a call has which may take as long as this.
    pub(super) fn limit(&self, own: Option<Duration>) -> Option<Duration> {
        let left = self.deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        own.into_iter().chain(left).min()
    }

    /// Returns what becomes of a call that is made now and given up; `None` if the client is known to be gone, so that no
    /// call is made.
    pub(super) fn policy(&self) -> Option<OnCancel> {
        (!self.seen.is_gone()).then_some(self.on_client_gone)
    }

    /// Binds a call to the request; `None` is one that was not made.
    pub(super) fn bind<C>(&self, about: About, call: Option<C>) -> BoundCall<C> {
        BoundCall { call, about, terms: self.clone(), end: None }
    }

    /// The same for calls whose own time begins only once those before them are answered.
    pub(super) fn bind_queued<C>(&self, about: About, call: Option<C>) -> BoundCall<C> {
        let left = self.limit(None).unwrap_or_default();
        let end = self.deadline.map(|deadline| (Box::pin(sleep_until(deadline.to_std().into())), left));
        BoundCall { end, ..self.bind(about, call) }
    }

    fn client_gone(&self) -> Failure {
        let then = match self.on_client_gone {
            OnCancel::Finish => "if it had begun, it may finish",
            OnCancel::Kill => "if it had begun, its worker is killed",
        };
        Failure::of(FailureKind::Cancelled, format!("the client of its request is gone; {then}"))
    }
}

/// Which call it is.
pub(super) struct About {
    pub(super) scheduler: Arc<Scheduler>,
    pub(super) message: &'static str,
    /// How many answers it has.
    pub(super) calls: usize,
}

impl About {
    fn name(&self, failure: Failure) -> Failure {
        failure.in_pool(&self.scheduler.options.name).during(self.message)
    }
}

/// What a call is answered with.
pub trait Answer: Sized {
    #[doc(hidden)]
    fn of(failure: Failure, calls: usize) -> Self;
}

impl<T, E: From<Failure>> Answer for Result<T, E> {
    fn of(failure: Failure, _: usize) -> Self {
        Err(failure.into())
    }
}

impl<T, E: From<Failure>> Answer for Vec<Result<T, E>> {
    fn of(failure: Failure, calls: usize) -> Self {
        std::iter::repeat_with(|| Err(failure.clone().into())).take(calls).collect()
    }
}

/// The future of a call that may be bound to a request.
pub trait Bindable: Future<Output: Answer> + Unpin {
    #[doc(hidden)]
    fn give_up(self, policy: OnCancel);
}

impl<R: Answer> Bindable for PoolRequest<R> {
    fn give_up(self, policy: OnCancel) {
        drop(self.on_cancel(policy));
    }
}

impl<T, E: From<Failure>> Bindable for CheckoutCall<T, E> {
    fn give_up(self, policy: OnCancel) {
        drop(self.on_cancel(policy));
    }
}

/// The future of a call that is bound to a web request; `C` is that of the call itself.
///
/// It resolves as that of the call does. If the client of the request is gone before, it resolves to an error made from a
/// [`Failure`] of the kind [`Cancelled`](FailureKind::Cancelled), for each message of a batch. A call that no worker has begun
/// never runs then; for one that runs, [`on_client_gone`](super::Config::on_client_gone) decides.
///
/// # Cancellation
///
/// Dropping the future does the same: actix-web drops the futures of handlers when it closes the connection.
#[must_use = "a call whose future is dropped may never run"]
pub struct BoundCall<C> {
    /// `None` if it was not made, or is over.
    call: Option<C>,
    about: About,
    terms: Terms,
    /// When the deadline ends a call whose own time begins later.
    end: Option<(Pin<Box<Sleep>>, Duration)>,
}

impl<C> fmt::Debug for BoundCall<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (pool, message) = (&self.about.scheduler.options.name, self.about.message);
        f.debug_struct("BoundCall").field("pool", pool).field("message", &message).finish_non_exhaustive()
    }
}

impl<C> Unpin for BoundCall<C> {}

impl<C: Bindable> BoundCall<C> {
    /// Ends the call, unless it is over already, and answers it.
    fn end(&mut self, policy: OnCancel, failure: Failure) -> C::Output {
        self.call.take().into_iter().for_each(|call| call.give_up(policy));
        C::Output::of(self.about.name(failure), self.about.calls)
    }
}

impl<C: Bindable> Future for BoundCall<C> {
    type Output = C::Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<C::Output> {
        let this = &mut *self;
        if let Some(call) = &mut this.call
            && let Poll::Ready(answer) = Pin::new(call).poll(cx)
        {
            this.call = None;
            return Poll::Ready(answer);
        }
        if this.terms.seen.is_gone() || Pin::new(&mut this.terms.client).poll(cx).is_ready() {
            this.terms.seen.0.set(true);
            let (policy, failure) = (this.terms.on_client_gone, this.terms.client_gone());
            return Poll::Ready(this.end(policy, failure));
        }
        if let Some((end, limit)) = &mut this.end
            && end.as_mut().poll(cx).is_ready()
        {
            let passed =
                Failure::of(FailureKind::Timeout, "the deadline of its request has passed").at_limit(*limit);
            // As a time limit does.
            return Poll::Ready(this.end(OnCancel::Kill, passed));
        }
        Poll::Pending
    }
}
