//! The answer to a call through the handle of a checkout.

use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use tokio::task::coop;

use crate::actors::calls::MethodInfo;
use crate::actors::context::CallOrigin;
use crate::actors::reply::LocalReply;
use crate::actors::scheduler::Scheduler;
use crate::actors::session::direct::DirectSession;
use crate::actors::telemetry::event_forwarder::LogSink;
use crate::config::OnCancel;
use crate::failure::{Failure, FailureKind};

/// The future of a call that was made through a [`CheckoutHandle`](crate::CheckoutHandle).
///
/// It resolves to the message's own result. If the thread's runtime has ended meanwhile, that is an `E` made from a
/// [`Failure`] of the kind [`Stopped`](FailureKind::Stopped).
///
/// # Cancellation
///
/// Dropping the future cancels the call: if it is not written to the worker yet, it never runs; if it runs,
/// [`on_cancel`](Self::on_cancel) decides, or else that of [the checkout](crate::CheckoutBuilder::on_cancel).
#[must_use = "a call whose future is dropped may never run"]
pub struct CheckoutCall<T, E>(State<T, E>);

enum State<T, E> {
    Waiting {
        reply: LocalReply<T, E>,
        session: Rc<DirectSession>,
        has_looked: bool,
        on_cancel: Option<OnCancel>,
    },
    Refused(Box<Refusal>),
    Answered,
}

/// A call that did not come to a session.
pub(super) struct Refusal {
    pub(super) failure: Failure,
    pub(super) method: &'static MethodInfo,
    pub(super) origin: CallOrigin,
    pub(super) scheduler: Arc<Scheduler>,
}

impl Refusal {
    /// Counts and reports the failure; returns it with what is known of the call.
    pub(super) fn report(self) -> Failure {
        let pool = &self.scheduler.options.name;
        let failure = self.failure.in_pool(pool).during(self.method.name);
        self.scheduler.tallies.count_failure(self.method, &failure);
        if let Some(log) = self.origin.log_sink().and_then(LogSink::log) {
            log.error(failure.to_string());
        }
        if self.origin.is_reported(true) {
            self.origin.report_failure(&format!("{pool} -> {}", self.method.name), failure.clone());
        }
        failure
    }
}

impl<T, E> CheckoutCall<T, E> {
    /// Sets what becomes of the call if this future is dropped while it runs. Default: what
    /// [the checkout](crate::CheckoutBuilder::on_cancel) says.
    pub fn on_cancel(mut self, policy: OnCancel) -> Self {
        if let State::Waiting { on_cancel, .. } = &mut self.0 {
            *on_cancel = Some(policy);
        }
        self
    }

    pub(super) fn waiting(reply: LocalReply<T, E>, session: Rc<DirectSession>) -> Self {
        CheckoutCall(State::Waiting { reply, session, has_looked: false, on_cancel: None })
    }

    pub(super) fn refused(refusal: Refusal) -> Self {
        CheckoutCall(State::Refused(Box::new(refusal)))
    }
}

impl<T, E> std::fmt::Debug for CheckoutCall<T, E> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let state = match &self.0 {
            State::Waiting { .. } => "waiting",
            State::Refused(_) => "refused",
            State::Answered => "answered",
        };
        f.debug_tuple("CheckoutCall").field(&state).finish()
    }
}

/// The reason why calls on a thread that runs no tasks cannot be made.
pub(super) fn no_event_loop() -> Failure {
    let text = "this thread runs neither an actix arbiter nor a tokio runtime of the flavor current_thread";
    Failure::of(FailureKind::Elsewhere, text)
}

impl<T, E: From<Failure>> Future for CheckoutCall<T, E> {
    type Output = Result<T, E>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<T, E>> {
        // A requester whose answers are always there at once leaves the thread to other tasks now and then.
        let progress = ready!(coop::poll_proceed(cx));
        let State::Waiting { reply, session, has_looked, .. } = &mut self.0 else {
            progress.made_progress();
            return match std::mem::replace(&mut self.0, State::Answered) {
                State::Refused(refusal) => Poll::Ready(Err(refusal.report().into())),
                _ => Poll::Pending,
            };
        };
        if !std::mem::replace(has_looked, true) && !reply.is_settled() {
            session.look();
        }
        let mut is_misplaced = false;
        let mut polled = reply.poll(cx);
        if polled.is_pending() && session.is_misplaced(cx) {
            is_misplaced = true;
            polled = reply.poll(cx);
        }
        let answer = ready!(polled);
        progress.made_progress();
        let answer = answer.unwrap_or_else(|| {
            let failure = if is_misplaced { no_event_loop() } else { session.scheduler().stopped_failure() };
            Err(E::from(failure))
        });
        self.0 = State::Answered;
        Poll::Ready(answer)
    }
}

impl<T, E> Unpin for CheckoutCall<T, E> {}

/// A call that is given up wakes its session, which may have to kill the worker.
impl<T, E> Drop for CheckoutCall<T, E> {
    fn drop(&mut self) {
        if let State::Waiting { reply, session, on_cancel, .. } = &self.0
            && !reply.is_settled()
        {
            reply.give_up(*on_cancel);
            session.wake();
        }
    }
}
