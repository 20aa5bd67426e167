//! One checkout at work: it asks for a worker, writes calls, reads replies, watches the time limits and returns the
//! worker. The checkout actor runs a session, and so does each batch that is sent to a pool.
//!
//! A session decides nothing. It passes what happens to its [`Machine`] and carries out what that wants done.

mod actions;
pub(crate) mod direct;
pub(crate) mod dispatch;
pub(crate) mod machine;
mod options;
mod pending;
mod replies;
mod timers;
mod unused;

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use crate::actors::calls::PendingCall;
use crate::actors::calls::faults::{check_quarantine, unencodable};
use crate::actors::calls::payload::Payload;
use crate::actors::calls::reading::FrameReader;
use crate::actors::calls::writing::{LentBlobs, write_call};
use crate::actors::reply::AnswerSlot;
use crate::actors::scheduler::Scheduler;
use crate::actors::scheduler::exit::ExitReport;
use crate::actors::scheduler::lease::Lease;
use crate::actors::scheduler::tallies::ThreadTally;
use crate::actors::scheduler::waiter::{Notice, Waiter};
use crate::actors::threads::real_time::LazyTimer;
use crate::actors::transport::HostChannel;
use crate::actors::transport::blobs::Encoded;
use crate::channel::Outbox;
use crate::clock::Instant;
use crate::failure::{Failure, FailureKind};
use crate::wire::frame::PayloadError;
use machine::{Actions, Admission, Answer, Call, Event, Grant, Machine};
pub(crate) use options::CallOptions;
pub(crate) use pending::PendingSession;
pub(crate) use unused::UnusedCheckout;

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

impl<S: AnswerSlot> Call for PendingCall<S> {
    type Message = Encoded;

    fn limit(&self) -> Option<Duration> {
        self.limit
    }

    fn is_abandoned(&self) -> bool {
        self.slot.is_abandoned()
    }
}

/// The worker of a session, with what was read of it ahead of a reply.
struct LeasedWorker {
    lease: Lease,
    reader: FrameReader,
}

/// One checkout at work.
pub(crate) struct Session {
    scheduler: Arc<Scheduler>,
    /// What it counts with.
    tally: ThreadTally,
    waiter: Arc<Waiter>,
    options: CallOptions,
    machine: Machine<PendingCall>,
    /// What the machine wants done; empty between two events.
    actions: Actions<PendingCall>,
    worker: Option<LeasedWorker>,
    /// Calls that were not accepted, with their answers. They are answered at the next poll, since no answer arrives in
    /// the call's submission.
    refused: Vec<(PendingCall, Answer)>,
    lent: LentBlobs,
    /// The bytes that were written to a worker which exited before it read them; the next worker gets them.
    unread_outbox: Option<Outbox>,
    /// The failure that the machine waits for, while the names in its backtrace are found.
    resolving: Option<Pin<Box<dyn Future<Output = Failure>>>>,
    timer: LazyTimer,
    /// Number of calls submitted since the session was last polled.
    calls_since_poll: u32,
    /// How many calls were answered when the session was polled last. Their requesters most likely make others now.
    answered: u32,
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
    pub(crate) fn submit(&mut self, call: PendingCall, payload: Payload<'_>, host: &mut dyn Host) {
        self.take_call(call, payload, host);
        self.calls_since_poll += 1;
        if self.calls_since_poll < CALLS_BETWEEN_EXCHANGES {
            return;
        }
        self.calls_since_poll = 0;
        self.answer_refused();
        self.write_queued();
        if !self.machine.holds_worker() {
            return;
        }
        if let Some(channel) = self.channel() {
            channel.write_now();
            let arrived = channel.read_now();
            self.handle_arrived(arrived, host);
        }
    }

