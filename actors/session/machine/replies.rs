//! What a reply means for its call and for the worker. The host trusts no reply: ids, order and outcomes are checked.

use super::event::{Action, Actions, Answer};
use super::lease::Held;
use super::queue::DueReply;
use super::{Call, Machine, State};
use crate::actors::calls::faults::Fault;
use crate::actors::calls::reading::{ReplyMeaning, Violation};
use crate::clock::Instant;

impl<C: Call> Machine<C> {
    /// Handles the reply to a written call. `keep` and `stop` are what the call's handler asked for.
    #[inline]
    pub(super) fn handle_reply(
        &mut self,
        id: u64,
        meaning: ReplyMeaning,
        (keep, stop): (bool, bool),
        now: Instant,
        actions: &mut Actions<C>,
    ) {
        let is_answered = match self.calls.due(id) {
            Some(due) => matches!(due, DueReply::AlreadyCleared),
            None => {
                let what = format!("it replied to call {id} out of order");
                return self.fail_on_violation(what.into(), now, actions);
            }
        };
        self.confirm_read(actions);
        if is_answered {
            return self.skip_cleared(&meaning, now, actions);
        }
        let fault = match meaning {
            ReplyMeaning::Panicked(report, usage) => Fault::Panicked(report, usage),
            ReplyMeaning::Cleared => Fault::BrokeProtocol("it cleared a call that it had to run".into()),
            meaning => return self.answer_first(meaning, (keep, stop), now, actions),
        };
        self.fail_worker(fault, now, actions);
    }

    /// Answers the first written call, which the worker has run.
    #[inline]
    fn answer_first(
        &mut self,
        meaning: ReplyMeaning,
        (keep, stop): (bool, bool),
        now: Instant,
        actions: &mut Actions<C>,
    ) {
        let Some(call) = self.calls.take_answered(now) else { return };
        let keep = keep || self.options.keep_after_error;
        let mut calls_served = 0;
        if let State::Held(held) | State::Releasing { held, .. } = &mut self.state {
            held.in_doubt |= meaning.is_error() && !keep;
            held.stop_requested |= stop;
            held.errors_seen += u32::from(meaning.is_error());
            calls_served = held.calls_served;
            held.calls_served += 1;
        }
        self.pass_reply(now);
        match meaning {
            ReplyMeaning::Done => actions.push_back(Action::Answer(call, Answer::Value)),
            ReplyMeaning::Failed => self.fail_call(call, Answer::Error, actions),
            ReplyMeaning::Payload { text, error } => {
                let answer = Answer::Payload { text, calls_served };
                if error {
                    self.fail_call(call, answer, actions);
                } else {
                    actions.push_back(Action::Answer(call, answer));
                }
            }
            // These cost the call its worker, and do not come here.
            ReplyMeaning::Panicked(..) | ReplyMeaning::Cleared => {}
        }
    }

    /// Takes the reply to a call that was answered before.
    fn skip_cleared(&mut self, meaning: &ReplyMeaning, now: Instant, actions: &mut Actions<C>) {
        self.calls.skip_cleared();
        self.pass_reply(now);
        if *meaning != ReplyMeaning::Cleared {
            self.fail_on_violation("it ran a call that it had to clear".into(), now, actions);
        }
    }

    /// Notes that the worker has read the first call, so that no other worker needs to get it.
    #[inline]
    fn confirm_read(&mut self, actions: &mut Actions<C>) {
        if let State::Held(held) = &mut self.state
            && !held.has_replied
        {
            held.has_replied = true;
            self.false_starts = 0;
            actions.push_back(Action::ConfirmRead);
        }
    }

    /// Notes that a reply was taken: the worker may have nothing to run now.
    #[inline]
    fn pass_reply(&mut self, now: Instant) {
        let is_idle = self.calls.is_empty();
        let State::Held(held) = &mut self.state else { return };
        if is_idle {
            held.idle_since = now;
        }
    }

    /// Kills the worker because it broke the protocol.
    #[cold]
    pub(super) fn fail_on_violation(&mut self, what: Violation, now: Instant, actions: &mut Actions<C>) {
        self.fail_worker(Fault::BrokeProtocol(what), now, actions);
    }

    /// Ends the checkout with the loss of its worker. Without a worker nothing happens.
    #[cold]
    pub(super) fn fail_worker(&mut self, fault: Fault, now: Instant, actions: &mut Actions<C>) {
        let Some(Held { since, calls_served, .. }) = self.state.held() else { return };
        let calls_served = *calls_served;
        actions.push_back(Action::CountHold(now.saturating_duration_since(*since)));
        let times = self.calls.times_of_first(now);
        actions.push_back(Action::Fail { fault, calls_served, times });
        self.state = State::Failing { ends_checkout: true };
    }
}
