//! One checkout at work: it asks for a worker, writes calls, takes replies, watches the clock and gives the
//! worker back. The checkout actor and a pool's single calls both are sessions.

pub(crate) mod call_queue;
mod cancellation;
pub(crate) mod dispatch;
mod errors;
mod options;
mod pending;
mod replies;
mod timers;
mod worker_exit;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use crate::actors::scheduler::Scheduler;
use crate::actors::scheduler::exit::ExitReport;
use crate::actors::scheduler::lease::Lease;
use crate::actors::scheduler::waiter::{Notice, Waiter};
use crate::actors::scheduler::worker_state::RetireReason;
use crate::actors::telemetry::event_forwarder::{EventForwarder, LogSink};
use crate::actors::transport::Arrived;
use crate::actors::transport::blobs;
use crate::actors::transport::blobs::Encoded;
use crate::blob::Blob;
use crate::channel::Outbox;
use crate::failure::{Failure, FailureKind};
use crate::wire::call::{CallHeader, ToWorker};
use crate::wire::frame;
use crate::wire::frame::PayloadError;
use call_queue::{CallQueue, PendingCall, QueuedCall};
use errors::ErrorRecord;
pub(crate) use options::CallOptions;
use options::CallTimes;
pub(crate) use pending::PendingSession;
use timers::LazyTimer;

/// How long `checkout_done` may take where calls have no limit.
const RELEASE_PATIENCE: Duration = Duration::from_secs(300);

/// Calls after which the channel is looked at although the mailbox is not empty.
const BREATH: u32 = 256;

/// What a session needs of whatever it runs in.
pub(crate) trait Host {
    /// Whether anybody can still send it a call.
    fn is_connected(&self) -> bool;

    /// Sends a mark of this number through the session's own mailbox, to be told of by
    /// [`Session::fence_passed`]; `false` where there is no mailbox.
    fn send_fence(&mut self, number: u64) -> bool;
}

/// Where a checkout stands with its worker.
enum SessionState {
    /// It has none and stands in no line.
    Out,
    Waiting,
    Held(Lease),
    /// `checkout_done` runs in the worker.
    Releasing {
        lease: Lease,
        until: Instant,
    },
    /// The worker's end is closed; how it ended is being found out.
    AwaitingExit {
        lease: Lease,
        until: Instant,
    },
}

/// Writes a message behind what is in the buffer, within the limit.
pub(crate) type Encode<'a> = &'a mut dyn FnMut(&mut Vec<u8>, usize) -> Result<(), PayloadError>;

/// One checkout at work.
pub(crate) struct Session {
    scheduler: Arc<Scheduler>,
    waiter: Arc<Waiter>,
    options: CallOptions,
    stage: SessionState,
    calls: CallQueue,
    alarm: LazyTimer,
    fault: Option<ErrorRecord>,
    /// Number of the last mark that was sent; an older one belongs to a fault that was settled early.
    last_fence: u64,
    /// What ended this checkout for good.
    fatal: Option<Failure>,
    /// What the first call will be answered with: it came too late to find a call to answer.
    refusal: Option<Failure>,
    /// Errors of the current lease that requesters have seen.
    errors_seen: u32,
    /// Whether the worker holds what an error left in doubt.
    in_doubt: bool,
    /// Whether a handler asked for the worker to be replaced.
    asked_to_stop: bool,
    /// Whether the worker was told that the checkout ends with the call it has.
    releases_itself: bool,
    /// Whether the worker has answered anything in the current lease.
    heard: bool,
    /// Workers that ended with the first call before they began it.
    false_starts: u32,
    forwarder: EventForwarder,
    /// What the blobs of the next reply are.
    lent: Vec<Blob>,
    /// What was written to a worker that ended before it read it.
    unread: Option<Outbox>,
    held_since: Instant,
    /// Since when the worker has had nothing to do, while it has.
    idle_since: Instant,
    /// Calls that the worker has answered in its life.
    calls_served: u64,
    /// How long the call that runs had waited.
    waited: Duration,
    /// Whether the pool is stopping: what is queued may run, nothing new is taken.
    closing: bool,
    /// Calls taken in since the session was last polled.
    unpolled: u32,
    /// Whether the last address was gone at the last poll.
    seen_gone: bool,
    /// Who is woken by news.
    waker: Option<Waker>,
}

