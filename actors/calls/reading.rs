//! Frames from a worker. The host trusts none of them.

use std::borrow::Cow;
use std::time::Duration;

use super::PendingCall;
use crate::actors::reply::AnswerSlot;
use crate::actors::scheduler::worker_handle::WorkerHandle;
use crate::actors::telemetry::event_forwarder::{EventForwarder, LogSink};
use crate::actors::transport::HostChannel;
use crate::blob;
use crate::blob::{Blob, ResultArena};
use crate::clock::Instant;
use crate::failure::{BacktraceStyle, PanicReport};
use crate::wire::call::{FromWorker, Lending, Outcome};
use crate::wire::frame::PayloadError;
use crate::wire::log_record::Logged;

/// How a worker broke the protocol.
pub(crate) type Violation = Cow<'static, str>;

/// Takes the next message that has arrived on a channel, with the payload of a reply.
pub(crate) fn next_message(channel: &mut HostChannel) -> Option<Result<(FromWorker, &[u8]), Violation>> {
    let body = match channel.next() {
        Ok(body) => body?,
        Err(error) => return Some(Err(error.to_string().into())),
    };
    Some(match FromWorker::read(body) {
        Ok((FromWorker::Ready(_) | FromWorker::SetupFailed(_), _)) => {
            Err("it sent an unexpected message".into())
        }
        Ok((message, payload)) if payload.is_empty() || matches!(message, FromWorker::Reply(_)) => {
            Ok((message, payload))
        }
        Ok(_) => Err("it sent an unexpected message".into()),
        Err(error) => Err(error.to_string().into()),
    })
}

/// Memory and CPU time that a worker has used, as it reported them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Usage {
    pub(crate) peak_memory: u64,
    pub(crate) cpu_time: Duration,
}

/// What a reply means for its call, once its payload is decoded.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum ReplyMeaning {
    /// The handler returned `Ok`, which the call's slot has.
    Done,
    /// The handler returned `Err`, which the call's slot has.
    Failed,
    /// The message or the result could not be encoded or decoded, as the text says. `error`: the handler had returned
    /// `Err`.
    Payload { text: String, error: bool },
    /// The handler panicked, and the worker exits.
    Panicked(Box<PanicReport>, Usage),
    /// The worker did not run the call.
    Cleared,
}

impl ReplyMeaning {
    /// Returns whether the handler returned an error, so that the state of the worker is in doubt.
    pub(crate) fn is_error(&self) -> bool {
        matches!(self, ReplyMeaning::Failed | ReplyMeaning::Payload { error: true, .. })
    }
}

/// Reads the frames of one worker: keeps what a frame says of the next one, and the log spans of the running call.
#[derive(Default)]
pub(crate) struct FrameReader {
    /// The blobs of the next reply; `None` until the worker reports them.
    reply_blobs: Option<Vec<Blob>>,
    forwarder: EventForwarder,
}

impl FrameReader {
    /// Keeps the blobs that a worker reports for its next reply. `given` are the argument blobs of the call that it
    /// replies to.
    ///
    /// # Errors
    ///
    /// How the report breaks the protocol; nothing is kept then.
    pub(crate) fn receive_lending(
        &mut self,
        worker: &WorkerHandle,
        result_arena: Option<&ResultArena>,
        lending: Lending,
        given: &[Blob],
    ) -> Result<(), Violation> {
        if self.reply_blobs.is_some() {
            return Err("it reported blobs twice for one reply".into());
        }
        self.reply_blobs = Some(worker.borrowed.receive_lending(lending, given, result_arena)?);
        Ok(())
    }

    /// Forwards a log record of the running call to this sink.
    ///
    /// # Errors
    ///
    /// How the record breaks the protocol.
    pub(crate) fn forward(&mut self, log_sink: Option<&LogSink>, logged: Logged) -> Result<(), Violation> {
        let forwarded = self.forwarder.forward(log_sink, logged);
        forwarded.then_some(()).ok_or(Violation::Borrowed("it sent too many log records in one call"))
    }

    /// Decodes the reply to a call into the call's slot, and ends the call's timer and log spans. `call` is `None`
    /// if the call was answered before.
    pub(crate) fn read_reply<S: AnswerSlot>(
        &mut self,
        call: Option<&PendingCall<S>>,
        outcome: Outcome,
        payload: &[u8],
        max_depth: u32,
        now: Instant,
    ) -> ReplyMeaning {
        let lent = self.reply_blobs.take().unwrap_or_default();
        let has_result = matches!(outcome, Outcome::Done | Outcome::Failed);
        let decoded: Result<(), PayloadError> = match call.filter(|_| has_result) {
            Some(call) => blob::decode_with(lent, || call.slot.decode(payload, max_depth)),
            None => Ok(()),
        };
        if let Some(call) = call {
            call.mark_answered(now);
        }
        self.forwarder.end_call(false);
        let error = matches!(outcome, Outcome::Failed);
        match (outcome, decoded) {
            (Outcome::Done | Outcome::Failed, Err(problem)) => {
                ReplyMeaning::Payload { text: problem.to_string(), error }
            }
            (Outcome::Done, Ok(())) => ReplyMeaning::Done,
            (Outcome::Failed, Ok(())) => ReplyMeaning::Failed,
            (Outcome::Payload { text, error }, _) => ReplyMeaning::Payload { text, error },
            (Outcome::Panicked { report, peak_memory, cpu_time }, _) => {
                let report = report.received(BacktraceStyle::here());
                ReplyMeaning::Panicked(Box::new(report), Usage { peak_memory, cpu_time })
            }
            (Outcome::Cleared, _) => ReplyMeaning::Cleared,
        }
    }

    /// Closes the log spans of the running call, to which no reply will come.
    pub(crate) fn cut_call_short(&mut self) {
        self.forwarder.end_call(true);
    }
}

/// Closes the log spans of a call that runs, on which nothing more will be read.
impl Drop for FrameReader {
    fn drop(&mut self) {
        self.cut_call_short();
    }
}
