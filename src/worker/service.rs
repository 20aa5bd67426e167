//! What the worker's loop knows of the user's code.

use std::any::{Any, TypeId};
use std::collections::HashMap;
use std::time::Instant;

use crate::blob;
use crate::blob::{Blob, PendingLoan};
use crate::failure::SetupError;
use crate::wire::baggage;
use crate::wire::call::{FromWorker, Outcome, ReplyHeader};
use crate::wire::control::Signature;
use crate::wire::frame;
use crate::wire::frame::PayloadError;

/// The user's code, as the worker's loop runs it.
pub trait Service {
    /// Runs one call and says its reply.
    fn call(&mut self, call: Incoming<'_>, reply: Replying<'_>);

    /// Runs after every release.
    fn checkout_done(&mut self);

    /// Whether the worker asked to be replaced.
    fn wants_replacement(&self) -> bool;
}

/// One call as it arrives.
#[derive(Debug)]
pub struct Incoming<'a> {
    /// The call's number within its checkout.
    pub id: u64,
    /// Place of the message in the interface.
    pub method: u32,
    /// The encoded message.
    pub payload: &'a [u8],
    /// What its caller's context sends along, for [`baggage`](Self::baggage).
    pub baggage: &'a [u8],
    /// When the caller stops waiting; `None` is never.
    pub deadline: Option<Instant>,
    /// What the blobs among the message are, in the order of their numbers.
    pub(super) blobs: &'a [Blob],
}

impl Incoming<'_> {
    /// The message, which must fill the payload exactly.
    ///
    /// # Errors
    ///
    /// [`PayloadError`] with the name of the type; [`Replying::undecodable`] tells the caller.
    pub fn decode<M: serde::de::DeserializeOwned>(&self) -> Result<M, PayloadError> {
        blob::receive(self.blobs.to_vec(), || frame::decode(self.payload))
    }

    /// The value of this type among the baggage; `None` where there is none, or where it cannot be decoded.
    pub fn baggage<T: serde::de::DeserializeOwned>(&self) -> Option<T> {
        baggage::read(self.baggage)
    }
}

/// Where the reply to one call is said, once.
#[derive(Debug)]
pub struct Replying<'a> {
    pub(super) out: &'a mut Vec<u8>,
    pub(super) id: u64,
    pub(super) max_payload: usize,
    /// What the blobs of the reply became.
    pub(super) lent: &'a mut Vec<PendingLoan>,
    /// Whether what was said counts as an error of the checkout.
    pub(super) error: &'a mut bool,
}

impl Replying<'_> {
    /// Says the handler's result. `keep` and `stop` are what the handler asked for.
    pub fn result<T, E>(self, result: &Result<T, E>, keep: bool, stop: bool)
    where
        Result<T, E>: serde::Serialize,
    {
        let error = result.is_err();
        *self.error = error;
        let outcome = if error { Outcome::Failed } else { Outcome::Done };
        let header = FromWorker::Reply(ReplyHeader { id: self.id, outcome, keep, stop });
        let limit = self.max_payload;
        let said = frame::append_with(self.out, &header, |out| {
            blob::encode(out, Some(blob::lend), |out| frame::encode(out, result, limit))
        });
        match said {
            Ok(lent) => *self.lent = lent,
            Err(problem) => self.unable(&problem, error, keep, stop),
        }
    }

    /// Says that the message could not be decoded.
    pub fn undecodable(self, problem: &PayloadError) {
        self.unable(problem, false, false, false);
    }

    /// Says that the interface has no such method.
    pub fn unknown_method(self, method: u32) {
        let text = format!("the worker's interface has no method {method}");
        let outcome = Outcome::Payload { text, error: false };
        self.say(outcome, false, false);
    }

    fn unable(self, problem: &PayloadError, error: bool, keep: bool, stop: bool) {
        let text = frame::cut(problem.to_string(), frame::LONGEST_TEXT);
        let outcome = Outcome::Payload { text, error };
        self.say(outcome, keep, stop);
    }

    fn say(self, outcome: Outcome, keep: bool, stop: bool) {
        frame::append(self.out, &FromWorker::Reply(ReplyHeader { id: self.id, outcome, keep, stop }));
    }
}

/// What a preload made, shared copy-on-write by all workers of the pool: one value of each type.
#[derive(Default)]
pub struct Preload {
    values: HashMap<TypeId, Box<dyn Any>>,
}

impl Preload {
    /// Keeps a value for the workers; one of the same type is replaced.
    pub fn put<T: 'static>(&mut self, value: T) {
        self.values.insert(TypeId::of::<T>(), Box::new(value));
    }

    /// The value of this type, if there is one.
    pub fn get<T: 'static>(&self) -> Option<&T> {
        self.values.get(&TypeId::of::<T>())?.downcast_ref()
    }
}

impl std::fmt::Debug for Preload {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Preload({} values)", self.values.len())
    }
}

/// Makes one worker of an encoded configuration and what the preload left.
pub type Setup = fn(&[u8], &'static Preload) -> Result<Box<dyn Service>, SetupError>;

/// Everything a fork server needs to make workers of one type.
#[derive(Clone, Copy, Debug)]
pub struct Program {
    /// The worker's type.
    pub type_name: fn() -> &'static str,
    /// A number that differs between types and is the same in every process of this program.
    pub identity: fn() -> u64,
    /// A number that changes with the interface, between builds of one program.
    pub fingerprint: fn() -> u64,
    /// The messages of the interface, the same in every program that has the same.
    pub interface: fn() -> Vec<Signature>,
    /// Runs once in the fork server, with the encoded configuration.
    pub preload: fn(&[u8], &mut Preload) -> Result<(), SetupError>,
    /// Makes one worker, with the encoded configuration.
    pub setup: Setup,
}
