//! The frames of calls, and the blobs that are lent with them.

use std::collections::VecDeque;
use std::time::Duration;

use super::PendingCall;
use super::payload::Payload;
use crate::actors::reply::AnswerSlot;
use crate::actors::scheduler::Scheduler;
use crate::actors::telemetry::event_forwarder::LogSink;
use crate::actors::transport::blobs;
use crate::blob::Blob;
use crate::wire::call::{CallHeader, ToWorker};
use crate::wire::frame;
use crate::wire::frame::PayloadError;

/// What the header of a call's frame contains that is not the call's own.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CallFrame {
    /// The reply repeats it. The numbers of the calls that are written to one worker rise.
    pub(crate) id: u64,
    /// The number of errors in the current lease that were delivered before the call was sent.
    pub(crate) errors_seen: u32,
    /// Whether the worker releases itself behind this call.
    pub(crate) last: bool,
    /// What is left of the call's time limit.
    pub(crate) limit: Option<Duration>,
    /// The epoch of the worker's gate, if the call can be taken back.
    pub(crate) epoch: Option<u16>,
}

/// What was appended for a call, in bytes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct FrameSize {
    /// All of it.
    pub(crate) whole: usize,
    /// The encoded message at its end.
    pub(crate) message: usize,
}

/// Appends the frame of a call to `out`, behind a frame that announces its blobs if there are any. Returns what was
/// appended.
///
/// # Errors
///
/// [`PayloadError`] where the message cannot be encoded or exceeds the limits; `out` and `lent` are unchanged then.
pub(crate) fn write_call<S: AnswerSlot>(
    scheduler: &Scheduler,
    out: &mut Vec<u8>,
    lent: &mut LentBlobs,
    call: &mut PendingCall<S>,
    CallFrame { id, errors_seen, last, limit, epoch }: CallFrame,
    payload: Payload<'_>,
) -> Result<FrameSize, PayloadError> {
    call.mark_written();
    let baggage = call.origin.baggage();
    let header = ToWorker::Call(CallHeader {
        id,
        method: call.method.index,
        errors_seen,
        last,
        epoch,
        limit,
        baggage: u32::try_from(baggage.len()).unwrap_or(u32::MAX),
        verbosity: call.origin.log_sink().map_or(0, LogSink::verbosity),
    });
    let before = out.len();
    let (blobs, message) = frame::append_with(out, &header, |out| {
        out.extend_from_slice(baggage);
        let before = out.len();
        let blobs = payload.append(scheduler, baggage.len(), out)?;
        Ok((blobs, out.len() - before))
    })?;
    if !blobs.is_empty() {
        frame::insert(out, before, &ToWorker::Lent(blobs::spans(&blobs)));
        lent.0.push_back((id, blobs));
    }
    Ok(FrameSize { whole: out.len() - before, message })
}

/// The argument blobs of written calls, by the ids of the calls. The worker reads them until it replies.
#[derive(Default)]
pub(crate) struct LentBlobs(VecDeque<(u64, Vec<Blob>)>);

impl LentBlobs {
    /// Returns the blobs of the written call with this id, the oldest that awaits a reply.
    pub(crate) fn of_first(&self, id: u64) -> &[Blob] {
        self.0.front().filter(|(lent_with, _)| *lent_with == id).map_or(&[], |(_, blobs)| blobs)
    }

    /// Drops the blobs of the call with this id, to which the worker has replied, and of those before it.
    pub(crate) fn drop_up_to(&mut self, id: u64) {
        while self.0.front().is_some_and(|(lent_with, _)| *lent_with <= id) {
            self.0.pop_front();
        }
    }

    /// Takes the blobs of the written call with this id, which was taken back.
    pub(crate) fn take_of(&mut self, id: u64) -> Vec<Blob> {
        let at = self.0.iter().rposition(|(lent_with, _)| *lent_with == id);
        at.and_then(|at| self.0.remove(at)).map_or_else(Vec::new, |(_, blobs)| blobs)
    }

    /// Takes all blobs, so that they can outlive their calls.
    pub(crate) fn take(&mut self) -> Vec<Blob> {
        self.0.drain(..).flat_map(|(_, blobs)| blobs).collect()
    }
}
