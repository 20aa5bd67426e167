//! Where a call comes from: all that it keeps of its context while nothing is wrong.

use std::panic::Location;
use std::sync::Arc;

use super::propagation::Delivery;
use super::{ErrorContext, Trace};
use crate::actors::telemetry::event_forwarder::LogSink;
use crate::failure::Failure;
use crate::request_log::RequestLog;

/// What a message tells of its sender.
#[derive(Default)]
pub(crate) struct Sent {
    /// In force where it was sent.
    pub(crate) context: Option<ErrorContext>,
    /// Who hears there what is logged.
    pub(crate) log_sink: Option<LogSink>,
    /// Whether the sender waits for an answer.
    pub(crate) awaited: bool,
}

/// Where a call comes from. Frames, names and texts are made of it when the call has failed.
#[derive(Clone, Debug)]
pub(crate) struct Origin {
    context: Option<ErrorContext>,
    log_sink: Option<LogSink>,
    at: &'static Location<'static>,
}

impl Origin {
    /// A call or checkout made here, in the context in force.
    #[track_caller]
    pub(crate) fn here() -> Self {
        Origin { context: ErrorContext::current(), log_sink: LogSink::here(), at: Location::caller() }
    }

    /// A place that has no context of its own.
    #[track_caller]
    pub(crate) fn bare() -> Self {
        Origin { context: None, log_sink: None, at: Location::caller() }
    }

    /// A call that was sent to what was made here: in its sender's context or else in that of the receiver, from
    /// where the sender says or else from where the receiver was made.
    pub(crate) fn of_call(&self, sent: Sent, at: Option<&'static Location<'static>>) -> Self {
        let context = sent.context.or_else(|| self.context.clone());
        let log = self.log_sink.as_ref().filter(|log_sink| matches!(log_sink, LogSink::Log(_)));
        Origin { context, log_sink: log.cloned().or(sent.log_sink), at: at.unwrap_or(self.at) }
    }

    /// The same in this context.
    pub(crate) fn within(self, context: Option<ErrorContext>) -> Self {
        Origin { context: context.or(self.context), ..self }
    }

    /// The same, with calls that are logged here.
    pub(crate) fn logged_to(self, log: Option<RequestLog>) -> Self {
        Origin { log_sink: log.map(LogSink::Log).or(self.log_sink), ..self }
    }

    /// Who hears what the call logs.
    pub(crate) fn log_sink(&self) -> Option<&LogSink> {
        self.log_sink.as_ref()
    }

    /// What travels with the call.
    pub(crate) fn baggage(&self) -> &[u8] {
        self.context.as_ref().map_or(&[], |context| context.0.baggage.list())
    }

    /// Whether anybody is to hear of a failure, beside a caller who waits.
    pub(crate) fn is_heard(&self, awaited: bool) -> bool {
        let logged = || !awaited && tracing::enabled!(target: "forkpool", tracing::Level::ERROR);
        self.context.is_some() || logged()
    }

    /// The call, which goes by this name, has failed: tells the handlers of its context, or else the log.
    pub(crate) fn failed(&self, call: &str, failure: Failure) {
        let trace = Arc::new(Trace::of_call(call, self.at, self.context.as_ref()));
        let delivery = Delivery { failure, trace };
        delivery.go_outward(self.context.clone());
    }
}
