//! One checkout at work: it asks for a worker, writes calls, reads replies, watches the time limits and returns the
//! worker. The checkout actor runs a session, and so does each single call or batch that is sent to a pool.

pub(crate) mod call_queue;
mod cancellation;
pub(crate) mod dispatch;
mod errors;
mod options;
mod pending;
mod replies;
mod resolving;
mod timers;
mod worker_exit;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, Waker, ready};
use std::time::{Duration, Instant};

use crate::actors::scheduler::Scheduler;
use crate::actors::scheduler::exit::ExitReport;
use crate::actors::scheduler::lease::Lease;
use crate::actors::scheduler::waiter::{Notice, Waiter};
use crate::actors::scheduler::worker_state::RetireReason;
use crate::actors::telemetry::event_forwarder::{EventForwarder, LogSink};
use crate::actors::threads::real_time::LazyTimer;
use crate::actors::transport::Arrived;
use crate::actors::transport::blobs;
use crate::actors::transport::blobs::Encoded;
use crate::blob::Blob;
use crate::channel::Outbox;
use crate::failure::{Failure, FailureKind};
use crate::wire::call::{CallHeader, ToWorker};
use crate::wire::frame;
use crate::wire::frame::{Limits, PayloadError};
use call_queue::{CallQueue, PendingCall, QueuedCall};
use errors::ErrorRecord;
pub(crate) use options::CallOptions;
use options::CallTimes;
pub(crate) use pending::PendingSession;
use resolving::Resolving;

/// How long `checkout_done` may take if calls have no time limit.
const RELEASE_TIMEOUT: Duration = Duration::from_secs(300);

/// Number of submitted calls after which the session looks at its channel, even if the mailbox is not empty.
const CALLS_BETWEEN_EXCHANGES: u32 = 256;

/// What a session needs from the actor or task that runs it.
pub(crate) trait Host {
    /// Returns whether further calls can still be sent to the session.
    fn is_connected(&self) -> bool;

    /// Sends a fence with this number through the session's own mailbox; when it arrives, [`Session::pass_fence`]
    /// is called. Returns `false` if there is no mailbox.
    fn send_fence(&mut self, number: u64) -> bool;
}

/// How a session is related to a worker.
enum SessionState {
    /// It has no worker and has not asked for one.
    NoWorker,
    Waiting,
    Held(Lease),
    /// The worker runs `checkout_done`.
    Releasing {
        lease: Lease,
        since: Instant,
        limit: Duration,
    },
    /// The worker closed its end of the channel, and the session waits for the exit report.
    AwaitingExit {
        lease: Lease,
        since: Instant,
    },
}

/// Appends an encoded message within these limits to the buffer.
pub(crate) type Encode<'a> = &'a mut dyn FnMut(&mut Vec<u8>, Limits) -> Result<(), PayloadError>;

/// One checkout at work.
pub(crate) struct Session {
    scheduler: Arc<Scheduler>,
    waiter: Arc<Waiter>,
    options: CallOptions,
    state: SessionState,
    calls: CallQueue,
    timer: LazyTimer,
    pending_error: Option<ErrorRecord>,
    /// Number of the last fence that was sent; a fence with a lower number belongs to an error that was settled
    /// early.
    last_fence: u64,
    /// The failure that ended this checkout for good.
    fatal: Option<Failure>,
    /// A failure that waits for its backtrace.
    resolving: Option<Resolving>,
    /// A refusal that arrived when no call was queued; the next call is answered with it.
    refusal: Option<Failure>,
    /// Number of errors in the current lease that were delivered to requesters.
    errors_seen: u32,
    /// Whether an error left the state of the worker in doubt.
    in_doubt: bool,
    /// Whether a handler asked for the worker to be replaced.
    stop_requested: bool,
    /// Whether the call in the worker carries the flag `last`, so that the worker releases itself behind it.
    releases_itself: bool,
    /// Whether the worker has replied to a call in the current lease.
    has_replied: bool,
    /// Number of workers in a row that exited before they began the first call.
    false_starts: u32,
    forwarder: EventForwarder,
    /// The blobs of the next reply; `None` until the worker reports them.
    reply_blobs: Option<Vec<Blob>>,
    /// The bytes that were written to a worker which exited before it read them; the next worker gets them.
    unread_outbox: Option<Outbox>,
    held_since: Instant,
    /// Since when the worker has had nothing to do; valid only while no call is unanswered.
    idle_since: Instant,
    /// Number of calls that the worker has answered since its fork.
    calls_served: u64,
    /// How long the running call had waited when it was written.
    waited: Duration,
    /// Whether the pool is stopping: queued calls may run, new ones are refused.
    closing: bool,
    /// Number of calls submitted since the session was last polled.
    calls_since_poll: u32,
    /// Whether the last address was gone at the previous poll.
    was_disconnected: bool,
    /// The task that the waiter's notices wake.
    waker: Option<Waker>,
}

