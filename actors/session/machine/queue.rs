//! The calls of one checkout: those that wait to be written, those that were written to the worker and await a
//! reply, and the first of them, which is the call whose time limit runs.

use std::collections::VecDeque;
use std::time::Duration;

use super::Call;
use crate::actors::calls::CallTimes;
use crate::actors::calls::limits::{ClockStart, MAX_WRITTEN_BYTES, MAX_WRITTEN_CALLS};
use crate::clock::Instant;

/// A call that waits to be written.
struct QueuedCall<C: Call> {
    call: C,
    message: C::Message,
}

/// A call that was written to the worker and whose reply has not arrived.
struct WrittenCall<C> {
    id: u64,
    /// `None` once the requester was answered with `Cleared`. The worker still replies, and reports that it did not
    /// run the call.
    call: Option<C>,
    bytes: usize,
}

/// What the next reply belongs to.
pub(crate) enum DueReply<'a, C> {
    /// A call that is not answered yet.
    Call(&'a C),
    /// A call that was answered with `Cleared` already.
    AlreadyCleared,
}

/// The clock of the first unanswered call.
#[derive(Clone, Copy)]
struct FirstClock {
    /// When the call became the first.
    start: ClockStart,
    /// How long the call had waited when it was written.
    waited: Duration,
}

impl FirstClock {
    fn start(now: Instant) -> Self {
        FirstClock { start: ClockStart::at(now), waited: Duration::ZERO }
    }
}

/// All calls of one checkout, in order.
pub(super) struct CallQueue<C: Call> {
    queued: VecDeque<QueuedCall<C>>,
    written: VecDeque<WrittenCall<C>>,
    /// Number of written calls that are not answered yet.
    unanswered: usize,
    written_bytes: usize,
    last_id: u64,
    /// `None` while every call is answered.
    clock: Option<FirstClock>,
}

impl<C: Call> Default for CallQueue<C> {
    fn default() -> Self {
        CallQueue {
            queued: VecDeque::new(),
            written: VecDeque::new(),
            unanswered: 0,
            written_bytes: 0,
            last_id: 0,
            clock: None,
        }
    }
}

impl<C: Call> CallQueue<C> {
    /// Returns whether every call is answered.
    pub(super) fn is_empty(&self) -> bool {
        self.unanswered == 0 && self.queued.is_empty()
    }

    /// Returns whether calls wait to be written, so that a new call has to queue behind them.
    pub(super) fn has_queued(&self) -> bool {
        !self.queued.is_empty()
    }

    /// Returns the number of written calls that are not answered yet.
    pub(super) fn unanswered(&self) -> usize {
        self.unanswered
    }

    /// Returns whether the worker still has to reply to a written call.
    pub(super) fn expects_reply(&self) -> bool {
        !self.written.is_empty()
    }

    /// Returns whether another call may be written; with `one_at_a_time`, only while no reply is expected.
    pub(super) fn may_write(&self, one_at_a_time: bool) -> bool {
        let max_calls = if one_at_a_time { 1 } else { MAX_WRITTEN_CALLS };
        self.written.is_empty() || (self.written.len() < max_calls && self.written_bytes < MAX_WRITTEN_BYTES)
    }

    /// Returns the first unanswered call, whose time limit runs, and since when.
    pub(super) fn first(&self) -> Option<(&C, Instant)> {
        let written = self.written.iter().find_map(|written| written.call.as_ref());
        let first = written.or_else(|| self.queued.front().map(|queued| &queued.call))?;
        Some((first, self.clock?.start.since))
    }

    /// Returns since when the first call is the first.
    pub(super) fn first_since(&self) -> Option<Instant> {
        self.clock.map(|clock| clock.start.since)
    }

    /// Returns how long the first call has waited and run so far.
    pub(super) fn times_of_first(&self, now: Instant) -> Option<CallTimes> {
        let FirstClock { start: ClockStart { since, .. }, waited } = self.clock?;
        let both = now.saturating_duration_since(since);
        Some(match self.unanswered {
            0 => CallTimes { waited: both, ran: None },
            _ => CallTimes { waited, ran: Some(both.saturating_sub(waited)) },
        })
    }

