//! Reply slots: where the answer to a call goes, as a typed value for the caller and as bytes from the worker.

mod batch;
mod local;
mod number;
mod slot;

use std::any::Any;
use std::num::NonZeroUsize;
use std::rc::Rc;
use std::task::Context;

use actix::dev::OneshotSender;
use serde::de::DeserializeOwned;

use crate::actors::worker_api::error_text::Describe;
use crate::config::OnCancel;
use crate::failure::Failure;
use crate::user_code::caught;
use crate::wire::frame;
use crate::wire::frame::PayloadError;
pub(crate) use batch::{BatchReply, BatchSlots, OwnPolicy};
pub(crate) use local::{LocalReply, LocalSlots};
pub(crate) use number::next_request_number;
pub(crate) use slot::{FreeSlots, Reply, ReplySlot};

/// Where the answer to one call goes.
pub(crate) trait AnswerSlot {
    /// Decodes the worker's result, nested at most `max_depth` levels deep, and keeps it until
    /// [`deliver`](Self::deliver).
    ///
    /// # Errors
    ///
    /// [`PayloadError`] where the bytes are not a result of this type or exceed a limit, or its `Deserialize` panics;
    /// nothing is kept then.
    fn decode(&self, bytes: &[u8], max_depth: u32) -> Result<(), PayloadError>;

    /// Sends the decoded result to the caller.
    fn deliver(&self);

    /// Returns the `Err` of the decoded result as a failure, for code that does not know its type.
    fn error_as_failure(&self, describe: Describe) -> Option<Failure>;

    /// Answers the call with a failure.
    fn fail(&self, failure: Failure);

    /// Returns whether the call was sent by a caller that waits, or waited, for the answer.
    fn is_awaited(&self) -> bool;

    /// Returns whether the caller waited for the answer and no longer does.
    fn is_abandoned(&self) -> bool;

