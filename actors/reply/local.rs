//! Reply slots of calls whose futures are polled on the thread of the session. The future of a call takes the answer from
//! its slot, so that a call needs neither a channel nor memory of its own: the slots of one message type are reused.

use std::cell::RefCell;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use serde::de::DeserializeOwned;

use super::{CallSlot, ReplySlots, as_failure, decode_result, error_of};
use crate::actors::worker_api::error_text::Describe;
use crate::config::OnCancel;
use crate::failure::Failure;
use crate::user_code::{caught, drop_caught};
use crate::wire::frame::PayloadError;

/// Number of entries up to which the memory is kept while none of them is in use.
const KEPT_ENTRIES: usize = 1024;

/// The reply slots of all calls of one message type.
pub(crate) struct LocalSlots<T, E>(RefCell<Entries<Result<T, E>>>);

struct Entries<R> {
    all: Vec<Entry<R>>,
    free: Vec<usize>,
}

/// One call.
struct Entry<R> {
    answer: Answer<R>,
    /// A result that was decoded and not delivered yet.
    decoded: Option<R>,
    /// Whether the call can still be answered.
    is_open: bool,
}

enum Answer<R> {
    /// The future of the call waits, with this waker once it was polled.
    Awaited(Option<Waker>),
    Ready(R),
    /// There will be no answer: the session has ended, or no error could be made from the failure.
    Missing,
    /// The future has the answer.
    Taken,
    /// The future was dropped without the answer. The requester may have set what becomes of the running call.
    GivenUp(Option<OnCancel>),
}

impl<R> Entry<R> {
    /// Sets the answer; returns the waker of the future, or the answer if the future was dropped.
    fn settle(&mut self, answer: Answer<R>) -> (Option<Waker>, Option<Answer<R>>) {
        match &mut self.answer {
            Answer::Awaited(waker) => {
                let waker = waker.take();
                self.answer = answer;
                (waker, None)
            }
            Answer::Ready(_) | Answer::Missing | Answer::Taken | Answer::GivenUp(_) => (None, Some(answer)),
        }
    }
}

impl<R> Entries<R> {
    /// Frees the entry of a call that is answered and whose future is gone; returns what is to be dropped.
    fn free_if_unused(&mut self, key: usize) -> Option<R> {
        let entry = &mut self.all[key];
        let is_used = entry.is_open || !matches!(entry.answer, Answer::Taken | Answer::GivenUp(_));
        if is_used {
            return None;
        }
        let decoded = entry.decoded.take();
        self.free.push(key);
        if self.free.len() == self.all.len() && self.free.len() > KEPT_ENTRIES {
            self.free = Vec::new();
            self.all = Vec::new();
        }
        decoded
    }
}

impl<T, E> Default for LocalSlots<T, E> {
    fn default() -> Self {
        LocalSlots(RefCell::new(Entries { all: Vec::new(), free: Vec::new() }))
    }
}

impl<T, E> LocalSlots<T, E>
where
    T: DeserializeOwned + 'static,
    E: DeserializeOwned + From<Failure> + 'static,
{
    /// Returns the slot of a new call, and what its future waits with.
    pub(crate) fn slot(self: Rc<Self>) -> (CallSlot, LocalReply<T, E>) {
        let entry = Entry { answer: Answer::Awaited(None), decoded: None, is_open: true };
        let mut entries = self.0.borrow_mut();
        let key = match entries.free.pop() {
            Some(key) => {
                entries.all[key] = entry;
                key
            }
            None => {
                entries.all.push(entry);
                entries.all.len() - 1
            }
        };
        drop(entries);
        (CallSlot::new(self.clone(), key), LocalReply { slots: self, key })
    }
}

impl<T, E> LocalSlots<T, E> {
    fn with<X>(&self, key: usize, look: impl FnOnce(&mut Entry<Result<T, E>>) -> X) -> X {
        look(&mut self.0.borrow_mut().all[key])
    }

    /// Answers a call. Nothing is borrowed while the waker and the destructors of the user run.
    fn settle(&self, key: usize, answer: Answer<Result<T, E>>) {
        let (waker, unheard) = self.with(key, |entry| entry.settle(answer));
        if let Some(waker) = waker {
            caught(|| waker.wake());
        }
        if let Some(Answer::Ready(result)) = unheard {
            drop_caught(result);
        }
    }
}

