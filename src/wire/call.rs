//! The conversation between host and worker.
//!
//! The worker speaks first: [`FromWorker::Ready`], or why it could not be set up. Then the host sends calls,
//! ahead of their replies if it likes, and a release at the end of every checkout; the worker answers each in
//! order. Every number is checked by the host: a worker is not trusted.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::frame;
use super::frame::FrameError;
use super::log_record::Logged;
use crate::failure::{PanicReport, SetupError};

/// What the host says. A call's baggage and its payload stand behind its header.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum ToWorker {
    Call(CallHeader),
    /// The checkout is over: run `checkout_done`, then answer [`FromWorker::Released`].
    Release,
    /// What the next call's blobs are, in the order of their numbers.
    Lent(Vec<ArenaSpan>),
}

/// The header of one call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct CallHeader {
    /// Repeated by its reply.
    pub(crate) id: u64,
    /// Place of the message in the worker's interface.
    pub(crate) method: u32,
    /// Errors of this checkout that its requester had seen when it sent this call. The worker clears a call
    /// that had seen fewer than there were: it was written before the error was known.
    pub(crate) errors_seen: u32,
    /// Whether the checkout ends with this call, which saves a [`ToWorker::Release`].
    pub(crate) last: bool,
    /// What is left of the call's clock when it starts to run.
    pub(crate) limit: Option<Duration>,
    /// Bytes of baggage in front of the message.
    pub(crate) baggage: u32,
    /// What is worth recording of what its handler logs: the highest [`level`](super::log_record::level); 0 is nothing.
    pub(crate) verbosity: u8,
}

impl CallHeader {
    /// Splits what stands behind this header into baggage and message.
    ///
    /// # Errors
    ///
    /// [`FrameError::Baggage`] where the header promises more than there is.
    pub(crate) fn split<'a>(&self, payload: &'a [u8]) -> Result<(&'a [u8], &'a [u8]), FrameError> {
        let baggage = usize::try_from(self.baggage).unwrap_or(usize::MAX);
        payload.split_at_checked(baggage).ok_or(FrameError::Baggage { baggage, payload: payload.len() })
    }
}

/// What the worker says. A reply's payload stands behind its header.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum FromWorker {
    Ready(Ready),
    SetupFailed(SetupReport),
    Reply(ReplyHeader),
    Released(Released),
    /// In the middle of a call, before its reply.
    Logged(Logged),
    /// Before a reply that has to do with it, or a release.
    Lent(Lending),
}

/// Bytes in an arena.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ArenaSpan {
    pub(crate) start: u64,
    pub(crate) length: u64,
}

/// What a worker lends and what it has been lent.
#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Lending {
    /// What the next reply's blobs are, in the order of their numbers.
    pub(crate) lent: Vec<Lent>,
    /// Where all those begin that the host has lent and that are in use beyond the call they came with; `None` where that
    /// has not changed.
    pub(crate) held: Option<Vec<u64>>,
}

/// One blob of a reply.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Lent {
    /// In the worker's arena, until the host gives it back by this number.
    Own { slot: u32, span: ArenaSpan },
    /// One that the host has lent.
    Given { start: u64 },
}

/// The worker's half of the handshake.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Ready {
    pub(crate) protocol: u16,
    pub(crate) library: String,
    pub(crate) fingerprint: u64,
}

/// Why there is no worker.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum SetupReport {
    Error(SetupError),
    Panic(PanicReport),
}

/// Most texts of a chain of causes that travel; the innermost beyond are left out.
const MOST_CAUSES: usize = 6;

impl SetupReport {
    /// A report of this error, with whatever is too long cut.
    pub(crate) fn of(error: SetupError) -> Self {
        SetupReport::Error(error.cut(MOST_CAUSES, |text| frame::cut(text, frame::LONGEST_TEXT)))
    }
}

/// The header of one reply.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ReplyHeader {
    pub(crate) id: u64,
    pub(crate) outcome: Outcome,
    /// The handler called `keep_worker`.
    pub(crate) keep: bool,
    /// The worker asked to be replaced at release.
    pub(crate) stop: bool,
}

/// How a call went.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Outcome {
    /// The payload is an `Ok` of the message's result.
    Done,
    /// The payload is an `Err` of the message's result.
    Failed,
    /// Not run: written before an error was known.
    Cleared,
    /// The handler panicked and the worker is about to end, which nobody waits for: what it used is told here.
    Panicked { report: PanicReport, peak_memory: u64, cpu_time: Duration },
    /// The message could not be decoded, or the reply not encoded; `error` says whether the reply was an `Err`.
    Payload { text: String, error: bool },
}

/// The worker is free again.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Released {
    /// Its private memory in bytes, where the host asked for it.
    pub(crate) private_bytes: Option<u64>,
    /// The worker asked to be replaced.
    pub(crate) stop: bool,
}