    /// Like [`is_abandoned`](Self::is_abandoned), and registers the task to be woken when the caller gives up.
    fn poll_abandoned(&self, cx: &mut Context<'_>) -> bool;

    /// Returns whether the caller no longer waits, and has the call killed if it runs: by the policy that the caller set for
    /// it, or else by this one. Registers the task to be woken when the caller gives up, if that can make a difference.
    fn poll_kill(&self, on_cancel: OnCancel, cx: &mut Context<'_>) -> bool;
}

/// Reply slots whose result types are erased: one, or those of a batch, each under a key of its own. The methods are
/// those of [`AnswerSlot`].
pub(crate) trait ReplySlots {
    fn decode(&self, key: usize, bytes: &[u8], max_depth: u32) -> Result<(), PayloadError>;

    fn deliver(&self, key: usize);

    fn error_as_failure(&self, key: usize, describe: Describe) -> Option<Failure>;

    fn fail(&self, key: usize, failure: Failure);

    fn is_awaited(&self, key: usize) -> bool;

    fn is_abandoned(&self, key: usize) -> bool;

    fn poll_abandoned(&self, key: usize, cx: &mut Context<'_>) -> bool;

    fn poll_kill(&self, key: usize, on_cancel: OnCancel, cx: &mut Context<'_>) -> bool;

    /// Notes that a call is over, whose [`CallSlot`] is being dropped.
    fn release(self: Rc<Self>, key: usize);
}

/// The reply slot of one call, with its result type erased.
pub(crate) struct CallSlot {
    slots: Rc<dyn ReplySlots>,
    key: usize,
}

impl CallSlot {
    pub(crate) fn new(slots: Rc<dyn ReplySlots>, key: usize) -> Self {
        CallSlot { slots, key }
    }

    /// Returns the number of the request of a single call to a pool, whose requester tells the lanes when it gives the call
    /// up; `None` if the requester sent an actix message.
    pub(crate) fn request_number(&self) -> Option<NonZeroUsize> {
        NonZeroUsize::new(self.key)
    }
}

impl AnswerSlot for CallSlot {
    fn decode(&self, bytes: &[u8], max_depth: u32) -> Result<(), PayloadError> {
        self.slots.decode(self.key, bytes, max_depth)
    }

    fn deliver(&self) {
        self.slots.deliver(self.key);
    }

    fn error_as_failure(&self, describe: Describe) -> Option<Failure> {
        self.slots.error_as_failure(self.key, describe)
    }

    fn fail(&self, failure: Failure) {
        self.slots.fail(self.key, failure);
    }

    fn is_awaited(&self) -> bool {
        self.slots.is_awaited(self.key)
    }

    fn is_abandoned(&self) -> bool {
        self.slots.is_abandoned(self.key)
    }

    fn poll_abandoned(&self, cx: &mut Context<'_>) -> bool {
        self.slots.poll_abandoned(self.key, cx)
    }

    fn poll_kill(&self, on_cancel: OnCancel, cx: &mut Context<'_>) -> bool {
        self.slots.poll_kill(self.key, on_cancel, cx)
    }
}

impl Drop for CallSlot {
    fn drop(&mut self) {
        self.slots.clone().release(self.key);
    }
}

/// The caller that a reply goes to.
enum ReplyTo<R> {
    /// Not known yet, because the message is still being handled; `awaits` tells whether there is one.
    Unknown {
        awaits: bool,
    },
    Awaiting(OneshotSender<R>),
    /// The sender does not wait for an answer.
    NotAwaited,
    /// The caller has the answer.
    Answered,
}

impl<R> ReplyTo<R> {
    fn of(caller: Option<OneshotSender<R>>) -> Self {
        caller.map_or(ReplyTo::NotAwaited, ReplyTo::Awaiting)
    }

    fn is_awaited(&self) -> bool {
        matches!(self, ReplyTo::Awaiting(_) | ReplyTo::Unknown { awaits: true })
    }

    fn is_abandoned(&self) -> bool {
        matches!(self, ReplyTo::Awaiting(caller) if caller.is_closed())
    }

    fn poll_abandoned(&mut self, cx: &mut Context<'_>) -> bool {
        match self {
            ReplyTo::Awaiting(caller) => caller.poll_closed(cx).is_ready(),
            ReplyTo::Unknown { .. } | ReplyTo::NotAwaited | ReplyTo::Answered => false,
        }
    }
}

/// Sends an answer; returns it if its requester does not await it any more. The requester's waker may panic, which is
/// caught.
pub(crate) fn send<R>(caller: OneshotSender<R>, answer: R) -> Option<R> {
    caught(|| caller.send(answer).err()).flatten()
}

/// Makes a user's error of a failure; returns `None` if its `From` panics. The request has no answer then, and its future
/// resolves as that of a request whose actor is gone.
fn error_of<E: From<Failure>>(failure: Failure) -> Option<E> {
    caught(|| E::from(failure))
}

/// Decodes a result. A panic in the user's `Deserialize` becomes an error and does not end the checkout.
fn decode_result<R: DeserializeOwned>(bytes: &[u8], max_depth: u32) -> Result<R, PayloadError> {
    caught(|| frame::decode(bytes, max_depth)).unwrap_or_else(|| {
        Err(PayloadError::Decode {
            type_name: std::any::type_name::<R>(),
            reason: "its Deserialize panicked".to_owned(),
        })
    })
}

/// Returns a user's error as a failure; an error that is a [`Failure`] already is returned unchanged.
fn as_failure<E: 'static>(error: &E, describe: Describe) -> Failure {
    let error: &dyn Any = error;
    if let Some(failure) = error.downcast_ref::<Failure>() {
        return failure.clone();
    }
    // The user's own Display runs here; a panic in it must not end the checkout.
    let described = caught(|| describe(error)).flatten();
    Failure::task(described.unwrap_or_else(|| std::any::type_name::<E>().to_owned()))
}
