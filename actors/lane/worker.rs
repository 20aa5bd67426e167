//! One worker that a lane holds: its lease, the calls that are written to it, and what it sends.

use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::state::{Held, Queued, Single, Written};
use crate::actors::scheduler::Scheduler;
use crate::actors::scheduler::exit::{ExitReport, unreported_end};
use crate::actors::scheduler::lease::Lease;
use crate::actors::scheduler::waiter::Waiter;
use crate::actors::session::call_queue::PendingCall;
use crate::actors::session::Encode;
use crate::actors::telemetry::event_forwarder::{EventForwarder, LogSink};
use crate::actors::transport::HostChannel;
use crate::actors::transport::blobs;
use crate::actors::transport::blobs::Encoded;
use crate::blob;
use crate::blob::Blob;
use crate::failure::{Failure, FailureKind};
use crate::wire::call::{CallHeader, FromWorker, Lending, Outcome, Released, ReplyHeader, ToWorker};
use crate::wire::frame;
use crate::wire::frame::PayloadError;
use crate::wire::log_record::Logged;

pub(super) type Call = Single<PendingCall>;
pub(super) type WrittenCall = Written<PendingCall, Place>;
pub(super) type QueuedCall = Queued<PendingCall, Encoded>;

/// Where a written call's message is in the channel's outbox, until the call is answered.
pub(crate) struct Place {
    message: Range<u64>,
    /// Where the call's frames begin.
    start: u64,
    /// The blobs of its arguments, which the worker reads until it replies.
    blobs: Vec<Blob>,
}

/// A worker that the lane holds.
pub(super) struct LaneWorker {
    pub(super) lease: Lease,
    /// Through which the scheduler notifies the lane of this worker.
    pub(super) waiter: Arc<Waiter>,
    forwarder: EventForwarder,
    /// The blobs of the next reply; `None` until the worker reports them.
    reply_blobs: Option<Vec<Blob>>,
    pub(super) calls_served: u64,
    /// What it reported with its last release.
    pub(super) released: Released,
    /// Since when its channel has ended, and its exit report is awaited.
    pub(super) awaiting_exit: Option<Instant>,
}

/// A reply whose result is decoded in the call's slot.
pub(super) struct Reply {
    pub(super) header: ReplyHeader,
    pub(super) call: Call,
    /// Why its result could not be decoded.
    pub(super) problem: Option<PayloadError>,
    pub(super) waited: Duration,
    pub(super) ran: Duration,
}

/// What one frame of the worker means for the lane.
pub(super) enum Event {
    Reply(Box<Reply>),
    Released(Released),
    /// Log records and lent blobs, which are taken care of.
    Handled,
    /// The worker broke the protocol.
    Invalid(String),
}

impl LaneWorker {
    /// Prepares a worker that was just granted; `None` if its channel cannot be used.
    pub(super) fn accept(mut lease: Lease, waiter: Arc<Waiter>, now: Instant) -> Option<(Self, Held<PendingCall, Place>)> {
        let budget = lease.checkouts_left.saturating_add(1);
        let channel = lease.channel()?;
        if channel.has_unread_bytes() || channel.register_here().is_err() {
            return None;
        }
        *channel.outbox() = Default::default();
        channel.outbox().keep_sent();
        let (calls_served, writes_ahead) = (channel.calls_served, channel.epoch().is_some());
        let worker = LaneWorker {
            lease,
            waiter,
            forwarder: EventForwarder::default(),
            reply_blobs: None,
            calls_served,
            released: Released { private_bytes: None, stop: false },
            awaiting_exit: None,
        };
        Some((worker, Held::new(budget, writes_ahead, now)))
    }

    pub(super) fn channel(&mut self) -> Option<&mut HostChannel> {
        self.lease.channel()
    }

    /// Writes a call into the channel's outbox.
    ///
    /// # Errors
    ///
    /// Why the message cannot be encoded, with the call; nothing is written then.
    pub(super) fn write(
        &mut self,
        held: &mut Held<PendingCall, Place>,
        scheduler: &Scheduler,
        mut single: Call,
        ticket: u64,
        encode: Encode<'_>,
        now: Instant,
    ) -> Result<(), (Call, PayloadError)> {
        let Some(channel) = self.lease.channel() else {
            return Err((single, PayloadError::Encode { type_name: "", reason: "the channel is gone".to_owned() }));
        };
        single.call.mark_written();
        let epoch = channel.epoch();
        let used = now.saturating_duration_since(single.since);
        let baggage = single.call.origin.baggage();
        let header = ToWorker::Call(CallHeader {
            id: held.next_id(),
            method: single.call.method.index,
            errors_seen: 0,
            last: true,
            epoch,
            limit: single.limit.map(|limit| limit.saturating_sub(used)),
            baggage: u32::try_from(baggage.len()).unwrap_or(u32::MAX),
            verbosity: single.call.origin.log_sink().map_or(0, LogSink::verbosity),
        });
        let limits = scheduler.message_limits(baggage.len());
        let start = channel.outbox().end();
        let out = channel.outbox().buffer();
        let before = out.len();
        let mut message_at = 0;
        let payload = |out: &mut Vec<u8>| {
            out.extend_from_slice(baggage);
            message_at = out.len();
            blobs::encode(scheduler.blobs.as_ref(), out, |out| encode(out, limits))
        };
        match frame::append_with(out, &header, payload) {
            Ok(lent) => {
                let frame_end = out.len();
                if !lent.is_empty() {
                    frame::insert(out, before, &ToWorker::Lent(blobs::spans(&lent)));
                }
                let size = out.len() - before;
                let end = start + size as u64;
                let message = end - (frame_end - message_at) as u64..end;
                if epoch.is_some() {
                    channel.add_gated();
                }
                held.push(single, Place { message, start, blobs: lent }, size, ticket, now);
                Ok(())
            }
            Err(problem) => Err((single, problem)),
        }
    }