impl Session {
    /// Accepts one call: writes it, queues it or answers it with a failure.
    ///
    /// actix empties an actor's mailbox before it polls the actor's futures. With a sender that never pauses, the
    /// channel would never be looked at, so this method looks at it after every [`CALLS_BETWEEN_EXCHANGES`] calls.
    pub(crate) fn submit(&mut self, call: PendingCall, encode: Encode<'_>, host: &mut dyn Host) {
        self.take_call(call, encode, host);
        self.calls_since_poll += 1;
        if self.calls_since_poll < CALLS_BETWEEN_EXCHANGES {
            return;
        }
        self.calls_since_poll = 0;
        self.write_queued();
        if let SessionState::Held(lease) = &mut self.state
            && let Some(channel) = lease.channel()
        {
            channel.write_now();
            let arrived = channel.read_now();
            self.handle_arrived(arrived, host);
        }
    }

    fn take_call(&mut self, call: PendingCall, encode: Encode<'_>, host: &mut dyn Host) {
        if let Some(fatal) = &self.fatal {
            return self.answer(&call, fatal.clone());
        }
        if let Some(pending_error) = &self.pending_error {
            return self.answer(&call, pending_error.cleared_failure());
        }
        if call.limit == Some(Duration::ZERO) {
            return self.answer(&call, timers::no_time_left());
        }
        if self.closing {
            let stopped = self.scheduler.stopped_failure();
            return self.answer(&call, stopped);
        }
        let needs_worker = self.refusal.is_none() && self.resolving.is_none();
        if matches!(self.state, SessionState::NoWorker) && needs_worker {
            self.request_worker(Scheduler::acquire);
        }
        if self.scheduler.quarantine.is_some() {
            return self.submit_unless_quarantined(call, encode, host);
        }
        self.write_or_queue(call, encode, host);
    }

    /// Writes a call if the worker may get it now; queues it otherwise.
    fn write_or_queue(&mut self, call: PendingCall, encode: Encode<'_>, host: &mut dyn Host) {
        let now = self.calls.arrival_time();
        if self.may_write() && !self.calls.has_queued() {
            return self.write(call, encode, now);
        }
        let limits = self.scheduler.message_limits(call.origin.baggage().len());
        match Encoded::of(self.scheduler.blobs.as_ref(), |out| encode(out, limits)) {
            Ok(message) => {
                self.calls.queue(QueuedCall { call, message }, now);
                self.waiter.has_call.store(true, Ordering::Relaxed);
            }
            Err(problem) => self.refuse_payload(&call, &problem),
        }
        if let Some(refusal) = self.refusal.take() {
            self.handle_refusal(refusal, host);
        }
    }

