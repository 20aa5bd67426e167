//! Slots of single calls. A checkout keeps those of one message on a shelf and uses them again, so that a call costs no
//! memory of its own.

use std::cell::RefCell;
use std::rc::Rc;
use std::task::Context;

use actix::dev::{MessageResponse, OneshotSender};
use actix::{Actor, Message};
use serde::de::DeserializeOwned;

use super::{ReplyTo, Slot, Slots, as_failure, read};
use crate::actors::worker_api::error_text::Describe;
use crate::failure::Failure;
use crate::wire::frame::PayloadError;

/// Slots that are kept for the next calls although none is in use.
const KEPT: usize = 1024;

/// One slot.
struct Entry<R> {
    caller: ReplyTo<R>,
    result: Option<R>,
}

/// What is to be done with a result, once nothing is borrowed: wakers and drops are other people's code.
type Delivery<R> = (Option<OneshotSender<R>>, Option<R>);

fn make<R>((caller, result): Delivery<R>) {
    if let (Some(caller), Some(result)) = (caller, result) {
        // A caller that has gone is no failure of ours; whoever counts it asked is_abandoned before.
        drop(caller.send(result));
    }
}

impl<R> Entry<R> {
    fn answer(&mut self, result: R) -> Delivery<R> {
        match std::mem::replace(&mut self.caller, ReplyTo::Done) {
            ReplyTo::Awaits(caller) => (Some(caller), Some(result)),
            ReplyTo::Nobody | ReplyTo::Done => (None, Some(result)),
            unknown @ ReplyTo::Unknown { .. } => {
                self.caller = unknown;
                self.result = Some(result);
                (None, None)
            }
        }
    }

    fn deliver(&mut self) -> Delivery<R> {
        self.result.take().map_or((None, None), |result| self.answer(result))
    }
}

/// Entries, however they are kept.
trait EntryStore {
    type Value;
    type Error;

    fn with<X>(&self, key: usize, look: impl FnOnce(&mut Entry<Result<Self::Value, Self::Error>>) -> X) -> X;

    fn is_left(&self, key: usize);
}

impl<S: EntryStore> Slots for S
where
    S::Value: DeserializeOwned,
    S::Error: DeserializeOwned + From<Failure> + 'static,
{
    fn decode(&self, key: usize, bytes: &[u8]) -> Result<(), PayloadError> {
        let result = read(bytes)?;
        let before = self.with(key, |entry| entry.result.replace(result));
        drop(before);
        Ok(())
    }

    fn deliver(&self, key: usize) {
        make(self.with(key, Entry::deliver));
    }

    fn own_failure(&self, key: usize, describe: Describe) -> Option<Failure> {
        let result = self.with(key, |entry| entry.result.take());
        let error = result.as_ref().and_then(|result| result.as_ref().err());
        let failure = error.map(|error| as_failure(error, describe));
        self.with(key, |entry| entry.result = result);
        failure
    }

    fn fail(&self, key: usize, failure: Failure) {
        let result = Err(S::Error::from(failure));
        make(self.with(key, |entry| entry.answer(result)));
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

    fn leave(&self, key: usize) {
        self.is_left(key);
    }
}

/// The slot of one call, whose caller is known.
pub(crate) struct SingleReply<T, E>(RefCell<Entry<Result<T, E>>>);

impl<T, E> SingleReply<T, E>
where
    T: DeserializeOwned + 'static,
    E: DeserializeOwned + From<Failure> + 'static,
{
    pub(crate) fn answering(caller: Option<OneshotSender<Result<T, E>>>) -> Slot {
        let entry = Entry { caller: ReplyTo::of(caller), result: None };
        Slot::new(Rc::new(SingleReply(RefCell::new(entry))), 0)
    }
}

impl<T, E> EntryStore for SingleReply<T, E> {
    type Value = T;
    type Error = E;

    fn with<X>(&self, _: usize, look: impl FnOnce(&mut Entry<Result<T, E>>) -> X) -> X {
        look(&mut self.0.borrow_mut())
    }

    fn is_left(&self, _: usize) {}
}

/// The slots of one message's calls.
pub(crate) struct ReplySlab<T, E> {
    entries: RefCell<Vec<SlabEntry<Result<T, E>>>>,
    free: RefCell<Vec<usize>>,
}

struct SlabEntry<R> {
    entry: Entry<R>,
    /// The call and the reply to its message both know the place.
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
    /// A slot whose caller is told by the [`ReplyKey`]; whether there will be one is known.
    pub(crate) fn slot(self: Rc<Self>, awaits: bool) -> (Slot, ReplyKey<Result<T, E>>) {
        let entry = Entry { caller: ReplyTo::Unknown { awaits }, result: None };
        let shelved = SlabEntry { entry, holders: 2 };
        let mut entries = self.entries.borrow_mut();
        let key = match self.free.borrow_mut().pop() {
            Some(key) => {
                entries[key] = shelved;
                key
            }
            None => {
                entries.push(shelved);
                entries.len() - 1
            }
        };
        drop(entries);
        (Slot::new(self.clone(), key), ReplyKey { slab: self, key })
    }
}

impl<T, E> ReplySlab<T, E> {
    /// One of the two who know the place does so no more.
    fn let_go(&self, key: usize) {
        let mut entries = self.entries.borrow_mut();
        let shelved = &mut entries[key];
        shelved.holders -= 1;
        if shelved.holders > 0 {
            return;
        }
        let left = std::mem::replace(&mut shelved.entry, Entry { caller: ReplyTo::Done, result: None });
        let mut free = self.free.borrow_mut();
        free.push(key);
        if free.len() == entries.len() && free.len() > KEPT {
            *free = Vec::new();
            *entries = Vec::new();
        }
        drop((free, entries));
        drop(left);
    }
}

impl<T, E> EntryStore for ReplySlab<T, E> {
    type Value = T;
    type Error = E;

    fn with<X>(&self, key: usize, look: impl FnOnce(&mut Entry<Result<T, E>>) -> X) -> X {
        look(&mut self.entries.borrow_mut()[key].entry)
    }

    fn is_left(&self, key: usize) {
        self.let_go(key);
    }
}

/// Who is told of the caller of a message, whatever the types of its result.
trait ReplySink<R> {
    fn set_caller(&self, key: usize, caller: Option<OneshotSender<R>>);

    fn let_go(&self, key: usize);
}

impl<T, E> ReplySink<Result<T, E>> for ReplySlab<T, E> {
    fn set_caller(&self, key: usize, caller: Option<OneshotSender<Result<T, E>>>) {
        make(self.with(key, |entry| {
            entry.caller = ReplyTo::of(caller);
            // It may have been answered while the message was handled: nothing is, before the caller is known.
            entry.deliver()
        }));
    }

    fn let_go(&self, key: usize) {
        ReplySlab::let_go(self, key);
    }
}

/// A place on a shelf, for whoever will know the caller.
pub(crate) struct ReplyKey<R> {
    slab: Rc<dyn ReplySink<R>>,
    key: usize,
}

impl<R> Drop for ReplyKey<R> {
    fn drop(&mut self) {
        self.slab.let_go(self.key);
    }
}

/// What a proxy's handler returns: the promise that the slot will be answered.
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
