//! The calls of one checkout: those still to be written, those in the worker's pipe, and which of them it is
//! whose clock runs.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::actors::context::Origin;
use crate::actors::reply::Slot;
use crate::actors::telemetry::event_forwarder::LogSink;
use crate::actors::transport::blobs::Encoded;
use crate::actors::worker_api::error_text::Describe;
use crate::blob::Blob;
use crate::failure::Failure;
use crate::request_log::CallTimer;

/// Calls written ahead of their replies, at most: enough to keep a worker busy while the host does other
/// things, few enough that one that failed leaves little to clear.
const WRITTEN_AHEAD: usize = 1024;

/// Bytes written ahead of their replies, at most, beside the first call.
const BYTES_AHEAD: usize = 256 << 10;

/// A clock that fires later than this says that the event loop was busy.
const LATE: Duration = Duration::from_millis(20);

/// What all calls of one message have in common.
#[derive(Debug)]
pub(crate) struct MethodInfo {
    pub(crate) name: &'static str,
    pub(crate) method: u32,
    pub(crate) describe: Describe,
}

/// One call as it was sent.
pub(crate) struct PendingCall {
    pub(crate) slot: Slot,
    pub(crate) kind: &'static MethodInfo,
    pub(crate) limit: Option<Duration>,
    /// What quarantine knows it by, where there is one.
    pub(crate) mark: Option<u64>,
    pub(crate) origin: Origin,
    /// Runs from when it was written until it is dropped, if anybody asked for that.
    pub(crate) timer: Option<CallTimer>,
}

impl PendingCall {
    /// It is being written; what is written a second time began with the first.
    pub(crate) fn is_written(&mut self) {
        if self.timer.is_none() {
            self.timer = self.origin.log_sink().and_then(|log_sink| log_sink.timer(self.kind.name));
        }
    }

    /// Its reply has come.
    fn is_answered(&self, now: Instant) {
        if let Some(timer) = &self.timer {
            timer.ends(now);
        }
    }

