//! What the machine of a session wants done.

use std::sync::atomic::Ordering;
use std::task::{Context, Poll, Waker, ready};

use super::machine::{Action, Answer, Event};
use super::{Host, LeasedWorker, PendingCall, Session};
use crate::actors::calls::answering::Answering;
use crate::actors::calls::faults::{Fault, count_kill, payload_failure, wait_failure, with_times};
use crate::actors::calls::{CallTimes, MethodInfo};
use crate::actors::scheduler::Scheduler;
use crate::actors::scheduler::state::ReleaseReport;
use crate::actors::scheduler::worker_state::RetireReason;
use crate::actors::threads::symbolizer;
use crate::clock::Instant;
use crate::failure::{Failure, FailureKind};
use crate::wire::call::ToWorker;
use crate::wire::frame;

impl Session {
    /// Carries out what the machine wants done. Contexts are notified once all calls are answered: a slow handler must
    /// not delay the answers behind the fence.
    #[inline]
    pub(super) fn carry_out(&mut self, host: &mut dyn Host) {
        let mut to_report = Vec::new();
        while let Some(action) = self.actions.pop_front() {
            match action {
                Action::Answer(call, Answer::Value) => {
                    self.answered += 1;
                    Answering(&self.scheduler).deliver_value(&call, &self.tally);
                }
                Action::Answer(call, answer) => {
                    let failure = self.answer(&call, answer);
                    to_report.extend(failure.map(|failure| (call, failure)));
                }
                action => self.carry_out_rarely(action, host),
            }
        }
        for (call, failure) in to_report {
            Answering(&self.scheduler).report(&call, failure);
        }
    }

    fn carry_out_rarely(&mut self, action: Action<PendingCall>, host: &mut dyn Host) {
        let now = Instant::now();
        match action {
            Action::Answer(call, answer) => self.answer_now(&call, answer),
            Action::SendFence(number) => {
                if !host.send_fence(number) {
                    self.machine.on(Event::FencePassed(number), now, &mut self.actions);
                }
            }
            Action::Acquire { again } => self.acquire(again),
            Action::LeaveQueue => drop(self.scheduler.cancel(&self.waiter)),
            Action::ConfirmRead => {
                if let Some(channel) = self.channel() {
                    channel.outbox().confirm();
                }
            }
            Action::Release => {
                if let Some(channel) = self.channel() {
                    frame::append(channel.outbox().buffer(), &ToWorker::Release);
                }
            }
            Action::GiveBack { report, calls_served } => self.give_back(report, calls_served),
            Action::Retire(reason) => self.retire(reason),
            Action::Kill { reason, resend } => self.kill(reason, resend),
            Action::CountHold(time) => self.tally.add_hold(time),
            Action::Fail { fault, calls_served, times } => self.fail(fault, calls_served, times),
            Action::FailWait { limit, times } => {
                let outcome = self.scheduler.cancel_overdue(&self.waiter);
                let failure = wait_failure(&self.scheduler, outcome, limit);
                self.describe(failure, times);
            }
            Action::Complete(failure) => self.complete(failure),
            Action::Abort { reason, calls_served, times, was_waiting } => {
                self.describe_abort(&reason, calls_served, times, was_waiting);
            }
            Action::ForgetWritten => self.forget_written(),
        }
    }

    /// Answers one call; returns a failure that must be reported to the call's context.
    fn answer(&self, call: &PendingCall, answer: Answer) -> Option<Failure> {
        let answering = Answering(&self.scheduler);
        let failure = match answer {
            Answer::Value => {
                answering.deliver_value(call, &self.tally);
                return None;
            }
            Answer::Error => return answering.deliver_error(call, &self.tally),
            Answer::Failure(failure) => failure,
            Answer::Stopped => self.scheduler.stopped_failure(),
            Answer::Payload { text, calls_served } => self.payload_failure(call.method, &text, calls_served),
        };
        answering.deliver_failure(call, failure)
    }

    /// Answers one call and reports a failure to the call's context.
    pub(super) fn answer_now(&self, call: &PendingCall, answer: Answer) {
        if let Some(failure) = self.answer(call, answer) {
            Answering(&self.scheduler).report(call, failure);
        }
    }

    fn payload_failure(&self, method: &MethodInfo, text: &str, calls_served: u64) -> Failure {
        match &self.worker {
            Some(LeasedWorker { lease, .. }) => payload_failure(text, method, &lease.worker, calls_served),
            None => Failure::of(FailureKind::Payload, text).during(method.name),
        }
    }

    /// Asks the scheduler for a worker and waits for its notices.
    fn acquire(&mut self, again: bool) {
        let ask = if again { Scheduler::reacquire } else { Scheduler::acquire };
        self.waiter = ask(&self.scheduler, self.waiter.holding.tenant(), self.options.bulkhead);
        if let Some(waker) = &self.waker {
            self.waiter.set_waker(waker);
        }
        self.waiter.has_call.store(!self.machine.is_idle(), Ordering::Relaxed);
    }

