//! Handlers of failures: closures and actors.

use std::marker::PhantomData;
use std::sync::Arc;

use actix::Recipient;
use actix::dev::RecipientRequest;

use super::ContextFailure;
use crate::failure::Failure;

/// What a handler did with a failure.
pub(super) enum HandlerOutcome {
    Ended,
    /// The handler returned this failure for the next handler outward.
    PassedOn(Failure),
    /// The failure was sent to an actor, whose reply is the verdict.
    Pending(RecipientRequest<ContextFailure>),
}

/// A handler of either kind, behind one vtable.
pub(super) trait ErasedHandler: Send + Sync {
    fn handle(&self, failure: ContextFailure) -> HandlerOutcome;
}

/// A handler that [`ErrorContext::on_failure`](super::ErrorContext::on_failure) accepts: a closure
/// `Fn(ContextFailure) -> V` whose `V` is a [`Verdict`], or a `Recipient<ContextFailure>`.
///
/// `Kind` is a marker that the compiler infers; it keeps the two implementations apart.
#[diagnostic::on_unimplemented(
    message = "`{Self}` does not handle failures",
    note = "a handler is a closure `|failure: ContextFailure| …` that returns `()` or `Result<(), Failure>` and is \
            `Send + Sync + 'static`, or a `Recipient<ContextFailure>`"
)]
pub trait FailureHandler<Kind> {
    #[doc(hidden)]
    fn into_any(self) -> AnyHandler;
}

/// A type-erased handler, which only this crate can create.
#[doc(hidden)]
pub struct AnyHandler(pub(super) Arc<dyn ErasedHandler>);

impl std::fmt::Debug for AnyHandler {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("AnyHandler")
    }
}

/// The return type of a closure that handles failures: `()`, which ends the failure, or `Result<(), Failure>`, whose
/// `Ok` ends it and whose `Err` is passed on to the next handler outward.
///
/// The trait is sealed.
pub trait Verdict: sealed::Sealed {
    #[doc(hidden)]
    fn into_result(self) -> Result<(), Failure>;
}

mod sealed {
    use crate::failure::Failure;

    pub trait Sealed {}
    impl Sealed for () {}
    impl Sealed for Result<(), Failure> {}
}

impl Verdict for () {
    fn into_result(self) -> Result<(), Failure> {
        Ok(())
    }
}

impl Verdict for Result<(), Failure> {
    fn into_result(self) -> Result<(), Failure> {
        self
    }
}

/// Marks handlers that are closures which return the [`Verdict`] `V`.
#[derive(Debug)]
pub struct ByClosure<V>(PhantomData<V>);

/// Marks handlers that are actors.
#[derive(Debug)]
pub struct ByActor(());

impl<F, V> FailureHandler<ByClosure<V>> for F
where
    F: Fn(ContextFailure) -> V + Send + Sync + 'static,
    V: Verdict,
{
    fn into_any(self) -> AnyHandler {
        AnyHandler(Arc::new(Closure(self)))
    }
}

impl FailureHandler<ByActor> for Recipient<ContextFailure> {
    fn into_any(self) -> AnyHandler {
        AnyHandler(Arc::new(self))
    }
}

struct Closure<F>(F);

impl<F, V> ErasedHandler for Closure<F>
where
    F: Fn(ContextFailure) -> V + Send + Sync,
    V: Verdict,
{
    fn handle(&self, failure: ContextFailure) -> HandlerOutcome {
        let context = failure.context().clone();
        match context.run(|| (self.0)(failure).into_result()) {
            Ok(()) => HandlerOutcome::Ended,
            Err(failure) => HandlerOutcome::PassedOn(failure),
        }
    }
}

impl ErasedHandler for Recipient<ContextFailure> {
    fn handle(&self, failure: ContextFailure) -> HandlerOutcome {
        HandlerOutcome::Pending(self.send(failure))
    }
}
