//! The context in force on this thread.

use std::cell::Cell;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use actix::Actor;
use actix::fut::ActorFuture;

use super::ErrorContext;

thread_local! {
    static CURRENT: Cell<Option<ErrorContext>> = const { Cell::new(None) };
}

/// Returns the context in force; `None` while the thread's local variables are being destroyed.
pub(super) fn current() -> Option<ErrorContext> {
    let clone_content = |cell: &Cell<Option<ErrorContext>>| {
        let context = cell.take();
        let copy = context.clone();
        cell.set(context);
        copy
    };
    CURRENT.try_with(clone_content).ok().flatten()
}

/// Keeps the context of a slot in force until it is dropped; the slot holds the previous context meanwhile.
///
/// Entering and leaving swap two pointers. They change no reference count and allocate nothing, because a scoped
/// future is entered at every poll.
struct EnterGuard<'a>(&'a mut Option<ErrorContext>);

impl<'a> EnterGuard<'a> {
    #[inline]
    fn enter(slot: &'a mut Option<ErrorContext>) -> Self {
        swap_current(slot);
        EnterGuard(slot)
    }
}

impl Drop for EnterGuard<'_> {
    #[inline]
    fn drop(&mut self) {
        swap_current(self.0);
    }
}

#[inline]
fn swap_current(slot: &mut Option<ErrorContext>) {
    // While the thread's local variables are being destroyed, no context is in force and none can be set.
    let _ = CURRENT.try_with(|cell| {
        let before = cell.take();
        cell.set(std::mem::replace(slot, before));
    });
}

pub(super) fn run<T>(context: ErrorContext, work: impl FnOnce() -> T) -> T {
    let mut slot = Some(context);
    let _entered = EnterGuard::enter(&mut slot);
    work()
}

#[inline]
pub(super) fn scope<F: Future>(context: ErrorContext, future: F) -> impl Future<Output = F::Output> + use<F> {
    let mut slot = Some(context);
    async move {
        let mut future = std::pin::pin!(future);
        std::future::poll_fn(move |task| {
            let _entered = EnterGuard::enter(&mut slot);
            future.as_mut().poll(task)
        })
        .await
    }
}

/// An actor future that runs with an [`ErrorContext`] in force; returned by [`ErrorContext::scope_actor`].
///
/// The context is in force while the future is polled, and only then. Dropping it drops the inner future.
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
        let _entered = EnterGuard::enter(slot);
        future.as_mut().poll(actor, ctx, task)
    }
}