    /// Does all work that can be done now; ready once the session is over.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>, host: &mut dyn Host) -> Poll<()> {
        self.calls_since_poll = 0;
        let disconnected = self.confirm_disconnected(cx, host);
        if self.waker.as_ref().is_none_or(|waker| !waker.will_wake(cx.waker())) {
            self.waker = Some(cx.waker().clone());
            self.waiter.set_waker(cx.waker());
        }
        loop {
            ready!(self.poll_resolving(cx, host));
            if let Some(notice) = self.waiter.take_notice() {
                self.handle_notice(notice, host);
                continue;
            }
            self.write_queued();
            if self.exchange(cx, host)
                || !self.looks_again() && (self.poll_cancellation(cx, host) || self.poll_deadline(cx, host))
            {
                continue;
            }
            if !self.finish_lease_if_done(disconnected) {
                break;
            }
        }
        if matches!(self.state, SessionState::NoWorker)
            && disconnected
            && self.calls.is_empty()
            && self.pending_error.is_none()
        {
            Poll::Ready(())
        } else {
            Poll::Pending
        }
    }

    /// Ends this checkout: answers all unanswered calls with the reason and kills the worker.
    pub(crate) fn abort(&mut self, reason: &str) {
        let aborted = Failure::of(FailureKind::Aborted, reason).in_pool(&self.scheduler.options.name);
        self.settle_error();
        self.resolving = None;
        let running = self.calls.first().map(|(call, _)| self.with_times(aborted.clone(), call));
        let facts = self.kill_worker(RetireReason::Aborted);
        let phase = matches!(self.state, SessionState::Waiting).then(|| self.leave_queue());
        let complete = |failure: Failure| match (&facts, phase) {
            (Some(facts), _) => failure.on_worker(facts.clone()),
            (None, Some(phase)) => failure.in_phase(phase),
            (None, None) => failure,
        };
        let (aborted, mut running) = (complete(aborted), running.map(complete));
        for call in self.calls.clear() {
            self.answer(&call, running.take().unwrap_or_else(|| aborted.clone()));
        }
        self.drop_worker(RetireReason::Aborted);
        self.fatal.get_or_insert(aborted);
    }

    /// Returns whether the last address was gone at the previous poll already. A call that was sent right before
    /// the last address was dropped may arrive after this poll has started, so one poll with an empty mailbox has
    /// to pass in between.
    fn confirm_disconnected(&mut self, cx: &mut Context<'_>, host: &dyn Host) -> bool {
        let gone = !host.is_connected();
        let seen_before = std::mem::replace(&mut self.was_disconnected, gone) || self.options.single;
        if gone && !seen_before {
            cx.waker().wake_by_ref();
        }
        gone && seen_before
    }

    /// Asks the scheduler for a worker with `ask` and waits for its notices.
    fn request_worker(&mut self, ask: fn(&Arc<Scheduler>) -> Arc<Waiter>) {
        self.waiter = ask(&self.scheduler);
        if let Some(waker) = &self.waker {
            self.waiter.set_waker(waker);
        }
        self.waiter.has_call.store(!self.calls.is_empty(), Ordering::Relaxed);
        self.state = SessionState::Waiting;
    }

    fn handle_notice(&mut self, notice: Notice, host: &mut dyn Host) {
        if let Some(lease) = notice.lease {
            self.accept_lease(lease);
        }
        self.closing |= notice.closing || notice.stopped;
        if let Some(refusal) = notice.refusal {
            self.state = SessionState::NoWorker;
            self.handle_refusal(refusal, host);
        }
        if notice.worker_ended || notice.exit_report.is_some() {
            self.take_last_replies(host);
        }
        // Before the exit report: most likely the stop has killed the worker.
        if notice.stopped {
            let stopped = self.scheduler.stopped_failure();
            for call in self.calls.clear() {
                self.answer(&call, stopped.clone());
            }
            self.drop_worker(RetireReason::PoolEnds);
        }
        if let Some(exit_report) = notice.exit_report {
            self.handle_exit(exit_report, host);
        }
    }

    fn accept_lease(&mut self, mut lease: Lease) {
        self.held_since = Instant::now();
        self.idle_since = self.held_since;
        self.errors_seen = 0;
        self.in_doubt = false;
        self.stop_requested = false;
        self.has_replied = false;
        self.reply_blobs = None;
        let has_early_bytes = lease.channel().is_some_and(|channel| channel.has_unread_bytes());
        self.false_starts += u32::from(has_early_bytes);
        let registered = lease.channel().is_some_and(|channel| {
            // The outbox may keep bytes that another checkout sent; they must not be sent again.
            *channel.outbox() = self.unread_outbox.take().unwrap_or_default();
            channel.outbox().keep_sent();
            self.calls_served = channel.calls_served;
            channel.register_here().is_ok()
        });
        self.state = SessionState::Held(lease);
        if !registered || (has_early_bytes && !self.exceeds_false_starts()) {
            // The registration failed (out of descriptors, for example), or the worker sent bytes before it got a
            // call: it is not usable.
            self.discard_unusable_worker();
        }
    }

    /// Kills a worker that cannot be used, keeps the calls that were written to it, and asks for another worker.
    fn discard_unusable_worker(&mut self) {
        if let SessionState::Held(lease) = std::mem::replace(&mut self.state, SessionState::NoWorker) {
            let channel = lease.kill(RetireReason::Broken).filter(|_| self.calls.unanswered() > 0);
            self.unread_outbox = channel.map(|mut channel| std::mem::take(channel.outbox()));
            self.request_worker(Scheduler::reacquire);
        }
    }

    /// Returns whether a call may be written to the worker now. Until the worker has replied once, only one call at
    /// a time is written: a worker that was dead when it was granted has not read that call, and another worker can
    /// be given the same bytes.
    fn may_write(&self) -> bool {
        matches!(self.state, SessionState::Held(_)) && self.calls.may_write(!self.has_replied)
    }

    fn write_queued(&mut self) {
        while self.calls.has_queued() && self.may_write() && self.pending_error.is_none() {
            let Some(QueuedCall { call, message }) = self.calls.take_next_to_write() else {
                return;
            };
            let mut copy = |out: &mut Vec<u8>, _| {
                message.write(out);
                Ok(())
            };
            self.write(call, &mut copy, Instant::now());
        }
    }

    fn write(&mut self, mut call: PendingCall, encode: Encode<'_>, now: Instant) {
        let SessionState::Held(lease) = &mut self.state else { return };
        // A worker that will be replaced does not run `checkout_done` for a next checkout.
        self.releases_itself =
            self.options.single && self.scheduler.retire_reason(lease.worker.number).is_none();
        let Some(channel) = lease.channel() else { return };
        call.mark_written();
        let baggage = call.origin.baggage();
        let header = ToWorker::Call(CallHeader {
            id: self.calls.next_id(),
            method: call.method.index,
            errors_seen: self.errors_seen,
            last: self.releases_itself,
            limit: self.calls.remaining_limit(&call, now),
            baggage: u32::try_from(baggage.len()).unwrap_or(u32::MAX),
            verbosity: call.origin.log_sink().map_or(0, LogSink::verbosity),
        });
        let limits = self.scheduler.message_limits(baggage.len());
        let out = channel.outbox().buffer();
        let before = out.len();
        let payload = |out: &mut Vec<u8>| {
            out.extend_from_slice(baggage);
            blobs::encode(self.scheduler.blobs.as_ref(), out, |out| encode(out, limits))
        };
        match frame::append_with(out, &header, payload) {
            Ok(lent) => {
                if !lent.is_empty() {
                    frame::insert(out, before, &ToWorker::Lent(blobs::spans(&lent)));
                }
                let bytes = out.len() - before;
                if self.calls.unanswered() == 0 {
                    self.waited = self.calls.waited(now);
                    self.scheduler.totals.add_wait(self.waited);
                }
                if !self.has_replied {
                    self.waiter.has_call.store(true, Ordering::Relaxed);
                }
                self.calls.push_written(call, bytes, lent, now);
            }
            Err(problem) => self.refuse_payload(&call, &problem),
        }
    }

    /// Writes and reads the channel and handles what arrived; returns whether anything arrived.
    fn exchange(&mut self, cx: &mut Context<'_>, host: &mut dyn Host) -> bool {
        let expects = self.calls.expects_reply();
        let (SessionState::Held(lease) | SessionState::Releasing { lease, .. }) = &mut self.state else {
            return false;
        };
        let Some(channel) = lease.channel() else { return false };
        match channel.poll_exchange(cx, expects) {
            Poll::Ready(arrived) => self.handle_arrived(arrived, host),
            Poll::Pending => false,
        }
    }

    /// Returns whether the channel is looked at again at once, so that nothing else has to wake this task.
    fn looks_again(&mut self) -> bool {
        let (SessionState::Held(lease) | SessionState::Releasing { lease, .. }) = &mut self.state else {
            return false;
        };
        lease.channel().is_some_and(|channel| channel.looks_again())
    }

    fn handle_arrived(&mut self, arrived: Arrived, host: &mut dyn Host) -> bool {
        match arrived {
            Arrived::Some => self.take_replies(host),
            Arrived::Nothing => return false,
            Arrived::End => self.await_exit(),
            Arrived::Corrupt => self.fail_on_protocol_error("it wrote invalid counters to its channel", host),
        }
        true
    }

    /// Returns the worker once no further call can come; returns whether anything changed.
    fn finish_lease_if_done(&mut self, disconnected: bool) -> bool {
        let wanted = !disconnected && !self.closing;
        if wanted || !self.calls.is_empty() || self.pending_error.is_some() {
            return false;
        }
        self.finish_lease()
    }

    fn finish_lease(&mut self) -> bool {
        match std::mem::replace(&mut self.state, SessionState::NoWorker) {
            SessionState::Waiting => drop(self.scheduler.cancel(&self.waiter)),
            SessionState::Held(mut lease) => {
                let asked = self.stop_requested.then_some(RetireReason::StopRequested);
                let ends = asked.or_else(|| self.scheduler.retire_reason(lease.worker.number));
                if !self.in_doubt && ends.is_none() {
                    if let Some(channel) = lease.channel() {
                        frame::append(channel.outbox().buffer(), &ToWorker::Release);
                    }
                    self.state = self.releasing_state(lease);
                    return true;
                }
                // The worker goes to no other checkout, so `checkout_done` does not run, and its replies to cleared
                // calls are not read.
                lease.worker.borrowed.keep_until_exit(self.calls.take_blobs());
                self.forget_written_calls();
                self.count_hold();
                match ends.filter(|_| !self.in_doubt) {
                    Some(reason) => lease.retire(reason),
                    None => drop(lease.kill(RetireReason::AfterError)),
                }
            }
            other => {
                self.state = other;
                return false;
            }
        }
        true
    }

    fn releasing_state(&self, lease: Lease) -> SessionState {
        let since = Instant::now();
        let limit = self.options.timeout.filter(|limit| since.checked_add(*limit).is_some());
        SessionState::Releasing { lease, since, limit: limit.unwrap_or(RELEASE_TIMEOUT) }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.keep_blobs_until_exit();
        // If the actix system ends, an actor is dropped with calls unanswered.
        self.forwarder.end_call(true);
        let ended =
            Failure::of(FailureKind::Aborted, "the actix system ended").in_pool(&self.scheduler.options.name);
        self.calls.clear().iter().for_each(|call| call.log_failure(&ended));
        // Dropping a held lease gives it up. A granted lease that is still in the waiter has to be returned by
        // `cancel`.
        if matches!(self.state, SessionState::Waiting) {
            drop(self.scheduler.cancel(&self.waiter));
        }
    }
}
