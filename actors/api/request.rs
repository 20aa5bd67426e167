//! The answer to a message that was sent to a pool.

use std::future::Future;
use std::num::NonZeroUsize;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use actix::MailboxError;
use tokio::sync::oneshot;

use crate::actors::reply::OwnPolicy;
use crate::actors::scheduler::Scheduler;
use crate::config::OnCancel;
use crate::failure::{Failure, FailureKind};

/// Lets `?` turn what an `Addr` answers into a [`Failure`]: a closed mailbox is
/// [`Stopped`](FailureKind::Stopped), and a request whose own `timeout` passed is [`Timeout`](FailureKind::Timeout).
impl From<MailboxError> for Failure {
    fn from(error: MailboxError) -> Self {
        let kind = match error {
            MailboxError::Closed => FailureKind::Stopped,
            MailboxError::Timeout => FailureKind::Timeout,
        };
        Failure::of(kind, "")
    }
}

/// The future of a message that was sent through a [`PoolHandle`](crate::PoolHandle).
///
/// It resolves to the message's own result: `Result<T, E>`, or `Vec<Result<T, E>>` for a batch. If the pool has
/// stopped, or the thread on which the call ran has ended, that is an `E` made from a [`Failure`] of the kind
/// [`Stopped`](FailureKind::Stopped). A limit of its own is set with
/// [`send_within`](crate::PoolHandle::send_within).
///
/// # Cancellation
///
/// Dropping the future cancels the call: if no worker has it yet, it never runs; if it runs,
/// [`on_cancel`](Self::on_cancel) decides, or else that of [the pool](crate::PoolBuilder::on_cancel) or
/// [the checkout](crate::CheckoutBuilder::on_cancel).
#[must_use = "a call whose request is dropped may never run"]
pub struct PoolRequest<R> {
    answer: oneshot::Receiver<R>,
    of: RequestOf,
    /// Makes the result of a request that will get no answer.
    unanswered: fn(Failure, usize) -> R,
    scheduler: Arc<Scheduler>,
    /// What becomes of the running call if this is dropped; `None` if the pool or the checkout decides.
    on_cancel: Option<OnCancel>,
    is_answered: bool,
}

/// What a request asked for.
enum RequestOf {
    /// One call, whose request has this number.
    Single(NonZeroUsize),
    /// So many calls, and where their session finds the policy of the request.
    Batch(usize, OwnPolicy),
}

/// A call that is given up before it was answered.
impl<R> Drop for PoolRequest<R> {
    fn drop(&mut self) {
        if self.is_answered {
            return;
        }
        match &self.of {
            // In this order: a lane that has the call finds its number, and none takes the call afterwards.
            RequestOf::Single(number) => {
                self.answer.close();
                let on_cancel = self.on_cancel.unwrap_or(self.scheduler.options.on_cancel);
                self.scheduler.note_cancelled((on_cancel == OnCancel::Kill).then_some(*number));
            }
            // In this order: its session looks for the policy once the request is closed, which wakes it.
            RequestOf::Batch(_, own) => {
                if let Some(policy) = self.on_cancel {
                    own.get_or_init(|| policy);
                }
                self.answer.close();
            }
        }
    }
}

impl<R> std::fmt::Debug for PoolRequest<R> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PoolRequest").field("pool", &self.scheduler.options.name).finish_non_exhaustive()
    }
}

impl<R> PoolRequest<R> {
    /// Sets what becomes of the running call if this future is dropped before it is answered. Default: what
    /// [the pool](crate::PoolBuilder::on_cancel) says, or [the checkout](crate::CheckoutBuilder::on_cancel) for calls on one.
    /// Of a batch it is the call that runs then.
    ///
    /// ```no_run
    /// # use forkpool::prelude::*;
    /// # async fn report<W, M, T>(pool: PoolHandle<W>, message: M) -> Result<T, Failure>
    /// # where
    /// #     W: Worker + forkpool::Accepts<M>,
    /// #     M: actix::Message<Result = Result<T, Failure>> + serde::Serialize,
    /// #     T: serde::de::DeserializeOwned + Send + 'static,
    /// # {
    /// // The worker is killed if this function's future is dropped while the call runs.
    /// pool.send(message).on_cancel(OnCancel::Kill).await
    /// # }
    /// ```
    pub fn on_cancel(mut self, policy: OnCancel) -> Self {
        self.on_cancel = Some(policy);
        self
    }
}

impl<T, E: From<Failure>> PoolRequest<Result<T, E>> {
    pub(super) fn single(
        answer: oneshot::Receiver<Result<T, E>>,
        number: NonZeroUsize,
        scheduler: Arc<Scheduler>,
    ) -> Self {
        let of = RequestOf::Single(number);
        let unanswered = |failure, _| Err(E::from(failure));
        PoolRequest { answer, of, unanswered, scheduler, on_cancel: None, is_answered: false }
    }
}

impl<T, E: From<Failure>> PoolRequest<Vec<Result<T, E>>> {
    pub(super) fn batch(
        answer: oneshot::Receiver<Vec<Result<T, E>>>,
        calls: usize,
        own: OwnPolicy,
        scheduler: Arc<Scheduler>,
    ) -> Self {
        let unanswered = |failure: Failure, calls| {
            std::iter::repeat_with(|| Err(E::from(failure.clone()))).take(calls).collect()
        };
        let of = RequestOf::Batch(calls, own);
        PoolRequest { answer, of, unanswered, scheduler, on_cancel: None, is_answered: false }
    }
}

impl<R> Future for PoolRequest<R> {
    type Output = R;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<R> {
        // The sender is dropped unanswered if the arbiter on which the call ran has ended.
        Pin::new(&mut self.answer).poll(cx).map(|answer| {
            self.is_answered = true;
            let calls = match &self.of {
                RequestOf::Single(_) => 1,
                RequestOf::Batch(calls, _) => *calls,
            };
            answer.unwrap_or_else(|_| (self.unanswered)(self.scheduler.stopped_failure(), calls))
        })
    }
}
