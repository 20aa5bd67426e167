//! The decisions of one checkout: which call is written when, what a reply, a loss, a time limit, a refusal or an abort
//! means for the calls, and when the worker is released, retired or killed.
//!
//! The machine does no I/O, reads no clock and takes no lock. It is told what happens, with the time, and appends what
//! is to be done to a buffer. The session carries that out with a scheduler and a channel, and the simulation with
//! simulated ones.

mod deadlines;
mod errors;
mod event;
mod lease;
mod queue;
mod replies;

use std::time::Duration;

use super::CallOptions;
use crate::actors::calls::CallTimes;
use crate::actors::calls::faults::no_time_left;
use crate::actors::calls::writing::CallFrame;
use crate::clock::Instant;
use crate::failure::Failure;
use errors::ErrorRecord;
pub(crate) use event::{Action, Actions, Admission, Answer, Due, Event, Exit, Grant, TimeLimit};
use lease::Held;
use queue::CallQueue;
pub(crate) use queue::DueReply;

/// What the machine knows of a call.
pub(crate) trait Call {
    /// The encoded message of a call that waits to be written.
    type Message;

    /// Returns the call's own time limit.
    fn limit(&self) -> Option<Duration>;

    /// Returns whether the requester waited for the answer and no longer does.
    fn is_abandoned(&self) -> bool;
}

/// How a checkout is related to a worker.
enum State {
    /// It has no worker and has not asked for one.
    NoWorker,
    /// It was refused a worker when no call was queued; the next call is answered with this failure.
    Refused(Failure),
    /// It has asked for a worker. `is_failing`: the first call has failed with an attempt to start one, and the failure is
    /// being described.
    Waiting {
        is_failing: bool,
    },
    Held(Held),
    /// The worker runs `checkout_done`.
    Releasing {
        held: Held,
        since: Instant,
        limit: Duration,
    },
    /// The worker closed its end of the channel, and its exit report is awaited.
    AwaitingExit {
        held: Held,
        since: Instant,
    },
    /// The first call has failed, there is no worker, and the failure is being described. `ends_checkout`: it answers
    /// all later calls as well.
    Failing {
        ends_checkout: bool,
    },
}

impl State {
    fn held(&self) -> Option<&Held> {
        match self {
            State::Held(held) | State::Releasing { held, .. } | State::AwaitingExit { held, .. } => {
                Some(held)
            }
            State::NoWorker | State::Refused(_) | State::Waiting { .. } | State::Failing { .. } => None,
        }
    }
}

/// The decisions of one checkout, whose calls are `C`.
pub(crate) struct Machine<C: Call> {
    options: CallOptions,
    state: State,
    calls: CallQueue<C>,
    pending_error: Option<ErrorRecord>,
    /// Number of the last fence that was sent; a fence with a lower number belongs to an error that was settled
    /// early.
    last_fence: u64,
    /// The failure that ended this checkout for good.
    fatal: Option<Failure>,
    /// Number of workers in a row that exited before they began the first call.
    false_starts: u32,
    /// Whether the pool is stopping: queued calls may run, new ones are refused.
    closing: bool,
}

impl<C: Call> Machine<C> {
    /// Returns the machine of a checkout that has asked for a worker.
    pub(crate) fn waiting(options: CallOptions) -> Self {
        Machine {
            options,
            state: State::Waiting { is_failing: false },
            calls: CallQueue::default(),
            pending_error: None,
            last_fence: 0,
            fatal: None,
            false_starts: 0,
            closing: false,
        }
    }

    /// Handles an event; appends what is to be done.
    #[inline]
    pub(crate) fn on(&mut self, event: Event<C>, now: Instant, actions: &mut Actions<C>) {
        match event {
            Event::Written { call, bytes } => self.record_written(call, bytes, now),
            Event::Replied { id, meaning, keep, stop } => {
                self.handle_reply(id, meaning, (keep, stop), now, actions);
            }
            Event::Queued { call, message } => self.record_queued(call, message, now, actions),
            event => self.on_rarely(event, now, actions),
        }
    }

