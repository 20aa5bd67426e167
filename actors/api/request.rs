//! The answer to a message that was sent to a pool.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use actix::MailboxError;
use actix_rt::time::Sleep;
use tokio::sync::oneshot;

use crate::actors::scheduler::Scheduler;
use crate::failure::{Failure, FailureKind};

/// What became of a request, for those who want one error type: a mailbox that is closed is a pool that is
/// stopped, and one that took too long timed out.
impl From<MailboxError> for Failure {
    fn from(error: MailboxError) -> Self {
        let kind = match error {
            MailboxError::Closed => FailureKind::Stopped,
            MailboxError::Timeout => FailureKind::Timeout,
        };
        Failure::of(kind, "")
    }
}

/// The answer to a message that was sent to a pool.
#[must_use = "a call whose request is dropped may never run"]
pub struct PoolRequest<R> {
    pub(super) answer: oneshot::Receiver<R>,
    pub(super) timeout: Option<Pin<Box<Sleep>>>,
    pub(super) calls: usize,
    pub(super) unanswered: fn(Failure, usize) -> R,
    pub(super) scheduler: Arc<Scheduler>,
}

impl<R> std::fmt::Debug for PoolRequest<R> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PoolRequest").finish_non_exhaustive()
    }
}

impl<R> PoolRequest<R> {
    /// Gives up after this time with `MailboxError::Timeout`, as actix's requests do. It only drops the
    /// request; the pool's own `timeout` is what ends a call.
    pub fn timeout(mut self, limit: Duration) -> Self {
        self.timeout = Some(Box::pin(actix_rt::time::sleep(limit)));
        self
    }
}

impl<R> Future for PoolRequest<R> {
    type Output = Result<R, MailboxError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match Pin::new(&mut self.answer).poll(cx) {
            Poll::Ready(Ok(result)) => return Poll::Ready(Ok(result)),
            // The arbiter it ran on has ended.
            Poll::Ready(Err(_)) => {
                return Poll::Ready(Ok((self.unanswered)(self.scheduler.stopped(), self.calls)));
            }
            Poll::Pending => {}
        }
        match &mut self.timeout {
            Some(timeout) => timeout.as_mut().poll(cx).map(|()| Err(MailboxError::Timeout)),
            None => Poll::Pending,
        }
    }
}
