//! The slots of a batch: one caller, who is answered when every call is.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::task::Context;

use actix::dev::{MessageResponse, OneshotSender};
use actix::{Actor, Message};
use serde::de::DeserializeOwned;

use super::{ReplyTo, Slot, Slots, as_failure, read};
use crate::actors::worker_api::error_text::Describe;
use crate::failure::Failure;
use crate::wire::frame::PayloadError;

/// The slots of one batch.
pub(crate) struct BatchSlots<T, E>(RefCell<Answers<Result<T, E>>>);

struct Answers<R> {
    caller: ReplyTo<Vec<R>>,
    /// How many there will be.
    most: usize,
    /// The first answers, in order.
    answered: Vec<R>,
    /// Answers that came ahead of one before them: few calls are refused before they are written.
    early: BTreeMap<usize, R>,
    /// What was read and not yet delivered.
    kept: Option<R>,
}

impl<R> Answers<R> {
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

    /// Caller and answers, once all are there and the caller is known.
    fn take_complete(&mut self) -> Option<(OneshotSender<Vec<R>>, Vec<R>)> {
        if self.answered.len() < self.most || matches!(self.caller, ReplyTo::Unknown { .. }) {
            return None;
        }
        match std::mem::replace(&mut self.caller, ReplyTo::Done) {
            ReplyTo::Awaits(caller) => Some((caller, std::mem::take(&mut self.answered))),
            ReplyTo::Unknown { .. } | ReplyTo::Nobody | ReplyTo::Done => None,
        }
    }
}

impl<T, E> BatchSlots<T, E>
where
    T: DeserializeOwned + 'static,
    E: DeserializeOwned + From<Failure> + 'static,
{
    /// Slots for so many calls, whose caller is told by the [`BatchReply`]; whether there will be one is known.
    pub(crate) fn new(calls: usize, awaits: bool) -> Rc<Self> {
        Self::with(calls, ReplyTo::Unknown { awaits })
    }

    /// The same for a caller that is known already.
    pub(crate) fn answering(calls: usize, caller: Option<OneshotSender<Vec<Result<T, E>>>>) -> Rc<Self> {
        let slots = Self::with(calls, ReplyTo::of(caller));
        slots.finish();
        slots
    }

    fn with(calls: usize, caller: ReplyTo<Vec<Result<T, E>>>) -> Rc<Self> {
        let answered = Vec::with_capacity(calls);
        let answers = Answers { caller, most: calls, answered, early: BTreeMap::new(), kept: None };
        Rc::new(BatchSlots(RefCell::new(answers)))
    }

    /// The slot of the call at this place.
    pub(crate) fn slot(self: &Rc<Self>, key: usize) -> Slot {
        Slot::new(self.clone(), key)
    }

    fn answer(&self, key: usize, result: Result<T, E>) {
        self.0.borrow_mut().answer(key, result);
        self.finish();
    }
}

impl<T, E> BatchSlots<T, E> {
    fn finish(&self) {
        // Not in the match, which would keep the borrow: whom this wakes is somebody else's code.
        let complete = self.0.borrow_mut().take_complete();
        if let Some((caller, answers)) = complete {
            drop(caller.send(answers));
        }
    }
}

impl<T, E> Slots for BatchSlots<T, E>
where
    T: DeserializeOwned + 'static,
    E: DeserializeOwned + From<Failure> + 'static,
{
    fn decode(&self, _: usize, bytes: &[u8]) -> Result<(), PayloadError> {
        let result = read(bytes)?;
        let before = self.0.borrow_mut().kept.replace(result);
        drop(before);
        Ok(())
    }

    fn deliver(&self, key: usize) {
        let kept = self.0.borrow_mut().kept.take();
        if let Some(result) = kept {
            self.answer(key, result);
        }
    }

    fn own_failure(&self, _: usize, describe: Describe) -> Option<Failure> {
        let kept = self.0.borrow_mut().kept.take();
        let error = kept.as_ref().and_then(|result| result.as_ref().err());
        let failure = error.map(|error| as_failure(error, describe));
        self.0.borrow_mut().kept = kept;
        failure
    }

    fn fail(&self, key: usize, failure: Failure) {
        self.answer(key, Err(E::from(failure)));
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

    fn leave(&self, _: usize) {}
}

/// Who is told of the caller of a batch, whatever the types of its results.
trait ReplySink<R> {
    fn set_caller(&self, caller: Option<OneshotSender<R>>);
}

impl<T, E> ReplySink<Vec<Result<T, E>>> for BatchSlots<T, E> {
    fn set_caller(&self, caller: Option<OneshotSender<Vec<Result<T, E>>>>) {
        self.0.borrow_mut().caller = ReplyTo::of(caller);
        self.finish();
    }
}

/// What a proxy's handler of a batch returns: the promise that all its calls will be answered.
pub struct BatchReply<M: Message>(Rc<dyn ReplySink<M::Result>>);

impl<M: Message> BatchReply<M> {
    pub(crate) fn of<T, E>(slots: Rc<BatchSlots<T, E>>) -> Self
    where
        M: Message<Result = Vec<Result<T, E>>>,
        T: 'static,
        E: 'static,
    {
        BatchReply(slots)
    }
}

impl<M: Message> std::fmt::Debug for BatchReply<M> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("BatchReply")
    }
}

impl<A: Actor, M: Message> MessageResponse<A, M> for BatchReply<M> {
    fn handle(self, _: &mut A::Context, caller: Option<OneshotSender<M::Result>>) {
        self.0.set_caller(caller);
    }
}