    /// Decides whether the worker is to be replaced after this checkout, which ends now, and returns why.
    pub(super) fn retire_reason(&self) -> Option<RetireReason> {
        let worker = self.worker.as_ref()?;
        self.scheduler.decide_retirement(worker.lease.worker.number)
    }

    fn give_back(&mut self, report: ReleaseReport, calls_served: u64) {
        let Some(LeasedWorker { lease, .. }) = self.worker.take() else { return };
        lease.worker.activity.set_calls_served(calls_served);
        lease.give_back(report);
    }

    fn retire(&mut self, reason: RetireReason) {
        if let Some(LeasedWorker { lease, .. }) = self.worker.take() {
            lease.worker.borrowed.keep_until_exit(self.lent.take());
            lease.retire(reason);
        }
    }

    /// Kills the worker. With `resend`, what was written to it is kept for the next one. Otherwise the blobs of the calls
    /// that were written are kept until the worker has exited: it may read them until then, whether or not the calls
    /// are answered.
    fn kill(&mut self, reason: RetireReason, resend: bool) {
        let Some(LeasedWorker { mut lease, .. }) = self.worker.take() else { return };
        if !resend {
            lease.worker.borrowed.keep_until_exit(self.lent.take());
        } else if let Some(channel) = lease.channel() {
            channel.outbox().rewind();
            self.unread_outbox = Some(std::mem::take(channel.outbox()));
        }
        drop(lease.kill(reason));
    }

    fn forget_written(&mut self) {
        if let Some(LeasedWorker { reader, .. }) = &mut self.worker {
            reader.cut_call_short();
        }
        drop(self.lent.take());
        self.unread_outbox = None;
    }

    /// Kills the worker because of a fault, and describes the failure of the first call.
    fn fail(&mut self, fault: Fault, calls_served: u64, times: Option<CallTimes>) {
        let Some(LeasedWorker { lease, .. }) = &self.worker else { return };
        let reason = fault.retire_reason();
        let failure = fault.failure(&self.scheduler, &lease.worker, calls_served);
        self.kill(reason, false);
        self.describe(failure, times);
    }

    /// Adds to a failure what is known of the first call.
    fn describe(&mut self, failure: Failure, times: Option<CallTimes>) {
        let failure = match (self.machine.first(), times) {
            (Some(call), Some(times)) => {
                count_kill(&self.scheduler, &failure, call.call_hash.filter(|_| times.ran.is_some()));
                with_times(failure, call.method, times)
            }
            _ => failure,
        };
        self.complete(failure);
    }

    /// Passes a failure to the machine, at once or when its backtrace has names.
    fn complete(&mut self, failure: Failure) {
        if failure.has_raw_backtrace() {
            self.resolving = Some(Box::pin(symbolizer::resolved_soon(failure)));
            self.waker.iter().for_each(Waker::wake_by_ref);
        } else {
            self.machine.on(Event::FailureDescribed(failure), Instant::now(), &mut self.actions);
        }
    }

    /// Passes a failure on that waits for its backtrace, if there is one and it is complete. Pending as long as it waits.
    pub(super) fn poll_resolving(&mut self, cx: &mut Context<'_>, host: &mut dyn Host) -> Poll<()> {
        let Some(resolving) = &mut self.resolving else { return Poll::Ready(()) };
        let failure = ready!(resolving.as_mut().poll(cx));
        self.resolving = None;
        self.handle(Event::FailureDescribed(failure), Instant::now(), host);
        Poll::Ready(())
    }

    fn describe_abort(
        &mut self,
        reason: &str,
        calls_served: u64,
        times: Option<CallTimes>,
        was_waiting: bool,
    ) {
        self.resolving = None;
        let aborted = Failure::of(FailureKind::Aborted, reason).in_pool(&self.scheduler.options.name);
        let of_first = match (self.machine.first(), times) {
            (Some(call), Some(times)) => Some(times.add_to(aborted.clone(), call.method)),
            _ => None,
        };
        let facts =
            self.worker.as_ref().map(|worker| worker.lease.worker.facts_and_usage(Some(calls_served)));
        self.kill(RetireReason::Aborted, false);
        let phase = was_waiting.then(|| self.scheduler.cancel(&self.waiter).phase);
        let complete = |failure: Failure| match (&facts, phase) {
            (Some(facts), _) => failure.on_worker(facts.clone()),
            (None, Some(phase)) => failure.in_phase(phase),
            (None, None) => failure,
        };
        let (failure, of_first) = (complete(aborted), of_first.map(complete));
        self.machine.on(Event::AbortDescribed { failure, of_first }, Instant::now(), &mut self.actions);
    }
}
