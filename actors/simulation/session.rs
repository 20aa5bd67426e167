//! The simulated sessions: they acquire a worker, wait or cancel, hold it, and release it, kill it or lose it.

use std::time::Duration;

use super::plan::millis;
use super::worker::ExpectedState;
use super::world::{SimEvent, World};
use crate::actors::scheduler::exit::EXIT_REPORT_TIMEOUT;
use crate::actors::scheduler::state::{Admission, PoolPhase, ReleaseReport};
use crate::actors::scheduler::worker_state::RetireReason;

/// Workers that may exit before they begin a call until the call itself is considered the cause.
const MAX_FALSE_STARTS: u32 = 10;

/// The next step of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SimTurn {
    /// It is cancelled.
    Cancel,
    /// It takes the notice with its worker.
    SeeGrant,
    /// Its worker begins its first call.
    BeginCall,
    /// It has no more calls.
    Finish,
    /// Its worker confirms the release.
    FinishRelease,
    /// It finds its worker's channel closed.
    ChannelEnd,
    /// It receives the exit report of its worker.
    ExitReport,
    /// It stops waiting for the exit report.
    ExitTimeout,
}

/// The state of a session, with the worker that it has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SimSessionState {
    Waiting,
    /// It was granted a worker and has not taken the notice yet.
    Granted(u64),
    Held(u64),
    Releasing(u64),
    AwaitingExit(u64),
    Ended,
}

/// How a session will end its checkout.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Intent {
    Release,
    /// It kills the worker.
    Kill(RetireReason),
    /// It retires the worker.
    Retire,
    HoldForever,
    /// The worker never confirms the release.
    HangInRelease,
}

/// The ways to end a checkout otherwise than by a release.
const MISHAPS: [Intent; 9] = [
    Intent::Kill(RetireReason::TimedOut),
    Intent::Kill(RetireReason::Aborted),
    Intent::Kill(RetireReason::Panicked),
    Intent::Kill(RetireReason::Broken),
    Intent::Kill(RetireReason::AfterError),
    Intent::Kill(RetireReason::LeaseDropped),
    Intent::Retire,
    Intent::HoldForever,
    Intent::HangInRelease,
];

/// One session.
pub(super) struct SimSession {
    pub(super) state: SimSessionState,
    /// Incremented with every change of the state, so that steps scheduled for an earlier state are ignored.
    state_number: u32,
    pub(super) has_call: bool,
    begun: bool,
    intent: Intent,
    false_starts: u32,
}

impl SimSession {
    /// Returns the worker that the session has.
    pub(super) fn worker(&self) -> Option<u64> {
        match self.state {
            SimSessionState::Granted(worker) | SimSessionState::Held(worker) => Some(worker),
            SimSessionState::Releasing(worker) | SimSessionState::AwaitingExit(worker) => Some(worker),
            SimSessionState::Waiting | SimSessionState::Ended => None,
        }
    }
}

impl World {
    pub(super) fn add_requester(&mut self) {
        let has_call = !self.rng.happens(200);
        let mishaps = self.plan.mishaps;
        let intent = if self.draw_fault(mishaps) { self.rng.pick(&MISHAPS) } else { Intent::Release };
        self.acquire(
            SimSession {
                state: SimSessionState::Waiting,
                state_number: 0,
                has_call,
                begun: false,
                intent,
                false_starts: 0,
            },
            false,
        );
    }

    fn acquire(&mut self, session: SimSession, again: bool) {
        self.last_session += 1;
        let (id, now) = (self.last_session, self.now());
        self.sessions.insert(id, session);
        let last_idle = self.idle.last().copied();
        let answer = if again { self.state.reacquire(id, now) } else { self.state.acquire(id, now) };
        self.record(if again { "worker requested again" } else { "worker requested" }, || {
            format!("{id}: {answer:?}")
        });
        match answer {
            Admission::Granted { worker } => {
                assert!(self.queue.is_empty(), "no waiting checkout is overtaken");
                assert_eq!(Some(worker), last_idle, "the most recently used worker is taken");
                self.grant(id, worker);
            }
            Admission::Queued => {
                if again {
                    self.queue.push_front(id);
                } else {
                    self.queue.push_back(id);
                }
                let impatient = self.plan.impatient;
                if self.draw_fault(impatient) {
                    let wait = self.draw_wait(self.plan.hold * 2);
                    self.schedule_turn_after(wait, id, SimTurn::Cancel);
                }
            }
            Admission::Overloaded { waiting } => {
                assert_eq!(waiting, self.queue.len());
                assert!(self.plan.options.max_waiting.is_some_and(|most| waiting >= most));
                self.end_session(id);
            }
            Admission::Stopped => {
                let served = if again { PoolPhase::Closing } else { PoolPhase::Open };
                assert!(self.state.phase() > served, "an open pool accepts checkouts");
                self.end_session(id);
            }
        }
        self.settle();
    }

