//! The calls of one checkout: those that wait to be written, those that were written to the worker and await a
//! reply, and the first of them, which is the call whose time limit runs.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::actors::context::CallOrigin;
use crate::actors::reply::ReplySlot;
use crate::actors::telemetry::event_forwarder::LogSink;
use crate::actors::transport::blobs::Encoded;
use crate::actors::worker_api::error_text::Describe;
use crate::blob::Blob;
use crate::failure::Failure;
use crate::request_log::CallTimer;

/// Maximum number of calls written ahead of their replies: enough to keep a worker busy while the host does other
/// things, few enough that an error leaves few calls to clear.
const MAX_WRITTEN_CALLS: usize = 1024;

/// Maximum number of bytes (256 KiB) written ahead of their replies. The first call is written whatever its size.
const MAX_WRITTEN_BYTES: usize = 256 << 10;

/// If a timer fires later than this after its deadline, the event loop was busy.
const LATE_TIMER: Duration = Duration::from_millis(20);

/// What all calls with the same message type have in common.
#[derive(Debug)]
pub(crate) struct MethodInfo {
    pub(crate) name: &'static str,
    pub(crate) index: u32,
    pub(crate) describe: Describe,
}

/// One call as its requester sent it.
pub(crate) struct PendingCall {
    pub(crate) slot: ReplySlot,
    pub(crate) method: &'static MethodInfo,
    pub(crate) limit: Option<Duration>,
    /// Identifies the call to the quarantine; `None` in a pool without one.
    pub(crate) call_hash: Option<u64>,
    pub(crate) origin: CallOrigin,
    /// Measures from the first write until the call is dropped; `None` unless the call reports to a request log.
    pub(crate) timer: Option<CallTimer>,
}

impl PendingCall {
    /// Starts the call's timer when the call is written. If the call is written a second time, to another worker,
    /// the timer keeps the first start.
    pub(crate) fn mark_written(&mut self) {
        if self.timer.is_none() {
            self.timer = self.origin.log_sink().and_then(|log_sink| log_sink.timer(self.method.name));
        }
    }

    /// Stops the call's timer when its reply has arrived.
    pub(crate) fn mark_answered(&self, now: Instant) {
        if let Some(timer) = &self.timer {
            timer.mark_ended(now);
        }
    }

    /// Records the failure in the request log, if there is one: with the call's timer, or as a message if the call
    /// was never written.
    pub(crate) fn log_failure(&self, failure: &Failure) {
        match (&self.timer, self.origin.log_sink().and_then(LogSink::log)) {
            (Some(timer), _) => timer.fail(failure),
            (None, Some(log)) => log.error(failure.to_string()),
            (None, None) => {}
        }
    }
}

/// A call that waits to be written.
pub(crate) struct QueuedCall {
    pub(crate) call: PendingCall,
    pub(crate) message: Encoded,
}

/// A call that was written to the worker and whose reply has not arrived.
struct WrittenCall {
    id: u64,
    /// `None` once the caller was answered with `Cleared`. The worker still replies, and reports that it did not
    /// run the call.
    call: Option<PendingCall>,
    bytes: usize,
    /// The blobs of the call's arguments, which the worker reads until it replies.
    blobs: Vec<Blob>,
}

/// What the next reply belongs to.
pub(crate) enum NextReply {
    /// A call that is not answered yet.
    Call(PendingCall),
    /// A call that was answered with `Cleared` already.
    AlreadyCleared,
}

/// All calls of one checkout, in order.
#[derive(Default)]
pub(crate) struct CallQueue {
    queued: VecDeque<QueuedCall>,
    written: VecDeque<WrittenCall>,
    /// Number of written calls that are not answered yet.
    unanswered: usize,
    written_bytes: usize,
    last_id: u64,
    /// When the first unanswered call became the first.
    first_since: Option<Instant>,
    /// Whether the first call's deadline was extended because its timer was late.
    extended: bool,
}

impl CallQueue {
    /// Returns whether every call is answered.
    pub(crate) fn is_empty(&self) -> bool {
        self.unanswered == 0 && self.queued.is_empty()
    }

    /// Returns whether calls wait to be written, so that a new call has to queue behind them.
    pub(crate) fn has_queued(&self) -> bool {
        !self.queued.is_empty()
    }

    /// Returns the number of written calls that are not answered yet.
    pub(crate) fn unanswered(&self) -> usize {
        self.unanswered
    }

    /// Returns whether another call may be written; with `one_at_a_time`, only while no reply is expected.
    pub(crate) fn may_write(&self, one_at_a_time: bool) -> bool {
        let max_calls = if one_at_a_time { 1 } else { MAX_WRITTEN_CALLS };
        self.written.is_empty() || (self.written.len() < max_calls && self.written_bytes < MAX_WRITTEN_BYTES)
    }

    /// Returns the first unanswered call, whose time limit runs, and when it became the first.
    pub(crate) fn first(&self) -> Option<(&PendingCall, Instant)> {
        let written = self.written.iter().find_map(|written| written.call.as_ref());
        let first = written.or_else(|| self.queued.front().map(|queued| &queued.call))?;
        Some((first, self.first_since?))
    }

    /// Returns the log sink of the call that the worker runs, if that call has this id. The outer `None` means that
    /// the worker does not run it, the inner that the call is cleared or has no sink.
    pub(crate) fn log_sink_of(&self, id: u64) -> Option<Option<&LogSink>> {
        let first = self.written.front().filter(|first| first.id == id)?;
        Some(first.call.as_ref().and_then(|call| call.origin.log_sink()))
    }