    /// Handles an event that does not belong to each call.
    fn on_rarely(&mut self, event: Event<C>, now: Instant, actions: &mut Actions<C>) {
        match event {
            Event::Written { .. } | Event::Replied { .. } | Event::Queued { .. } => {
                self.on(event, now, actions);
            }
            Event::Granted(grant) => self.accept_grant(grant, now, actions),
            Event::Refused(refusal) => self.handle_refusal(refusal, actions),
            Event::StartFailed(failure) => self.handle_failed_start(failure, actions),
            Event::Closing => self.closing = true,
            Event::Stopped => self.handle_stop(now, actions),
            Event::Released(report) => self.handle_released(report, now, actions),
            Event::ProtocolBroken(what) => self.fail_on_violation(what, now, actions),
            Event::ChannelEnded => self.await_exit(now),
            Event::Exited(exit) => self.handle_exit(exit, now, actions),
            Event::Expired { due, late } => self.handle_expiry(due, late, now, actions),
            Event::Cancelled => self.handle_cancellation(now, actions),
            Event::FencePassed(number) => self.pass_fence(number),
            Event::Aborted(reason) => self.begin_abort(reason, now, actions),
            Event::AbortDescribed { failure, of_first } => self.end_abort(failure, of_first, actions),
            Event::FailureDescribed(failure) => self.end_failing(failure, actions),
            Event::Finished { ends } => self.finish(ends, now, actions),
            Event::Reclaimed { failure, ends } => {
                self.fatal = Some(failure);
                self.finish(ends, now, actions);
            }
        }
    }

    /// Decides what becomes of a call with this limit that is submitted now, and requests a worker where it has none.
    #[inline]
    pub(crate) fn admit(&mut self, limit: Option<Duration>, actions: &mut Actions<C>) -> Admission {
        if let Some(refusal) = self.refusal_of(limit) {
            return Admission::Refuse(refusal);
        }
        if matches!(self.state, State::NoWorker) {
            self.acquire(false, actions);
        }
        if self.may_write() && !self.calls.has_queued() { Admission::Write } else { Admission::Queue }
    }

    /// Returns the answer to a call that is not accepted.
    fn refusal_of(&self, limit: Option<Duration>) -> Option<Answer> {
        if let Some(fatal) = &self.fatal {
            return Some(Answer::Failure(fatal.clone()));
        }
        if let Some(error) = &self.pending_error {
            return Some(Answer::Failure(error.cleared_failure()));
        }
        if limit == Some(Duration::ZERO) {
            return Some(Answer::Failure(no_time_left()));
        }
        self.closing.then_some(Answer::Stopped)
    }

    /// Returns whether a call may be written to the worker now. Until the worker has replied once, only one call at
    /// a time is written: a worker that was dead when it was granted has not read that call, and another worker can
    /// be given the same bytes.
    fn may_write(&self) -> bool {
        matches!(&self.state, State::Held(held) if self.calls.may_write(!held.has_replied))
    }

    /// Takes the next call that is to be written to the worker, if one is queued and may be written.
    pub(crate) fn next_to_write(&mut self, now: Instant) -> Option<(C, C::Message)> {
        let writes = self.calls.has_queued() && self.may_write() && self.pending_error.is_none();
        if writes { self.calls.take_next_to_write(now) } else { None }
    }

    /// Returns what the frame of a call contains that is written now.
    #[inline]
    pub(crate) fn frame_of(&self, call: &C, now: Instant) -> CallFrame {
        CallFrame {
            epoch: None,
            id: self.calls.next_id(),
            errors_seen: self.state.held().map_or(0, |held| held.errors_seen),
            last: false,
            limit: self.calls.remaining_limit(call, now),
        }
    }

    fn record_written(&mut self, call: C, bytes: usize, now: Instant) {
        self.calls.push_written(call, bytes, now);
    }

    fn record_queued(&mut self, call: C, message: C::Message, now: Instant, actions: &mut Actions<C>) {
        self.calls.queue(call, message, now);
        if let State::Refused(_) = &self.state
            && let State::Refused(refusal) = std::mem::replace(&mut self.state, State::NoWorker)
        {
            self.handle_refusal(refusal, actions);
        }
    }

