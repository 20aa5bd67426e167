//! Which context is in force on this thread.

use std::cell::Cell;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use actix::Actor;
use actix::fut::ActorFuture;

use super::ErrorContext;

thread_local! {
    static IN_FORCE: Cell<Option<ErrorContext>> = const { Cell::new(None) };
}

/// The context in force; none while the thread is being taken down.
pub(super) fn current() -> Option<ErrorContext> {
    let look = |cell: &Cell<Option<ErrorContext>>| {
        let context = cell.take();
        let seen = context.clone();
        cell.set(context);
        seen
    };
    IN_FORCE.try_with(look).ok().flatten()
}

/// As long as it lives the context of the slot is in force, and the slot keeps what was so before. Nothing is
/// counted or allocated on the way in and out, since a future is entered at every poll.
struct Entered<'a>(&'a mut Option<ErrorContext>);

impl<'a> Entered<'a> {
    #[inline]
    fn enter(slot: &'a mut Option<ErrorContext>) -> Self {
        exchange(slot);
        Entered(slot)
    }
}

impl Drop for Entered<'_> {
    #[inline]
    fn drop(&mut self) {
        exchange(self.0);
    }
}

#[inline]
fn exchange(slot: &mut Option<ErrorContext>) {
    // A thread that is being taken down has nothing in force any more.
    let _ = IN_FORCE.try_with(|cell| {
        let before = cell.take();
        cell.set(std::mem::replace(slot, before));
    });
}

pub(super) fn run<T>(context: ErrorContext, work: impl FnOnce() -> T) -> T {
    let mut slot = Some(context);
    let _entered = Entered::enter(&mut slot);
    work()
}

#[inline]
pub(super) fn scope<F: Future>(context: ErrorContext, future: F) -> impl Future<Output = F::Output> + use<F> {
    let mut slot = Some(context);
    async move {
        let mut future = std::pin::pin!(future);
        std::future::poll_fn(move |task| {
            let _entered = Entered::enter(&mut slot);
            future.as_mut().poll(task)
        })
        .await
    }
}

/// A future of an actor with a context in force; made by [`ErrorContext::scope_actor`].
#[must_use = "a future does nothing unless it is spawned"]
pub struct ActorScope<F> {
    slot: Option<ErrorContext>,
    future: Pin<Box<F>>,
}

impl<F> ActorScope<F> {
    pub(super) fn new(context: ErrorContext, future: F) -> Self {
        ActorScope { slot: Some(context), future: Box::pin(future) }
    }
}

impl<F> std::fmt::Debug for ActorScope<F> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ActorScope").field("context", &self.slot).finish_non_exhaustive()
    }
}

impl<A: Actor, F: ActorFuture<A>> ActorFuture<A> for ActorScope<F> {
    type Output = F::Output;

    fn poll(
        mut self: Pin<&mut Self>,
        actor: &mut A,
        ctx: &mut A::Context,
        task: &mut Context<'_>,
    ) -> Poll<F::Output> {
        let ActorScope { slot, future } = &mut *self;
        let _entered = Entered::enter(slot);
        future.as_mut().poll(actor, ctx, task)
    }
}