    fn take_call(&mut self, mut call: PendingCall, payload: Payload<'_>, host: &mut dyn Host) {
        let admission = self.machine.admit(call.limit, &mut self.actions);
        self.carry_out(host);
        if let Admission::Refuse(answer) = admission {
            return self.refused.push((call, answer));
        }
        let payload = match check_quarantine(&self.scheduler, &mut call, payload) {
            Ok(payload) => payload,
            Err(refusal) => return self.refused.push((call, Answer::Failure(refusal))),
        };
        if matches!(admission, Admission::Write) {
            // Only the first call's time is ever used, so the clock is not read if there is a first call.
            let now = self.machine.first_since().unwrap_or_else(Instant::now);
            return self.write(call, payload, now);
        }
        match payload.into_encoded(&self.scheduler, call.origin.baggage().len()) {
            Ok(message) => {
                self.waiter.has_call.store(true, Ordering::Relaxed);
                self.handle(Event::Queued { call, message }, Instant::now(), host);
            }
            Err(problem) => self.refuse_payload(call, &problem),
        }
    }

    fn refuse_payload(&mut self, call: PendingCall, problem: &PayloadError) {
        self.refused.push((call, Answer::Failure(unencodable(problem))));
    }

    fn answer_refused(&mut self) {
        for (call, answer) in std::mem::take(&mut self.refused) {
            self.answer_now(&call, answer);
        }
    }

    /// Writes a call that the machine wants written.
    fn write(&mut self, mut call: PendingCall, payload: Payload<'_>, now: Instant) {
        let Some(LeasedWorker { lease, .. }) = &mut self.worker else { return };
        let Some(channel) = lease.channel() else { return };
        let frame = self.machine.frame_of(&call, now);
        let out = channel.outbox().buffer();
        match write_call(&self.scheduler, out, &mut self.lent, &mut call, frame, payload) {
            Ok(size) => {
                let bytes = size.whole;
                if !self.machine.has_running() {
                    let waited = self
                        .machine
                        .first_since()
                        .map_or(Duration::ZERO, |since| now.saturating_duration_since(since));
                    self.tally.add_wait(call.method, waited);
                    lease.worker.activity.show_running(Some((call.method.index, now)));
                }
                if !self.machine.has_replied() {
                    self.waiter.has_call.store(true, Ordering::Relaxed);
                }
                self.machine.on(Event::Written { call, bytes }, now, &mut self.actions);
                self.waiter.holding.show_running(true);
            }
            Err(problem) => self.refuse_payload(call, &problem),
        }
    }

    fn write_queued(&mut self) {
        while self.machine.has_queued() {
            let now = Instant::now();
            let Some((call, message)) = self.machine.next_to_write(now) else { return };
            self.write(call, Payload::Encoded(message), now);
        }
    }

