//! Reply slots of a batch: its caller gets one answer once every call is answered.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::{Arc, OnceLock};
use std::task::Context;

use actix::dev::{MessageResponse, OneshotSender};
use actix::{Actor, Message};
use serde::de::DeserializeOwned;

use super::{CallSlot, ReplySlots, ReplyTo, as_failure, decode_result, error_of, send};
use crate::actors::worker_api::error_text::Describe;
use crate::config::OnCancel;
use crate::failure::Failure;
use crate::user_code::{drop_caught, drop_each};
use crate::wire::frame::PayloadError;

/// What becomes of the running call of a batch, if its caller has set that by the time it gives the batch up.
pub(crate) type OwnPolicy = Arc<OnceLock<OnCancel>>;

/// The reply slots of one batch, whose calls have this result.
pub(crate) struct BatchSlots<R>(RefCell<BatchAnswers<R>>);

struct BatchAnswers<R> {
    caller: ReplyTo<Vec<R>>,
    /// Where the caller may set a policy of its own.
    own_policy: Option<OwnPolicy>,
    /// Number of calls in the batch.
    expected: usize,
    /// The answers of the first calls, in order and without a gap.
    answered: Vec<R>,
    /// Answers that came ahead of an earlier call's answer. They are rare: only a call that is refused before it is
    /// written overtakes others.
    early: BTreeMap<usize, R>,
    /// A result that was decoded and not delivered yet.
    decoded: Option<R>,
}

impl<R> BatchAnswers<R> {
    fn answer(&mut self, key: usize, result: R) {
        if key != self.answered.len() {
            self.early.insert(key, result);
            return;
        }
        self.answered.push(result);
        while let Some(next) = self.early.remove(&self.answered.len()) {
            self.answered.push(next);
        }
    }

    /// Takes caller and answers once all answers are there and the caller is known.
    fn take_complete(&mut self) -> Option<(OneshotSender<Vec<R>>, Vec<R>)> {
        if self.answered.len() < self.expected || matches!(self.caller, ReplyTo::Unknown { .. }) {
            return None;
        }
        match std::mem::replace(&mut self.caller, ReplyTo::Answered) {
            ReplyTo::Awaiting(caller) => Some((caller, std::mem::take(&mut self.answered))),
            ReplyTo::Unknown { .. } | ReplyTo::NotAwaited | ReplyTo::Answered => None,
        }
    }
}

/// Drops the answers that no requester gets.
impl<R> Drop for BatchAnswers<R> {
    fn drop(&mut self) {
        drop_each(std::mem::take(&mut self.answered));
        drop_each(std::mem::take(&mut self.early).into_values());
        drop_caught(self.decoded.take());
    }
}

impl<T, E> BatchSlots<Result<T, E>>
where
    T: DeserializeOwned + 'static,
    E: DeserializeOwned + From<Failure> + 'static,
{
    /// Returns slots for so many calls, whose caller is set by the [`BatchReply`]; `awaits` tells whether there
    /// will be one.
    pub(crate) fn new(calls: usize, awaits: bool) -> Rc<Self> {
        Self::with(calls, ReplyTo::Unknown { awaits }, None)
    }

    /// Returns slots for so many calls, whose caller is known already.
    pub(crate) fn answering(
        calls: usize,
        caller: Option<OneshotSender<Vec<Result<T, E>>>>,
        own_policy: Option<OwnPolicy>,
    ) -> Rc<Self> {
        let slots = Self::with(calls, ReplyTo::of(caller), own_policy);
        slots.finish();
        slots
    }

    fn with(calls: usize, caller: ReplyTo<Vec<Result<T, E>>>, own_policy: Option<OwnPolicy>) -> Rc<Self> {
        let answered = Vec::with_capacity(calls);
        let answers = BatchAnswers {
            caller,
            own_policy,
            expected: calls,
            answered,
            early: BTreeMap::new(),
            decoded: None,
        };
        Rc::new(BatchSlots(RefCell::new(answers)))
    }

    /// Returns the slot of the call at this index.
    pub(crate) fn slot(self: &Rc<Self>, key: usize) -> CallSlot {
        CallSlot::new(self.clone(), key)
    }
}

impl<R> BatchSlots<R> {
    fn answer(&self, key: usize, result: R) {
        self.0.borrow_mut().answer(key, result);
        self.finish();
    }

    fn finish(&self) {
        // Not in one expression with the send, which would keep the borrow: a waker that the send runs is foreign
        // code.
        let complete = self.0.borrow_mut().take_complete();
        if let Some((caller, answers)) = complete {
            drop_each(send(caller, answers).unwrap_or_default());
        }
    }
}

impl<T, E> ReplySlots for BatchSlots<Result<T, E>>
where
    T: DeserializeOwned + 'static,
    E: DeserializeOwned + From<Failure> + 'static,
{
    fn decode(&self, _: usize, bytes: &[u8], max_depth: u32) -> Result<(), PayloadError> {
        let result = decode_result(bytes, max_depth)?;
        let before = self.0.borrow_mut().decoded.replace(result);
        drop_caught(before);
        Ok(())
    }

    fn deliver(&self, key: usize) {
        let decoded = self.0.borrow_mut().decoded.take();
        if let Some(result) = decoded {
            self.answer(key, result);
        }
    }

    fn error_as_failure(&self, _: usize, describe: Describe) -> Option<Failure> {
        let decoded = self.0.borrow_mut().decoded.take();
        let error = decoded.as_ref().and_then(|result| result.as_ref().err());
        let failure = error.map(|error| as_failure(error, describe));
        self.0.borrow_mut().decoded = decoded;
        failure
    }

    fn fail(&self, key: usize, failure: Failure) {
        match error_of(failure) {
            Some(error) => self.answer(key, Err(error)),
            // Without this answer the batch has none.
            None => {
                let caller = std::mem::replace(&mut self.0.borrow_mut().caller, ReplyTo::Answered);
                drop(caller);
            }
        }
    }

    fn is_awaited(&self, _: usize) -> bool {
        self.0.borrow().caller.is_awaited()
    }

    fn is_abandoned(&self, _: usize) -> bool {
        self.0.borrow().caller.is_abandoned()
    }

    fn poll_abandoned(&self, _: usize, cx: &mut Context<'_>) -> bool {
        self.0.borrow_mut().caller.poll_abandoned(cx)
    }

    fn poll_kill(&self, _: usize, on_cancel: OnCancel, cx: &mut Context<'_>) -> bool {
        let mut answers = self.0.borrow_mut();
        if on_cancel == OnCancel::Finish && answers.own_policy.is_none() || !answers.caller.poll_abandoned(cx)
        {
            return false;
        }
        let own = answers.own_policy.as_ref().and_then(|own| own.get());
        own.copied().unwrap_or(on_cancel) == OnCancel::Kill
    }

    fn release(self: Rc<Self>, _: usize) {}
}

/// What a checkout's handler of a batch returns: the promise that all its calls are answered.
pub struct BatchReply<R>(Rc<BatchSlots<R>>);

impl<R> BatchReply<R> {
    pub(crate) fn of(slots: Rc<BatchSlots<R>>) -> Self {
        BatchReply(slots)
    }
}

impl<R> std::fmt::Debug for BatchReply<R> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("BatchReply")
    }
}

impl<A: Actor, R: 'static, M: Message<Result = Vec<R>>> MessageResponse<A, M> for BatchReply<R> {
    fn handle(self, _: &mut A::Context, caller: Option<OneshotSender<Vec<R>>>) {
        self.0.0.borrow_mut().caller = ReplyTo::of(caller);
        self.0.finish();
    }
}
