//! Messages between host and worker.
//!
//! The worker sends the first message: [`FromWorker::Ready`], or why its set-up failed. Then the host sends calls,
//! possibly ahead of their replies, and a release at the end of every checkout. The worker answers in order. The host
//! does not trust the worker and checks every number.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::frame;
use super::frame::FrameError;
use super::log_record::Logged;
use crate::failure::{PanicReport, SetupError};

/// Messages from the host. A call's baggage and payload follow its header.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum ToWorker {
    Call(CallHeader),
    /// The checkout is over: the worker runs `checkout_done` and answers [`FromWorker::Released`].
    Release,
    /// The blobs of the next call, in the order of their numbers.
    Lent(Vec<ArenaSpan>),
}

/// The header of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct CallHeader {
    /// The reply repeats it.
    pub(crate) id: u64,
    /// The position of the message in the worker's interface, from 0.
    pub(crate) method: u32,
    /// How many errors of this checkout the caller had seen when it sent this call. The worker clears a call whose
    /// number is lower than its own count: the call was sent before the error was known.
    pub(crate) errors_seen: u32,
    /// Whether the checkout ends with this call, which saves a [`ToWorker::Release`].
    pub(crate) last: bool,
    /// The epoch of the worker's gate in which this call was written: the worker begins it only in that epoch, and skips it
    /// otherwise. `None` if the call cannot be taken back.
    pub(crate) epoch: Option<u16>,
    /// The time that the call has left when it starts to run; `None` is no limit.
    pub(crate) limit: Option<Duration>,
    /// Bytes of baggage in front of the message.
    pub(crate) baggage: u32,
    /// The highest [`level`](super::log_record::level) of the handler's log records that the worker is to send; 0 for
    /// none.
    pub(crate) verbosity: u8,
}

impl CallHeader {
    /// Splits the bytes after this header into baggage and message.
    ///
    /// # Errors
    ///
    /// [`FrameError::Baggage`] if the header announces more baggage than there are bytes.
    pub(crate) fn split<'a>(&self, payload: &'a [u8]) -> Result<(&'a [u8], &'a [u8]), FrameError> {
        let baggage = usize::try_from(self.baggage).unwrap_or(usize::MAX);
        payload.split_at_checked(baggage).ok_or(FrameError::Baggage { baggage, payload: payload.len() })
    }
}

/// Messages from the worker. A reply's payload follows its header.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum FromWorker {
    Ready(Ready),
    SetupFailed(SetupReport),
    Reply(ReplyHeader),
    Released(Released),
    /// A log record of the running call; sent before the reply.
    Logged(Box<Logged>),
    /// Sent in front of a reply that lends blobs, and of a reply or release after which the worker holds other
    /// arguments than before.
    Lent(Lending),
}

#[cfg(feature = "actors")]
impl FromWorker {
    /// Splits the body of a frame into its message and the payload of a reply.
    ///
    /// Everything but the payload and a list of blobs is short, so what the host keeps and prints of it is, too.
    ///
    /// # Errors
    ///
    /// [`FrameError::Header`], or [`FrameError::LongHeader`] for a message that no worker of this library sends.
    pub(crate) fn read(body: &[u8]) -> Result<(Self, &[u8]), FrameError> {
        let (message, payload) = frame::split(body)?;
        let (length, limit) = (body.len() - payload.len(), frame::MAX_HEADER);
        match message {
            // Its lists are limited by the number of blobs.
            FromWorker::Lent(_) => Ok((message, payload)),
            _ if length > limit => Err(FrameError::LongHeader { length, limit }),
            _ => Ok((message, payload)),
        }
    }

    /// Reads a message that must fill its frame.
    ///
    /// # Errors
    ///
    /// Those of [`read`](Self::read), or [`FrameError::BytesLeft`].
    pub(crate) fn read_whole(body: &[u8]) -> Result<Self, FrameError> {
        match Self::read(body)? {
            (message, []) => Ok(message),
            (_, rest) => Err(FrameError::BytesLeft(rest.len())),
        }
    }
}

/// A range of bytes in an arena.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ArenaSpan {
    pub(crate) start: u64,
    pub(crate) length: u64,
}

/// Most blobs that a worker lends with one reply. A reply with more carries them inline.
pub(crate) const MAX_LENT: usize = 65_536;

/// The blobs that a worker lends, and those of the host that it holds.
#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Lending {
    /// The blobs of the next reply, in the order of their numbers; at most [`MAX_LENT`].
    pub(crate) lent: Vec<Lent>,
    /// The starts of all spans of the host that the worker uses beyond the call with which they came, in ascending
    /// order and each once; `None` if the list has not changed.
    pub(crate) held: Option<Vec<u64>>,
}

/// One blob of a reply.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Lent {
    /// A span of the worker's arena; the worker leaves it unchanged until the host has cleared this slot.
    Own { slot: u32, span: ArenaSpan },
    /// An argument that the host has lent, by its start.
    Given { start: u64 },
}

/// The worker's set-up has succeeded; the host compares all three fields with its own.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Ready {
    pub(crate) protocol: u16,
    pub(crate) library: String,
    pub(crate) fingerprint: u64,
}

/// Why a set-up or a preload failed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum SetupReport {
    Error(SetupError),
    Panic(PanicReport),
}

/// Most texts of an error chain that are sent; the innermost ones beyond are left out.
const MAX_CAUSES: usize = 6;

impl SetupReport {
    /// Makes a report of this error, with its texts and its chain cut to their limits.
    pub(crate) fn of(error: SetupError) -> Self {
        SetupReport::Error(error.cut(MAX_CAUSES, |text| frame::cut(text, frame::MAX_TEXT)))
    }
}

/// The header of a reply.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ReplyHeader {
    pub(crate) id: u64,
    pub(crate) outcome: Outcome,
    /// The worker is kept despite the error of this call: the handler called `keep_worker`.
    pub(crate) keep: bool,
    /// The worker has asked to be replaced at the end of its checkout.
    pub(crate) stop: bool,
}

/// The outcome of a call.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Outcome {
    /// The handler returned `Ok`; the payload is the whole `Result`.
    Done,
    /// The handler returned `Err`; the payload is the whole `Result`.
    Failed,
    /// The call was not run: it was sent before an error was known.
    Cleared,
    /// The handler panicked, and the worker exits. The host does not wait for the exit, so the reply includes the
    /// worker's resource usage.
    Panicked { report: Box<PanicReport>, peak_memory: u64, cpu_time: Duration },
    /// The message could not be decoded, or the reply could not be encoded. `error`: the reply was an `Err`.
    Payload { text: String, error: bool },
}

/// The worker has ended its checkout and takes the next one.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Released {
    /// The worker's private memory in bytes, if the hello asked for it and the system provides it.
    pub(crate) private_bytes: Option<u64>,
    /// The worker has asked to be replaced.
    pub(crate) stop: bool,
}