    /// Lends a worker to a session, as the pool state has decided.
    pub(super) fn grant(&mut self, id: u64, number: u64) {
        assert_ne!(self.state.phase(), PoolPhase::Stopping, "a stopped pool lends no worker");
        let before = self.holders.insert(number, id);
        assert_eq!(before, None, "worker {number} has at most one holder");
        self.idle.retain(|idle| *idle != number);
        let Some(worker) = self.worker(number) else { panic!("worker {number} is known") };
        assert_eq!(worker.expected_state, Some(ExpectedState::Idle), "only an idle worker is granted");
        worker.expected_state = Some(ExpectedState::Leased(id));
        worker.checkouts += 1;
        let alive = worker.is_alive();
        self.enter(id, SimSessionState::Granted(number));
        let wait = self.draw_delay();
        self.schedule_turn_after(wait, id, SimTurn::SeeGrant);
        if !alive {
            self.schedule_turn(id, SimTurn::ChannelEnd);
        }
    }

    /// Changes the state of a session.
    fn enter(&mut self, id: u64, state: SimSessionState) {
        let Some(session) = self.sessions.get_mut(&id) else { panic!("session {id} is known") };
        assert_ne!(session.state, SimSessionState::Ended, "a checkout ends once");
        session.state = state;
        session.state_number += 1;
    }

    pub(super) fn end_session(&mut self, id: u64) {
        self.enter(id, SimSessionState::Ended);
        self.sessions.remove(&id);
    }

    /// Schedules the next step of a session after a random delay. It is ignored if the session has left its current
    /// state.
    pub(super) fn schedule_turn(&mut self, id: u64, turn: SimTurn) {
        let wait = self.draw_delay();
        self.schedule_turn_after(wait, id, turn);
    }

    fn schedule_turn_after(&mut self, wait: Duration, id: u64, turn: SimTurn) {
        if let Some(session) = self.sessions.get(&id) {
            // These steps apply to every state.
            let any = matches!(turn, SimTurn::ChannelEnd | SimTurn::ExitReport | SimTurn::Cancel);
            let number = if any { u32::MAX } else { session.state_number };
            self.schedule_after(wait, SimEvent::Turn(id, number, turn));
        }
    }

    pub(super) fn take_turn(&mut self, id: u64, number: u32, turn: SimTurn) {
        let Some(session) = self.sessions.get_mut(&id) else { return };
        if number != u32::MAX && number != session.state_number {
            return;
        }
        match (turn, session.state) {
            (SimTurn::Cancel, SimSessionState::Waiting | SimSessionState::Granted(_)) => self.cancel(id),
            (SimTurn::SeeGrant, SimSessionState::Granted(worker)) => {
                self.enter(id, SimSessionState::Held(worker));
                self.schedule_turn(id, SimTurn::BeginCall);
            }
            (SimTurn::BeginCall, SimSessionState::Held(worker)) => {
                session.begun = session.has_call;
                let forever = session.intent == Intent::HoldForever && !self.calm;
                if !self.workers.get(&worker).is_some_and(|worker| worker.is_alive()) {
                    self.sessions.entry(id).and_modify(|session| session.begun = false);
                } else if !forever {
                    let wait = self.draw_wait(self.plan.hold);
                    self.schedule_turn_after(wait, id, SimTurn::Finish);
                }
            }
            (SimTurn::Finish, SimSessionState::Held(worker)) => self.finish(id, worker),
            (SimTurn::FinishRelease, SimSessionState::Releasing(worker)) => self.finish_release(id, worker),
            (
                SimTurn::ChannelEnd,
                SimSessionState::Granted(worker)
                | SimSessionState::Held(worker)
                | SimSessionState::Releasing(worker),
            ) => {
                self.await_exit(id, worker);
            }
            (SimTurn::ExitReport, state) if state != SimSessionState::Waiting => self.lose_worker(id),
            (SimTurn::ExitTimeout, SimSessionState::AwaitingExit(_)) => self.lose_worker(id),
            _ => {}
        }
    }

    /// Cancels a session that waits or was just granted a worker.
    fn cancel(&mut self, id: u64) {
        let now = self.now();
        let state = self.sessions[&id].state;
        self.record("checkout cancelled", || format!("{id}, {state:?}"));
        let at = self.queue.iter().position(|waiting| *waiting == id);
        at.map(|at| self.queue.remove(at));
        assert_eq!(self.state.cancel(id, now), at.is_some(), "a waiting checkout is in the queue");
        self.settle();
        if let SimSessionState::Granted(worker) = state {
            self.give_back(worker, ReleaseReport::default());
        }
        self.end_session(id);
    }

    fn finish(&mut self, id: u64, worker: u64) {
        if !self.workers.get(&worker).is_some_and(|worker| worker.is_alive()) {
            return self.await_exit(id, worker);
        }
        let now = self.now();
        let intent = if self.calm { Intent::Release } else { self.sessions[&id].intent };
        let reason = self.state.retire_reason(worker, ReleaseReport::default(), now);
        match (intent, reason) {
            (Intent::Kill(reason), _) => self.kill_lease(id, worker, reason),
            (Intent::Retire, _) => self.retire(id, worker, RetireReason::StopRequested),
            (_, Some(reason)) => self.retire(id, worker, reason),
            (_, None) => {
                self.enter(id, SimSessionState::Releasing(worker));
                // A release that hangs ends at its time limit.
                let hangs = intent == Intent::HangInRelease;
                let wait = self.draw_wait(if hangs { millis(2000) } else { millis(5) });
                self.schedule_turn_after(wait, id, SimTurn::FinishRelease);
            }
        }
    }

