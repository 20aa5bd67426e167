//! Reply slots of single calls. A checkout keeps the slots of each message type in a slab and reuses them, so that
//! a call allocates no memory for its slot.

use std::cell::RefCell;
use std::rc::Rc;
use std::task::Context;

use actix::dev::{MessageResponse, OneshotSender};
use actix::{Actor, Message};
use serde::de::DeserializeOwned;

use super::{ReplySlot, ReplySlots, ReplyTo, as_failure, decode_result, error_of, send};
use crate::actors::worker_api::error_text::Describe;
use crate::failure::Failure;
use crate::user_code::drop_caught;
use crate::wire::frame::PayloadError;

/// Number of entries up to which a slab keeps its memory while none of them is in use.
const KEPT_ENTRIES: usize = 1024;

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

/// Storage of entries: one entry, or a slab of them.
trait EntryStore {
    type Value;
    type Error;

    fn with<X>(
        &self,
        key: usize,
        look: impl FnOnce(&mut ReplyEntry<Result<Self::Value, Self::Error>>) -> X,
    ) -> X;

    fn release_entry(&self, key: usize);
}

impl<S: EntryStore> ReplySlots for S
where
    S::Value: DeserializeOwned,
    S::Error: DeserializeOwned + From<Failure> + 'static,
{
    fn decode(&self, key: usize, bytes: &[u8], max_depth: u32) -> Result<(), PayloadError> {
        let result = decode_result(bytes, max_depth)?;
        let before = self.with(key, |entry| entry.result.replace(result));
        drop_caught(before);
        Ok(())
    }

    fn deliver(&self, key: usize) {
        send_reply(self.with(key, ReplyEntry::deliver));
    }

    fn error_as_failure(&self, key: usize, describe: Describe) -> Option<Failure> {
        let result = self.with(key, |entry| entry.result.take());
        let error = result.as_ref().and_then(|result| result.as_ref().err());
        let failure = error.map(|error| as_failure(error, describe));
        self.with(key, |entry| entry.result = result);
        failure
    }

    fn fail(&self, key: usize, failure: Failure) {
        send_reply(match error_of(failure) {
            Some(error) => self.with(key, |entry| entry.answer(Err(error))),
            None => (self.with(key, ReplyEntry::give_up), None),
        });
    }

    fn is_awaited(&self, key: usize) -> bool {
        self.with(key, |entry| entry.caller.is_awaited())
    }

    fn is_abandoned(&self, key: usize) -> bool {
        self.with(key, |entry| entry.caller.is_abandoned())
    }

    fn poll_abandoned(&self, key: usize, cx: &mut Context<'_>) -> bool {
        self.with(key, |entry| entry.caller.poll_abandoned(cx))
    }

    fn release(&self, key: usize) {
        self.release_entry(key);
    }
}

/// The reply slot of a single call whose caller is known.
pub(crate) struct SingleReply<T, E>(RefCell<ReplyEntry<Result<T, E>>>);

impl<T, E> SingleReply<T, E>
where
    T: DeserializeOwned + 'static,
    E: DeserializeOwned + From<Failure> + 'static,
{
    pub(crate) fn answering(caller: Option<OneshotSender<Result<T, E>>>) -> ReplySlot {
        let entry = ReplyEntry { caller: ReplyTo::of(caller), result: None };
        ReplySlot::new(Rc::new(SingleReply(RefCell::new(entry))), 0)
    }
}

impl<T, E> EntryStore for SingleReply<T, E> {
    type Value = T;
    type Error = E;

    fn with<X>(&self, _: usize, look: impl FnOnce(&mut ReplyEntry<Result<T, E>>) -> X) -> X {
        look(&mut self.0.borrow_mut())
    }

    fn release_entry(&self, _: usize) {}
}

/// The reply slots of all calls of one message type.
pub(crate) struct ReplySlab<T, E> {
    entries: RefCell<Vec<SlabEntry<Result<T, E>>>>,
    free: RefCell<Vec<usize>>,
}