impl Session {
    /// Takes in one call.
    ///
    /// An actor's mailbox is emptied before anything else of it runs, so beside a sender that never pauses the
    /// channel would never be looked at; every so many calls it is looked at from here.
    pub(crate) fn submit(&mut self, call: PendingCall, encode: Encode<'_>, host: &mut dyn Host) {
        self.take_call(call, encode, host);
        self.unpolled += 1;
        if self.unpolled < BREATH {
            return;
        }
        self.unpolled = 0;
        self.write_queued();
        if let SessionState::Held(lease) = &mut self.stage
            && let Some(channel) = lease.channel()
        {
            channel.write_now();
            let arrived = channel.read_now();
            self.arrived(arrived, host);
        }
    }

    fn take_call(&mut self, call: PendingCall, encode: Encode<'_>, host: &mut dyn Host) {
        if let Some(fatal) = &self.fatal {
            return self.answer(&call, fatal.clone());
        }
        if let Some(fault) = &self.fault {
            return self.answer(&call, fault.clearance());
        }
        if call.limit == Some(Duration::ZERO) {
            return self.answer(&call, timers::out_of_time());
        }
        if self.closing {
            let stopped = self.scheduler.stopped();
            return self.answer(&call, stopped);
        }
        if matches!(self.stage, SessionState::Out) && self.refusal.is_none() {
            self.ask(Scheduler::ask);
        }
        if self.scheduler.quarantine.is_some() {
            return self.take_suspect(call, encode, host);
        }
        self.put_in(call, encode, host);
    }

    /// Writes a call, or queues it.
    fn put_in(&mut self, call: PendingCall, encode: Encode<'_>, host: &mut dyn Host) {
        let now = self.calls.arrival();
        if self.may_write() && !self.calls.has_queued() {
            return self.write(call, encode, now);
        }
        let most = frame::room_beside(call.origin.baggage().len(), self.scheduler.options.max_payload);
        match Encoded::of(self.scheduler.blobs.as_ref(), |out| encode(out, most)) {
            Ok(message) => {
                self.calls.queue(QueuedCall { call, message }, now);
                self.waiter.has_call.store(true, Ordering::Relaxed);
            }
            Err(problem) => self.refuse_payload(&call, &problem),
        }
        if let Some(refusal) = self.refusal.take() {
            self.refused(refusal, host);
        }
    }

