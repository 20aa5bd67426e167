//! The clocks of a checkout: one alarm, set for whatever is due first.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use actix_rt::time::{Sleep, sleep_until};

use super::{Arrived, Host, Session, SessionState};
use crate::actors::scheduler::worker_state::RetireReason;
use crate::failure::{Failure, FailureKind, Phase};

/// Most reads before a clock fires: many times what a channel holds at once, but no worker holds a clock up for ever.
const READS: usize = 512;

/// A timer that is only set when it would ring too late, so that a call costs none.
///
/// Most calls are answered long before their limit: moving the timer for each would cost more than letting it
/// ring once in a while for nothing.
#[derive(Default)]
pub(super) struct LazyTimer {
    timer: Option<Pin<Box<Sleep>>>,
}

impl LazyTimer {
    /// Whether `due` has come; the task is woken when it has.
    fn poll(&mut self, due: Instant, cx: &mut Context<'_>) -> bool {
        loop {
            let timer = match &mut self.timer {
                Some(timer) if timer.deadline().into_std() <= due => timer,
                Some(timer) => {
                    timer.as_mut().reset(due.into());
                    timer
                }
                None => self.timer.insert(Box::pin(sleep_until(due.into()))),
            };
            if timer.as_mut().poll(cx) == Poll::Pending {
                return false;
            }
            if Instant::now() >= due {
                self.timer = None;
                return true;
            }
            timer.as_mut().reset(due.into());
        }
    }
}

/// What a call is told that has no time left when it is sent; it costs no worker and ends no checkout.
pub(super) fn out_of_time() -> Failure {
    Failure::of(FailureKind::Timeout, "").in_phase(Phase::Waiting).at_limit(Duration::ZERO)
}

/// What a clock that ran out stands for.
enum Deadline {
    /// The first call's own limit.
    Call(Duration),
    /// The limit on the wait for a worker.
    Wait(Duration),
    /// `checkout_done` takes too long.
    Release,
    /// The worker's end is closed, and nobody has told of its death: it lives.
    AwaitingExit,
    /// The limit on holding a worker with nothing to run.
    Holding(Duration),
}

impl Session {
    /// Fires what is due; whether anything was.
    pub(super) fn watch_clock(&mut self, cx: &mut Context<'_>, host: &mut dyn Host) -> bool {
        let Some((at, _)) = self.next_due() else {
            return false;
        };
        if !self.alarm.poll(at, cx) {
            return false;
        }
        // What is readable by now wins over the clock, also where the reactor has not come to say so.
        for _ in 0..READS {
            let (SessionState::Held(lease) | SessionState::Releasing { lease, .. }) = &mut self.stage else {
                break;
            };
            let arrived = lease.channel().map_or(Arrived::Nothing, |channel| channel.read_now());
            if !self.arrived(arrived, host) {
                break;
            }
            if self.next_due().is_none_or(|(at, _)| at > Instant::now()) {
                return true;
            }
        }
        if let Some(notice) = self.waiter.take_notice() {
            self.take_in(notice, host);
            return true;
        }
        if self.calls.allow_late_clock(at.elapsed()) {
            return true;
        }
        if let Some((_, due)) = self.next_due().filter(|(at, _)| *at <= Instant::now()) {
            self.fire(due, host);
        }
        true
    }

    fn next_due(&self) -> Option<(Instant, Deadline)> {
        match &self.stage {
            SessionState::Releasing { until, .. } => return Some((*until, Deadline::Release)),
            SessionState::AwaitingExit { until, .. } => return Some((*until, Deadline::AwaitingExit)),
            SessionState::Out | SessionState::Waiting | SessionState::Held(_) => {}
        }
        if let Some((at, limit)) = self.reclaimed_at() {
            return Some((at, Deadline::Holding(limit)));
        }
        let (call, since) = self.calls.first()?;
        let waiting = matches!(self.stage, SessionState::Waiting);
        let wait = self.options.wait_timeout.filter(|_| waiting).map(|limit| (limit, Deadline::Wait(limit)));
        let own = call.limit.map(|limit| (limit, Deadline::Call(limit)));
        let first = [own, wait].into_iter().flatten().min_by_key(|(limit, _)| *limit)?;
        Some((since.checked_add(first.0)?, first.1))
    }

    fn fire(&mut self, due: Deadline, host: &mut dyn Host) {
        match due {
            Deadline::Call(limit) | Deadline::Wait(limit) => self.time_out(limit, host),
            Deadline::Release => self.lose_worker(RetireReason::TimedOut),
            Deadline::AwaitingExit => self.give_up_on_exit(host),
            Deadline::Holding(limit) => self.reclaim(limit),
        }
    }

    fn time_out(&mut self, limit: Duration, host: &mut dyn Host) {
        if self.calls.forget_abandoned_first() {
            return;
        }
        let failure = match self.give_up(RetireReason::TimedOut) {
            Some(facts) => Failure::of(FailureKind::Timeout, "").in_phase(Phase::Running).on_worker(facts),
            // What waits for a worker has none to lose.
            None => {
                self.stage = SessionState::Out;
                self.failed_wait()
            }
        };
        self.unread = None;
        self.fatal_fault(failure.at_limit(limit), host);
    }

    /// Why no worker came, as far as the desk knows.
    fn failed_wait(&mut self) -> Failure {
        let outcome = self.scheduler.cancel(&self.waiter);
        let kind = if outcome.outage.is_some() { FailureKind::NoServer } else { FailureKind::Timeout };
        let failure = Failure::of(kind, "").in_phase(outcome.phase);
        match (outcome.trouble, outcome.outage) {
            (Some(trouble), _) => failure.because_of(trouble),
            (None, Some(outage)) => failure.with_chain(&[outage]),
            (None, None) => failure,
        }
    }

    fn give_up_on_exit(&mut self, host: &mut dyn Host) {
        if let SessionState::AwaitingExit { lease, .. } =
            std::mem::replace(&mut self.stage, SessionState::Out)
        {
            self.lost(lease, None, host);
        }
    }
}
