//! What happens to the calls of a checkout when one of them fails.
//!
//! An error clears the calls behind it. "Behind" means: sent before the caller could know of the error. Such calls
//! may still lie in the mailbox of the checkout. So right before the checkout answers the caller, it sends a
//! marker, the fence, through its own mailbox. A call that arrives ahead of the fence was sent earlier and is
//! cleared; a call that arrives behind it runs.

use super::event::{Action, Actions, Answer};
use super::{Call, Machine, State};
use crate::actors::calls::answering::cleared;
use crate::clock::Instant;
use crate::failure::{Failure, FailureKind};

/// An error that its caller has received and whose fence has not come back through the mailbox.
pub(super) struct ErrorRecord {
    /// The cause that the cleared calls name.
    cause: Option<Failure>,
    fatal: Option<Failure>,
}

impl ErrorRecord {
    /// Returns the failure of a call that was sent before the caller received the error.
    pub(super) fn cleared_failure(&self) -> Failure {
        cleared(self.cause.clone())
    }
}

impl<C: Call> Machine<C> {
    /// Answers one call with an error and clears those behind it.
    pub(super) fn fail_call(&mut self, call: C, answer: Answer, actions: &mut Actions<C>) {
        self.raise_error(Some((call, answer)), None, None, actions);
    }

    /// Answers the first call with the failure that was described, and clears those behind it.
    pub(super) fn end_failing(&mut self, failure: Failure, actions: &mut Actions<C>) {
        let (next, ends_checkout) = match self.state {
            State::Waiting { is_failing: true } => (State::Waiting { is_failing: false }, false),
            State::Failing { ends_checkout } => (State::NoWorker, ends_checkout),
            // The call has a worker by now, or its answer.
            _ => return,
        };
        self.state = next;
        let first = self.calls.take_first().map(|call| (call, Answer::Failure(failure.clone())));
        let fatal = ends_checkout.then(|| failure.clone());
        self.raise_error(first, Some(failure), fatal, actions);
        self.forget_written(actions);
    }

    /// Sends the fence, answers the failed call, and clears the calls behind it. `cause` is what these name as the cause;
    /// `fatal` answers all later calls.
    fn raise_error(
        &mut self,
        first: Option<(C, Answer)>,
        cause: Option<Failure>,
        fatal: Option<Failure>,
        actions: &mut Actions<C>,
    ) {
        // A fence that has not come back belongs to an earlier error that is over; the new fence comes behind it.
        self.settle_error();
        self.last_fence += 1;
        actions.push_back(Action::SendFence(self.last_fence));
        actions.extend(first.map(|(call, answer)| Action::Answer(call, answer)));
        self.calls.clear(|call| {
            actions.push_back(Action::Answer(call, Answer::Failure(cleared(cause.clone()))));
        });
        self.pending_error = Some(ErrorRecord { cause, fatal });
    }

    /// Handles a fence that came back: from now on calls are accepted again, unless the error was fatal. An old
    /// fence is ignored.
    pub(super) fn pass_fence(&mut self, number: u64) {
        if number == self.last_fence {
            self.settle_error();
        }
    }

    /// Ends the time in which calls are cleared because of an error; a fatal error then answers all later calls.
    fn settle_error(&mut self) {
        if let Some(pending_error) = self.pending_error.take() {
            self.fatal = self.fatal.take().or(pending_error.fatal);
        }
    }

    /// Fails the first call, because an attempt to start a worker has failed. The request for a worker stands: the checkout
    /// keeps its place for the calls that its requester makes next, and a pool that closes waits for it.
    pub(super) fn handle_failed_start(&mut self, failure: Failure, actions: &mut Actions<C>) {
        if self.is_waiting() && !self.calls.is_empty() {
            self.state = State::Waiting { is_failing: true };
            actions.push_back(Action::Complete(failure));
        }
    }

    /// Handles the scheduler's refusal to lend this checkout a worker, now or ever.
    pub(super) fn handle_refusal(&mut self, refusal: Failure, actions: &mut Actions<C>) {
        self.state = State::NoWorker;
        match refusal.kind() {
            FailureKind::Stopped => {
                self.closing = true;
                self.answer_all(&refusal, actions);
                self.forget_written(actions);
            }
            _ if self.calls.is_empty() => self.state = State::Refused(refusal),
            _ => {
                self.state = State::Failing { ends_checkout: false };
                actions.push_back(Action::Complete(refusal));
            }
        }
    }

    fn answer_all(&mut self, failure: &Failure, actions: &mut Actions<C>) {
        self.calls.clear(|call| actions.push_back(Action::Answer(call, Answer::Failure(failure.clone()))));
    }

    /// Gives up the worker, or the request for one, because the holder aborts the checkout.
    pub(super) fn begin_abort(&mut self, reason: String, now: Instant, actions: &mut Actions<C>) {
        self.settle_error();
        if let Some(held) = self.state.held() {
            actions.push_back(Action::CountHold(now.saturating_duration_since(held.since)));
        }
        let (calls_served, times) = (self.calls_served(), self.calls.times_of_first(now));
        let was_waiting = self.is_waiting();
        actions.push_back(Action::Abort { reason, calls_served, times, was_waiting });
        self.state = State::NoWorker;
    }

    /// Ends the checkout: answers all unanswered calls, the first one with a failure of its own.
    pub(super) fn end_abort(
        &mut self,
        failure: Failure,
        of_first: Option<Failure>,
        actions: &mut Actions<C>,
    ) {
        let first = of_first.and_then(|failure| Some((self.calls.take_first()?, failure)));
        actions.extend(first.map(|(call, failure)| Action::Answer(call, Answer::Failure(failure))));
        self.answer_all(&failure, actions);
        self.forget_written(actions);
        self.fatal.get_or_insert(failure);
    }
}
