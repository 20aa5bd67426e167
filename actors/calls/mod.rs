//! What holds for every call, whether it has its worker to itself or shares one with other requesters: how its frame is
//! written, how the worker's frames are read, what a loss of the worker means, and how the call is answered.
//!
//! Nothing here knows who sent a call, which calls are ahead of it, or in which state the worker is lent.

pub(crate) mod answering;
pub(crate) mod faults;
pub(crate) mod limits;
pub(crate) mod payload;
pub(crate) mod reading;
pub(crate) mod writing;

use std::time::Duration;

use crate::actors::context::CallOrigin;
use crate::actors::reply::{AnswerSlot, CallSlot};
use crate::actors::telemetry::event_forwarder::LogSink;
use crate::actors::worker_api::error_text::Describe;
use crate::clock::Instant;
use crate::failure::{Failure, Phase};
use crate::request_log::CallTimer;

/// What all calls with the same message type have in common.
#[derive(Debug)]
pub(crate) struct MethodInfo {
    pub(crate) name: &'static str,
    pub(crate) index: u32,
    pub(crate) describe: Describe,
}

/// One call as its requester sent it; `S` is where its answer goes.
pub(crate) struct PendingCall<S = CallSlot> {
    pub(crate) slot: S,
    pub(crate) method: &'static MethodInfo,
    pub(crate) limit: Option<Duration>,
    /// Identifies the call to the quarantine; `None` in a pool without one.
    pub(crate) call_hash: Option<u64>,
    pub(crate) origin: CallOrigin,
    /// Measures from the first write until the call is dropped; `None` unless the call reports to a request log.
    pub(crate) timer: Option<Box<CallTimer>>,
}

impl<S: AnswerSlot> PendingCall<S> {
    /// Starts the call's timer when the call is written. If the call is written a second time, to another worker,
    /// the timer keeps the first start.
    fn mark_written(&mut self) {
        if self.timer.is_none() {
            let timer = self.origin.log_sink().and_then(|log_sink| log_sink.timer(self.method.name));
            self.timer = timer.map(Box::new);
        }
    }

    /// Stops the call's timer when its reply has arrived.
    fn mark_answered(&self, now: Instant) {
        if let Some(timer) = &self.timer {
            timer.mark_ended(now);
        }
    }

    /// Records the failure in the request log, if there is one: with the call's timer, or as a message if the call
    /// was never written.
    pub(crate) fn log_failure(&self, failure: &Failure) {
        match (&self.timer, self.origin.log_sink().and_then(LogSink::log)) {
            (Some(timer), _) => timer.fail(failure),
            (None, Some(log)) => log.error(failure.to_string()),
            (None, None) => {}
        }
    }

    /// Returns whether a failure is reported to the context or the log besides the caller. It is not if the caller
    /// gave the call up.
    fn is_reported(&self) -> bool {
        self.origin.is_reported(self.slot.is_awaited()) && !self.slot.is_abandoned()
    }
}

/// How long a call waited until it was written, and how long the worker has been running it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct CallTimes {
    pub(crate) waited: Duration,
    /// `None` for a call that was not written.
    pub(crate) ran: Option<Duration>,
}

impl CallTimes {
    /// Adds to a failure which call it concerns, and how long that has waited and run.
    pub(crate) fn add_to(self, failure: Failure, method: &MethodInfo) -> Failure {
        let failure = if self.ran.is_some() { failure.in_phase(Phase::Running) } else { failure };
        failure.during(method.name).with_times(self.waited, self.ran)
    }
}
