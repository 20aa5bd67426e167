//! Reply slots of single calls. A checkout keeps the slots of each message type that are free, and uses them again, so
//! that a call allocates no memory for its slot.

use std::cell::RefCell;
use std::num::NonZeroUsize;
use std::rc::{Rc, Weak};
use std::task::Context;

use actix::dev::{MessageResponse, OneshotSender};
use actix::{Actor, Message};
use serde::de::DeserializeOwned;

use super::{CallSlot, ReplySlots, ReplyTo, as_failure, decode_result, error_of, send};
use crate::actors::worker_api::error_text::Describe;
use crate::config::OnCancel;
use crate::failure::Failure;
use crate::user_code::drop_caught;
use crate::wire::frame::PayloadError;

/// Number of free slots that are kept for one message type.
const KEPT_SLOTS: usize = 1024;

/// The caller and the result of one call.
struct ReplyEntry<R> {
    caller: ReplyTo<R>,
    result: Option<R>,
}

/// A reply to be sent once nothing is borrowed, because wakers and destructors run foreign code.
type UnsentReply<R> = (Option<OneshotSender<R>>, Option<R>);

fn send_reply<R>((caller, result): UnsentReply<R>) {
    // A caller that is gone is not an error here; the session counts those before, with `is_abandoned`.
    drop_caught(match (caller, result) {
        (Some(caller), Some(result)) => send(caller, result),
        (_, result) => result,
    });
}

impl<R> ReplyEntry<R> {
    fn new(caller: ReplyTo<R>) -> Self {
        ReplyEntry { caller, result: None }
    }

    fn answer(&mut self, result: R) -> UnsentReply<R> {
        match std::mem::replace(&mut self.caller, ReplyTo::Answered) {
            ReplyTo::Awaiting(caller) => (Some(caller), Some(result)),
            ReplyTo::NotAwaited | ReplyTo::Answered => (None, Some(result)),
            unknown @ ReplyTo::Unknown { .. } => {
                self.caller = unknown;
                self.result = Some(result);
                (None, None)
            }
        }
    }

    /// Takes the caller, who gets no answer.
    fn give_up(&mut self) -> Option<OneshotSender<R>> {
        match std::mem::replace(&mut self.caller, ReplyTo::Answered) {
            ReplyTo::Awaiting(caller) => Some(caller),
            ReplyTo::Unknown { .. } | ReplyTo::NotAwaited | ReplyTo::Answered => None,
        }
    }

    fn deliver(&mut self) -> UnsentReply<R> {
        self.result.take().map_or((None, None), |result| self.answer(result))
    }
}

/// The reply slot of one call with this result.
pub(crate) struct ReplySlot<R> {
    entry: RefCell<ReplyEntry<R>>,
    /// Where the slot goes when its call is over.
    home: Weak<FreeSlots<R>>,
}

impl<R> ReplySlot<R> {
    fn with<X>(&self, look: impl FnOnce(&mut ReplyEntry<R>) -> X) -> X {
        look(&mut self.entry.borrow_mut())
    }

    /// Clears a slot whose last holder lets go of it, and keeps it for another call. `holders` is the number of
    /// references that the last holder has.
    fn recycle(self: &Rc<Self>, holders: usize) {
        if Rc::strong_count(self) > holders {
            return;
        }
        let left = self.entry.replace(ReplyEntry::new(ReplyTo::Answered));
        if let Some(home) = self.home.upgrade() {
            home.keep(self.clone());
        }
        drop_caught(left);
    }
}

impl<T, E> ReplySlot<Result<T, E>>
where
    T: DeserializeOwned + 'static,
    E: DeserializeOwned + From<Failure> + 'static,
{
    /// Returns the slot of a single call to a pool, whose caller is known, and the number of its request if it has one.
    pub(crate) fn answering(
        caller: Option<OneshotSender<Result<T, E>>>,
        request: Option<NonZeroUsize>,
    ) -> CallSlot {
        let entry = RefCell::new(ReplyEntry::new(ReplyTo::of(caller)));
        // The slot has one call and needs no key.
        let key = request.map_or(0, NonZeroUsize::get);
        CallSlot::new(Rc::new(ReplySlot { entry, home: Weak::new() }), key)
    }
}