    /// Requests a worker.
    fn acquire(&mut self, again: bool, actions: &mut Actions<C>) {
        self.state = State::Waiting { is_failing: false };
        actions.push_back(Action::Acquire { again });
    }

    /// Returns since when the first call is the first. A call that is submitted behind it needs no time of its own.
    #[inline]
    pub(crate) fn first_since(&self) -> Option<Instant> {
        self.calls.first_since()
    }

    /// Returns the first unanswered call, whose time limit runs.
    pub(crate) fn first(&self) -> Option<&C> {
        self.calls.first().map(|(call, _)| call)
    }

    /// Returns how long the first unanswered call has waited and run so far.
    #[inline]
    pub(crate) fn times_of_first(&self, now: Instant) -> Option<CallTimes> {
        self.calls.times_of_first(now)
    }

    /// Returns the call to which the next reply or log record belongs if that has this id.
    #[inline]
    pub(crate) fn due(&self, id: u64) -> Option<DueReply<'_, C>> {
        self.calls.due(id)
    }

    /// Returns the id of the call to which the next reply belongs.
    pub(crate) fn next_reply(&self) -> Option<u64> {
        self.calls.next_reply()
    }

    /// Returns whether the worker still has to reply to a written call.
    #[inline]
    pub(crate) fn expects_reply(&self) -> bool {
        self.calls.expects_reply()
    }

    /// Returns whether calls wait to be written.
    #[inline]
    pub(crate) fn has_queued(&self) -> bool {
        self.calls.has_queued()
    }

    /// Returns whether a worker has a call that is not answered.
    #[inline]
    pub(crate) fn has_running(&self) -> bool {
        self.calls.unanswered() > 0
    }

    /// Returns whether a worker has one unanswered call and no other call waits.
    pub(crate) fn runs_one_call(&self) -> bool {
        self.calls.unanswered() == 1 && !self.calls.has_queued()
    }

    /// Returns whether a worker was refused, so that the next call is answered with the refusal.
    pub(crate) fn is_refused(&self) -> bool {
        matches!(self.state, State::Refused(_))
    }

    /// Returns whether every call is answered.
    pub(crate) fn is_idle(&self) -> bool {
        self.calls.is_empty()
    }

    /// Returns whether frames of the worker are expected and handled.
    #[inline]
    pub(crate) fn reads_frames(&self) -> bool {
        matches!(self.state, State::Held(_) | State::Releasing { .. })
    }

    /// Returns whether a worker is held that does not release itself.
    pub(crate) fn holds_worker(&self) -> bool {
        matches!(self.state, State::Held(_))
    }

    /// Returns whether the worker that is held has replied to a call.
    #[inline]
    pub(crate) fn has_replied(&self) -> bool {
        self.state.held().is_some_and(|held| held.has_replied)
    }

    /// Returns the number of calls that the worker that is held has answered since its fork.
    pub(crate) fn calls_served(&self) -> u64 {
        self.state.held().map_or(0, |held| held.calls_served)
    }

    /// Returns whether the checkout needs its worker, or its place in the queue, no longer. `disconnected`: no
    /// further call can come.
    #[inline]
    pub(crate) fn is_done(&self, disconnected: bool) -> bool {
        (disconnected || self.closing)
            && self.calls.is_empty()
            && self.pending_error.is_none()
            && matches!(self.state, State::Held(_) | State::Waiting { .. })
    }

    /// Returns whether nothing is left to be done.
    pub(crate) fn is_over(&self, disconnected: bool) -> bool {
        disconnected
            && self.calls.is_empty()
            && self.pending_error.is_none()
            && matches!(self.state, State::NoWorker | State::Refused(_))
    }

    /// Passes every unanswered call to `answer`, because the checkout is dropped.
    pub(crate) fn drain(&mut self, answer: impl FnMut(C)) {
        self.calls.clear(answer);
    }

    /// Returns whether a worker has been asked for that was not lent yet.
    pub(crate) fn is_waiting(&self) -> bool {
        matches!(self.state, State::Waiting { .. })
    }
}
