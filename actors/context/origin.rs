//! Where a call comes from: all that it keeps of its context while nothing is wrong.

use std::panic::Location;
use std::sync::Arc;

use super::delivery::Delivery;
use super::{ErrorContext, Trace};
use crate::actors::replay::Listener;
use crate::failure::Failure;
use crate::log::RequestLog;

/// What a message tells of its sender.
#[derive(Default)]
pub(in crate::actors) struct Sent {
    /// In force where it was sent.
    pub(in crate::actors) context: Option<ErrorContext>,
    /// Who hears there what is logged.
    pub(in crate::actors) listener: Option<Listener>,
    /// Whether the sender waits for an answer.
    pub(in crate::actors) awaited: bool,
}

/// Where a call comes from. Frames, names and texts are made of it when the call has failed.
#[derive(Clone, Debug)]
pub(in crate::actors) struct Origin {
    context: Option<ErrorContext>,
    listener: Option<Listener>,
    at: &'static Location<'static>,
}

impl Origin {
    /// A call or checkout made here, in the context in force.
    #[track_caller]
    pub(in crate::actors) fn here() -> Self {
        Origin { context: ErrorContext::current(), listener: Listener::here(), at: Location::caller() }
    }

    /// A place that has no context of its own.
    #[track_caller]
    pub(in crate::actors) fn bare() -> Self {
        Origin { context: None, listener: None, at: Location::caller() }
    }

    /// A call that was sent to what was made here: in its sender's context or else in that of the receiver, from
    /// where the sender says or else from where the receiver was made.
    pub(in crate::actors) fn of_call(&self, sent: Sent, at: Option<&'static Location<'static>>) -> Self {
        let context = sent.context.or_else(|| self.context.clone());
        let log = self.listener.as_ref().filter(|listener| matches!(listener, Listener::Log(_)));
        Origin { context, listener: log.cloned().or(sent.listener), at: at.unwrap_or(self.at) }
    }

    /// The same in this context.
    pub(in crate::actors) fn within(self, context: Option<ErrorContext>) -> Self {
        Origin { context: context.or(self.context), ..self }
    }

    /// The same, with calls that are logged here.
    pub(in crate::actors) fn logged_to(self, log: Option<RequestLog>) -> Self {
        Origin { listener: log.map(Listener::Log).or(self.listener), ..self }
    }

    /// Who hears what the call logs.
    pub(in crate::actors) fn listener(&self) -> Option<&Listener> {
        self.listener.as_ref()
    }

    /// What travels with the call.
    pub(in crate::actors) fn baggage(&self) -> &[u8] {
        self.context.as_ref().map_or(&[], |context| context.0.baggage.list())
    }

    /// Whether anybody is to hear of a failure, beside a caller who waits.
    pub(in crate::actors) fn is_heard(&self, awaited: bool) -> bool {
        let logged = || !awaited && tracing::enabled!(target: "forkpool", tracing::Level::ERROR);
        self.context.is_some() || logged()
    }

    /// The call, which goes by this name, has failed: tells the handlers of its context, or else the log.
    pub(in crate::actors) fn failed(&self, call: &str, failure: Failure) {
        let trace = Arc::new(Trace::of_call(call, self.at, self.context.as_ref()));
        let delivery = Delivery { failure, trace };
        delivery.go_outward(self.context.clone());
    }
}
