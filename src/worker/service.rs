//! What the call loop knows of the user's code.

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
use crate::wire::frame::{Limits, PayloadError};

/// The user's code, as the call loop runs it.
pub trait Service {
    /// Runs one call and appends its reply to `reply`.
    ///
    /// A panic fails the call with the panic's message and ends the worker.
    fn call(&mut self, call: Incoming<'_>, reply: Replying<'_>);

    /// Runs at the end of every checkout, unless the worker is to be replaced. A panic ends the worker.
    fn checkout_done(&mut self);

    /// Returns whether the worker has asked to be replaced at the end of its checkout.
    fn wants_replacement(&self) -> bool;
}

/// One call as it arrives.
#[derive(Debug)]
pub struct Incoming<'a> {
    /// The call's number within its checkout, from 1.
    pub id: u64,
    /// The position of the message in the interface, from 0.
    pub method: u32,
    /// The encoded message.
    pub payload: &'a [u8],
    /// The encoded baggage of the caller's context; [`baggage`](Self::baggage) reads it.
    pub baggage: &'a [u8],
    /// When the host kills this worker if the call still runs; `None` if it has no time limit.
    pub deadline: Option<Instant>,
    /// The blobs in the message, in the order of their numbers.
    pub(super) blobs: &'a [Blob],
    /// How deep the message may be nested.
    pub(super) max_depth: u32,
}

impl Incoming<'_> {
    /// Decodes the message, which must fill the payload exactly.
    ///
    /// # Errors
    ///
    /// [`PayloadError::Decode`], [`PayloadError::TooDeep`], [`PayloadError::TooManyElements`] or
    /// [`PayloadError::BytesLeft`], with the name of the type. The call is not answered yet; [`Replying::undecodable`] reports the error to the caller.
    pub fn decode<M: serde::de::DeserializeOwned>(&self) -> Result<M, PayloadError> {
        blob::decode_with(self.blobs.to_vec(), || frame::decode(self.payload, self.max_depth))
    }

    /// Decodes the baggage value of type `T`. Returns `None` if the caller has set none, or if it cannot be decoded.
    pub fn baggage<T: serde::de::DeserializeOwned>(&self) -> Option<T> {
        baggage::read(self.baggage)
    }
}

/// The destination of the reply to one call. Each method consumes it, so a call is answered at most once.
#[derive(Debug)]
pub struct Replying<'a> {
    pub(super) out: &'a mut Vec<u8>,
    pub(super) id: u64,
    pub(super) limits: Limits,
    /// The blobs of the reply that are lent to the host.
    pub(super) lent: &'a mut Vec<PendingLoan>,
    /// Set if the reply counts as an error of the checkout.
    pub(super) error: &'a mut bool,
}

impl Replying<'_> {
    /// Appends the handler's result. `keep`: the worker is kept even if the result is an error. `stop`: the worker
    /// has asked to be replaced at the end of its checkout.
    ///
    /// If the result cannot be encoded or exceeds `max_payload` or `max_depth`, the reply reports a [`PayloadError`] instead, and
    /// the call fails with `Payload`.
    pub fn result<T, E>(self, result: &Result<T, E>, keep: bool, stop: bool)
    where
        Result<T, E>: serde::Serialize,
    {
        let error = result.is_err();
        *self.error = error;
        let outcome = if error { Outcome::Failed } else { Outcome::Done };
        let header = FromWorker::Reply(ReplyHeader { id: self.id, outcome, keep, stop });
        let limits = self.limits;
        let appended = frame::append_with(self.out, &header, |out| {
            blob::encode(out, Some(blob::lend), |out| frame::encode(out, result, limits))
        });
        match appended {
            Ok(lent) => *self.lent = lent,
            Err(problem) => self.append_payload_error(&problem, error, keep, stop),
        }
    }

    /// Reports that the message could not be decoded; the call fails with `Payload`.
    pub fn undecodable(self, problem: &PayloadError) {
        self.append_payload_error(problem, false, false, false);
    }

    /// Reports that the interface has no such method; the call fails with `Payload`.
    pub fn unknown_method(self, method: u32) {
        let text = format!("the worker's interface has no method {method}");
        let outcome = Outcome::Payload { text, error: false };
        self.append(outcome, false, false);
    }

    fn append_payload_error(self, problem: &PayloadError, error: bool, keep: bool, stop: bool) {
        let text = frame::cut(problem.to_string(), frame::MAX_TEXT);
        let outcome = Outcome::Payload { text, error };
        self.append(outcome, keep, stop);
    }

    fn append(self, outcome: Outcome, keep: bool, stop: bool) {
        frame::append(self.out, &FromWorker::Reply(ReplyHeader { id: self.id, outcome, keep, stop }));
    }
}

/// What a preload has made: at most one value of each type, shared copy-on-write by all workers of the server.
#[derive(Default)]
pub struct Preload {
    values: HashMap<TypeId, Box<dyn Any>>,
}

impl Preload {
    /// Stores a value for the workers; replaces a value of the same type.
    pub fn put<T: 'static>(&mut self, value: T) {
        self.values.insert(TypeId::of::<T>(), Box::new(value));
    }

    /// Returns the value of type `T`, or `None` if the preload has stored none.
    pub fn get<T: 'static>(&self) -> Option<&T> {
        self.values.get(&TypeId::of::<T>())?.downcast_ref()
    }
}

impl std::fmt::Debug for Preload {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Preload({} values)", self.values.len())
    }
}

/// Makes one worker from the encoded configuration and the values of the preload.
pub type Setup = fn(&[u8], &'static Preload) -> Result<Box<dyn Service>, SetupError>;

/// Everything that a fork server needs to make workers of one type.
#[derive(Clone, Copy, Debug)]
pub struct Program {
    /// Returns the name of the worker's type.
    pub type_name: fn() -> &'static str,
    /// Returns a number that identifies the type in every process of this program.
    pub identity: fn() -> u64,
    /// Returns a number that identifies the interface; it changes when a message or a result changes, between builds
    /// of one program.
    pub fingerprint: fn() -> u64,
    /// Returns the signatures of the messages, in order. Programs with the same interface have the same signatures.
    pub interface: fn() -> Vec<Signature>,
    /// Runs once in the fork server, with the encoded configuration, before the first fork. An error ends the server.
    pub preload: fn(&[u8], &mut Preload) -> Result<(), SetupError>,
    /// Makes one worker, in the worker's process. An error ends that process.
    pub setup: Setup,
}