    /// Returns the message of a call that was taken back, to be written elsewhere.
    pub(super) fn message(&mut self, place: &mut Place) -> Encoded {
        let bytes = self.channel().map(|channel| channel.outbox().kept(place.message.clone()).to_vec());
        Encoded { bytes: bytes.unwrap_or_default(), blobs: std::mem::take(&mut place.blobs) }
    }

    /// Discards the bytes of answered calls.
    pub(super) fn discard_answered(&mut self, held: &Held<PendingCall, Place>) {
        if let Some(channel) = self.lease.channel() {
            let outbox = channel.outbox();
            let first = held.written.front().map_or_else(|| outbox.end(), |first| first.place.start);
            outbox.discard_before(first);
        }
    }

    /// Takes the next frame; the result in a reply is decoded in place.
    pub(super) fn next_event(
        &mut self,
        held: &mut Held<PendingCall, Place>,
        scheduler: &Scheduler,
        now: Instant,
    ) -> Option<Event> {
        let channel = self.lease.channel()?;
        let body = match channel.next() {
            Ok(body) => body?,
            Err(error) => return Some(Event::Invalid(error.to_string())),
        };
        Some(match FromWorker::read(body) {
            Ok((FromWorker::Reply(header), payload)) => {
                let lent = self.reply_blobs.take().unwrap_or_default();
                let since = held.front_since;
                let Some(Written { single: call, .. }) = held.answer(header.id, now) else {
                    return Some(Event::Invalid(format!("it replied to call {} out of order", header.id)));
                };
                let has_result = matches!(header.outcome, Outcome::Done | Outcome::Failed);
                let max_depth = scheduler.options.max_depth;
                let decode = || blob::decode_with(lent, || call.call.slot.decode(payload, max_depth));
                let problem = has_result.then(|| decode().err()).flatten();
                call.call.mark_answered(now);
                channel.answer_gated();
                self.forwarder.end_call(false);
                self.calls_served += 1;
                let waited = since.saturating_duration_since(call.since);
                let ran = now.saturating_duration_since(since.max(call.since));
                Event::Reply(Box::new(Reply { header, call, problem, waited, ran }))
            }
            Ok((FromWorker::Released(released), [])) => Event::Released(released),
            Ok((FromWorker::Logged(logged), [])) => self.take_record(held, logged),
            Ok((FromWorker::Lent(lending), [])) => self.take_lending(held, lending),
            Ok(_) => Event::Invalid("it sent an unexpected message".to_owned()),
            Err(error) => Event::Invalid(error.to_string()),
        })
    }

    fn take_record(&mut self, held: &Held<PendingCall, Place>, logged: Logged) -> Event {
        let Some(first) = held.written.front().filter(|first| first.id == logged.call) else {
            return Event::Invalid("it sent a log record for a call that is not running".to_owned());
        };
        match self.forwarder.forward(first.single.call.origin.log_sink(), logged) {
            true => Event::Handled,
            false => Event::Invalid("it sent too many log records in one call".to_owned()),
        }
    }

    fn take_lending(&mut self, held: &Held<PendingCall, Place>, lending: Lending) -> Event {
        if !lending.lent.is_empty() && held.written.is_empty() {
            return Event::Invalid("it reported blobs while no reply was due".to_owned());
        }
        if self.reply_blobs.is_some() {
            return Event::Invalid("it reported blobs twice for one reply".to_owned());
        }
        let result_arena = self.lease.channel().and_then(|channel| channel.result_arena());
        let given = held.written.front().map_or(&[][..], |first| &first.place.blobs);
        match self.lease.worker.borrowed.receive_lending(lending, given, result_arena.as_ref()) {
            Ok(lent) => {
                self.reply_blobs = Some(lent);
                Event::Handled
            }
            Err(what) => Event::Invalid(what.to_owned()),
        }
    }

    /// Keeps the argument blobs of these calls until the worker exits, which may read them until then.
    pub(super) fn keep_blobs(&self, calls: &mut [WrittenCall]) {
        let blobs = calls.iter_mut().flat_map(|call| std::mem::take(&mut call.place.blobs)).collect();
        self.lease.worker.borrowed.keep_until_exit(blobs);
    }

    /// Ends the log spans of a call that gets no reply.
    pub(super) fn cut_short(&mut self) {
        self.forwarder.end_call(true);
    }

    /// Returns the failure of a call whose worker has ended, or has closed its channel if there is no report.
    pub(super) fn exit_failure(&self, scheduler: &Scheduler, exit_report: Option<&ExitReport>) -> Failure {
        let (options, worker, calls_served) = (&scheduler.options, &self.lease.worker, Some(self.calls_served));
        let Some(exit_report) = exit_report else {
            let text = format!("it {}", unreported_end(worker.is_running()));
            return Failure::of(FailureKind::Died, text).on_worker(worker.facts_and_usage(calls_served));
        };
        let death = match options.hung_worker_timeout.filter(|_| exit_report.was_hung()) {
            Some(limit) => Failure::of(FailureKind::Hung, "").at_limit(limit),
            None => Failure::of(FailureKind::Died, ""),
        };
        exit_report.add_to(death, worker, calls_served, options.memory_limit)
    }
}
