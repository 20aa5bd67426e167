//! One worker that a lane holds: its lease, the calls that are written to it, and what it sends.

use std::ops::Range;
use std::panic::Location;
use std::sync::Arc;
use std::time::Duration;

use super::state::{Held, Single, Written};
use crate::actors::calls::limits::RELEASE_TIMEOUT;
use crate::actors::calls::payload::Payload;
use crate::actors::calls::reading::{FrameReader, ReplyMeaning, Violation, next_message};
use crate::actors::calls::writing::{CallFrame, LentBlobs, write_call};
use crate::actors::calls::{CallTimes, PendingCall};
use crate::actors::scheduler::Scheduler;
use crate::actors::scheduler::lease::Lease;
use crate::actors::scheduler::waiter::Waiter;
use crate::actors::transport::HostChannel;
use crate::actors::transport::blobs::Encoded;
use crate::channel::Outbox;
use crate::clock::Instant;
use crate::wire::call::{FromWorker, Lending, Released, ReplyHeader};
use crate::wire::frame::PayloadError;
use crate::wire::log_record::Logged;

/// Where a written call's frames are in the channel's outbox, until the call is answered.
pub(crate) struct Place {
    start: u64,
    message: Range<u64>,
}

pub(super) type HeldState = Held<PendingCall, Place>;

/// A worker that the lane holds.
pub(super) struct LaneWorker {
    pub(super) lease: Lease,
    /// Through which the scheduler notifies the lane of this worker.
    pub(super) waiter: Arc<Waiter>,
    /// Where the call was sent that is shown to run.
    shown: Option<&'static Location<'static>>,
    reader: FrameReader,
    lent: LentBlobs,
    /// What it reported with its last release.
    pub(super) released: Released,
    /// Since when its channel has ended, and its exit report is awaited.
    pub(super) awaiting_exit: Option<Instant>,
}

/// A reply, whose result the call's slot has.
pub(super) struct Reply {
    pub(super) call: PendingCall,
    pub(super) meaning: ReplyMeaning,
    /// Whether the worker has asked to be replaced.
    pub(super) stop: bool,
    pub(super) times: CallTimes,
}

/// What one frame of the worker means for the lane.
pub(super) enum Arrival {
    Reply(Reply),
    Released(Released),
    /// A log record or a list of blobs, which is taken care of.
    Handled,
    Invalid(Violation),
}

impl From<Result<(), Violation>> for Arrival {
    fn from(handled: Result<(), Violation>) -> Self {
        handled.map_or_else(Arrival::Invalid, |()| Arrival::Handled)
    }
}

impl LaneWorker {
    /// Prepares a worker that was just granted.
    ///
    /// # Errors
    ///
    /// The lease of a worker that cannot be used: it has sent bytes before it got a call, or its channel cannot be
    /// registered.
    pub(super) fn accept(
        mut lease: Lease,
        waiter: Arc<Waiter>,
        now: Instant,
    ) -> Result<(Self, HeldState), Box<Lease>> {
        let budget = lease.checkouts_left.saturating_add(1);
        let Some(channel) = lease.channel() else { return Err(Box::new(lease)) };
        if channel.has_unread_bytes() || channel.register_here().is_err() {
            return Err(Box::new(lease));
        }
        *channel.outbox() = Outbox::default();
        channel.outbox().keep_sent();
        let writes_ahead = channel.epoch().is_some();
        let worker = LaneWorker {
            lease,
            waiter,
            shown: None,
            reader: FrameReader::default(),
            lent: LentBlobs::default(),
            released: Released { private_bytes: None, stop: false },
            awaiting_exit: None,
        };
        Ok((worker, Held::new(budget, writes_ahead, now)))
    }

    /// Returns the channel of a worker that is not given back.
    pub(super) fn channel(&mut self) -> Option<&mut HostChannel> {
        self.lease.channel()
    }

    /// Returns how many calls it has answered since its fork.
    pub(super) fn calls_served(&self) -> u64 {
        self.lease.worker.activity.calls_served()
    }

    /// Counts a call that it has answered.
    pub(super) fn add_served(&self) {
        self.lease.worker.activity.set_calls_served(self.calls_served() + 1);
    }

    /// Writes a call into the channel's outbox.
    ///
    /// # Errors
    ///
    /// Why the message cannot be encoded, with the call; nothing is written then.
    pub(super) fn write(
        &mut self,
        scheduler: &Scheduler,
        held: &mut HeldState,
        mut single: Single<PendingCall>,
        payload: Payload<'_>,
        now: Instant,
    ) -> Result<(), Box<(PendingCall, PayloadError)>> {
        let Some(channel) = self.lease.channel() else { return Ok(()) };
        let used = now.saturating_duration_since(single.since());
        let epoch = channel.epoch();
        let frame = CallFrame {
            id: held.next_id(),
            errors_seen: 0,
            last: true,
            limit: single.limit.map(|limit| limit.saturating_sub(used)),
            epoch,
        };
        let start = channel.outbox().end();
        let out = channel.outbox().buffer();
        match write_call(scheduler, out, &mut self.lent, &mut single.call, frame, payload) {
            Ok(size) => {
                let end = channel.outbox().end();
                let place = Place { start, message: end - size.message as u64..end };
                if epoch.is_some() {
                    channel.add_gated();
                }
                held.push(single, place, size.whole, now);
                self.show_first(held);
                Ok(())
            }
            Err(problem) => Err(Box::new((single.call, problem))),
        }
    }

