//! A checkout whose calls wait for the backtrace of the failure that answers them.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use super::{Host, Session};
use crate::actors::threads::symbolizer;
use crate::failure::Failure;

/// A failure that has a backtrace without names. The checkout has no worker meanwhile, and does nothing else.
pub(super) struct Resolving {
    failure: Pin<Box<dyn Future<Output = Failure>>>,
    /// Whether the failure ends the checkout, and not its first call alone.
    ends_checkout: bool,
}

impl Session {
    /// Returns the failure if it can be delivered at once. Otherwise it is delivered by
    /// [`poll_resolving`](Self::poll_resolving) as soon as its backtrace has names.
    pub(super) fn resolve_first(&mut self, failure: Failure, ends_checkout: bool) -> Option<Failure> {
        if !failure.has_raw_backtrace() {
            return Some(failure);
        }
        let failure = Box::pin(symbolizer::resolved_soon(failure));
        self.resolving = Some(Resolving { failure, ends_checkout });
        self.waker.iter().for_each(std::task::Waker::wake_by_ref);
        None
    }

    /// Delivers the failure that waits, if there is one and it is complete. Pending as long as it waits.
    pub(super) fn poll_resolving(&mut self, cx: &mut Context<'_>, host: &mut dyn Host) -> Poll<()> {
        let Some(resolving) = &mut self.resolving else { return Poll::Ready(()) };
        let failure = ready!(resolving.failure.as_mut().poll(cx));
        let ends_checkout = resolving.ends_checkout;
        self.resolving = None;
        if ends_checkout {
            self.end_checkout(failure, host);
        } else {
            self.end_first_call(failure, host);
        }
        Poll::Ready(())
    }
}
