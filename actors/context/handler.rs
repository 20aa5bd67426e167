//! Who can be told of a failure.

use std::marker::PhantomData;
use std::sync::Arc;

use actix::Recipient;
use actix::dev::RecipientRequest;

use super::ContextFailure;
use crate::failure::Failure;

/// What becomes of a failure that a handler was told of.
pub(super) enum Heard {
    Ended,
    HandedOn(Failure),
    /// It was sent to an actor, which is to answer.
    Asked(RecipientRequest<ContextFailure>),
}

/// A handler of whatever kind.
pub(super) trait Hear: Send + Sync {
    fn hear(&self, failure: ContextFailure) -> Heard;
}

/// What [`ErrorContext::on_failure`](super::ErrorContext::on_failure) takes: closures `Fn(ContextFailure)` with one
/// of the [`Verdict`]s, and a `Recipient<ContextFailure>`. `Kind` is inferred and tells them apart.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is no handler of failures",
    note = "a handler is a closure `|failure: ContextFailure| …` that returns `()` or `Result<(), Failure>` and is \
            `Send + Sync + 'static`, or a `Recipient<ContextFailure>`"
)]
pub trait FailureHandler<Kind> {
    #[doc(hidden)]
    fn into_any(self) -> AnyHandler;
}

/// A handler of whatever kind, which only this library can make.
#[doc(hidden)]
pub struct AnyHandler(pub(super) Arc<dyn Hear>);

impl std::fmt::Debug for AnyHandler {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("AnyHandler")
    }
}

/// What a closure that handles failures returns: `()`, which ends the failure, or a `Result<(), Failure>`, whose
/// `Err` is handed on to the next handler outward.
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

/// Marks handlers that are closures with such a verdict.
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

impl<F, V> Hear for Closure<F>
where
    F: Fn(ContextFailure) -> V + Send + Sync,
    V: Verdict,
{
    fn hear(&self, failure: ContextFailure) -> Heard {
        let context = failure.context().clone();
        match context.run(|| (self.0)(failure).into_result()) {
            Ok(()) => Heard::Ended,
            Err(failure) => Heard::HandedOn(failure),
        }
    }
}

impl Hear for Recipient<ContextFailure> {
    fn hear(&self, failure: ContextFailure) -> Heard {
        Heard::Asked(self.send(failure))
    }
}