    /// Shows where the first call was sent, which runs now, if that differs from the one before.
    fn show_first(&mut self, held: &HeldState) {
        let Some(first) = held.written.front() else { return };
        let at = first.single.call.origin.at();
        if !self.shown.is_some_and(|shown| std::ptr::eq(shown, at)) {
            self.shown = Some(at);
            self.waiter.holding.show_call(at);
        }
    }

    /// Returns the message of a call that was taken back, to be written elsewhere.
    pub(super) fn message(&mut self, id: u64, place: &Place) -> Encoded {
        let bytes = self.lease.channel().map(|channel| channel.outbox().kept(place.message.clone()).to_vec());
        Encoded { bytes: bytes.unwrap_or_default(), blobs: self.lent.take_of(id) }
    }

    /// Discards the bytes of the calls that are answered.
    pub(super) fn discard_answered(&mut self, held: &HeldState) {
        if let Some(channel) = self.lease.channel() {
            let outbox = channel.outbox();
            let first = held.written.front().map_or_else(|| outbox.end(), |first| first.place.start);
            outbox.discard_before(first);
        }
    }

    /// Takes the next frame; the result in a reply is decoded in place.
    pub(super) fn next_arrival(
        &mut self,
        scheduler: &Scheduler,
        held: &mut HeldState,
        now: Instant,
    ) -> Option<Arrival> {
        let (message, payload) = match next_message(self.lease.channel()?)? {
            Ok(message) => message,
            Err(violation) => return Some(Arrival::Invalid(violation)),
        };
        Some(match message {
            FromWorker::Reply(ReplyHeader { id, outcome, stop, .. }) => {
                let began = held.front_since;
                let Some(Written { single, .. }) = held.answer(id, now) else {
                    return Some(Arrival::Invalid(format!("it replied to call {id} out of order").into()));
                };
                let times = Self::times(&single, began, now);
                let max_depth = scheduler.options.max_depth;
                let call = single.call;
                let meaning = self.reader.read_reply(Some(&call), outcome, payload, max_depth, now);
                self.lent.drop_up_to(id);
                if let Some(channel) = self.lease.channel() {
                    channel.answer_gated();
                }
                self.show_first(held);
                Arrival::Reply(Reply { call, meaning, stop, times })
            }
            FromWorker::Released(released) => Arrival::Released(released),
            FromWorker::Logged(logged) => self.take_record(held, *logged).into(),
            FromWorker::Lent(lending) => self.take_lending(held, lending).into(),
            FromWorker::Ready(_) | FromWorker::SetupFailed(_) => {
                Arrival::Invalid("it sent an unexpected message".into())
            }
        })
    }

    fn take_record(&mut self, held: &HeldState, logged: Logged) -> Result<(), Violation> {
        let first = held.written.front().filter(|first| first.id == logged.call);
        let first =
            first.ok_or(Violation::Borrowed("it sent a log record for a call that is not running"))?;
        self.reader.forward(first.single.call.origin.log_sink(), logged)
    }

    fn take_lending(&mut self, held: &HeldState, lending: Lending) -> Result<(), Violation> {
        if !lending.lent.is_empty() && held.written.is_empty() {
            return Err("it reported blobs while no reply was due".into());
        }
        let result_arena = self.lease.channel().and_then(|channel| channel.result_arena());
        let given = held.written.front().map_or(&[][..], |first| self.lent.of_first(first.id));
        self.reader.receive_lending(&self.lease.worker, result_arena.as_ref(), lending, given)
    }

    /// Keeps the argument blobs of the calls that it has until it exits: it may read them until then.
    pub(super) fn keep_blobs_until_exit(&mut self) {
        self.lease.worker.borrowed.keep_until_exit(self.lent.take());
    }

    /// Returns how long the first call has waited and run.
    pub(super) fn times(first: &Single<PendingCall>, began: Instant, now: Instant) -> CallTimes {
        let waited = began.saturating_duration_since(first.since());
        CallTimes { waited, ran: Some(now.saturating_duration_since(began.max(first.since()))) }
    }
}

/// How long `checkout_done` may take behind a call.
pub(super) fn release_limit(scheduler: &Scheduler) -> Duration {
    scheduler.options.timeout.unwrap_or(RELEASE_TIMEOUT)
}
