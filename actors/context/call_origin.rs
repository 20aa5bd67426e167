//! The origin of a call: the little that a call keeps of its sender as long as it does not fail.

use std::panic::Location;
use std::sync::Arc;

use super::propagation::Propagation;
use super::{ErrorContext, Trace};
use crate::actors::telemetry::event_forwarder::LogSink;
use crate::failure::Failure;
use crate::request_log::RequestLog;
use crate::user_code::caught;

/// What the envelope of a message carries about its sender.
#[derive(Default)]
pub(crate) struct SenderInfo {
    /// The error context in force where the message was sent.
    pub(crate) context: Option<ErrorContext>,
    /// The log sink in force where the message was sent.
    pub(crate) log_sink: Option<LogSink>,
    /// Whether the sender waits for a reply (`send`, in contrast to `do_send`).
    pub(crate) awaits_reply: bool,
}

/// Where a call comes from. The frames, names and texts of a trace are created from it only when the call fails.
#[derive(Clone, Debug)]
pub(crate) struct CallOrigin {
    context: Option<ErrorContext>,
    /// The log that is attached to the call's checkout, or else the subscriber of the sender.
    log_sink: Option<LogSink>,
    at: &'static Location<'static>,
}

impl CallOrigin {
    /// Returns the origin of a call or checkout that is made by the caller, with the context in force.
    #[track_caller]
    pub(crate) fn here() -> Self {
        CallOrigin { context: ErrorContext::current(), log_sink: LogSink::here(), at: Location::caller() }
    }

    /// Returns the caller's location, without a context and a log sink.
    #[track_caller]
    pub(crate) fn without_context() -> Self {
        CallOrigin { context: None, log_sink: None, at: Location::caller() }
    }

    /// Returns the origin of a call that was sent to the checkout or pool with this origin.
    ///
    /// The context is the sender's, or else the receiver's. The log is the one attached to the receiver, or else that of
    /// this context, or else the sender's sink. The location is `at` (see [`here`](super::actor_context::here)), or else the receiver's.
    pub(crate) fn for_call(&self, sender: SenderInfo, at: Option<&'static Location<'static>>) -> Self {
        let context = sender.context.or_else(|| self.context.clone());
        let log = self.log_sink.as_ref().filter(|log_sink| matches!(log_sink, LogSink::Log(_)));
        CallOrigin { context, log_sink: log.cloned().or(sender.log_sink), at: at.unwrap_or(self.at) }
    }

    /// Returns the origin of a call that its requester makes here, on the checkout with this origin, and waits for.
    #[track_caller]
    pub(crate) fn for_awaited_call(&self) -> Self {
        let at = Location::caller();
        let (context, log_sink) = (ErrorContext::current(), LogSink::here());
        self.for_call(SenderInfo { context, log_sink, awaits_reply: true }, Some(at))
    }

    /// Replaces the context, if one is given.
    pub(crate) fn with_context(self, context: Option<ErrorContext>) -> Self {
        CallOrigin { context: context.or(self.context), ..self }
    }

    /// Attaches a log that records the calls, if one is given.
    pub(crate) fn with_log(self, log: Option<RequestLog>) -> Self {
        CallOrigin { log_sink: log.map(LogSink::Log).or(self.log_sink), ..self }
    }

    /// Returns where the call was made.
    pub(crate) fn at(&self) -> &'static Location<'static> {
        self.at
    }

    /// Returns the receiver of the call's log records.
    pub(crate) fn log_sink(&self) -> Option<&LogSink> {
        let own = self.log_sink.as_ref();
        let attached = own.filter(|log_sink| matches!(log_sink, LogSink::Log(_)));
        attached.or_else(|| self.context.as_ref()?.log_sink()).or(own)
    }

    /// Returns the encoded baggage that travels with the call.
    pub(crate) fn baggage(&self) -> &[u8] {
        self.context.as_ref().map_or(&[], |context| context.0.baggage.encoded())
    }

    /// Returns whether a failure of the call is reported to a handler or the log, in addition to a caller that waits.
    pub(crate) fn is_reported(&self, awaited: bool) -> bool {
        let enabled = || tracing::enabled!(target: "forkpool", tracing::Level::ERROR);
        let logged = || !awaited && caught(enabled).unwrap_or(false);
        self.context.as_ref().map_or_else(logged, |context| !awaited || context.reports_awaited())
    }

    /// Reports that the call with this name has failed: to the handlers of its context, or else to the log.
    pub(crate) fn report_failure(&self, call: &str, failure: Failure) {
        let trace = Arc::new(Trace::of_call(call, self.at, self.context.as_ref()));
        Propagation { failure, trace }.propagate(self.context.clone());
    }
}