    /// Does whatever can be done now; ready once nothing will ever be left to do.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>, host: &mut dyn Host) -> Poll<()> {
        self.unpolled = 0;
        let may_leave = self.look_twice(cx, host);
        if self.waker.as_ref().is_none_or(|waker| !waker.will_wake(cx.waker())) {
            self.waker = Some(cx.waker().clone());
            self.waiter.wake_with(cx.waker());
        }
        loop {
            if let Some(notice) = self.waiter.take_notice() {
                self.take_in(notice, host);
                continue;
            }
            self.write_queued();
            if self.exchange(cx, host) || self.watch_requester(cx, host) || self.watch_clock(cx, host) {
                continue;
            }
            if !self.leave_if_done(may_leave) {
                break;
            }
        }
        if matches!(self.stage, SessionState::Out)
            && may_leave
            && self.calls.is_empty()
            && self.fault.is_none()
        {
            Poll::Ready(())
        } else {
            Poll::Pending
        }
    }

    /// Ends this checkout: everything unanswered is answered with the reason, and its worker is killed.
    pub(crate) fn abort(&mut self, reason: &str) {
        let aborted = Failure::of(FailureKind::Aborted, reason).in_pool(&self.scheduler.options.name);
        self.settle_fault();
        for call in self.calls.clear() {
            self.answer(&call, aborted.clone());
        }
        self.lose_worker(RetireReason::Aborted);
        self.fatal.get_or_insert(aborted);
    }

    /// Whether the last address was gone when the mailbox was last emptied: a call that was sent right before it
    /// went may have come in since.
    fn look_twice(&mut self, cx: &mut Context<'_>, host: &dyn Host) -> bool {
        let gone = !host.is_connected();
        let seen_before = std::mem::replace(&mut self.seen_gone, gone) || self.options.single;
        if gone && !seen_before {
            cx.waker().wake_by_ref();
        }
        gone && seen_before
    }

    fn ask(&mut self, ask: fn(&Arc<Scheduler>) -> Arc<Waiter>) {
        self.waiter = ask(&self.scheduler);
        if let Some(waker) = &self.waker {
            self.waiter.wake_with(waker);
        }
        self.waiter.has_call.store(!self.calls.is_empty(), Ordering::Relaxed);
        self.stage = SessionState::Waiting;
    }

    fn take_in(&mut self, notice: Notice, host: &mut dyn Host) {
        if let Some(lease) = notice.lease {
            self.granted(lease);
        }
        self.closing |= notice.closing || notice.stopped;
        if let Some(refusal) = notice.refusal {
            self.stage = SessionState::Out;
            self.refused(refusal, host);
        }
        if let Some(exit_report) = notice.exit_report {
            self.bury(exit_report, host);
        }
        if notice.stopped {
            let stopped = self.scheduler.stopped();
            for call in self.calls.clear() {
                self.answer(&call, stopped.clone());
            }
            self.lose_worker(RetireReason::PoolEnds);
        }
    }

    fn granted(&mut self, mut lease: Lease) {
        self.held_since = Instant::now();
        self.idle_since = self.held_since;
        self.errors_seen = 0;
        self.in_doubt = false;
        self.asked_to_stop = false;
        self.heard = false;
        let spoke = lease.channel().is_some_and(|channel| channel.holds_bytes());
        self.false_starts += u32::from(spoke);
        let settled = lease.channel().is_some_and(|channel| {
            // What another checkout said to it was sent; it is not to be said again.
            *channel.outbox() = self.unread.take().unwrap_or_default();
            channel.outbox().keep_sent();
            self.calls_served = channel.calls_served;
            channel.settle_here().is_ok()
        });
        self.stage = SessionState::Held(lease);
        if !settled || (spoke && !self.is_hopeless()) {
            // Out of descriptors for the reactor, say, or it spoke while nobody had asked: it is of no use to us.
            self.hand_back_unused();
        }
    }

    /// Kills a worker that cannot be used, and keeps what was to be said to it.
    fn hand_back_unused(&mut self) {
        if let SessionState::Held(lease) = std::mem::replace(&mut self.stage, SessionState::Out) {
            let channel = lease.kill(RetireReason::Broken).filter(|_| self.calls.open() > 0);
            self.unread = channel.map(|mut channel| std::mem::take(channel.outbox()));
            self.ask(Scheduler::ask_again);
        }
    }

    /// Until the worker has answered once, one call at a time is written: a worker that was dead when it was
    /// granted has not read it then, and another can be given the same.
    fn may_write(&self) -> bool {
        matches!(self.stage, SessionState::Held(_)) && self.calls.may_write(!self.heard)
    }

    fn write_queued(&mut self) {
        while self.calls.has_queued() && self.may_write() && self.fault.is_none() {
            let Some(QueuedCall { call, message }) = self.calls.next_to_write() else {
                return;
            };
            let mut copy = |out: &mut Vec<u8>, _: usize| {
                message.write(out);
                Ok(())
            };
            self.write(call, &mut copy, Instant::now());
        }
    }

    fn write(&mut self, mut call: PendingCall, encode: Encode<'_>, now: Instant) {
        let SessionState::Held(lease) = &mut self.stage else { return };
        // A worker that is to be replaced has nothing to make ready for a next checkout.
        self.releases_itself =
            self.options.single && self.scheduler.reason_to_end(lease.worker.number).is_none();
        let Some(channel) = lease.channel() else { return };
        call.is_written();
        let baggage = call.origin.baggage();
        let header = ToWorker::Call(CallHeader {
            id: self.calls.next_id(),
            method: call.kind.method,
            errors_seen: self.errors_seen,
            last: self.releases_itself,
            limit: self.calls.limit_when_running(&call, now),
            baggage: u32::try_from(baggage.len()).unwrap_or(u32::MAX),
            verbosity: call.origin.log_sink().map_or(0, LogSink::verbosity),
        });
        let most = frame::room_beside(baggage.len(), self.scheduler.options.max_payload);
        let out = channel.outbox().buffer();
        let before = out.len();
        let payload = |out: &mut Vec<u8>| {
            out.extend_from_slice(baggage);
            blobs::encode(self.scheduler.blobs.as_ref(), out, |out| encode(out, most))
        };
        match frame::append_with(out, &header, payload) {
            Ok(lent) => {
                if !lent.is_empty() {
                    frame::insert(out, before, &ToWorker::Lent(blobs::spans(&lent)));
                }
                let bytes = out.len() - before;
                if self.calls.open() == 0 {
                    self.waited = self.calls.wait(now);
                    self.scheduler.totals.waited(self.waited);
                }
                if !self.heard {
                    self.waiter.has_call.store(true, Ordering::Relaxed);
                }
                self.calls.wrote(call, bytes, lent, now);
            }
            Err(problem) => self.refuse_payload(&call, &problem),
        }
    }

    /// Moves bytes and handles what arrived; whether anything did.
    fn exchange(&mut self, cx: &mut Context<'_>, host: &mut dyn Host) -> bool {
        let expects = !self.calls.pipe_is_empty();
        let (SessionState::Held(lease) | SessionState::Releasing { lease, .. }) = &mut self.stage else {
            return false;
        };
        let Some(channel) = lease.channel() else { return false };
        match channel.poll_exchange(cx, expects) {
            Poll::Ready(arrived) => self.arrived(arrived, host),
            Poll::Pending => false,
        }
    }

    fn arrived(&mut self, arrived: Arrived, host: &mut dyn Host) -> bool {
        match arrived {
            Arrived::Some => self.take_replies(host),
            Arrived::Nothing => return false,
            Arrived::End => self.mourn(),
            Arrived::Corrupt => self.broke_protocol("it wrote nonsense to its channel", host),
        }
        true
    }

    /// Gives the worker back once nobody can use it any more; whether anything changed.
    fn leave_if_done(&mut self, may_leave: bool) -> bool {
        let wanted = !may_leave && !self.closing;
        if wanted || !self.calls.is_empty() || self.fault.is_some() {
            return false;
        }
        self.leave()
    }

    fn leave(&mut self) -> bool {
        match std::mem::replace(&mut self.stage, SessionState::Out) {
            SessionState::Waiting => drop(self.scheduler.cancel(&self.waiter)),
            SessionState::Held(mut lease) => {
                let asked = self.asked_to_stop.then_some(RetireReason::Asked);
                let ends = asked.or_else(|| self.scheduler.reason_to_end(lease.worker.number));
                if !self.in_doubt && ends.is_none() {
                    if let Some(channel) = lease.channel() {
                        frame::append(channel.outbox().buffer(), &ToWorker::Release);
                    }
                    self.stage = self.releasing(lease);
                    return true;
                }
                // Nobody will have this worker next, so nothing is made ready for the next, and what it still says of
                // calls that were answered as cleared is not heard.
                lease.worker.borrowed.keep_to_its_end(self.calls.take_blobs());
                self.forget_pipe();
                match ends.filter(|_| !self.in_doubt) {
                    Some(reason) => lease.retire(reason),
                    None => drop(lease.kill(RetireReason::InDoubt)),
                }
            }
            other => {
                self.stage = other;
                return false;
            }
        }
        true
    }

    fn releasing(&self, lease: Lease) -> SessionState {
        let now = Instant::now();
        let until = self.options.timeout.and_then(|limit| now.checked_add(limit));
        SessionState::Releasing { lease, until: until.unwrap_or(now + RELEASE_PATIENCE) }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.leave_blobs();
        // An actor that goes with its system leaves calls behind.
        self.forwarder.end(true);
        let ended =
            Failure::of(FailureKind::Aborted, "its system ended").in_pool(&self.scheduler.options.name);
        self.calls.clear().iter().for_each(|call| call.note_failure(&ended));
        // A lease that is held is given up by its own drop; one that was granted and not yet taken is not.
        if matches!(self.stage, SessionState::Waiting) {
            drop(self.scheduler.cancel(&self.waiter));
        }
    }
}
