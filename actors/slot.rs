//! Where the answer to one call goes: typed at the caller's end, bytes at the worker's.

use std::any::Any;
use std::cell::Cell;
use std::panic::AssertUnwindSafe;
use std::rc::Rc;
use std::task::Context;

use actix::dev::{MessageResponse, OneshotSender};
use actix::{Actor, Message};
use serde::de::DeserializeOwned;

use super::describe::Describe;
use crate::failure::Failure;
use crate::wire::frame::{self, PayloadError};

/// One call's answer, whatever its type.
pub(super) trait Slot {
    /// Reads the worker's result and keeps it until [`deliver`](Self::deliver).
    fn decode(&self, bytes: &[u8]) -> Result<(), PayloadError>;

    /// Gives the kept result to the caller.
    fn deliver(&self);

    /// The `Err` of the kept result as a failure, for those who do not know its type.
    fn own_failure(&self, describe: Describe) -> Option<Failure>;

    /// Answers with a failure.
    fn fail(&self, failure: Failure);

    /// Whether a caller waits, or waited, for the answer that is still to come.
    fn is_awaited(&self) -> bool;

    /// Whether a caller once waited and does so no more.
    fn is_abandoned(&self) -> bool;

    /// The same, and wakes the task when that changes.
    fn poll_abandoned(&self, cx: &mut Context<'_>) -> bool;
}

/// The caller's end of a call.
enum Caller<R> {
    /// Not known yet, but for whether there is one: the message is still being handled.
    Unknown {
        awaits: bool,
    },
    Awaits(OneshotSender<R>),
    /// Sent and forgotten.
    Nobody,
    /// Answered.
    Done,
}

/// The slot of one message.
pub(super) struct TypedSlot<R> {
    caller: Cell<Caller<R>>,
    result: Cell<Option<R>>,
}

impl<R> TypedSlot<R> {
    /// A slot whose caller is told by [`Reply`]; whether there will be one is known.
    pub(super) fn new(awaits: bool) -> Rc<Self> {
        Rc::new(TypedSlot { caller: Cell::new(Caller::Unknown { awaits }), result: Cell::new(None) })
    }

    /// A slot for a caller that is known already.
    pub(super) fn answering(caller: Option<OneshotSender<R>>) -> Rc<Self> {
        let caller = caller.map_or(Caller::Nobody, Caller::Awaits);
        Rc::new(TypedSlot { caller: Cell::new(caller), result: Cell::new(None) })
    }

    fn set_caller(&self, caller: Option<OneshotSender<R>>) {
        self.caller.set(caller.map_or(Caller::Nobody, Caller::Awaits));
        // It may have been answered while the message was handled: nothing is, before the caller is known.
        if let Some(result) = self.result.take() {
            self.answer(result);
        }
    }

    fn answer(&self, result: R) {
        match self.caller.replace(Caller::Done) {
            // A caller that has gone is no failure of ours; whoever counts it asked is_abandoned before.
            Caller::Awaits(caller) => drop(caller.send(result)),
            Caller::Nobody | Caller::Done => {}
            unknown @ Caller::Unknown { .. } => {
                self.caller.set(unknown);
                self.result.set(Some(result));
            }
        }
    }

    fn inspect(&self, look: impl FnOnce(&mut Caller<R>) -> bool) -> bool {
        let mut caller = self.caller.replace(Caller::Done);
        let found = look(&mut caller);
        self.caller.set(caller);
        found
    }
}

impl<T, E> Slot for TypedSlot<Result<T, E>>
where
    Result<T, E>: DeserializeOwned,
    E: From<Failure> + 'static,
{
    fn decode(&self, bytes: &[u8]) -> Result<(), PayloadError> {
        // The user's own decoding runs here; a panic of theirs must not take the checkout with it.
        let decode = AssertUnwindSafe(|| frame::decode(bytes));
        let result = std::panic::catch_unwind(decode).unwrap_or_else(|_| {
            Err(PayloadError::Decode {
                type_name: std::any::type_name::<Result<T, E>>(),
                reason: "its Deserialize panicked".to_owned(),
            })
        })?;
        self.result.set(Some(result));
        Ok(())
    }

    fn deliver(&self) {
        if let Some(result) = self.result.take() {
            self.answer(result);
        }
    }

    fn own_failure(&self, describe: Describe) -> Option<Failure> {
        let result = self.result.take();
        let failure =
            result.as_ref().and_then(|result| result.as_ref().err()).map(|error| as_failure(error, describe));
        self.result.set(result);
        failure
    }

    fn fail(&self, failure: Failure) {
        self.answer(Err(E::from(failure)));
    }

    fn is_awaited(&self) -> bool {
        self.inspect(|caller| matches!(caller, Caller::Awaits(_) | Caller::Unknown { awaits: true }))
    }

    fn is_abandoned(&self) -> bool {
        self.inspect(|caller| matches!(caller, Caller::Awaits(caller) if caller.is_closed()))
    }

    fn poll_abandoned(&self, cx: &mut Context<'_>) -> bool {
        self.inspect(|caller| match caller {
            Caller::Awaits(caller) => caller.poll_closed(cx).is_ready(),
            Caller::Unknown { .. } | Caller::Nobody | Caller::Done => false,
        })
    }
}

/// A user's error as a failure; one that is a failure is itself.
fn as_failure<E: 'static>(error: &E, describe: Describe) -> Failure {
    let error: &dyn Any = error;
    if let Some(failure) = error.downcast_ref::<Failure>() {
        return failure.clone();
    }
    // The user's own Display runs here; a panic of theirs must not take the checkout with it.
    let described = std::panic::catch_unwind(AssertUnwindSafe(|| describe(error))).ok().flatten();
    Failure::task(described.unwrap_or_else(|| std::any::type_name::<E>().to_owned()))
}

/// What a proxy's handler returns: the promise that the slot will be answered.
pub struct Reply<M: Message>(pub(super) Rc<TypedSlot<M::Result>>);

impl<M: Message> std::fmt::Debug for Reply<M> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Reply")
    }
}

impl<A: Actor, M: Message> MessageResponse<A, M> for Reply<M> {
    fn handle(self, _: &mut A::Context, caller: Option<OneshotSender<M::Result>>) {
        self.0.set_caller(caller);
    }
}