    /// Does all work that can be done now; ready once the session is over.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>, host: &mut dyn Host) -> Poll<()> {
        (self.calls_since_poll, self.answered) = (0, 0);
        let disconnected = self.confirm_disconnected(cx, host);
        if self.waker.as_ref().is_none_or(|waker| !waker.will_wake(cx.waker())) {
            self.waker = Some(cx.waker().clone());
            self.waiter.set_waker(cx.waker());
        }
        loop {
            self.answer_refused();
            ready!(self.poll_resolving(cx, host));
            if let Some(notice) = self.waiter.take_notice() {
                self.handle_notice(notice, host);
                continue;
            }
            self.write_queued();
            self.answer_refused();
            if self.exchange(cx, host)
                || !self.looks_again()
                    && (self.poll_cancellation(cx, host)
                        || self.poll_given_up(disconnected, cx)
                        || self.poll_deadline(cx, host))
            {
                continue;
            }
            if !self.finish_if_done(disconnected, host) {
                break;
            }
        }
        if self.machine.is_waiting() {
            self.waiter.has_call.store(!self.machine.is_idle(), Ordering::Relaxed);
        }
        if self.machine.is_over(disconnected) { Poll::Ready(()) } else { Poll::Pending }
    }

    /// Returns whether the last address was gone at the previous poll already. A call that was sent right before
    /// the last address was dropped may arrive after this poll has started, so one poll with an empty mailbox has
    /// to pass in between.
    fn confirm_disconnected(&mut self, cx: &mut Context<'_>, host: &dyn Host) -> bool {
        let gone = !host.is_connected();
        let seen_before = std::mem::replace(&mut self.was_disconnected, gone);
        if gone && !seen_before {
            cx.waker().wake_by_ref();
        }
        gone && seen_before
    }

    /// Ends this checkout: answers all unanswered calls with the reason and kills the worker.
    pub(crate) fn abort(&mut self, reason: String, host: &mut dyn Host) {
        self.handle(Event::Aborted(reason), Instant::now(), host);
    }

    /// Handles a fence that came back.
    pub(crate) fn pass_fence(&mut self, number: u64, host: &mut dyn Host) {
        self.handle(Event::FencePassed(number), Instant::now(), host);
    }

    /// Passes an event to the machine and carries out what that wants done.
    fn handle(&mut self, event: Event<PendingCall>, now: Instant, host: &mut dyn Host) {
        self.machine.on(event, now, &mut self.actions);
        self.show_holding();
        self.carry_out(host);
    }

    /// Shows whether the worker has something to do. One that is not held any more runs `checkout_done`.
    fn show_holding(&self) {
        let is_running = self.machine.has_running() || !self.machine.holds_worker();
        self.waiter.holding.show_running(is_running);
    }

    fn handle_notice(&mut self, notice: Notice, host: &mut dyn Host) {
        if let Some(lease) = notice.lease {
            self.take_lease(lease, host);
        }
        if notice.closing || notice.stopped {
            self.handle(Event::Closing, Instant::now(), host);
        }
        // Behind a worker that is there by now: its first call is the one that an attempt before it would have failed.
        if let Some(failure) = notice.failed_start {
            self.handle(Event::StartFailed(failure), Instant::now(), host);
        }
        if let Some(refusal) = notice.refusal {
            self.handle(Event::Refused(refusal), Instant::now(), host);
        }
        if notice.worker_ended || notice.killed || notice.exit_report.is_some() {
            self.take_last_replies(host);
        }
        // Before the exit report: most likely the stop has killed the worker.
        if notice.stopped {
            self.handle(Event::Stopped, Instant::now(), host);
        }
        // A kill is the known cause of the exit that is reported with it.
        if let Some(exit_report) = notice.killed.then_some(ExitReport::Killed).or(notice.exit_report) {
            self.handle_exit(Some(exit_report), host);
        }
    }

    /// Prepares the channel of a worker that was lent, and passes it what the last worker has not read.
    fn take_lease(&mut self, mut lease: Lease, host: &mut dyn Host) {
        let mut grant = Grant { calls_served: 0, has_early_bytes: false, is_registered: false };
        let served = lease.worker.activity.calls_served();
        if let Some(channel) = lease.channel() {
            grant.has_early_bytes = channel.has_unread_bytes();
            // The outbox may keep bytes that another checkout sent; they must not be sent again.
            *channel.outbox() = self.unread_outbox.take().unwrap_or_default();
            channel.outbox().keep_sent();
            grant.calls_served = served;
            grant.is_registered = channel.register_here().is_ok();
        }
        self.worker = Some(LeasedWorker { lease, reader: FrameReader::default() });
        self.handle(Event::Granted(grant), Instant::now(), host);
    }

    fn channel(&mut self) -> Option<&mut HostChannel> {
        self.worker.as_mut()?.lease.channel()
    }

    /// Returns the worker once no further call can come; returns whether anything changed.
    fn finish_if_done(&mut self, disconnected: bool, host: &mut dyn Host) -> bool {
        let is_done = self.machine.is_done(disconnected);
        if is_done {
            let ends = self.retire_reason();
            self.handle(Event::Finished { ends }, Instant::now(), host);
        }
        is_done
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        if let Some(LeasedWorker { lease, .. }) = &self.worker {
            lease.worker.borrowed.keep_until_exit(self.lent.take());
        }
        // If the actix system ends, an actor is dropped with calls unanswered.
        let ended =
            Failure::of(FailureKind::Aborted, "the actix system ended").in_pool(&self.scheduler.options.name);
        self.machine.drain(|call| call.log_failure(&ended));
        // Dropping a held lease gives it up. A granted lease that is still in the waiter has to be returned by
        // `cancel`.
        if self.machine.is_waiting() {
            drop(self.scheduler.cancel(&self.waiter));
        }
    }
}