impl<T, E> ReplySlots for ReplySlot<Result<T, E>>
where
    T: DeserializeOwned + 'static,
    E: DeserializeOwned + From<Failure> + 'static,
{
    fn decode(&self, _: usize, bytes: &[u8], max_depth: u32) -> Result<(), PayloadError> {
        let result = decode_result(bytes, max_depth)?;
        let before = self.with(|entry| entry.result.replace(result));
        drop_caught(before);
        Ok(())
    }

    fn deliver(&self, _: usize) {
        send_reply(self.with(ReplyEntry::deliver));
    }

    fn error_as_failure(&self, _: usize, describe: Describe) -> Option<Failure> {
        let result = self.with(|entry| entry.result.take());
        let error = result.as_ref().and_then(|result| result.as_ref().err());
        let failure = error.map(|error| as_failure(error, describe));
        self.with(|entry| entry.result = result);
        failure
    }

    fn fail(&self, _: usize, failure: Failure) {
        send_reply(match error_of(failure) {
            Some(error) => self.with(|entry| entry.answer(Err(error))),
            None => (self.with(ReplyEntry::give_up), None),
        });
    }

    fn is_awaited(&self, _: usize) -> bool {
        self.with(|entry| entry.caller.is_awaited())
    }

    fn is_abandoned(&self, _: usize) -> bool {
        self.with(|entry| entry.caller.is_abandoned())
    }

    fn poll_abandoned(&self, _: usize, cx: &mut Context<'_>) -> bool {
        self.with(|entry| entry.caller.poll_abandoned(cx))
    }

    fn poll_kill(&self, _: usize, on_cancel: OnCancel, cx: &mut Context<'_>) -> bool {
        on_cancel == OnCancel::Kill && self.poll_abandoned(0, cx)
    }

    fn release(self: Rc<Self>, _: usize) {
        // The holder that lets go has the other reference.
        self.recycle(2);
    }
}

/// The free reply slots of all calls with this result in one checkout.
pub(crate) struct FreeSlots<R>(RefCell<Vec<Rc<ReplySlot<R>>>>);

impl<R> Default for FreeSlots<R> {
    fn default() -> Self {
        FreeSlots(RefCell::default())
    }
}

impl<R> FreeSlots<R> {
    fn keep(&self, slot: Rc<ReplySlot<R>>) {
        let mut free = self.0.borrow_mut();
        if free.len() < KEPT_SLOTS {
            free.push(slot);
        }
    }
}

impl<T, E> FreeSlots<Result<T, E>>
where
    T: DeserializeOwned + 'static,
    E: DeserializeOwned + From<Failure> + 'static,
{
    /// Returns a slot whose caller is set through the [`Reply`]; `awaits` tells whether there will be one.
    pub(crate) fn take(self: &Rc<Self>, awaits: bool) -> (CallSlot, Reply<Result<T, E>>) {
        let entry = ReplyEntry::new(ReplyTo::Unknown { awaits });
        let free = self.0.borrow_mut().pop();
        let slot = match free {
            Some(slot) => {
                slot.entry.replace(entry);
                slot
            }
            None => Rc::new(ReplySlot { entry: RefCell::new(entry), home: Rc::downgrade(self) }),
        };
        (CallSlot::new(slot.clone(), 0), Reply(slot))
    }
}

/// What a checkout's handler returns: the promise that the slot is answered.
pub struct Reply<R>(Rc<ReplySlot<R>>);

impl<R> Drop for Reply<R> {
    fn drop(&mut self) {
        self.0.recycle(1);
    }
}

impl<R> std::fmt::Debug for Reply<R> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Reply")
    }
}

impl<A: Actor, M: Message> MessageResponse<A, M> for Reply<M::Result> {
    fn handle(self, _: &mut A::Context, caller: Option<OneshotSender<M::Result>>) {
        send_reply(self.0.with(|entry| {
            entry.caller = ReplyTo::of(caller);
            // The call may have been answered while its message was handled; the answer is sent only now that the
            // caller is known.
            entry.deliver()
        }));
    }
}