    fn finish_release(&mut self, id: u64, worker: u64) {
        if self.sessions[&id].intent == Intent::HangInRelease && !self.calm {
            return self.kill_lease(id, worker, RetireReason::TimedOut);
        }
        let report = self.draw_report();
        self.record("worker released", || format!("{worker} by {id}, {report:?}"));
        self.give_back(worker, report);
        self.end_session(id);
    }

    fn give_back(&mut self, number: u64, report: ReleaseReport) {
        let now = self.now();
        self.holders.remove(&number);
        let expected = self.expected_reason(number, report, now);
        let leased = matches!(
            self.worker(number).map(|worker| worker.expected_state),
            Some(Some(ExpectedState::Leased(_)))
        );
        if let Some(worker) = self.worker(number).filter(|_| leased) {
            worker.expected_state = Some(ExpectedState::Idle);
            worker.idle_since = now;
            self.idle.push(number);
        }
        self.state.release(number, report, now);
        self.settle();
        let ends =
            self.worker(number).is_none_or(|worker| worker.expected_state == Some(ExpectedState::Ending));
        assert!(!leased || expected.is_none() || ends, "worker {number} is to be retired: {expected:?}");
    }

    /// Kills the worker of a session and ends the session.
    fn kill_lease(&mut self, id: u64, number: u64, reason: RetireReason) {
        self.record("worker killed", || format!("{number} by {id}: {reason}"));
        self.kill(number);
        self.dismiss(number, reason);
        self.end_session(id);
    }

    fn dismiss(&mut self, number: u64, reason: RetireReason) {
        let now = self.now();
        self.holders.remove(&number);
        if let Some(worker) = self.worker(number)
            && let Some(expected_state) = &mut worker.expected_state
        {
            *expected_state = ExpectedState::Ending;
        }
        self.state.dismiss(number, reason, now);
        self.settle();
    }

    fn retire(&mut self, id: u64, number: u64, reason: RetireReason) {
        let now = self.now();
        self.record("worker retired at release", || format!("{number} by {id}: {reason}"));
        self.holders.remove(&number);
        if let Some(worker) = self.worker(number)
            && let Some(ExpectedState::Leased(_)) = worker.expected_state
        {
            worker.expected_state = Some(ExpectedState::Ending);
        }
        self.state.retire(number, reason, now);
        self.settle();
        self.end_session(id);
    }

    fn await_exit(&mut self, id: u64, worker: u64) {
        self.enter(id, SimSessionState::AwaitingExit(worker));
        self.schedule_turn_after(EXIT_REPORT_TIMEOUT, id, SimTurn::ExitTimeout);
    }

    /// Ends or restarts a session whose worker has exited, or did not send an exit report in time and is killed.
    fn lose_worker(&mut self, id: u64) {
        let Some(worker) = self.sessions[&id].worker() else { return };
        self.record("worker lost", || format!("{worker} of {id}"));
        let Some(session) = self.sessions.remove(&id) else { return };
        let gives_up = session.false_starts >= MAX_FALSE_STARTS;
        if !(session.begun || gives_up) && session.has_call {
            let false_starts = session.false_starts + 1;
            self.acquire(SimSession { state: SimSessionState::Waiting, false_starts, ..session }, true);
        }
        // The lease ends after the new request: a closing pool waits for leases, and would otherwise be drained before.
        self.kill(worker);
        self.dismiss(worker, RetireReason::Broken);
    }

    /// Fails the first waiting session that has a call with a failed set-up.
    pub(super) fn notify_first_waiter(&mut self) {
        let now = self.now();
        let first = self.state.waiting().find(|id| self.sessions[id].has_call);
        if let Some(first) = first {
            self.record("checkout failed with a set-up", || first.to_string());
            assert!(self.state.cancel(first, now), "the checkout is in the queue");
            self.queue.retain(|waiting| *waiting != first);
            self.settle();
            self.end_session(first);
        }
    }

    /// Kills the workers of all sessions at the end of the drain.
    pub(super) fn stop_sessions(&mut self) {
        let holders: Vec<(u64, u64)> = self.holders.iter().map(|(worker, id)| (*worker, *id)).collect();
        for (worker, id) in holders {
            self.kill_lease(id, worker, RetireReason::PoolEnds);
        }
    }

    /// Lets sessions finish that hold a worker forever, and set-ups that hang.
    pub(super) fn end_stuck_sessions(&mut self) {
        self.finish_hung_setups();
        let stuck = self.sessions.iter().filter(|(_, session)| session.intent == Intent::HoldForever);
        let stuck: Vec<u64> = stuck.map(|(id, _)| *id).collect();
        stuck.into_iter().for_each(|id| self.schedule_turn(id, SimTurn::Finish));
    }
}