    /// Returns the call to which the next reply belongs if that has this id. Without it, the reply is not due.
    pub(super) fn due(&self, id: u64) -> Option<DueReply<'_, C>> {
        let first = self.written.front().filter(|first| first.id == id)?;
        Some(first.call.as_ref().map_or(DueReply::AlreadyCleared, DueReply::Call))
    }

    /// Returns the id of the call to which the next reply belongs.
    pub(super) fn next_reply(&self) -> Option<u64> {
        self.written.front().map(|first| first.id)
    }

    pub(super) fn queue(&mut self, call: C, message: C::Message, now: Instant) {
        self.queued.push_back(QueuedCall { call, message });
        self.clock.get_or_insert_with(|| FirstClock::start(now));
    }

    /// Takes the next call to write whose requester still waits, and drops the abandoned calls ahead of it.
    pub(super) fn take_next_to_write(&mut self, now: Instant) -> Option<(C, C::Message)> {
        while let Some(QueuedCall { call, message }) = self.queued.pop_front() {
            if !call.is_abandoned() {
                return Some((call, message));
            }
            if self.unanswered == 0 {
                self.restart_clock(now);
            }
        }
        None
    }

    /// Sets the first call's clock back if its timer fired late; returns whether it did. See
    /// [`ClockStart::extend_if_late`].
    pub(super) fn extend_late_deadline(&mut self, late: Duration) -> bool {
        self.clock.as_mut().is_some_and(|clock| clock.start.extend_if_late(late))
    }

    /// Drops the first call if it is not written and its requester has given it up; returns whether it did.
    pub(super) fn drop_abandoned_first(&mut self, now: Instant) -> bool {
        let abandoned =
            self.unanswered == 0 && self.queued.front().is_some_and(|first| first.call.is_abandoned());
        if abandoned {
            self.queued.pop_front();
            self.restart_clock(now);
        }
        abandoned
    }

    /// Returns what is left of a call's limit when the worker starts to run it. If it is the first call, its clock
    /// runs already.
    pub(super) fn remaining_limit(&self, call: &C, now: Instant) -> Option<Duration> {
        let used = match self.clock {
            Some(clock) if self.unanswered == 0 => now.saturating_duration_since(clock.start.since),
            _ => Duration::ZERO,
        };
        call.limit().map(|limit| limit.saturating_sub(used))
    }

    /// Returns the id of the next call that is written.
    pub(super) fn next_id(&self) -> u64 {
        self.last_id + 1
    }

    /// Records that a call was written with the id [`next_id`](Self::next_id).
    pub(super) fn push_written(&mut self, call: C, bytes: usize, now: Instant) {
        let clock = self.clock.get_or_insert_with(|| FirstClock::start(now));
        if self.unanswered == 0 {
            clock.waited = now.saturating_duration_since(clock.start.since);
        }
        self.last_id += 1;
        self.unanswered += 1;
        self.written_bytes += bytes;
        self.written.push_back(WrittenCall { id: self.last_id, call: Some(call), bytes });
    }

    /// Takes the written call to which the worker has replied.
    pub(super) fn take_answered(&mut self, now: Instant) -> Option<C> {
        let call = self.take_written()?;
        self.unanswered -= 1;
        self.restart_clock(now);
        Some(call)
    }

    /// Takes the reply to a call that was answered before.
    pub(super) fn skip_cleared(&mut self) {
        let call = self.take_written();
        debug_assert!(call.is_none(), "only a cleared call is skipped");
    }

    fn take_written(&mut self) -> Option<C> {
        let WrittenCall { call, bytes, .. } = self.written.pop_front()?;
        self.written_bytes -= bytes;
        call
    }

    /// Takes the first unanswered call. If it was written, the worker will reply that it cleared it.
    pub(super) fn take_first(&mut self) -> Option<C> {
        if let Some(call) = self.written.iter_mut().find_map(|written| written.call.take()) {
            self.unanswered -= 1;
            return Some(call);
        }
        self.queued.pop_front().map(|queued| queued.call)
    }

    /// Passes every unanswered call to `answer`, in order. The worker will reply to the written ones that it cleared
    /// them.
    pub(super) fn clear(&mut self, answer: impl FnMut(C)) {
        let written = self.written.iter_mut().filter_map(|written| written.call.take());
        let queued = self.queued.drain(..).map(|queued| queued.call);
        written.chain(queued).for_each(answer);
        self.unanswered = 0;
        self.clock = None;
    }

    /// Drops the record of written calls, because the worker is gone and will not reply. All of them are answered.
    pub(super) fn forget_written(&mut self) {
        debug_assert_eq!(self.unanswered, 0, "the calls in front are answered first");
        self.written.clear();
        self.written_bytes = 0;
    }

    /// Starts the clock of the new first call.
    fn restart_clock(&mut self, now: Instant) {
        self.clock = (!self.is_empty()).then(|| FirstClock::start(now));
    }
}