    /// Notes what it failed with where there is a log: with its timer, or as a message if it was never written.
    pub(crate) fn note_failure(&self, failure: &Failure) {
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

/// A call in the worker's pipe.
struct WrittenCall {
    id: u64,
    /// `None` once it was answered as cleared; the worker will say that it did not run it.
    call: Option<PendingCall>,
    bytes: usize,
    /// What the worker reads until it has answered.
    blobs: Vec<Blob>,
}

/// The reply that is due next.
pub(crate) enum NextReply {
    /// To this call.
    Call(PendingCall),
    /// To a call that was answered already.
    AlreadyCleared,
}

/// All calls of one checkout, in order.
#[derive(Default)]
pub(crate) struct CallQueue {
    queued: VecDeque<QueuedCall>,
    written: VecDeque<WrittenCall>,
    /// Written calls that are still to be answered.
    open: usize,
    bytes_ahead: usize,
    last_id: u64,
    /// When the first of them became the first.
    first_since: Option<Instant>,
    /// Whether its clock was set back.
    forgiven: bool,
}

impl CallQueue {
    /// Whether every call was answered.
    pub(crate) fn is_empty(&self) -> bool {
        self.open == 0 && self.queued.is_empty()
    }

    /// Whether something stands between a new call and the worker's pipe.
    pub(crate) fn has_queued(&self) -> bool {
        !self.queued.is_empty()
    }

    /// Calls in the pipe that are still to be answered.
    pub(crate) fn open(&self) -> usize {
        self.open
    }

    /// Whether another call may be written, `cautious` meaning one at a time.
    pub(crate) fn may_write(&self, cautious: bool) -> bool {
        let most = if cautious { 1 } else { WRITTEN_AHEAD };
        self.written.is_empty() || (self.written.len() < most && self.bytes_ahead < BYTES_AHEAD)
    }

    /// The call whose clock runs, and since when.
    pub(crate) fn first(&self) -> Option<(&PendingCall, Instant)> {
        let written = self.written.iter().find_map(|written| written.call.as_ref());
        let first = written.or_else(|| self.queued.front().map(|queued| &queued.call))?;
        Some((first, self.first_since?))
    }

    /// Who hears what the call in the worker's hands logs; `None` if it is not this one.
    pub(crate) fn logging(&self, id: u64) -> Option<Option<&LogSink>> {
        let first = self.written.front().filter(|first| first.id == id)?;
        Some(first.call.as_ref().and_then(|call| call.origin.log_sink()))
    }

    /// The blobs of the call that is to be answered next.
    pub(crate) fn blobs_of_first(&self) -> &[Blob] {
        self.written.front().map_or(&[], |first| &first.blobs)
    }

    /// The blobs of all calls in the worker's pipe, for somebody else to keep.
    pub(crate) fn take_blobs(&mut self) -> Vec<Blob> {
        self.written.iter_mut().flat_map(|written| std::mem::take(&mut written.blobs)).collect()
    }

    /// When a call that is sent now came in. Only the first one's time is ever looked at, so behind a first one the
    /// clock is not read.
    pub(crate) fn arrival(&self) -> Instant {
        self.first_since.unwrap_or_else(Instant::now)
    }

    pub(crate) fn queue(&mut self, queued: QueuedCall, now: Instant) {
        self.queued.push_back(queued);
        self.first_since.get_or_insert(now);
    }

    /// The next call to be written, if its caller still wants it; calls that were given up are dropped.
    pub(crate) fn next_to_write(&mut self) -> Option<QueuedCall> {
        while let Some(queued) = self.queued.pop_front() {
            if !queued.call.slot.is_abandoned() {
                return Some(queued);
            }
            if self.open == 0 {
                self.restart_clock(Some(Instant::now()));
            }
        }
        None
    }

    /// How long a call that is about to be written as the first has waited.
    pub(crate) fn wait(&self, now: Instant) -> Duration {
        self.first_since.map_or(Duration::ZERO, |since| now.saturating_duration_since(since))
    }

    /// Sets the clock of the first call back where it fired late because the event loop was busy: the time lost
    /// was not the worker's, which may have been ready and never heard of it. Once for each call, so that a loop
    /// that is always late still lets clocks fire. Whether it did.
    pub(crate) fn allow_late_clock(&mut self, late: Duration) -> bool {
        let forgiven = late > LATE && !std::mem::replace(&mut self.forgiven, true);
        if forgiven {
            // The lateness itself, and as much again to make up for it.
            self.first_since = self.first_since.and_then(|since| since.checked_add(late * 2));
        }
        forgiven
    }

    /// Drops the first call if it was not written and its caller has given it up; whether it did.
    pub(crate) fn forget_abandoned_first(&mut self) -> bool {
        let abandoned =
            self.open == 0 && self.queued.front().is_some_and(|first| first.call.slot.is_abandoned());
        if abandoned {
            self.queued.pop_front();
            self.restart_clock(Some(Instant::now()));
        }
        abandoned
    }

    /// What is left of a call's limit once it runs: its clock runs already if it is the first.
    pub(crate) fn limit_when_running(&self, call: &PendingCall, now: Instant) -> Option<Duration> {
        let used = match self.first_since {
            Some(since) if self.open == 0 => now.saturating_duration_since(since),
            _ => Duration::ZERO,
        };
        call.limit.map(|limit| limit.saturating_sub(used))
    }

    /// The number the next written call will have.
    pub(crate) fn next_id(&self) -> u64 {
        self.last_id + 1
    }

    /// A call was written under [`next_id`](Self::next_id).
    pub(crate) fn wrote(&mut self, call: PendingCall, bytes: usize, blobs: Vec<Blob>, now: Instant) {
        self.last_id += 1;
        self.open += 1;
        self.bytes_ahead += bytes;
        self.written.push_back(WrittenCall { id: self.last_id, call: Some(call), bytes, blobs });
        self.first_since.get_or_insert(now);
    }

    /// The worker answered this id; `None` if that is not the reply that is due.
    pub(crate) fn answered(&mut self, id: u64, now: Instant) -> Option<NextReply> {
        self.written.front().filter(|written| written.id == id)?;
        let written = self.written.pop_front()?;
        self.bytes_ahead -= written.bytes;
        let Some(call) = written.call else {
            return Some(NextReply::AlreadyCleared);
        };
        call.is_answered(now);
        self.open -= 1;
        self.restart_clock(Some(now));
        Some(NextReply::Call(call))
    }

    /// A call whose reply was none is the first again, to be answered with what ends the checkout.
    pub(crate) fn put_back(&mut self, call: PendingCall) {
        self.open += 1;
        self.written.push_front(WrittenCall { id: 0, call: Some(call), bytes: 0, blobs: Vec::new() });
        self.first_since.get_or_insert_with(Instant::now);
    }

    /// Whether the worker has said all it was still to say.
    pub(crate) fn pipe_is_empty(&self) -> bool {
        self.written.is_empty()
    }

    /// Takes every call that is still to be answered, in order; the worker will clear those it has.
    pub(crate) fn clear(&mut self) -> Vec<PendingCall> {
        let written = self.written.iter_mut().filter_map(|written| written.call.take());
        let queued = self.queued.drain(..).map(|queued| queued.call);
        self.open = 0;
        self.first_since = None;
        self.forgiven = false;
        written.chain(queued).collect()
    }

    /// The worker is gone, and with it whatever it was still to say.
    pub(crate) fn forget_pipe(&mut self) {
        self.written.clear();
        self.bytes_ahead = 0;
    }

    /// The first call has changed: the next one's clock starts at `now`, or goes on where it was not first.
    fn restart_clock(&mut self, now: Option<Instant>) {
        self.forgiven = false;
        self.first_since = if self.is_empty() { None } else { now.or(self.first_since) };
    }
}
