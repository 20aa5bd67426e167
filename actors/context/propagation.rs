//! The way of a failure outward, from handler to handler.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use super::handler::Heard;
use super::{ContextFailure, ErrorContext, Trace};
use crate::failure::Failure;

/// A failure on its way.
pub(super) struct Delivery {
    pub(super) failure: Failure,
    /// From the call to the root; it stays as it is whatever becomes of the failure.
    pub(super) trace: Arc<Trace>,
}

impl Delivery {
    /// Tells the handlers from this context outward until one ends the failure; if none does, it is logged.
    pub(super) fn go_outward(mut self, mut from: Option<ErrorContext>) {
        while let Some(context) = from.take().and_then(|context| nearest(&context)) {
            match self.tell(&context) {
                Some(Heard::Ended) => return,
                Some(Heard::HandedOn(failure)) => self.failure = failure,
                Some(Heard::Asked(request)) => {
                    drop(actix_rt::spawn(self.await_verdict(request, context)));
                    return;
                }
                // It is logged, and another may do better.
                None => {}
            }
            from = context.0.outer.clone();
        }
        self.log();
    }

    /// What the handler of this context says; `None` if it panicked.
    fn tell(&self, context: &ErrorContext) -> Option<Heard> {
        let handler = context.0.handler.as_ref()?;
        let failure = ContextFailure::new(self.failure.clone(), self.trace.clone(), context.unhandled());
        let hear = AssertUnwindSafe(|| handler.hear(failure));
        let heard = std::panic::catch_unwind(hear);
        if let Err(panic) = &heard {
            let said = panic.downcast_ref::<&str>().copied();
            let said = said.or_else(|| panic.downcast_ref::<String>().map(String::as_str));
            tracing::error!(
                target: "forkpool",
                context = %context.name(),
                panic = said.unwrap_or("a panic whose payload is no text"),
                error = %self.failure,
                "the handler of an error context panicked"
            );
        }
        heard.ok()
    }

    async fn await_verdict(
        mut self,
        request: actix::dev::RecipientRequest<ContextFailure>,
        context: ErrorContext,
    ) {
        match request.await {
            Ok(Ok(())) => return,
            Ok(Err(failure)) => self.failure = failure,
            Err(error) => tracing::error!(
                target: "forkpool",
                context = %context.name(),
                %error,
                "the handler of an error context is gone"
            ),
        }
        self.go_outward(context.0.outer.clone());
    }

    /// Says what nobody else has heard.
    fn log(&self) {
        tracing::error!(
            target: "forkpool",
            error = %self.failure,
            trace = %self.trace,
            "a call failed, and no handler has ended it"
        );
    }
}

/// The first context outward that has a handler.
fn nearest(context: &ErrorContext) -> Option<ErrorContext> {
    context.chain().find(|context| context.0.handler.is_some()).cloned()
}