    /// Returns the argument blobs of the call whose reply is due next.
    pub(crate) fn blobs_of_first(&self) -> &[Blob] {
        self.written.front().map_or(&[], |first| &first.blobs)
    }

    /// Takes the argument blobs of all written calls, so that they can outlive the calls.
    pub(crate) fn take_blobs(&mut self) -> Vec<Blob> {
        self.written.iter_mut().flat_map(|written| std::mem::take(&mut written.blobs)).collect()
    }

    /// Returns the arrival time of a call that is sent now. Only the first call's time is ever used, so the clock
    /// is not read if there is a first call.
    pub(crate) fn arrival_time(&self) -> Instant {
        self.first_since.unwrap_or_else(Instant::now)
    }

    pub(crate) fn queue(&mut self, queued: QueuedCall, now: Instant) {
        self.queued.push_back(queued);
        self.first_since.get_or_insert(now);
    }

    /// Takes the next call to write whose caller still waits, and drops the abandoned calls ahead of it.
    pub(crate) fn take_next_to_write(&mut self) -> Option<QueuedCall> {
        while let Some(queued) = self.queued.pop_front() {
            if !queued.call.slot.is_abandoned() {
                return Some(queued);
            }
            if self.unanswered == 0 {
                self.restart_clock(Some(Instant::now()));
            }
        }
        None
    }

    /// Returns how long the first call has waited since it became the first.
    pub(crate) fn waited(&self, now: Instant) -> Duration {
        self.first_since.map_or(Duration::ZERO, |since| now.saturating_duration_since(since))
    }

    /// Extends the first call's deadline if its timer fired late because the event loop was busy; returns whether
    /// it did. The worker is not to blame for the lost time: it may have been ready while the host did not notice.
    /// Each call gets one extension, so that limits still apply in a loop that is always late.
    pub(crate) fn extend_late_deadline(&mut self, late: Duration) -> bool {
        let extended = late > LATE_TIMER && !std::mem::replace(&mut self.extended, true);
        if extended {
            // The delay itself, and as much again to make up for it.
            self.first_since = self.first_since.and_then(|since| since.checked_add(late * 2));
        }
        extended
    }

    /// Drops the first call if it is not written and its caller has given it up; returns whether it did.
    pub(crate) fn drop_abandoned_first(&mut self) -> bool {
        let abandoned =
            self.unanswered == 0 && self.queued.front().is_some_and(|first| first.call.slot.is_abandoned());
        if abandoned {
            self.queued.pop_front();
            self.restart_clock(Some(Instant::now()));
        }
        abandoned
    }

    /// Returns what is left of a call's limit when the worker starts to run it. If it is the first call, its clock
    /// runs already.
    pub(crate) fn remaining_limit(&self, call: &PendingCall, now: Instant) -> Option<Duration> {
        let used = match self.first_since {
            Some(since) if self.unanswered == 0 => now.saturating_duration_since(since),
            _ => Duration::ZERO,
        };
        call.limit.map(|limit| limit.saturating_sub(used))
    }

    /// Returns the id of the next call that is written.
    pub(crate) fn next_id(&self) -> u64 {
        self.last_id + 1
    }

    /// Records that a call was written with the id [`next_id`](Self::next_id).
    pub(crate) fn push_written(&mut self, call: PendingCall, bytes: usize, blobs: Vec<Blob>, now: Instant) {
        self.last_id += 1;
        self.unanswered += 1;
        self.written_bytes += bytes;
        self.written.push_back(WrittenCall { id: self.last_id, call: Some(call), bytes, blobs });
        self.first_since.get_or_insert(now);
    }

    /// Takes the call that the worker replied to; `None` if a reply with this id is not due.
    pub(crate) fn take_answered(&mut self, id: u64, now: Instant) -> Option<NextReply> {
        self.written.front().filter(|written| written.id == id)?;
        let written = self.written.pop_front()?;
        self.written_bytes -= written.bytes;
        let Some(call) = written.call else {
            return Some(NextReply::AlreadyCleared);
        };
        call.mark_answered(now);
        self.unanswered -= 1;
        self.restart_clock(Some(now));
        Some(NextReply::Call(call))
    }

    /// Puts a call back as the first, because its reply was invalid. It is answered with the failure that ends the
    /// checkout.
    pub(crate) fn put_back(&mut self, call: PendingCall) {
        self.unanswered += 1;
        self.written.push_front(WrittenCall { id: 0, call: Some(call), bytes: 0, blobs: Vec::new() });
        self.first_since.get_or_insert_with(Instant::now);
    }

    /// Returns whether the worker still has to reply to a written call.
    pub(crate) fn expects_reply(&self) -> bool {
        !self.written.is_empty()
    }

    /// Takes every unanswered call, in order. The worker will reply to the written ones that it cleared them.
    pub(crate) fn clear(&mut self) -> Vec<PendingCall> {
        let written = self.written.iter_mut().filter_map(|written| written.call.take());
        let queued = self.queued.drain(..).map(|queued| queued.call);
        self.unanswered = 0;
        self.first_since = None;
        self.extended = false;
        written.chain(queued).collect()
    }

    /// Drops the record of written calls, because the worker is gone and will not reply.
    pub(crate) fn forget_written(&mut self) {
        self.written.clear();
        self.written_bytes = 0;
    }

    /// Starts the clock of the new first call at `now`, or keeps its start if `now` is `None`.
    fn restart_clock(&mut self, now: Option<Instant>) {
        self.extended = false;
        self.first_since = if self.is_empty() { None } else { now.or(self.first_since) };
    }
}
