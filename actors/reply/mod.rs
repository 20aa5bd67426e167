//! Where the answer to one call goes: typed at the caller's end, bytes at the worker's.

mod batch;
mod slab;

use std::any::Any;
use std::panic::AssertUnwindSafe;
use std::rc::Rc;
use std::task::Context;

use actix::dev::OneshotSender;
use serde::de::DeserializeOwned;

use crate::actors::worker_api::error_text::Describe;
use crate::failure::Failure;
use crate::wire::frame;
use crate::wire::frame::PayloadError;
pub(crate) use batch::{BatchReply, BatchSlots};
pub(crate) use slab::{Reply, ReplyKey, ReplySlab, SingleReply};

/// The answers of calls of one message, each at a place of its own.
pub(crate) trait Slots {
    /// Reads the worker's result and keeps it until [`deliver`](Self::deliver).
    fn decode(&self, key: usize, bytes: &[u8]) -> Result<(), PayloadError>;

    /// Gives the kept result to the caller.
    fn deliver(&self, key: usize);

    /// The `Err` of the kept result as a failure, for those who do not know its type.
    fn own_failure(&self, key: usize, describe: Describe) -> Option<Failure>;

    /// Answers with a failure.
    fn fail(&self, key: usize, failure: Failure);

    /// Whether a caller waits, or waited, for the answer that is still to come.
    fn is_awaited(&self, key: usize) -> bool;

    /// Whether a caller once waited and does so no more.
    fn is_abandoned(&self, key: usize) -> bool;

    /// The same, and wakes the task when that changes.
    fn poll_abandoned(&self, key: usize, cx: &mut Context<'_>) -> bool;

    /// The call is over; its place may be another's.
    fn leave(&self, key: usize);
}

/// The slot of one call: its place among those of its message.
pub(crate) struct Slot {
    slots: Rc<dyn Slots>,
    key: usize,
}

impl Slot {
    pub(crate) fn new(slots: Rc<dyn Slots>, key: usize) -> Self {
        Slot { slots, key }
    }

    pub(crate) fn decode(&self, bytes: &[u8]) -> Result<(), PayloadError> {
        self.slots.decode(self.key, bytes)
    }

    pub(crate) fn deliver(&self) {
        self.slots.deliver(self.key);
    }

    pub(crate) fn own_failure(&self, describe: Describe) -> Option<Failure> {
        self.slots.own_failure(self.key, describe)
    }

    pub(crate) fn fail(&self, failure: Failure) {
        self.slots.fail(self.key, failure);
    }

    pub(crate) fn is_awaited(&self) -> bool {
        self.slots.is_awaited(self.key)
    }

    pub(crate) fn is_abandoned(&self) -> bool {
        self.slots.is_abandoned(self.key)
    }

    pub(crate) fn poll_abandoned(&self, cx: &mut Context<'_>) -> bool {
        self.slots.poll_abandoned(self.key, cx)
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.slots.leave(self.key);
    }
}

/// The caller's end of a call.
enum ReplyTo<R> {
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

impl<R> ReplyTo<R> {
    fn of(caller: Option<OneshotSender<R>>) -> Self {
        caller.map_or(ReplyTo::Nobody, ReplyTo::Awaits)
    }

    fn is_awaited(&self) -> bool {
        matches!(self, ReplyTo::Awaits(_) | ReplyTo::Unknown { awaits: true })
    }

    fn is_abandoned(&self) -> bool {
        matches!(self, ReplyTo::Awaits(caller) if caller.is_closed())
    }

    fn poll_abandoned(&mut self, cx: &mut Context<'_>) -> bool {
        match self {
            ReplyTo::Awaits(caller) => caller.poll_closed(cx).is_ready(),
            ReplyTo::Unknown { .. } | ReplyTo::Nobody | ReplyTo::Done => false,
        }
    }
}

/// Reads a result; a panic of the user's own decoding is an error like any other, and does not take the checkout with it.
fn read<R: DeserializeOwned>(bytes: &[u8]) -> Result<R, PayloadError> {
    let decode = AssertUnwindSafe(|| frame::decode(bytes));
    std::panic::catch_unwind(decode).unwrap_or_else(|_| {
        Err(PayloadError::Decode {
            type_name: std::any::type_name::<R>(),
            reason: "its Deserialize panicked".to_owned(),
        })
    })
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