struct SlabEntry<R> {
    entry: ReplyEntry<R>,
    /// Number of holders of the key: the [`ReplySlot`] of the call and the [`ReplyKey`] of the message's reply.
    holders: u8,
}

impl<T, E> Default for ReplySlab<T, E> {
    fn default() -> Self {
        ReplySlab { entries: RefCell::default(), free: RefCell::default() }
    }
}

impl<T, E> ReplySlab<T, E>
where
    T: DeserializeOwned + 'static,
    E: DeserializeOwned + From<Failure> + 'static,
{
    /// Returns a slot whose caller is set through the [`ReplyKey`]; `awaits` tells whether there will be one.
    pub(crate) fn slot(self: Rc<Self>, awaits: bool) -> (ReplySlot, ReplyKey<Result<T, E>>) {
        let entry = ReplyEntry { caller: ReplyTo::Unknown { awaits }, result: None };
        let slab_entry = SlabEntry { entry, holders: 2 };
        let mut entries = self.entries.borrow_mut();
        let key = match self.free.borrow_mut().pop() {
            Some(key) => {
                entries[key] = slab_entry;
                key
            }
            None => {
                entries.push(slab_entry);
                entries.len() - 1
            }
        };
        drop(entries);
        (ReplySlot::new(self.clone(), key), ReplyKey { slab: self, key })
    }
}

impl<T, E> ReplySlab<T, E> {
    /// Drops one of the two holders of a key; the entry is free for another call after the second.
    fn release_holder(&self, key: usize) {
        let mut entries = self.entries.borrow_mut();
        let slab_entry = &mut entries[key];
        slab_entry.holders -= 1;
        if slab_entry.holders > 0 {
            return;
        }
        let left =
            std::mem::replace(&mut slab_entry.entry, ReplyEntry { caller: ReplyTo::Answered, result: None });
        let mut free = self.free.borrow_mut();
        free.push(key);
        if free.len() == entries.len() && free.len() > KEPT_ENTRIES {
            *free = Vec::new();
            *entries = Vec::new();
        }
        drop((free, entries));
        drop_caught(left);
    }
}

impl<T, E> EntryStore for ReplySlab<T, E> {
    type Value = T;
    type Error = E;

    fn with<X>(&self, key: usize, look: impl FnOnce(&mut ReplyEntry<Result<T, E>>) -> X) -> X {
        look(&mut self.entries.borrow_mut()[key].entry)
    }

    fn release_entry(&self, key: usize) {
        self.release_holder(key);
    }
}

/// A slab whose result types are erased, so that the caller of an entry can be set.
trait SlabHandle<R> {
    fn set_caller(&self, key: usize, caller: Option<OneshotSender<R>>);

    fn release_key(&self, key: usize);
}

impl<T, E> SlabHandle<Result<T, E>> for ReplySlab<T, E> {
    fn set_caller(&self, key: usize, caller: Option<OneshotSender<Result<T, E>>>) {
        send_reply(self.with(key, |entry| {
            entry.caller = ReplyTo::of(caller);
            // The call may have been answered while its message was handled; the answer is sent only now that the
            // caller is known.
            entry.deliver()
        }));
    }

    fn release_key(&self, key: usize) {
        self.release_holder(key);
    }
}

/// The key of an entry in a slab, held until the caller is known.
pub(crate) struct ReplyKey<R> {
    slab: Rc<dyn SlabHandle<R>>,
    key: usize,
}

impl<R> Drop for ReplyKey<R> {
    fn drop(&mut self) {
        self.slab.release_key(self.key);
    }
}

/// What a checkout's handler returns: the promise that the slot is answered.
pub struct Reply<M: Message>(pub(crate) ReplyKey<M::Result>);

impl<M: Message> std::fmt::Debug for Reply<M> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Reply")
    }
}

impl<A: Actor, M: Message> MessageResponse<A, M> for Reply<M> {
    fn handle(self, _: &mut A::Context, caller: Option<OneshotSender<M::Result>>) {
        self.0.slab.set_caller(self.0.key, caller);
    }
}