impl<T, E> ReplySlots for LocalSlots<T, E>
where
    T: DeserializeOwned + 'static,
    E: DeserializeOwned + From<Failure> + 'static,
{
    fn decode(&self, key: usize, bytes: &[u8], max_depth: u32) -> Result<(), PayloadError> {
        let result = decode_result(bytes, max_depth)?;
        let before = self.with(key, |entry| entry.decoded.replace(result));
        drop_caught(before);
        Ok(())
    }

    fn deliver(&self, key: usize) {
        if let Some(result) = self.with(key, |entry| entry.decoded.take()) {
            self.settle(key, Answer::Ready(result));
        }
    }

    fn error_as_failure(&self, key: usize, describe: Describe) -> Option<Failure> {
        let result = self.with(key, |entry| entry.decoded.take());
        let error = result.as_ref().and_then(|result| result.as_ref().err());
        let failure = error.map(|error| as_failure(error, describe));
        self.with(key, |entry| entry.decoded = result);
        failure
    }

    fn fail(&self, key: usize, failure: Failure) {
        let answer = error_of(failure).map_or(Answer::Missing, |error| Answer::Ready(Err(error)));
        self.settle(key, answer);
    }

    fn is_awaited(&self, _: usize) -> bool {
        true
    }

    fn is_abandoned(&self, key: usize) -> bool {
        self.with(key, |entry| matches!(entry.answer, Answer::GivenUp(_)))
    }

    /// The future of the call wakes the session when it is dropped.
    fn poll_abandoned(&self, key: usize, _: &mut Context<'_>) -> bool {
        self.is_abandoned(key)
    }

    fn poll_kill(&self, key: usize, on_cancel: OnCancel, _: &mut Context<'_>) -> bool {
        self.with(key, |entry| match entry.answer {
            Answer::GivenUp(own) => own.unwrap_or(on_cancel) == OnCancel::Kill,
            Answer::Awaited(_) | Answer::Ready(_) | Answer::Missing | Answer::Taken => false,
        })
    }

    fn release(self: Rc<Self>, key: usize) {
        self.settle(key, Answer::Missing);
        let mut entries = self.0.borrow_mut();
        entries.all[key].is_open = false;
        let decoded = entries.free_if_unused(key);
        drop(entries);
        drop_caught(decoded);
    }
}

/// What the future of a call waits with.
pub(crate) struct LocalReply<T, E> {
    slots: Rc<LocalSlots<T, E>>,
    key: usize,
}

impl<T, E> LocalReply<T, E> {
    /// Takes the answer, or `None` if there will be none; registers the task if there is no answer yet.
    pub(crate) fn poll(&self, cx: &mut Context<'_>) -> Poll<Option<Result<T, E>>> {
        let mut before = None;
        let polled = self.slots.with(self.key, |entry| match &mut entry.answer {
            Answer::Awaited(waker) => {
                if !waker.as_ref().is_some_and(|known| known.will_wake(cx.waker())) {
                    before = waker.replace(cx.waker().clone());
                }
                Poll::Pending
            }
            Answer::Missing | Answer::Taken | Answer::GivenUp(_) => Poll::Ready(None),
            Answer::Ready(_) => match std::mem::replace(&mut entry.answer, Answer::Taken) {
                Answer::Ready(result) => Poll::Ready(Some(result)),
                _ => Poll::Ready(None),
            },
        });
        drop_caught(before);
        polled
    }

    /// Returns whether there is an answer, or there will be none.
    pub(crate) fn is_settled(&self) -> bool {
        self.slots.with(self.key, |entry| !matches!(entry.answer, Answer::Awaited(_)))
    }

    /// Gives the call up, which is not settled: by this policy, or by that of the session.
    pub(crate) fn give_up(&self, on_cancel: Option<OnCancel>) {
        let given_up = Answer::GivenUp(on_cancel);
        let before = self.slots.with(self.key, |entry| std::mem::replace(&mut entry.answer, given_up));
        drop_caught(before);
    }
}

impl<T, E> Drop for LocalReply<T, E> {
    fn drop(&mut self) {
        let mut entries = self.slots.0.borrow_mut();
        let entry = &mut entries.all[self.key];
        let left = match entry.answer {
            Answer::Taken | Answer::Missing => Answer::Taken,
            Answer::GivenUp(on_cancel) => Answer::GivenUp(on_cancel),
            Answer::Awaited(_) | Answer::Ready(_) => Answer::GivenUp(None),
        };
        let before = std::mem::replace(&mut entry.answer, left);
        let decoded = entries.free_if_unused(self.key);
        drop(entries);
        drop_caught((before, decoded));
    }
}
