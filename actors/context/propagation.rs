//! The way of a failure outward, from one handler to the next.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use super::handler::HandlerOutcome;
use super::{ContextFailure, ErrorContext, Trace};
use crate::actors::telemetry::teller;
use crate::failure::Failure;
use crate::user_code;

/// A failure on its way through the handlers.
pub(super) struct Propagation {
    pub(super) failure: Failure,
    /// The frames from the call to the root. It stays the same when a handler replaces the failure.
    pub(super) trace: Arc<Trace>,
}

impl Propagation {
    /// Calls the handlers from this context outward until one ends the failure or a context expects it; logs the failure if
    /// none does.
    ///
    /// If a handler is an actor, the rest of the way is left to a task that waits for its verdict.
    pub(super) fn propagate(mut self, mut from: Option<ErrorContext>) {
        while let Some(context) = from.take().and_then(|context| nearest_concerned(&context)) {
            if context.is_expected(&self.failure) {
                return;
            }
            match self.call_handler(&context) {
                Some(HandlerOutcome::Ended) => return,
                Some(HandlerOutcome::PassedOn(failure)) => self.failure = failure,
                Some(HandlerOutcome::Pending(request)) => {
                    drop(actix_rt::spawn(self.await_verdict(request, context)));
                    return;
                }
                // Without a handler, or with one whose panic has been logged, the next one gets the failure unchanged.
                None => {}
            }
            from = context.0.outer.clone();
        }
        self.log();
    }

    /// Calls the handler of this context and returns what it did with the failure; `None` without a handler, or if it panicked.
    fn call_handler(&self, context: &ErrorContext) -> Option<HandlerOutcome> {
        let handler = context.0.handler.as_ref()?;
        let failure =
            ContextFailure::new(self.failure.clone(), self.trace.clone(), context.without_handler());
        let panic = match std::panic::catch_unwind(AssertUnwindSafe(|| handler.handle(failure))) {
            Ok(outcome) => return Some(outcome),
            Err(panic) => panic,
        };
        let text = panic.downcast_ref::<&str>().copied();
        let text = text.or_else(|| panic.downcast_ref::<String>().map(String::as_str));
        let text = text.unwrap_or("a panic whose payload is not a string").to_owned();
        user_code::drop_payload(panic);
        let (context, error) = (context.name().to_owned(), self.failure.clone());
        teller::tell(move || {
            tracing::error!(target: "forkpool", %context, panic = text, %error,
                "the handler of an error context panicked");
        });
        None
    }

    /// Waits for the verdict of a handler that is an actor, and propagates the failure further if it does not end it.
    async fn await_verdict(
        mut self,
        request: actix::dev::RecipientRequest<ContextFailure>,
        context: ErrorContext,
    ) {
        match request.await {
            Ok(Ok(())) => return,
            Ok(Err(failure)) => self.failure = failure,
            Err(error) => {
                let context = context.name().to_owned();
                teller::tell(move || {
                    tracing::error!(target: "forkpool", %context, %error,
                        "the handler of an error context did not answer: its actor has stopped");
                });
            }
        }
        self.propagate(context.0.outer.clone());
    }

    /// Logs a failure that no handler has ended.
    fn log(&self) {
        let (error, trace) = (self.failure.clone(), self.trace.clone());
        teller::tell(move || {
            tracing::error!(target: "forkpool", %error, %trace, "a call failed, and no handler has ended it");
        });
    }
}

/// Returns the innermost context that has a handler or expects failures, from this one outward.
fn nearest_concerned(context: &ErrorContext) -> Option<ErrorContext> {
    let is_concerned = |context: &&ErrorContext| context.0.handler.is_some() || context.0.expected.is_some();
    context.chain().find(is_concerned).cloned()
}
