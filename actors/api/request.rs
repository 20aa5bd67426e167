//! The answer to a message that was sent to a pool.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use actix::MailboxError;
use tokio::sync::oneshot;

use crate::actors::scheduler::Scheduler;
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
/// [`on_cancel`](crate::PoolBuilder::on_cancel) decides.
#[must_use = "a call whose request is dropped may never run"]
pub struct PoolRequest<R> {
    answer: oneshot::Receiver<R>,
    /// How many answers the result has.
    calls: usize,
    /// Makes the result of a request that will get no answer.
    unanswered: fn(Failure, usize) -> R,
    scheduler: Arc<Scheduler>,
    is_answered: bool,
}

/// A call that is given up before it was answered.
impl<R> Drop for PoolRequest<R> {
    fn drop(&mut self) {
        if !self.is_answered {
            self.answer.close();
            self.scheduler.note_cancelled();
        }
    }
}

impl<R> std::fmt::Debug for PoolRequest<R> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PoolRequest").field("pool", &self.scheduler.options.name).finish_non_exhaustive()
    }
}

impl<T, E: From<Failure>> PoolRequest<Result<T, E>> {
    pub(super) fn single(answer: oneshot::Receiver<Result<T, E>>, scheduler: Arc<Scheduler>) -> Self {
        PoolRequest {
            answer,
            calls: 1,
            unanswered: |failure, _| Err(E::from(failure)),
            scheduler,
            is_answered: false,
        }
    }
}

impl<T, E: From<Failure>> PoolRequest<Vec<Result<T, E>>> {
    pub(super) fn batch(
        answer: oneshot::Receiver<Vec<Result<T, E>>>,
        calls: usize,
        scheduler: Arc<Scheduler>,
    ) -> Self {
        let unanswered = |failure: Failure, calls| {
            std::iter::repeat_with(|| Err(E::from(failure.clone()))).take(calls).collect()
        };
        PoolRequest { answer, calls, unanswered, scheduler, is_answered: false }
    }
}

impl<R> Future for PoolRequest<R> {
    type Output = R;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<R> {
        // The sender is dropped unanswered if the arbiter on which the call ran has ended.
        Pin::new(&mut self.answer).poll(cx).map(|answer| {
            self.is_answered = true;
            answer.unwrap_or_else(|_| (self.unanswered)(self.scheduler.stopped_failure(), self.calls))
        })
    }
}
